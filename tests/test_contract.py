"""What a method may read: several kinds, observed and precomputed states, training co-occurrences."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from data_folders import BLINK, write_folder
from torch import Tensor, nn

import methods
from benchmark.cli import main
from benchmark.model.items import ItemInputs
from benchmark.results.record import read_record
from benchmark.run import inputs
from benchmark.run.build import build_method
from benchmark.run.inputs import load_inputs
from benchmark.run.spec import RunSpec, resolve_run
from methods import registry
from methods.base import Context, Items, Method, states_of
from methods.checks import check_method
from methods.ssna import SSNAConfig, TopLayers

ITEMS = "abcdef"
USERS = {f"u{n}": " ".join(ITEMS[(n + step) % 6] for step in range(5)) for n in range(6)}


class Both(Method):
    """States, whitened once, and a vector of each item's own."""

    reads = ("states", "ids")

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        assert context.state_mean is not None and context.state_std is not None
        self.mean, self.std = context.state_mean, context.state_std
        self.linear = nn.Linear(context.llm_width, context.out_dim)
        self.own = nn.Embedding(context.n_items, context.out_dim)

    def precompute(self, states: Tensor) -> Tensor:
        return ((states - self.mean) / self.std)[:, 0]

    def forward(self, items: Items) -> Tensor:
        assert items.ids is not None
        assert states_of(items).ndim == 2, "states that precompute has not made"
        return self.linear(states_of(items)) + self.own(items.ids)


class Start(Method):
    """Item vectors that start from the states, which nothing reads afterwards."""

    reads = "ids"

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.vectors = nn.Embedding(context.n_items, context.out_dim)

    def observe(self, states: Iterable[Tensor]) -> None:
        centre = torch.cat([chunk[:, 0] for chunk in states]).mean(0)
        rows = torch.cat([chunk[:, 0] - centre for chunk in states])  # a second pass
        width = min(rows.shape[1], self.vectors.weight.shape[1])
        self.vectors.weight.data[:, :width] = rows[:, :width]

    def forward(self, items: Items) -> Tensor:
        return self.vectors(items.ids)


class Neighbours(Method):
    """Item vectors that start from the rows of co-occurrences."""

    reads = "ids"
    reads_cooccurrences = True

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        assert context.cooccurrences is not None
        counts = context.cooccurrences.to_dense()
        self.register_buffer("counts", counts)
        self.linear = nn.Linear(context.n_items, context.out_dim)

    def forward(self, items: Items) -> Tensor:
        return self.linear(self.get_buffer("counts")[items.ids])


class TokensAndIds(Method):
    """A frozen language model's first token and a vector of each item's own."""

    reads = ("tokens", "ids")

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        assert context.llm is not None
        self.llm = context.llm.requires_grad_(False)
        self.linear = nn.Linear(context.llm_width, context.out_dim)
        self.own = nn.Embedding(context.n_items, context.out_dim)

    def forward(self, items: Items) -> Tensor:
        read = self.llm(input_ids=items.input_ids, attention_mask=items.attention_mask)
        return self.linear(read.last_hidden_state[:, 0]) + self.own(items.ids)


class Recurrent(TopLayers):
    """SSNA with another cell, written outside: the base class has built no GRU."""

    def __init__(self, config: SSNAConfig, context: Context) -> None:
        super().__init__(config, context)
        self.cell = nn.LSTM(context.out_dim, context.out_dim)

    def integrate(self, outputs: list[Tensor]) -> Tensor:
        return self.cell(torch.stack(outputs))[1][0][0]


class BesideNeighbours(Both):
    def precompute(self, states: Tensor) -> Tensor:
        return states[:, 0] - states[:, 0].mean(0)


class Trained(Both):
    def precompute(self, states: Tensor) -> Tensor:
        return states[:, 0] * self.linear.bias[0]


class Fewer(Both):
    def precompute(self, states: Tensor) -> Tensor:
        return states[:-1, 0]


class Idle(Start):
    def observe(self, states: Iterable[Tensor]) -> None:
        list(states)


