"""A hub of language models on the loopback, and how the hub library is led to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import huggingface_hub
import pytest
from loopback import loopback

from benchmark.llm import catalogue
from methods.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = "http://127.0.0.1:9"


def use_hub(monkeypatch: pytest.MonkeyPatch, cache: Path, endpoint: str = NOWHERE) -> Path:
    """Let the hub library keep its files in `cache` and ask `endpoint`."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    # The library reads HF_ENDPOINT once, when it is imported, and keeps the addresses of files beside it.
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return cache


def add_entry(monkeypatch: pytest.MonkeyPatch, name: str, **entry: object) -> None:
    """Add a short name to those of llms.toml."""
    entries = {**catalogue.short_names(), name: {"summary": "", **entry}}
    monkeypatch.setattr(catalogue, "short_names", lambda: entries)


def message(name: str) -> str:
    """Why a name leads to no language model, which is one line."""
    with pytest.raises(UserError) as caught:
        catalogue.resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@dataclass
class Hub:
    """As much of the hub as a download needs: org/model, whose branches all lead to `commit`."""

    folder: Path
    commit: str = COMMIT
    asked: list[str] = field(default_factory=list)
    address: str = ""


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """A running hub whose repository holds the files of `folder`."""
    hub = Hub(folder)
    with loopback(_Handler, hub) as hub.address:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    served: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub = self.served
        hub.asked.append(self.path)
        files = {
            file.relative_to(hub.folder).as_posix(): file for file in hub.folder.rglob("*") if file.is_file()
        }
        if self.path.startswith("/api/models/org/model/tree/"):
            tree = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": _tag(file)}
                for name, file in files.items()
            ]
            self._send(json.dumps(tree).encode(), {}, body)
        elif self.path.startswith("/api/models/org/model"):
            # a commit names itself; whatever else is asked for leads to the newest
            asked = self.path.rpartition("/")[2]
            sha = asked if len(asked) == len(COMMIT) else hub.commit
            siblings = [{"rfilename": name} for name in files]
            self._send(json.dumps({"id": "org/model", "sha": sha, "siblings": siblings}).encode(), {}, body)
        else:
            commit, _, name = self.path.removeprefix("/org/model/resolve/").partition("/")
            if name not in files:
                self.send_error(404)
                return
            self._send(
                files[name].read_bytes(), {"ETag": f'"{_tag(files[name])}"', "X-Repo-Commit": commit}, body
            )

    def _send(self, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _tag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
