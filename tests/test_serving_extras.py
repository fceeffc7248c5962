"""What optional packages add to a model folder: approximate search, ONNX, and a server."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from served_runs import ServedRun, serve

from benchmark.cli import main
from benchmark.files import digest_of
from benchmark.serve.items import EmbeddedItems
from benchmark.serve.model import LoadedModel, load_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedRun:
    return serve(tmp_path_factory.mktemp("served"), "tmlp")


@pytest.fixture
def large(served: ServedRun) -> LoadedModel:
    """The model with 2,000 more items."""
    model = load_model(served.folder, "cpu")
    width = model.recommender.settings.width
    vectors = np.random.default_rng(0).standard_normal((2_000, width)).astype(np.float32)
    names = [f"new{n}" for n in range(len(vectors))]
    return model.with_items(EmbeddedItems(names, names, vectors, "made up"))


@pytest.mark.parametrize("exclude", [False, True])
def test_an_index_finds_what_exact_search_finds(large: LoadedModel, exclude: bool) -> None:
    pytest.importorskip("usearch")
    from benchmark.serve.index import HNSWIndex

    index = HNSWIndex(large)
    random = np.random.default_rng(1)
    asked = [random.choice(large.item_ids, 6).tolist() for _ in range(40)] + [["?"]]
    found = index.recommend_batch(asked, 10, exclude)
    hits, places = index.recall(asked, 10, exclude, found)
    exact = large.recommend_batch(asked, 10, exclude)
    same = sum(
        len({x.item_id for x in own.items} & {x.item_id for x in right.items})
        for own, right in zip(found, exact, strict=True)
    )
    assert places == 400 and same <= hits and same > 0.97 * places  # ties may be resolved in another way
    assert not found[-1].items and found[-1].unknown == ["?"]
    for own, right in zip(found[:-1], exact[:-1], strict=True):
        assert own.items[0].score == pytest.approx(right.items[0].score, abs=1e-5)
        if exclude:
            assert not {x.item_id for x in own.items} & set(asked[found.index(own)])
    wrong = [one.items[::-1][:0] for one in found]
    assert (
        index.recall(asked, 10, exclude, [type(one)(none) for one, none in zip(found, wrong, strict=True)])[0]
        == 0
    )


def test_the_command_prints_the_recall(served: ServedRun, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("usearch")
    command = ["recommend", str(served.folder), "--history", "a,b", "--k", "3", "--format", "jsonl"]
    assert main([*command, "--index", "hnsw"]) == 0
    out, errors = capsys.readouterr()
    assert "hnsw: 100.00% of the items of exact search found; the index of 10 items took" in errors
    assert main(command) == 0
    exact = json.loads(capsys.readouterr().out)["items"]
    assert [item["item_id"] for item in json.loads(out)["items"]] == [item["item_id"] for item in exact]


RUNS = {"states": ("tmlp",), "tokens": ("bitfit", "top_layers=1"), "precomputed": ("ladder",), "ids": ("id",)}


@pytest.mark.parametrize("kind", RUNS)
def test_onnx_gives_the_vectors_of_pytorch(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from onnxruntime import InferenceSession

    run = serve(tmp_path, *RUNS[kind])
    folder = tmp_path / "with-onnx"
    assert main(["export", str(run.path), "-o", str(folder), "--onnx"]) == 0
    model = load_model(folder, "cpu")
    user = InferenceSession(folder / "user_tower.onnx")
    vectors = model.recommender.method.embeddings[model.recommender.method.row]  # [I, d]
    history, length = np.array([[0, 1, 2], [3, 0, 0]]), np.array([3, 1])
    (found,) = user.run(None, {"history": vectors[history].numpy(), "length": length})
    expected = model.user_vectors([model.item_ids[:3], model.item_ids[3:4]])
    assert np.allclose(found, expected.numpy(), atol=1e-5)
    errors = capsys.readouterr().err
    assert (folder / "item_tower.onnx").exists() is (kind != "ids")
    if kind == "ids":
        assert "no item_tower.onnx: method 'id' gives each item a vector of its own" in errors
        return
    embedder = model.embedder()
    if kind == "tokens":
        tokens = embedder.tokens(model.texts[:4])
        ids, mask = tokens.batch(torch.arange(4), int(tokens.lengths[:-1].max()))
        inputs = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    else:
        inputs = {"states": embedder.raw_states(model.texts[:4]).numpy()}
    (items,) = InferenceSession(folder / "item_tower.onnx").run(None, inputs)
    assert np.allclose(items, model.item_vectors()[:4].numpy(), atol=1e-4)
    assert digest_of(folder / "items.safetensors") == model.config.files["items.safetensors"]


@pytest.fixture
def address(served: ServedRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example of docs/serving, on a free port of this machine."""
    pytest.importorskip("fastapi")
    uvicorn = pytest.importorskip("uvicorn")
    monkeypatch.setenv("ADAPTREC_MODEL", str(served.folder))
    spec = importlib.util.spec_from_file_location("serving_app", ROOT / "docs" / "serving" / "app.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "serving_app", module)
    spec.loader.exec_module(module)
    server = uvicorn.Server(uvicorn.Config(module.app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def ask(address: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{address}/recommend", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return json.load(answer)


def test_the_server_of_the_page_answers_a_request(address: str, served: ServedRun) -> None:
    found = ask(address, {"history": ["a", "?", "b"], "k": 3, "exclude_history": True})
    expected = load_model(served.folder).recommend(["a", "b"], 3, exclude_history=True)
    assert [item["item_id"] for item in found["items"]] == [item.item_id for item in expected.items]
    assert found["unknown"] == ["?"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(address, {"history": ["?"]})
    assert refused.value.code == 422 and "does not have '?'" in json.load(refused.value)["detail"]
