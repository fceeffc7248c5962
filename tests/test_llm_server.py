"""Frozen states from a running server: right vectors, one line for each bad answer, an own cache entry."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_folders import BLINK, TEN
from embedding_server import EmbeddingServer, embedding_server, openai_answer

from benchmark.cli import main
from benchmark.grid.probe import states_of
from benchmark.llm import cache as cache_module
from benchmark.llm import server as server_module
from benchmark.llm import server_probe, server_states
from benchmark.llm.catalogue import LLM, resolve
from benchmark.llm.server import KEY_VARIABLE, find_server
from benchmark.llm.states import load_states
from benchmark.results.store import StoredRun, iter_runs
from benchmark.run.spec import RunSpec, look_again
from benchmark.serve.export import export
from benchmark.serve.model import load_model
from methods.errors import UserError

TEXTS = ["a saw", "a glue gun", "a saw", "paint", "a very long description of a hammer"]
SECRET = "secret-key-of-mine"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server_module, "WAIT_SECONDS", 0.001)
    monkeypatch.setenv("ADAPTREC_CACHE", str(tmp_path / "cache"))  # what was probed in other tests is unknown


@pytest.fixture
def served() -> Iterator[EmbeddingServer]:
    with embedding_server() as server:
        yield server


def openai(server: EmbeddingServer) -> LLM:
    return resolve(f"openai:{server.url}/v1/#org/model")


def states(llm: LLM, cache: Path, texts: list[str] = TEXTS, dtype: str = "float32") -> Any:
    return load_states(texts, llm, [1], "auto", dtype, cache)


@pytest.mark.parametrize("api", ["openai", "tei"])
def test_items_get_the_vectors_of_their_texts(served: EmbeddingServer, tmp_path: Path, api: str) -> None:
    llm = openai(served) if api == "openai" else resolve(f"tei:{served.url}")
    assert llm.name == {"openai": "openai:org/model", "tei": "tei:org/tiny"}[api]
    assert (llm.width, llm.n_layers, llm.max_tokens) == (6, 1, 512 if api == "tei" else 0)
    found = states(llm, tmp_path)
    expected = torch.tensor([served.vector(text) for text in TEXTS])
    assert torch.equal(found.values[:, 0], expected) and not found.hit
    assert sorted(served.texts[1]) == sorted(set(TEXTS)), "each text once"
    asked = len(served.asked)
    again = states(llm, tmp_path)
    assert again.hit and torch.equal(again.values, found.values) and len(served.asked) == asked
    half = states(llm, tmp_path, dtype="bfloat16")
    assert torch.allclose(half.values[:, 0].float() + half.mean, expected, atol=0.02)


def test_the_record_tells_what_the_server_is(
    served: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    details = resolve(f"tei:{served.url}#org/tiny").details()
    assert served.asked[-1][2] == f"Bearer {SECRET}"
    reported = {"model_id": "org/tiny", "model_sha": "abc", "max_input_length": 512, "version": "1.8"}
    assert details["server"] == {"api": "tei", "model": "org/tiny", "reported": reported}
    assert details["width"] == 6 and details["source"] == "server" and len(str(details["digest"])) == 64
    text = json.dumps(details)
    assert SECRET not in text and served.url not in text


def vectors(count: int, width: int = 6) -> bytes:
    return json.dumps(openai_answer([[1.0] * width] * count)).encode()


NAN, NULL = ({"data": [{"index": 0, "embedding": [value, 1.0]}]} for value in (float("nan"), None))
TWICE = {"data": [{"index": 0, "embedding": [1.0]}] * 2}


@pytest.mark.parametrize(
    ("texts", "answer", "complaint"),
    [
        (2, (200, vectors(1), {}), "gives 1 vectors for 2 texts"),
        (2, (200, json.dumps(TWICE).encode(), {}), "does not number its vectors 0 to 1 by `index`"),
        (1, (200, vectors(1)[:-9], {}), "answers /v1/embeddings with what is no JSON"),
        (1, (200, b"<html>down\nfor today</html>", {}), "no JSON: <html>down for today</html>"),
        (1, (200, b'{"error": "no"}', {}), 'gives no list `data` of embeddings: {"error": "no"}'),
        (1, (200, json.dumps(NAN).encode(), {}), "vectors that are not finite"),
        (1, (200, json.dumps(NULL).encode(), {}), "no lists of numbers of one length"),
        (1, (200, vectors(1, 5), {}), "vectors of 5 numbers after some of 6"),
        (1, (302, b"", {"Location": "http://elsewhere.org/v1?k=1"}), "to http://elsewhere.org/v1, which"),
        (1, (401, f"bad key {SECRET}".encode(), {}), "HTTP 401 bad key ... (a key goes into the environment"),
        (1, (400, b"input too long", {}), "does not give /v1/embeddings: HTTP 400 input too long."),
    ],
)  # fmt: skip
def test_a_bad_answer_is_one_line(
    served: EmbeddingServer, monkeypatch: pytest.MonkeyPatch, texts: int, answer: Any, complaint: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    server = find_server(f"openai:{served.url}#m")
    served.answers = [answer]
    with pytest.raises(UserError) as raised:
        server_states.vectors_of(server, ["a", "b"][:texts], 6)
    line = str(raised.value)
    assert complaint in line and "\n" not in line and SECRET not in line
    assert line.startswith(f"the server {served.url} (openai) ") and len(served.asked) == 1


def test_what_may_pass_is_tried_again(served: EmbeddingServer, caplog: pytest.LogCaptureFixture) -> None:
    server = find_server(f"openai:{served.url}#m")
    cut = {"Content-Length": "1000"}
    served.answers = [(429, b"", {"Retry-After": "0"}), (503, b"busy", {}), (200, b"{", cut)]
    assert server.embed(["a"]).shape == (1, 6)
    seen = [line.partition("): ")[2].partition(";")[0] for line in caplog.messages]
    assert seen == ["HTTP 429", "HTTP 503 busy", "the connection was cut"]
    served.answers = [(500, b"broken", {})] * server_module.TRIES
    with pytest.raises(UserError, match="HTTP 500 broken"):
        server.embed(["a"])
    assert served.answers == []


def test_one_vector_for_all_texts_is_one_line(served: EmbeddingServer) -> None:
    for row in ([0.0] * 6, [0.3] * 6):
        served.answers = [(200, json.dumps(openai_answer([row] * len(server_probe.TEXTS))).encode(), {})]
        with pytest.raises(UserError, match="gives the same vector for 8 different texts"):
            openai(served)


def test_nobody_there_is_one_line_at_once(served: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "WAIT_SECONDS", 1e6)
    with embedding_server() as gone:
        pass
    with pytest.raises(UserError, match="no connection \\(Connection refused\\)"):
        openai(gone)
    with pytest.raises(UserError, match="does not give /info"):
        resolve(f"tei:{gone.url}")


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("openai:{url}", "names no model"),
        ("tei:{url}#other", "serves the model org/tiny, not other"),
        ("tei:127.0.0.1:80", "is no address of a server"),
        ("openai:http://me:pass@host/#m", "has neither user nor query"),
        ("openai:http://host/?key=pass#m", "has neither user nor query"),
    ],
)
def test_a_bad_address_is_one_line(served: EmbeddingServer, address: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as raised:
        resolve(address.format(url=served.url))
    assert "pass" not in str(raised.value)


def test_another_model_is_noticed_and_noise_is_not(
    served: EmbeddingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served.noise = 0.001
    digests = {openai(served).digest for _ in range(20)}
    assert len(digests) == 1 and not caplog.messages
    first = states(openai(served), tmp_path)
    served.weights = 1
    changed = openai(served)
    assert "its model must be another one" in caplog.text and changed.digest not in digests
    second = states(changed, tmp_path)
    assert not second.hit and second.key != first.key
    served.weights = 0
    assert states(openai(served), tmp_path).hit, "the first model is back"


def test_a_model_that_changes_meanwhile_is_refused(
    served: EmbeddingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = openai(served)
    monkeypatch.setattr(server_states, "BATCH", 2)
    real, seen = served.vector, []

    def changing(text: str) -> list[float]:
        seen.append(text)
        served.weights = int(len(seen) > 3)
        return real(text)

    monkeypatch.setattr(served, "vector", changing)
    with pytest.raises(UserError, match="has changed its model while texts were encoded"):
        states(llm, tmp_path)


def test_an_interrupted_pass_goes_on(
    served: EmbeddingServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(server_states, "BATCH", 2)
    caplog.set_level(logging.WARNING)
    assert cache_module.JOURNAL_SECONDS > 10, "the journal is written because the pass ends"
    llm, right = openai(served), (200, None, {})
    texts = [f"thing {'x' * number}" for number in range(7)]
    served.answers = [right, right, (400, b"out of order", {})]
    with pytest.raises(UserError, match="out of order"):
        states(llm, tmp_path, texts)
    before = len(served.texts)
    found = states(llm, tmp_path, texts)
    assert torch.equal(found.values[:, 0], torch.tensor([served.vector(text) for text in texts]))
    assert [len(asked) for asked in served.texts[before:]] == [2, 1, 8], "the rest, and the probe"
    assert "resuming: 4 of 7 texts" in caplog.text


def stored(results: Path, method: str) -> StoredRun:
    (found,) = (run for run in iter_runs(results) if run.record.method == method)
    return found


@pytest.mark.usefixtures("in_process")
def test_a_bench_reads_a_server(
    served: EmbeddingServer, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    look_again()
    results = tmp_path / "results"
    command = ["bench", "--datasets", str(folder), "--llms", f"openai:{served.url}#m", "--protocols", "fair",
               "--epochs", "1", "--results", str(results)]  # fmt: skip
    assert main([*command, "--methods", "linear,text-knn", "--keep-model", "--set", *BLINK]) == 0
    run = stored(results, "linear")
    record = run.record
    assert record.status == "ok" and record.llm == "openai:m" and record.cost.prepare_seconds
    assert record.llm_details["server"]["reported"] == {"model": "served-name"}
    assert stored(results, "text-knn").record.llm_details["digest"] == record.llm_details["digest"]
    asked = [text for texts in served.texts for text in texts]
    assert all(asked.count(text) == 1 for text in TEN.values()), "encoded once for both rows"
    assert "openai:m, protocol fair: linear" in capfd.readouterr().out
    model = load_model(export(run.path, tmp_path / "model"))
    new = model.embed([*TEN.values()], llm=f"openai:{served.url}#m")
    alike = torch.nn.functional.cosine_similarity(new, model.item_vectors())
    assert alike.min() > 1 - 1e-5, "new items go the way of the catalogue's"


def test_a_dry_run_asks_for_a_few_requests(
    served: EmbeddingServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_again()
    monkeypatch.setattr(server_states, "BATCH", 2)
    spec = RunSpec(str(folder), f"openai:{served.url}#m", "linear", "fair")
    (found,) = states_of([spec])
    assert not found.cached and found.size == len(TEN) * served.width * 4 and found.seconds[0] > 0
    assert len(served.texts) == 1 + 3, "the probe, and every second of five batches"


@pytest.mark.parametrize(
    ("method", "setting", "complaint"),
    [
        ("lora", "epochs=1", "and 'lora' reads its tokens"),
        ("ssna", "epochs=1", "and 'ssna' reads several layers"),
        ("linear", "pooling=mean", "leave out pooling=mean"),
        ("linear", "max_tokens=9", "leave out max_tokens=9"),
    ],
)
def test_what_a_server_cannot_give_is_one_line(
    served: EmbeddingServer,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    setting: str,
    complaint: str,
) -> None:
    look_again()
    command = ["run", "--dataset", str(folder), "--llm", f"openai:{served.url}#m", "--method", method]
    assert main([*command, "--results", str(tmp_path), "--set", setting]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a server, which gives one vector of a text" in line and complaint in line
