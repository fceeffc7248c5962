"""A running server of embeddings: its address, a request, and what an answer must be.

Two interfaces are known: OpenAI's (`POST /v1/embeddings`), which vLLM, llama.cpp, Ollama and others have too,
and that of Hugging Face's Text Embeddings Inference, TEI (`POST /embed`, `GET /info`). A server makes one
vector of a text; which tokens it reads and how it pools them is its own affair.

Symbols in shape comments: `M` texts of a request, `D` width of a vector.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request

from benchmark.process.network import classify, open_request
from methods.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

APIS = ("openai", "tei")
FORMS = "openai:http://HOST:PORT#MODEL or tei:http://HOST:PORT"
KEY_VARIABLE = "ADAPTREC_SERVER_KEY"
"""Environment variable of the key that a server asks for; it is sent in a header and written nowhere."""
BATCH = 32
"""Texts of a request: what TEI takes at most unless its operator sets another limit."""
TIMEOUT = 120.0
"""Seconds until a server that does not answer counts as failed: long texts take a CPU some time."""
TRIES = 6
"""Times that a request is made whose failure may pass."""
WAIT_SECONDS = 1.0
"""Before the second try; doubled with every further one."""
LONGEST_WAIT = 60.0
"""Seconds that a server may ask to be waited for (`Retry-After`)."""
_INFO = ("model_id", "model_sha", "model_dtype", "model_type", "max_input_length", "version")
"""What is kept of a TEI server's description of itself."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Server:
    """Where vectors are asked for, and of which model."""

    api: Literal["openai", "tei"]
    url: str
    """Without a path that the API adds."""
    model: str
    """As the server names it."""
    reported: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    """What the server says of itself."""

    def __str__(self) -> str:
        return f"the server {self.url} ({self.api})"

    def embed(self, texts: Sequence[str]) -> Tensor:
        """One vector for each text, in order: -> `[M, D]` fp32; see `reported_embed`."""
        return self.reported_embed(texts)[0]

    def reported_embed(self, texts: Sequence[str], begun: bool = True) -> tuple[Tensor, dict[str, str]]:
        """One vector for each text, in order: -> `[M, D]` fp32; and what the answer says of the model.

        `begun`: the server has answered before, so that a refused connection may pass. Raises `UserError` for
        an answer that is not that, and where a request fails for good.
        """
        if self.api == "tei":
            rows, said = self._ask("/embed", {"inputs": [*texts], "truncate": True}, begun), {}
        else:
            asked = {"model": self.model, "input": [*texts], "encoding_format": "float"}
            answer = self._ask("/v1/embeddings", asked, begun)
            rows = self._in_order(answer, len(texts))
            said = {"model": str(answer["model"])} if "model" in answer else {}
        return self._checked(rows, len(texts)), said

    def info(self) -> dict[str, Any]:
        """What a TEI server says of itself."""
        stated = self._ask("/info", None, begun=False)
        if not isinstance(stated, dict) or not isinstance(stated.get("model_id"), str):
            raise UserError(f"{self} gives no model_id at /info: it is no TEI server.")
        return {name: stated[name] for name in _INFO if name in stated}

    def _in_order(self, answer: Any, count: int) -> list[Any]:
        """The vectors of OpenAI's answer in the order of their texts, which `index` states."""
        entries = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{self} gives no list `data` of embeddings: {_start(json.dumps(answer))}")
        if len(entries) != count:
            raise UserError(f"{self} gives {len(entries)} vectors for {count} texts.")
        places = [entry.get("index") for entry in entries]
        if not all(isinstance(place, int) for place in places) or sorted(places) != [*range(count)]:
            raise UserError(f"{self} does not number its vectors 0 to {count - 1} by `index`.")
        rows: list[Any] = [None] * count
        for place, entry in zip(places, entries, strict=True):
            rows[place] = entry.get("embedding")
        return rows

    def _checked(self, rows: Any, count: int) -> Tensor:
        """`rows` as a tensor `[M, D]`. Raises `UserError` for another shape and for what is no number."""
        import torch

        if not isinstance(rows, list) or len(rows) != count:
            many = len(rows) if isinstance(rows, list) else "no"
            raise UserError(f"{self} gives {many} vectors for {count} texts.")
        try:
            vectors = torch.tensor(rows, dtype=torch.float32)  # [M, D]
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{self} gives vectors that are no lists of numbers of one length.") from error
        if vectors.ndim != 2 or not vectors.shape[1]:
            raise UserError(
                f"{self} gives lists of shape {[*vectors.shape]}, not a vector for each of {count} texts; is "
                "pooling switched off?"
            )
        if not vectors.isfinite().all():
            raise UserError(f"{self} gives vectors that are not finite.")
        return vectors

    def _ask(self, path: str, body: Any, begun: bool) -> Any:
        """The JSON that the server answers; what may pass is tried again after a while."""
        for number in range(1, TRIES + 1):
            try:
                return self._once(path, body)
            except (OSError, HTTPException) as error:
                why, reached, temporary = classify(error, self.url, begun)
                wished, begun = "", begun or reached
                if isinstance(error, HTTPError):
                    why, wished = f"{why}{self._said(error)}", error.headers.get("Retry-After", "")
                if number == TRIES or not temporary:
                    raise UserError(f"{self} does not give {path}: {why}.") from error
                wait = WAIT_SECONDS * 2 ** (number - 1)
                wait = min(float(wished), LONGEST_WAIT) if wished.isdecimal() else wait
                log.warning("%s: %s; again in %.3g s", self, why, wait)
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _once(self, path: str, body: Any) -> Any:
        request = Request(
            f"{self.url}{path}", headers={"User-Agent": "adaptrec", "Accept": "application/json"}
        )
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if key := os.environ.get(KEY_VARIABLE):
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        with open_request(request, TIMEOUT, _NoRedirect()) as response:
            data: bytes = response.read()
        try:
            return json.loads(data)
        except ValueError as error:
            text = _start(data.decode(errors="replace"))
            raise UserError(f"{self} answers {path} with what is no JSON: {text}") from error

    def _said(self, error: HTTPError) -> str:
        """What the body of an error says, or where a redirection leads, without the key."""
        if 300 <= error.code < 400:
            there = urlsplit(error.headers.get("Location", ""))
            where = f"{there.scheme}://{there.netloc}{there.path}" if there.netloc else there.path
            return f", a redirection to {where}, which is not followed: give the right address"
        try:
            text = error.read(10_000).decode(errors="replace")
        except (OSError, HTTPException):
            return ""
        if error.code in (401, 403):
            text += f" (a key goes into the environment variable {KEY_VARIABLE})"
        key = os.environ.get(KEY_VARIABLE)
        return f" {_start(text.replace(key, '...') if key else text)}" if text.strip() else ""


