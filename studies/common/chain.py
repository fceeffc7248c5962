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
PROGRAM = (sys.executable, "-W", "ignore", "-m", "benchmark")
METHODS = "id,tmoe,full"
"""A reader of ids, one of hidden states, one of tokens with the states of frozen lower layers stored."""
TESTS = r"^read results/.*\.checkpoint/best-"
"""What a run does first when it has trained: it reads the weights of the best epoch."""
STORES = r"^open results/.*\.(model\.safetensors|ranks\.parquet)\."
"""What it does first when it has tested: it writes the kept weights or the ranks."""


@dataclass(frozen=True)
class Phase:
    """One command of the chain, or one stage of it."""

    name: str
    command: tuple[str, ...]
    """An argument with a `*` stands for the files that it matches in the repetition's folder."""
    makes: str | None = None
    """Folder of files that are a function of the files in other folders, byte for byte."""
    begins: str = ""
    """The first operation of the stage, as a regular expression; empty where all of the command is meant."""
    ends: str = ""
    """The first operation after the stage; empty where it lasts as long as the command."""
    then: str = ""
    """The phase that a kill after the stage belongs to."""

    def words(self, folder: Path) -> list[str]:
        """The command, as it runs in `folder`."""
        named = ((argument, sorted(folder.glob(argument))) for argument in self.command if "*" in argument)
        files = {argument: [str(path.relative_to(folder)) for path in paths] for argument, paths in named}
        return [word for argument in self.command for word in files.get(argument, [argument])]


@dataclass(frozen=True)
class Chain:
    """The commands of a repetition, and what they run with."""

    phases: tuple[Phase, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables; `{folder}` in a value stands for the repetition's folder."""
    copies: bool = False
    """Whether the commands, which are those of `adaptrec`, run in copies of the process that starts them."""
    limit: float = 120.0
    """Seconds that a command may take beyond ten times its undisturbed run."""
    patience: float = 30.0
    """Seconds in which the children of a killed command have to end."""


def adaptrec(data: Path, methods: str = METHODS) -> Chain:
    """From preparation to bundle, with a small dataset folder."""
    of = ("--llm", "random-tiny", "--methods", methods, "--protocols", "fair")
    folder = str(data)
    bench = ("bench", "--datasets", folder, *of, "--epochs", "6", "--results", "results", *SET)
    run = ("run", "--dataset", folder, "--llm", "random-tiny", "--method", "tmoe", "--epochs", "6")
    once = (*PROGRAM, *run, "--results", "results", "--keep-model")
    bundle = ("bundle", "results/*/*/*/*-s*.json", "-o", "bundles/all.adaptrec.zip")
    phases = (
        Phase("preparation", (*PROGRAM, "prepare", "--dataset", folder)),
        Phase("encoding", (*PROGRAM, "prepare", "--dataset", folder, *of, *SET)),
        Phase("training", (*PROGRAM, *bench)),
        Phase("evaluation", (*once, "--seed", "1", *SET), None, TESTS, STORES, "record"),
        Phase("record", (*once, "--seed", "2", *SET), None, STORES),
        Phase("report", (*PROGRAM, "report", "--results", "results", "--out", "reports"), "reports"),
        Phase("bundle", (*PROGRAM, *bundle), "bundles"),
    )
    environment = {"ADAPTREC_CACHE": "{folder}/cache", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return Chain(phases, environment, copies=True)


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
