"""Requests over HTTP: how an address is opened, and what an error of it means."""

from __future__ import annotations

from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import BaseHandler, ProxyHandler, Request, build_opener

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that are this machine, to which no proxy leads."""


def open_request(request: Request, timeout: float, *handlers: BaseHandler) -> Any:
    """The answer to `request`, through the proxies of the environment where it leaves this machine."""
    here = urlsplit(request.full_url).hostname in LOOPBACK
    return build_opener(*([ProxyHandler({})] if here else []), *handlers).open(request, timeout=timeout)


def classify(error: Exception, url: str, begun: bool) -> tuple[str, bool, bool]:
    """What went wrong in a line, whether a server answered, and whether the same request may succeed later.

    `begun`: this server has answered before.
    """
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}", True, error.code >= 500 or error.code in (408, 429)
    if isinstance(error, URLError):
        # as the system reports it, without a host name
        why = getattr(error.reason, "strerror", None) or str(error.reason)
        return f"no {'file' if url.startswith('file:') else 'connection'} ({why})", False, begun
    if isinstance(error, HTTPException | ConnectionError):
        return "the connection was cut", True, True
    return f"{type(error).__name__}: {error}", True, isinstance(error, TimeoutError)
