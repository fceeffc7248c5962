"""End a process when its parent is gone, however the parent ended.

The parent holds the other end of the process's standard input, and sets the environment variable `VARIABLE`.
When the parent dies, even of `kill -9`, the system closes that end: the process interrupts itself as ctrl-C
does, keeps its checkpoint, and frees its lock. Processes that a launcher such as torchrun
starts inherit both.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

VARIABLE = "ADAPTREC_LIFELINE"
GRACE = 20.0
"""Seconds in which an interrupted process may end by itself before it is killed."""
AGAIN = 0.05
"""Seconds until an interruption that Python dropped is repeated."""


def hold() -> None:
    """Watch the parent, if it set `VARIABLE`."""
    if VARIABLE not in os.environ:
        return
    # what a shell starts in the background ignores SIGINT, Ray's workers block it, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _thread.start_new_thread(_watch, ())  # a `threading.Thread` may wait for ever where memory is short


def keep_interruptions() -> None:
    """Let no ctrl-C of this process be lost.

    Where `KeyboardInterrupt` happens to be raised in a finaliser or in a callback of the garbage collector,
    Python prints and drops it, and the process would go on until it is killed.
    """
    usual = sys.unraisablehook

    def hook(unraisable: UnraisableHookArgs) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            usual(unraisable)
            return
        timer = threading.Timer(AGAIN, _interrupt)  # an immediate one might be dropped too
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook


def _interrupt() -> None:
    """As ctrl-C, which also ends what the main thread waits for."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def _watch() -> None:
    with suppress(OSError):
        while os.read(0, 1):
            pass
    # the reader of the output is gone: writing must not end this process
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    _interrupt()
    threading.Event().wait(GRACE)
    os._exit(1)
