"""Run every row in turn, round by round: ours by the code of `adaptrec speed`, a peer in its own Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pydantic import ValidationError

from benchmark.measure import one_line
from benchmark.results.record import GENERATION
from benchmark.run.inputs import pooled_states
from benchmark.run.precision import pick_precision
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from benchmark.speed.measure import Amounts
from benchmark.speed.run import time_variant
from methods.errors import UserError
from studies import FOLDER
from studies.peers.export import export
from studies.peers.record import OurRow, PeerReport, PeerRow, PeersRecord

SIDE = FOLDER / "peers" / "recbole_side.py"
"""What the peer's Python runs."""
OURS = {"ssna": ("ssna", "paper"), "id": ("id", "fair")}
"""Name in `--rows` -> method and protocol."""
PEERS = {
    "sasrec": ("RecBole SASRec, as published", "sasrec", True),
    "sasrec-unpadded": ("RecBole SASRec, no padding", "sasrec", False),
    "unisrec": ("UniSRec, as published", "unisrec", True),
    "unisrec-unpadded": ("UniSRec, no padding", "unisrec", False),
}
"""Name in `--rows` -> name in a table, model, whether the padding stays."""
SASREC_WIDTH = 256
UNISREC_FILES = ("unisrec.py", "data/dataset.py", "props/UniSRec.yaml", "props/finetune.yaml")
DATA = "data"
"""Name of the exported dataset."""
Save = Callable[[PeersRecord], None]


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    dataset: str
    llm: str
    rows: tuple[str, ...]
    recbole_python: Path
    unisrec: Path | None
    precisions: tuple[str, ...] = ("auto",)
    overrides: tuple[str, ...] = ()
    threads: int = 1
    rounds: int = 3
    batches: int = 4
    warm_up: int = 1
    epochs: int = 2

    def __post_init__(self) -> None:
        if min(self.rounds, self.batches, self.threads, self.epochs) < 1 or self.warm_up < 0:
            raise UserError(
                "--rounds, --batches, --epochs and --threads must be 1 or more, --warm-up 0 or more."
            )


