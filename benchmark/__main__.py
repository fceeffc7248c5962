"""`python -m benchmark`, the same as the console command `adaptrec`."""

from __future__ import annotations

import sys

from benchmark.process import lifeline, startup

startup.secure_imports()
startup.wait_briefly()
startup.defer_compiler()

from benchmark import cli


def main() -> int:
    """`adaptrec` as a process of its own."""
    lifeline.hold()
    lifeline.keep_interruptions()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