@pytest.mark.parametrize("cls", [Both, Start, Neighbours, TokensAndIds, Recurrent])
def test_sound_methods_keep_the_contract(cls: type[Method]) -> None:
    check_method(cls)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (BesideNeighbours, "an item's embedding depends on its neighbours in the batch"),
        (Trained, "precompute gives other values after training"),
        (Fewer, "one row an item"),
        (Idle, "layers.. asks for layer 6, but the embedding does not depend on it"),
    ],
)
def test_faults_are_found(cls: type[Method], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_method(cls)


@pytest.mark.parametrize("reads", [(), ("states", "states"), ("states", "text"), ["ids"], None])
def test_kinds_that_cannot_be_read(reads: Any) -> None:
    with pytest.raises(AssertionError, match="`reads` must be 'states', 'tokens' or 'ids', or a tuple"):
        check_method(type("Odd", (Both,), {"reads": reads}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = {item: f"thing {item} {item * 3}" for item in ITEMS[:5]} | {"f": "thing a aaa"}
    return write_folder(tmp_path_factory.mktemp("data") / "small", USERS, texts)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterable[None]:
    for cls in (Both, Start, Neighbours, TokensAndIds, Fewer):
        monkeypatch.setitem(methods.BUILTIN, cls.__name__.lower(), f"{__name__}:{cls.__name__}")
    registry.entries.cache_clear()
    yield
    registry.entries.cache_clear()


def built(folder: Path, name: str) -> tuple[Method, inputs.Inputs, list[str]]:
    resolved = resolve_run(RunSpec(str(folder), "random-tiny", name, overrides=BLINK))
    method, made = build_method(resolved, load_inputs(resolved, torch.device("cpu")), total_steps=1)
    return method, made, list(resolved.prepared.texts)


@pytest.mark.usefixtures("registered")
def test_a_reader_of_states_and_ids_gets_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "CHUNK", 4)  # smaller than the catalogue
    method, made, texts = built(folder, "both")
    assert isinstance(made.items, ItemInputs) and made.catalogue is not None
    plain = torch.cat(list(made.catalogue))  # [I, 1, D]
    assert len(plain) == len(texts) == 6
    rows = torch.tensor([3, 0, 3])
    read = made.items.read(rows, 0)
    assert torch.equal(states_of(read), method.precompute(plain)[rows])
    assert read.ids is not None and torch.equal(read.ids, rows) and read.input_ids is None


@pytest.mark.usefixtures("registered")
def test_observed_states_are_those_of_the_catalogue(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "CHUNK", 4)
    method, made, _ = built(folder, "start")
    assert made.catalogue is not None
    plain = torch.cat(list(made.catalogue))[:, 0]  # [I, D]
    weight = method.get_parameter("vectors.weight")
    torch.testing.assert_close(weight, (plain - plain.mean(0))[:, : weight.shape[1]])
    read = made.items.read(torch.tensor([1]), 0)
    assert read.states is None and read.ids is not None


@pytest.mark.usefixtures("registered")
def test_cooccurrences_are_those_of_training(folder: Path) -> None:
    method, made, texts = built(folder, "neighbours")
    # each user has five items in a row of the circle a..f, of which the last two are targets
    expected = torch.zeros(6, 6)
    prepared = resolve_run(RunSpec(str(folder), "random-tiny", "id", overrides=BLINK)).prepared
    for begin, end in zip(prepared.offsets[:-1], prepared.train_end, strict=True):
        sequence = prepared.items[int(begin) : int(begin) + int(end)]
        for left, right in pairwise(sequence):
            expected[left, right] += 1
            expected[right, left] += 1
    assert expected.sum() == 2 * 6 * 2 and len(texts) == 6
    assert torch.equal(method.get_buffer("counts"), expected)
    assert made.catalogue is None


@pytest.mark.usefixtures("registered", "in_process")
@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("both", ["states", "ids"]),
        ("start", ["ids", "observed states"]),
        ("neighbours", ["ids", "cooccurrences"]),
        ("tokensandids", ["tokens", "ids"]),
        ("tmlp", ["states"]),
    ],
)
def test_a_run_records_what_was_read(
    folder: Path, tmp_path: Path, name: str, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--dataset", str(folder), "--llm", "random-tiny", "--method", name, "--epochs", "1"]
    assert main([*command, "--results", str(tmp_path), "--set", *BLINK]) == 0
    record = read_record(Path(capsys.readouterr().out.strip()))
    assert record.status == "ok" and record.method_source["reads"] == reads
    assert (record.llm is None) is (name == "neighbours")


@pytest.mark.usefixtures("registered", "in_process")
def test_rows_that_are_missing_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--dataset", str(folder), "--llm", "random-tiny", "--method", "fewer", "--epochs", "1"]
    assert main([*command, "--results", str(tmp_path), "--set", *BLINK]) != 0
    assert "Fewer.precompute gave 5 rows for 6 items" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))
