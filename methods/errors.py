"""Errors of the user, in one line: what is wrong, where, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UserError(ValueError):
    """A mistake of the user. The command line prints its message on one line and exits with `status`."""

    status: ClassVar[int] = 2


def unknown(
    kind: str, value: object, allowed: Iterable[object], do: str = "", shown: Iterable[object] = ()
) -> UserError:
    """The error for a name that does not exist: the value, the nearest match, all that is allowed.

    `do` is an optional last sentence on what to do instead; `shown` replaces a long `allowed` in the message.
    """
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    allowed_names = ", ".join([str(name) for name in shown] or names)
    return UserError(f"unknown {kind} '{value}'.{hint} Allowed: {allowed_names}.{' ' + do if do else ''}")