class _NoRedirect(HTTPRedirectHandler):
    """Leaves a redirection as the error that it then is: texts and key go to the host that the user named."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def _start(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}..."


def is_address(name: str) -> bool:
    """Whether `name` is meant as the address of a server: an API, a colon, a URL."""
    return name.partition(":")[0] in APIS and ":" in name


def parse_address(name: str) -> Server:
    """The server at an address, before any request; a TEI server's model may be left out.

    Raises `UserError` for an address of another form.
    """
    api, _, address = name.partition(":")
    try:
        url = urlsplit(address)
    except ValueError as error:  # of brackets that hold no IPv6 address
        raise UserError(f"'{name}' is no address of a server: {error}; allowed are {FORMS}.") from error
    if url.scheme not in ("http", "https") or not url.hostname:
        raise UserError(f"'{name}' is no address of a server; allowed are {FORMS}.")
    if url.username or url.query:
        raise UserError(
            f"the address of a server ({url.hostname}) has neither user nor query, since logs show it; a "
            f"key goes into the environment variable {KEY_VARIABLE}."
        )
    root = f"{url.scheme}://{url.netloc}{url.path.rstrip('/').removesuffix('/v1')}"
    if api == "openai":
        if not url.fragment:
            raise UserError(f"'{name}' names no model, which an OpenAI server needs: {FORMS}.")
        return Server("openai", root, url.fragment)
    return Server("tei", root, url.fragment)


def find_server(name: str) -> Server:
    """The server at an address; TEI is asked what it serves. Raises `UserError` as `parse_address`."""
    server = parse_address(name)
    if server.api == "openai":
        return server
    reported = server.info()
    if server.model not in ("", reported["model_id"]):
        raise UserError(f"{server.url} serves the model {reported['model_id']}, not {server.model}.")
    return replace(server, model=reported["model_id"], reported=reported)
