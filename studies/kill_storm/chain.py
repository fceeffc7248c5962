"""The commands that are killed, and the dataset that they work on."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

USERS, ITEMS, LENGTH = 60, 60, 6
SET = ("--set", "width=8", "sasrec_inner=8", "batch_size=64", "precision=no")
METHODS = "id,tmoe,full"
"""A reader of ids, one of hidden states, one of tokens with the states of frozen lower layers stored."""


@dataclass(frozen=True)
class Phase:
    """One command of the chain."""

    name: str
    command: tuple[str, ...]
    report: str | None = None
    """Folder that a report writes, if it is one."""


@dataclass(frozen=True)
class Chain:
    """The commands of a repetition, and what they run with."""

    phases: tuple[Phase, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables; `{folder}` in a value stands for the repetition's folder."""
    limit: float = 120.0
    """Seconds that a command may take beyond ten times its undisturbed run."""
    patience: float = 30.0
    """Seconds in which the children of a killed command have to end."""


def adaptrec(data: Path) -> Chain:
    """Preparation, encoding, training and report of a small dataset folder."""
    program = (sys.executable, "-W", "ignore", "-m", "benchmark")
    of = ("--llm", "random-tiny", "--methods", METHODS, "--protocols", "fair")
    folder = str(data)
    bench = ("bench", "--datasets", folder, *of, "--epochs", "6", "--results", "results", *SET)
    phases = (
        Phase("preparation", (*program, "prepare", "--dataset", folder)),
        Phase("encoding", (*program, "prepare", "--dataset", folder, *of, *SET)),
        Phase("training", (*program, *bench)),
        Phase("report", (*program, "report", "--results", "results", "--out", "reports"), "reports"),
    )
    environment = {"ADAPTREC_CACHE": "{folder}/cache", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return Chain(phases, environment)


def write_data(folder: Path, seed: int) -> Path:
    """A dataset folder that a recipe-less preparation reads, and that looks an hour old."""
    chance = random.Random(seed)
    folder.mkdir(parents=True)
    names = [f"i{number}" for number in range(ITEMS)]
    items = [f"{name}\tRed thing number {n} of make {n % 7}" for n, name in enumerate(names)]
    rows = [
        f"u{user}\t{item}\t{1_500_000_000 + step}"
        for user in range(USERS)
        for step, item in enumerate(chance.sample(names, LENGTH))
    ]
    for name, lines in (
        ("items", ["item_id\ttitle", *items]),
        ("interactions", ["user_id\titem_id\ttimestamp", *rows]),
    ):
        path = folder / f"{name}.tsv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.utime(path, (time.time() - 3600,) * 2)  # its digest is remembered from the first command on
    return folder
