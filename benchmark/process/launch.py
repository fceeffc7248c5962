"""`torchrun` that ends like the first of its processes to fail: with its exit status, or by its signal.

torchrun itself ends with status 1 whatever happened. Takes torchrun's arguments.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(arguments: Sequence[str]) -> int:
    """Launch; returns the exit status."""
    try:
        run.main(list(arguments))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        number = signal.Signals(-failure.exitcode)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
