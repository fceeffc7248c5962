"""Compute what the runs of a grid read of a language model, in one pass a model, in a process of its own.

`python -m benchmark.grid.prepare` is that process; it reads the runs as a line of JSON from its standard
input. A file would be left behind by a kill.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from benchmark.grid.child import Child, stop
from benchmark.process import lifeline
from benchmark.process.exit_status import ExitCode, ReportedError, exit_status
from benchmark.run.spec import ResolvedRun, resolve_run, specs_from_json, specs_to_json
from methods.errors import UserError

POLL = 0.1


def prepare(runs: Sequence[ResolvedRun], on_line: Callable[[str], None]) -> None:
    """Compute hidden states and try to build what `runs` train; raises `UserError` with the first error.

    `on_line` gets every line of the process, that of an error included.
    """
    groups: dict[tuple[str, str], list[ResolvedRun]] = {}
    for run in runs:
        if run.llm is not None:
            groups.setdefault((run.spec.dataset, run.spec.llm), []).append(run)
    for (dataset, llm), group in groups.items():
        specs = specs_to_json(run.spec for run in group)
        child = Child([sys.executable, "-m", "benchmark.grid.prepare"], on_line=on_line, given=f"{specs}\n")
        try:
            while (status := child.ended()) is None:
                time.sleep(POLL)
        except BaseException:
            stop([child])
            raise
        if status == ExitCode.USER_ERROR:
            raise ReportedError(next(reversed(child.tail), ""))
        if status:
            raise UserError(f"preparing {llm} for {dataset} failed with exit status {status}; see above.")


def main(specs: str) -> int:
    """Prepare the runs of `specs`, which are JSON."""
    from benchmark.run.build import prepare_runs

    def command() -> int:
        for line in prepare_runs(map(resolve_run, specs_from_json(specs))):
            print(line, flush=True)
        return ExitCode.OK

    return exit_status(command)


if __name__ == "__main__":
    line = sys.stdin.readline()  # empty where the parent was killed meanwhile
    lifeline.hold()  # from here on it watches standard input
    lifeline.keep_interruptions()
    sys.exit(main(line) if line else ExitCode.INTERRUPTED)
