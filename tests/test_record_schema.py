import json
from pathlib import Path

from benchmark.record import RunRecord

DOCS = Path(__file__).parents[1] / "docs"


def test_the_published_schema_is_current():
    published = json.loads((DOCS / "record.schema.json").read_text())
    assert published == RunRecord.model_json_schema(), "python -m benchmark.record > docs/record.schema.json"


def test_every_field_of_a_record_is_explained():
    page = (DOCS / "records.md").read_text()
    schema = RunRecord.model_json_schema()["properties"]
    unexplained = [
        name for name, field in schema.items() if f"`{name}`" not in page and "description" not in field
    ]
    assert not unexplained
