"""New items: vectors as training would have made them, and their place in recommendations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from llm_folders import make_folder
from served_runs import TEXTS, ServedRun, serve

from benchmark.cli import main
from benchmark.serve.items import read_embedded
from benchmark.serve.model import load_model
from methods.errors import UserError

CPU = torch.device("cpu")
RUNS = {
    "states in 16 bits": ("tmlp", "states_dtype=bfloat16"),
    "precomputed states of all layers": ("ladder",),
    "observed states": ("vqrec", "groups=4", "codes=4"),
    "covariance": ("whitenrec",),
    "tokens, lower layers kept": ("bitfit", "top_layers=1", "lower_states=on"),
    "tokens, random frozen matrices": ("vera",),
    "tokens, state that training needs": ("adalora", "warmup=0", "budget_by=0.5", "interval=1"),
}


@pytest.mark.parametrize("name", RUNS)
def test_vectors_are_those_of_training_for_the_same_text(name: str, tmp_path: Path) -> None:
    served = serve(tmp_path, *RUNS[name])
    model = load_model(served.folder, CPU)
    method = model.recommender.method
    trained = method.embeddings[method.row]  # [I, d]
    found = model.embed(model.texts)
    assert torch.allclose(found, trained, atol=2e-5), (found - trained).abs().max()
    few = model.embed([model.texts[7], model.texts[2]])  # in a batch of its own: whitening enlarges rounding
    assert torch.allclose(few, trained[[7, 2]], atol=5e-4)
    assert (trained[7] - trained[2]).abs().max() > 1e-3  # texts differ, and so do their vectors


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedRun:
    return serve(tmp_path_factory.mktemp("served"), "tmlp")


@pytest.mark.parametrize("run", [("id",), ("tmlp", "ids=add"), ("alphafuse",)])
def test_vectors_that_only_training_gives_are_one_line(
    run: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = serve(tmp_path, *run).folder
    new = tmp_path / "new.tsv"
    new.write_text("item_id\ttitle\nz\tred pen\n")
    out = tmp_path / "new.parquet"
    assert main(["embed", str(folder), "--items", str(new), "-o", str(out)]) == 2
    assert "new items cannot be embedded; take a run of a method that reads texts" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("ending", [".parquet", ".npz"])
def test_new_items_are_embedded_and_recommended(
    served: ServedRun, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new item with the text of an old one ties with it."""
    new, out = tmp_path / "new.csv", tmp_path / f"new{ending}"
    new.write_text(f"item_id,title,price\nz,{TEXTS['c']},\ny,thing,  y\n")
    assert main(["embed", str(served.folder), "--items", str(new), "-o", str(out)]) == 0
    model = load_model(served.folder, CPU)
    items = read_embedded(out, model.config)
    assert (items.item_ids, items.texts) == (["z", "y"], [TEXTS["c"], "thing y"])
    more = model.with_items(items)
    found = {item.item_id: item.score for item in more.recommend(["a", "z"], k=12).items}
    assert found["z"] == pytest.approx(found["c"], abs=1e-5) and len(found) == 12
    before = {item.item_id: item.score for item in model.recommend(["a", "c"], k=10).items}
    assert {name: found[name] for name in before} == pytest.approx(before, abs=1e-5)
    capsys.readouterr()
    command = ["recommend", str(served.folder), "--history", "z", "--items", str(out), "--k", "12"]
    assert main([*command, "--format", "jsonl"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert not line["unknown"] and len(line["items"]) == 12
    with pytest.raises(UserError, match="'z' is in the catalogue already"):
        more.with_items(items)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("item_id\ttitle\nz\tpen\nz\tpen\n", "item 'z' occurs twice"),
        ("item_id\ttitle\nz\t \n", "item 'z' has no text"),
        ("id\ttitle\nz\tpen\n", "has no column 'item_id'"),
        ("id\ttitle\nz\tpen\n", "name yours with --columns item_id=COLUMN.\n"),
        ("item_id;title\nz;pen\n", "between the columns with --separator ';'.\n"),
        ("item_id\nz\n", "has no text column"),
        ("item_id\ttitle\nz\tpen\nb\tpen\na\tpen\n", "item 'b' is in the catalogue already; leave it out"),
    ],
)
def test_a_faulty_file_of_items_is_one_line(
    served: ServedRun, tmp_path: Path, content: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.tsv"
    new.write_text(content)
    assert main(["embed", str(served.folder), "--items", str(new), "-o", str(tmp_path / "o.npz")]) == 2
    errors = capsys.readouterr().err
    assert line in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ("a pen", "texts of items are a list of text, got the text 'a pen'; give \\['a pen'\\]"),
        (["a", 1], "texts of items are a list of text, got 1 at \\[1\\]"),
        (None, "texts of items are a list of text, got None"),
        ([], "the list of texts is empty"),
    ],
)
def test_what_is_no_list_of_texts_is_one_line(served: ServedRun, texts: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        load_model(served.folder, CPU).embed(texts)


def test_a_file_with_other_columns_and_separator_gives_the_same_items(
    served: ServedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, out = tmp_path / "new.csv", tmp_path / "o.npz"
    new.write_text("asin;title\nz;red pen\n")
    command = ["embed", str(served.folder), "--items", str(new), "-o", str(out), "--separator", ";"]
    assert main([*command, "--columns", "item_id=asin"]) == 0
    assert "1 item in " in capsys.readouterr().err
    items = read_embedded(out, load_model(served.folder, CPU).config)
    assert (items.item_ids, items.texts) == (["z"], ["red pen"])
    assert main([*command, "--columns", "item_id=sku"]) == 2
    assert "has no column 'sku', which is to be item_id" in capsys.readouterr().err


def test_vectors_of_another_model_and_other_files_are_refused(served: ServedRun, tmp_path: Path) -> None:
    model = load_model(served.folder, CPU)
    other = tmp_path / "other.npz"
    vectors = np.zeros((1, 8), np.float32)
    np.savez(other, item_id=["z"], text=["pen"], embedding=vectors, adaptrec_model="0123")
    with pytest.raises(UserError, match="holds vectors of another model"):
        read_embedded(other, model.config)
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"item_id": ["z"]}), table)
    with pytest.raises(UserError, match="is no file of embedded items"):
        read_embedded(table, model.config)


def test_a_language_model_with_other_files_is_refused(served: ServedRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the weights of language model 'bert' are not those of the run"):
        load_model(served.folder, CPU).embed(["pen"], str(make_folder(tmp_path / "bert")))


def test_a_language_model_in_a_folder_is_found_by_llm(tmp_path: Path) -> None:
    llm = str(make_folder(tmp_path / "bert"))
    model = load_model(serve(tmp_path, "tmlp", llm=llm).folder, CPU)
    with pytest.raises(UserError, match="the language model 'bert' was a folder; say where it is by --llm"):
        model.embed(["pen"])
    method = model.recommender.method
    found = model.embed(model.texts, llm)
    assert torch.allclose(found, method.embeddings[method.row], atol=2e-5)
