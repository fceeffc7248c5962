"""A seeded storm of SIGKILLs from preparation to bundle, and what it leaves behind.

`python studies kill_storm --kills 200 --seed 0 --json results/reliability/kill-storm.json`

The commands run once without kills in a fresh folder. Then they run again and again, each time in a
fresh folder: a command is killed at a random moment, or just before a random file operation, and started
again until its kills of this repetition are spent; it then has to end as if nothing had happened
(`judge.CHECKS`). The same seed gives the same plan of kills. The result is written after each
repetition; after ctrl-C the same command goes on with the next one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.commands.options import Parser
from benchmark.files import write_atomically
from studies.common.chain import adaptrec, write_data
from studies.common.copies import import_all
from studies.kill_storm.storm import Storm


def facts() -> dict[str, Any]:
    """The code and the machine."""
    import torch

    from benchmark.measure import environment

    return environment(torch.device("cpu"), "no", 1).model_dump(exclude={"precision", "world_size"})


def write(path: Path, result: Mapping[str, Any]) -> None:
    """As JSON, a row of `rows` in one line."""
    rows = ",\n  ".join(json.dumps(row) for row in result["rows"])
    text = json.dumps({**result, "rows": []}, indent=1).replace('"rows": []', f'"rows": [\n  {rows}\n ]')
    write_atomically(path, text + "\n")


def main(arguments: Sequence[str]) -> int:
    """Run the storm; the exit status is 0 where nothing deviates."""
    options = _parser().parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    head = {
        "study": "kill storm",
        "seed": options.seed,
        "columns_of_rows": ["repetition", "phase", "how", "target", "at", "exit status of the command"],
        "environment": facts(),
    }
    work = Path(tempfile.mkdtemp(prefix="kill-storm.", dir=options.work)).resolve()
    chain = adaptrec(write_data(work / "data", options.seed))
    import_all({name: text for name, text in chain.environment.items() if "{" not in text})
    storm = Storm(chain, options.kills, options.seed, work, _say)
    if (earlier := _earlier(options, head)) is not None:
        storm.go_on(earlier)
        _say(f"going on after {len(storm.rows)} kills")

    def save() -> None:
        if options.json:
            complete = len(storm.rows) >= options.kills
            write(options.json, {**head, "complete": complete, **storm.result()})

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore ctrl-C
        signal.signal(number, signal.default_int_handler)
    status = 130
    try:
        storm.run(save)
        status = 1 if storm.deviations else 0
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on with the next repetition")
    _say(
        f"{len(storm.rows)} kills, {len(storm.deviations)} deviations"
        + (f"; see {work}" if storm.deviations else "")
    )
    if not storm.deviations:
        shutil.rmtree(work)
    return status


def _parser() -> Parser:
    parser = Parser("python studies kill_storm", description="Kill commands at random moments and compare.")
    parser.add_argument("--kills", type=int, default=200, help="how many SIGKILLs, in equal shares by phase")
    parser.add_argument("--seed", type=int, default=0, help="fixes the plan of kills")
    parser.add_argument(
        "--json", type=Path, help="where the result is written; goes on with an unfinished one"
    )
    parser.add_argument("--work", type=Path, help="folder for the repetitions; a temporary one if not given")
    return parser


def _earlier(options: argparse.Namespace, head: Mapping[str, Any]) -> dict[str, Any] | None:
    """The unfinished result of the same storm on the same code."""
    if not options.json or not options.json.exists():
        return None
    earlier: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8"))
    same = (
        not earlier["complete"]
        and (earlier["seed"], earlier["kills"]["asked"]) == (options.seed, options.kills)
        and earlier["environment"]["git_commit"] == head["environment"]["git_commit"]
    )
    return earlier if same else None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
