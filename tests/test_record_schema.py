import json
import re
from pathlib import Path

from report_records import record

from benchmark.results.record import RunRecord, read_record

DOCS = Path(__file__).parents[1] / "docs"


def test_the_published_schema_is_current():
    published = json.loads((DOCS / "record.schema.json").read_text())
    assert published == RunRecord.model_json_schema(), (
        "python -m benchmark.results.record > docs/record.schema.json"
    )


def test_every_field_of_a_record_is_explained():
    page = (DOCS / "records.md").read_text()
    schema = RunRecord.model_json_schema()["properties"]
    unexplained = [
        name for name, field in schema.items() if f"`{name}`" not in page and "description" not in field
    ]
    assert not unexplained


def test_records_without_later_fields_still_read(tmp_path):
    later = {"initial", "liveness", "encodings_per_epoch", "chunk_tokens", "chunk_halvings"}
    whole = json.loads(record().model_dump_json())
    old = {name: value for name, value in whole.items() if name not in later}
    old["cost"] = {name: value for name, value in whole["cost"].items() if name not in later}
    path = tmp_path / "h-s0.json"
    path.write_text(json.dumps(old))
    read = read_record(path)
    assert (read.initial, read.liveness, read.cost.chunk_tokens, read.cost.chunk_halvings) == (
        {},
        None,
        None,
        0,
    )


def test_no_committed_record_names_a_folder_of_a_machine() -> None:
    root = Path(__file__).resolve().parents[1] / "results"
    named = [path.name for path in root.rglob("*.json") if re.search(r'"/[^"\s]+/', path.read_text())]
    assert named == []
