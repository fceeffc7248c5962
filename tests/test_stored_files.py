"""Every kind of stored file, damaged in every way: the same results or one line, never others or a traceback.

`WRITE_DOCS=1 pytest tests/test_stored_files.py` writes the table of docs/reliability.md.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from permissions import permissions_bind
from raw_server import amazon_2023, served, serving
from stored_kinds import KINDS, kind_of

from benchmark.data import download, transfer
from benchmark.data.catalogue import find
from benchmark.data.download import fetch
from benchmark.data.prepare import prepare
from benchmark.llm import cache as cache_module
from benchmark.llm import states, token_states
from benchmark.llm.catalogue import resolve
from benchmark.llm.states import load_states
from benchmark.llm.token_states import load_token_states
from benchmark.llm.tokens import load_tokens
from benchmark.report.build import write_files
from benchmark.results.record import ranks_path, top_path
from benchmark.run import spec as cells
from benchmark.run.run import run
from benchmark.run.spec import RunSpec
from benchmark.serve.export import export
from benchmark.serve.model import load_model
from benchmark.train.checkpoint import Checkpoint
from methods.errors import UserError

DATASET = "amazon-2023-All_Beauty"
MANY = [f"thing number {n} of {n % 17}" for n in range(24)]
PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
MARKS = "<!-- kinds and faults -->\n", "<!-- end -->\n"
FEW_STEPS = ("precision=no", "width=8", "sasrec_inner=8", "batch_size=256", "learning_rate=0.05", "epochs=3")
REPORT = {"index.html": b"<html>", "table.csv": b"a,b\n1,2\n"}


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


def fetched(root: Path) -> Any:
    return {role: path.read_bytes() for role, path in fetch(find(DATASET), root / "cache").items()}


def digested(root: Path) -> Any:
    found = fetch(find(DATASET), root / "cache")
    return {role: download.remembered_digest(path, root / "cache") for role, path in found.items()}


def prepared(root: Path) -> Any:
    made = prepare(find(DATASET), root / "cache")
    return made.key, made.fingerprint, list(made.texts), made.items.tolist(), made.test_at.tolist()


def encoded(root: Path) -> Any:
    """Pooled states and those of tokens."""
    llm, cache, texts = resolve("random-tiny"), root / "cache", prepare(find(DATASET), root / "cache").texts
    pooled = load_states(texts, llm, (2, 1), "auto", "float32", cache)
    token = load_token_states(load_tokens(texts, llm), llm, 1, "float32", cache)
    return pooled.values.tolist(), token.values.tolist(), token.centre.tolist()


def pooled_on(root: Path) -> Any:
    return load_states(MANY, resolve("random-tiny"), (2,), "auto", "float32", root / "cache").values.tolist()


def tokens_on(root: Path) -> Any:
    llm = resolve("random-tiny")
    found = load_token_states(load_tokens(MANY, llm), llm, 2, "bfloat16", root / "cache")
    return found.values.tolist(), found.centre.tolist()


def continued(root: Path) -> Any:
    """The results of both interrupted encodings."""
    return pooled_on(root), tokens_on(root)


def ran(root: Path, seed: int) -> Any:
    cells.prepared_once.cache_clear()
    spec = RunSpec(DATASET, "random-tiny", "tmoe", seed=seed, overrides=FEW_STEPS)
    path, made = run(spec, root / "results", keep_model=True)
    curve = [(row.loss, row.valid, row.valid_masked) for row in made.curve]
    files = ranks_path(path).read_bytes(), top_path(path).read_bytes()
    return made.status, made.metrics, curve, made.best_epoch, *files


def exported(root: Path) -> Any:
    """What the model of the first run recommends, from a new folder."""
    ran(root, 0)
    (path,) = (root / "results").glob("*/*/*/*-s0.json")
    folder = root.with_name("exported")
    try:
        return loaded(export(path, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def loaded(folder: Path) -> Any:
    model = load_model(folder, "cpu")
    return model.recommend_batch([[name] for name in model.item_ids[:3]], k=5)


def reported(root: Path) -> Any:
    write_files(root / "report", REPORT)
    return {path.name: path.read_bytes() for path in (root / "report").iterdir()}


def gone_on_with(root: Path) -> Any:
    """A download that was cut."""
    target = root / "cache" / "raw" / DATASET / "long.bin"
    transfer.transfer(f"{os.environ['ADAPTREC_DATA_MIRROR']}/long.bin", target)
    return target.read_bytes()


READERS: dict[str, Callable[[Path], Any]] = {
    "input files, fetched": fetched,
    "part of a download": gone_on_with,
    "description of a part": gone_on_with,
    "ledger of input files": fetched,
    "remembered digests": digested,
    "prepared data": prepared,
    "fingerprint": prepared,
    "architectures of language models": lambda _: resolve("random-tiny"),
    "hidden states": encoded,
    "description of states": encoded,
    "unfinished states": continued,
    "journal of unfinished states": continued,
    "locks": encoded,
    "checkpoint, last epoch": lambda root: ran(root, 1),
    "checkpoint, best epoch": lambda root: ran(root, 1),
    "records": lambda root: ran(root, 0),
    "ranks": lambda root: ran(root, 0),
    "best items of users": lambda root: ran(root, 0),
    "kept model": exported,
    "description of a model folder": lambda root: loaded(root / "model"),
    "model folder": lambda root: loaded(root / "model"),
    "model card": lambda root: loaded(root / "model"),
    "list of a report's files": reported,
    "a report's files": reported,
}
"""Kind -> what reads its files: results that must not depend on any damage."""


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def zero(path: Path) -> None:
    data = path.read_bytes()
    middle, size = len(data) // 2, min(512, len(data) // 4)
    path.write_bytes(data[:middle] + bytes(size) + data[middle + size :])


FAULTS: dict[str, tuple[Callable[[Path], object], ...]] = {
    "bit flip": tuple(lambda path, at=at: flip(path, at) for at in (0.0, 0.37, 0.5, 1.0)),  # type: ignore[misc]
    "truncation": (lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.write_bytes(b"")),
    "zeroed block": (zero,),
    "deletion": (lambda path: path.unlink(),),
    "no permission": (lambda path: path.chmod(0),),
}


class World:
    """A cache, results, a report and a model folder, with a file of every kind."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.first = root, root.with_name("first")
        self.results: dict[str, Any] = {}
        patch.setenv("ADAPTREC_CACHE", str(root / "cache"))
        digested(root)
        ran(root, 0)
        encoded(root)
        reported(root)
        (path,) = (root / "results").glob("*/*/*/*-s0.json")
        export(path, root / "model")
        self._cut(Checkpoint, "save", 2, lambda: ran(root, 1), after=True)
        self._cut(states, "check_finite", 3, lambda: pooled_on(root))
        self._cut(token_states, "check_finite", 3, lambda: tokens_on(root))
        with pytest.raises(transfer.UnavailableError):
            gone_on_with(root)
        shutil.copytree(root, self.first)

    @staticmethod
    def _cut(owner: Any, name: str, call: int, work: Callable[[], Any], after: bool = False) -> None:
        """Kill `work` at a call of `owner.name`."""
        real, calls = getattr(owner, name), iter(range(1, 10_000))

        def deadly(*arguments: Any, **named: Any) -> Any:
            last = next(calls) == call
            if last and not after:
                raise Killed
            found = real(*arguments, **named)
            if last:
                raise Killed
            return found

        with pytest.MonkeyPatch.context() as local, pytest.raises(Killed):
            local.setattr(owner, name, deadly)
            work()

    def restore(self) -> None:
        """All files as they were first; those that are untouched stay the same files."""
        for path in sorted(self.root.rglob("*"), reverse=True):
            if not (self.first / path.relative_to(self.root)).exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self.first.rglob("*"):
            now = self.root / path.relative_to(self.first)
            if path.is_dir():
                now.mkdir(exist_ok=True)
            elif not now.exists() or now.read_bytes() != path.read_bytes():
                now.write_bytes(path.read_bytes())
            if now.stat().st_mode != path.stat().st_mode:
                now.chmod(path.stat().st_mode)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Root and path below it of every file."""
        for path in sorted(self.first.rglob("*")):
            if path.is_file():
                root, *rest = path.relative_to(self.first).parts
                yield root, Path(*rest)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    long = bytes(range(256)) * 100
    with pytest.MonkeyPatch.context() as patch, serving(served({DATASET: amazon_2023(items=20)})) as server:
        server.files["/long.bin"], server.cut_after["/long.bin"] = long, 15_000
        for name, value in (("TRIES", 1), ("BLOCK", 10_000)):
            patch.setattr(transfer, name, value)
        patch.setenv("ADAPTREC_DATA_MIRROR", server.url)
        patch.delenv("ADAPTREC_DATA", raising=False)
        patch.setattr(download, "SETTLED_SECONDS", -1.0)
        patch.setattr(cache_module, "JOURNAL_SECONDS", 0.0)
        patch.setattr(states, "TOKEN_BUDGET", {"cpu": 64})
        yield World(tmp_path_factory.mktemp("stored") / "now", patch)


def test_every_stored_file_is_of_a_kind_and_every_kind_is_read(world: World) -> None:
    kinds = [(place, kind_of(root, place)) for root, place in world.files()]  # type: ignore[arg-type]
    assert [place for place, kind in kinds if kind is None] == [], "add a kind to tests/stored_kinds.py"
    assert {kind.name for _, kind in kinds if kind} == {kind.name for kind in KINDS} == set(READERS)


def damage(world: World, kind: str, place: Path, fault: str, harm: Callable[[Path], object]) -> str:
    """Harm one file and read: -> how it ended."""
    world.restore()
    if kind == "remembered digests":  # of a file that was restored they are outdated
        digested(world.root)
    harm(place)
    binds = permissions_bind() if fault == "no permission" else nullcontext()
    try:
        with binds:
            found = READERS[kind](world.root)
    except UserError as error:
        assert "\n" not in str(error)
        return "one line"
    except OSError as error:  # of which the command line makes one
        assert error.filename and fault == "no permission"
        return "one line"
    assert found == world.results[kind], (place, fault)
    return "same result"


def outcomes(world: World) -> dict[str, dict[str, Counter[str]]]:
    """Kind -> fault -> outcome -> cases."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for kind in KINDS:
        world.restore()
        world.results[kind.name] = READERS[kind.name](world.root)
        own = [place for root, place in world.files() if kind_of(root, place) is kind]  # type: ignore[arg-type]
        found[kind.name] = {fault: Counter() for fault in FAULTS}
        for place in {own[0], own[-1]}:
            for fault, harms in FAULTS.items():
                for harm in harms:
                    path = world.root / kind.root / place
                    found[kind.name][fault][damage(world, kind.name, path, fault, harm)] += 1
    return found


def table(found: dict[str, dict[str, Counter[str]]]) -> str:
    head = ["file", "its checksum", *FAULTS]
    rows = [head, ["---"] * len(head)]
    for kind in KINDS:
        counts = found[kind.name].values()
        shown = [", ".join(f"{n} {how}" for how, n in sorted(entry.items())) for entry in counts]
        rows.append([kind.name, kind.checksum, *shown])
    total = Counter[str]()
    for one in found.values():
        total.update(sum(one.values(), Counter()))
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{lines}\n{total.total()} cases: " + ", ".join(f"{n} {how}" for how, n in total.items()) + ".\n"


def test_no_damage_gives_other_results_or_a_traceback(world: World) -> None:
    found = table(outcomes(world))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page = before + MARKS[0] + found + MARKS[1] + after
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert page == PAGE.read_text(encoding="utf-8"), "WRITE_DOCS=1 writes the table anew"
