"""A loopback stand-in of a server of embeddings, with the bad habits that a test gives it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
from loopback import loopback

TEI_INFO = {
    "model_id": "org/tiny",
    "model_sha": "abc",
    "max_input_length": 512,
    "version": "1.8",
    "port": 80,
}


@dataclass
class EmbeddingServer:
    """Vectors that follow from the texts and `weights`, and what was asked."""

    url: str = ""
    weights: int = 0
    width: int = 6
    noise: float = 0.0
    """Share by which vectors differ from request to request."""
    answers: list[tuple[int, bytes | None, dict[str, str]]] = field(default_factory=list)
    """Status, body (None: the right one) and headers of the next answers to requests for vectors."""
    texts: list[list[str]] = field(default_factory=list)
    """Of each request for vectors that was answered rightly."""
    asked: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    """Path, body and key of every request for vectors."""

    def vector(self, text: str) -> list[float]:
        seed = hashlib.sha256(f"{self.weights} {text}".encode()).digest()
        vector = np.random.default_rng(list(seed)).normal(size=self.width)
        if self.noise:
            vector += self.noise * np.random.default_rng().normal(size=self.width)
        return [float(value) for value in vector]


@contextmanager
def embedding_server(**values: Any) -> Iterator[EmbeddingServer]:
    """A server on a free port until the block ends."""
    server = EmbeddingServer(**values)
    with loopback(_Handler, server) as server.url:
        yield server


class _Handler(BaseHTTPRequestHandler):
    served: EmbeddingServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/info":
            self._answer(200, json.dumps(TEI_INFO).encode())
        else:
            self._answer(404, b"no such page")

    def do_POST(self) -> None:
        server = self.served
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append((self.path, body, self.headers.get("Authorization", "")))
        status, data, headers = server.answers.pop(0) if server.answers else (200, None, {})
        if data is None and status == 200:
            texts = body["inputs"] if self.path == "/embed" else body["input"]
            server.texts.append(texts)
            vectors = [server.vector(text) for text in texts]
            data = json.dumps(vectors if self.path == "/embed" else openai_answer(vectors)).encode()
        self._answer(status, data or b"", headers)

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        sent = {"Content-Length": str(len(data)), **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def openai_answer(vectors: list[list[float]]) -> dict[str, Any]:
    """The vectors as OpenAI's interface gives them, the last one first."""
    rows = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(vectors)]
    return {"object": "list", "model": "served-name", "data": rows[::-1]}