def compare(plan: Plan, command: str, save: Save) -> PeersRecord:
    """Measure all rows of `plan`; `save` gets the record after each measurement.

    Raises `UserError` before anything is timed where a row cannot run, and where a peer's process fails.
    """
    check_peers(plan)
    ours = our_rows(plan)
    first = resolve_run(RunSpec(plan.dataset, plan.llm, "ssna", "paper", 0, ("top_layers=1",)))
    with TemporaryDirectory(prefix="peers-") as folder:
        say("writes the data for the peers")
        predictions = exported(first, plan, Path(folder))
        record = PeersRecord(
            generation=GENERATION, command=command, dataset=first.prepared.name,
            data_key=first.prepared.key, llm=plan.llm, overrides=sorted(plan.overrides),
            llm_width=first.llm.width if first.llm else 0, threads=plan.threads, predictions=predictions,
            unisrec_commit=commit_of(plan.unisrec) if plan.unisrec else None,
            ours=[row for row, _ in ours],
            peers=[PeerRow(key=key, name=PEERS[key][0]) for key in plan.rows if key in PEERS],
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        for number in range(plan.rounds):
            measure_round(plan, number, record, [run for _, run in ours], Path(folder), save)
    return record


def measure_round(
    plan: Plan, number: int, record: PeersRecord, runs: Sequence[ResolvedRun], folder: Path, save: Save
) -> None:
    """Add one measurement to each row of `record`: ours first in even rounds, last in odd ones."""
    # the first round counts operations too, after its epochs were timed
    amounts = Amounts(1, 5, 1, plan.epochs, evaluation_warm_up=0, detail=number == 0)

    def measure_ours() -> None:
        for row, run in zip(record.ours, runs, strict=True):
            say(f"round {number + 1} of {plan.rounds}: {row.name}")
            variant = time_variant(run, "", amounts)
            if variant.status != "ok":
                raise UserError(f"{row.name} ended with status {variant.status}: {variant.error}.")
            row.rounds.append(variant)
            save(record)

    def measure_peers() -> None:
        for row in record.peers:
            say(f"round {number + 1} of {plan.rounds}: {row.name}")
            row.rounds.append(time_peer(plan, row.key, record, folder))
            save(record)

    for step in (measure_ours, measure_peers) if number % 2 == 0 else (measure_peers, measure_ours):
        step()


def our_rows(plan: Plan) -> list[tuple[OurRow, ResolvedRun]]:
    """Each of our rows in each precision, with its run; raises `UserError` for a wrong setting."""
    rows: dict[tuple[str, str, str], ResolvedRun] = {}
    for key in plan.rows:
        for name in plan.precisions if key in OURS else ():
            words = (*plan.overrides, f"precision={name}")
            run = resolve_run(RunSpec(plan.dataset, plan.llm, *OURS[key], 0, words))
            rows.setdefault((*OURS[key], pick_precision(run.settings, torch.device("cpu"))), run)
    return [
        (OurRow(method=method, protocol=protocol, precision=precision), run)
        for (method, protocol, precision), run in rows.items()
    ]


def exported(run: ResolvedRun, plan: Plan, folder: Path) -> int:
    """Write the peers' files into `folder`; `run` reads the top layer. Returns the number of predictions."""
    vectors = None
    if plan.unisrec is not None:
        assert run.llm is not None
        states = pooled_states(run, run.llm, torch.device("cpu"))
        vectors = (states.values.float() + states.mean)[:, 0]  # [I, 1, D] -> [I, D]
    return export(run.prepared, folder, DATA, vectors)


def check_peers(plan: Plan) -> None:
    """Raise `UserError` where a peer cannot run: its Python, RecBole or UniSRec's files are missing."""
    try:
        done = _run(plan, ["versions"])
    except OSError as error:
        raise UserError(
            f"--recbole-python: {plan.recbole_python} cannot be run ({error.strerror}); give the path of a "
            "Python that has RecBole."
        ) from error
    if done.returncode:
        raise UserError(
            f"--recbole-python: {plan.recbole_python} lacks what the peers need ({_last_line(done.stderr)}); "
            "give a Python that has RecBole (`pip install recbole`)."
        )
    if plan.unisrec is None:
        if any(PEERS[key][1] == "unisrec" for key in plan.rows if key in PEERS):
            raise UserError("--rows names unisrec; give --unisrec, a clone of github.com/RUCAIBox/UniSRec.")
    elif missing := [name for name in UNISREC_FILES if not (plan.unisrec / name).is_file()]:
        raise UserError(
            f"--unisrec: {plan.unisrec} is no clone of github.com/RUCAIBox/UniSRec: it has no {missing[0]}."
        )


def time_peer(plan: Plan, key: str, record: PeersRecord, folder: Path) -> PeerReport:
    """One measurement of a peer in a process of its own; raises `UserError` where it fails."""
    name, model, padded = PEERS[key]
    out, job = folder / "report.json", folder / "job.json"
    job.write_text(
        json.dumps(
            {
                "model": model, "padded": padded, "folder": str(folder), "dataset": DATA, "out": str(out),
                "unisrec": str(plan.unisrec and plan.unisrec.resolve()), "llm_width": record.llm_width,
                "width": SASREC_WIDTH, "threads": plan.threads, "batches": plan.batches,
                "warm_up": plan.warm_up,
            }
        )
    )  # fmt: skip
    out.unlink(missing_ok=True)
    done = _run(plan, ["measure", str(job)], folder)
    if done.returncode:
        raise UserError(f"{name} failed in {plan.recbole_python}: {_last_line(done.stderr)}.")
    try:
        report = PeerReport.model_validate_json(out.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{name} wrote no report: {one_line(error, 200)}.") from error
    if report.predictions_per_epoch != record.predictions:
        read, written = report.predictions_per_epoch, record.predictions
        raise UserError(f"{name} read {read:,} predictions of the {written:,} that were written.")
    return report


def _run(plan: Plan, words: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The peers' side of the study in the peers' Python; RecBole leaves logs in the working directory."""
    hidden = {"PYTHONPATH", "PYTHONSAFEPATH"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [str(plan.recbole_python), str(SIDE), *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed no reason"])[-1]


def commit_of(folder: Path) -> str | None:
    """The commit of a clone, None where git does not say."""
    command: list[Any] = ["git", "-C", folder, "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def say(line: str) -> None:
    """Print progress."""
    print(line, file=sys.stderr, flush=True)
