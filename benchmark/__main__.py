"""`python -m benchmark`, the same as the console command `adaptrec`."""

from __future__ import annotations

import os
import sys

# Read when torch loads: threads that wait for each other must not spin, or another program on the machine
# makes each of their meetings many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmark import cli
from benchmark.grid import lifeline


def main() -> int:
    """`adaptrec` as a process of its own."""
    lifeline.hold()
    lifeline.keep_interruptions()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
