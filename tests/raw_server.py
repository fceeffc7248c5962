"""A loopback file server with bad habits, and miniature raw files in the true schemas of the publishers."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import loopback

START = 1_400_000_000
"""Seconds: the first interaction."""
WORDS = ("steel", "cotton", "glass", "oak", "cork", "brass", "wool", "clay", "pine", "felt")


@dataclass
class Server:
    """Files by path, what is wrong with the service, and what was asked of it."""

    files: dict[str, bytes]
    url: str = ""
    cut_after: dict[str, int] = field(default_factory=dict)
    """Path -> bytes after which a connection is cut, once."""
    answers: dict[str, list[int]] = field(default_factory=dict)
    """Path -> HTTP statuses that are given first, one a request."""
    replaced_by: dict[str, bytes] = field(default_factory=dict)
    """Path -> content from the second request on."""
    framing: str = "length"
    """Where an answer ends: by its `length`, by the mark of `chunked` encoding, or where the connection does
    (`close`)."""
    ranges: bool = True
    etags: bool = True
    pause: float = 0.0
    """Seconds before each answer."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(path, range) of every request."""

    def asked(self, path: str) -> list[str]:
        """The ranges that were asked of `path`; empty for the whole file."""
        return [part for where, part in self.requests if where == path]


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """Serve `files` (path from the root, such as "/sci/a.csv" -> content) until the block ends."""
    server = Server(files)
    with loopback(_Handler, server) as server.url:
        yield server


class _Handler(BaseHTTPRequestHandler):
    served: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        server, wanted = self.served, self.headers.get("Range", "")
        server.requests.append((self.path, wanted))
        time.sleep(server.pause)
        queue = server.answers.get(self.path, [])
        status = queue.pop(0) if queue else 200
        data = server.files.get(self.path)
        if status != 200 or data is None:
            self.send_response(status if status != 200 else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = 0, len(data) - 1
        if server.ranges and (match := re.fullmatch(r"bytes=(\d+)-", wanted)):
            first, status = int(match[1]), 206
        self.send_response(status)
        if server.framing == "length":
            self.send_header("Content-Length", str(last - first + 1))
        elif server.framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        if server.etags:
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:16]}"')
        self.end_headers()
        self._send(data[first : last + 1], first)
        server.files[self.path] = server.replaced_by.pop(self.path, data)

    def _send(self, data: bytes, first: int) -> None:
        end = self.served.cut_after.get(self.path)
        if end is not None and first <= end < first + len(data):
            del self.served.cut_after[self.path]
            self._write(data[: end - first], cut=True)
            self.close_connection = True
            return
        self._write(data, cut=False)

    def _write(self, data: bytes, cut: bool) -> None:
        if self.served.framing == "chunked":
            data = b"%x\r\n%s\r\n" % (len(data), data) + (b"" if cut else b"0\r\n\r\n")
        self.wfile.write(data)


def interactions(users: int = 60, items: int = 30, each: int = 12) -> list[tuple[str, str, int]]:
    """(user, item, seconds): `each` interactions a user on `each` days, every item about as often."""
    return [
        (f"A{user:09d}", asin((user * 7 + step * (1 + user % 3)) % items), START + 86_400 * (user + step))
        for user in range(users)
        for step in range(each)
    ]


def asin(item: int) -> str:
    """An item's id in the form of Amazon's."""
    return f"B{item:09d}"


def packed(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def title(item: int) -> str:
    return f"{WORDS[item % 10].capitalize()} &amp; {WORDS[item // 10]} box no. {item}"


def amazon_2014(name: str = "Beauty", items: int = 30) -> dict[str, bytes]:
    """Reviews as JSON lines, metadata as Python literals with paths of categories."""
    reviews = [
        {
            "reviewerID": user, "asin": item, "reviewerName": "N. N.", "helpful": [0, 1], "reviewText": "ok",
            "overall": 5.0, "summary": "ok", "unixReviewTime": time, "reviewTime": "05 13, 2014",
        }
        for user, item, time in interactions(items=items)
    ]  # fmt: skip
    metadata = [
        {
            "asin": asin(item), "title": title(item), "brand": "O'Neil", "price": 9.5,
            "categories": [["Beauty", "Hair"], ["Beauty", WORDS[item % 10]]], "related": {"also_viewed": []},
        }
        for item in range(items)
    ]  # fmt: skip
    return {
        f"reviews_{name}_5.json.gz": packed(json_lines(reviews)),
        f"meta_{name}.json.gz": packed("".join(f"{row!r}\n" for row in metadata)),
    }


def amazon_2018(name: str = "Industrial_and_Scientific", items: int = 30) -> dict[str, bytes]:
    """Ratings as item,user,rating,time, metadata as JSON lines with lists."""
    ratings = "".join(f"{item},{user},5.0,{time}\n" for user, item, time in interactions(items=items))
    metadata = [
        {
            "asin": asin(item), "title": title(item), "brand": "Acme",
            "category": ["Industrial & Scientific", WORDS[item % 10]], "description": ["One.", "Two."],
            "also_buy": [], "rank": [], "main_cat": "<img src='x.png'>",
        }
        for item in range(items)
    ]  # fmt: skip
    return {f"{name}.csv": ratings.encode(), f"meta_{name}.json.gz": packed(json_lines(metadata))}


def amazon_2023(name: str = "All_Beauty", items: int = 30) -> dict[str, bytes]:
    """Ratings with a header and milliseconds, metadata as JSON lines."""
    rows = "".join(f"{user},{item},5.0,{time * 1000 + 7}\n" for user, item, time in interactions(items=items))
    metadata = [
        {
            "parent_asin": asin(item), "title": title(item), "store": "Acme", "main_category": "All Beauty",
            "categories": ["Beauty", WORDS[item % 10]], "features": [], "description": [], "price": None,
            "details": {"Brand": "Acme"},
        }
        for item in range(items)
    ]  # fmt: skip
    return {
        f"{name}.csv.gz": packed(f"user_id,parent_asin,rating,timestamp\n{rows}"),
        f"meta_{name}.jsonl.gz": packed(json_lines(metadata)),
    }


def movielens(items: int = 30) -> dict[str, bytes]:
    """The archive of MovieLens 1M, with three of its files."""
    users = {user: str(number + 1) for number, user in enumerate(Counter(row[0] for row in interactions()))}
    ratings = "".join(
        f"{users[user]}::{int(item[1:]) + 1}::5::{time}\n" for user, item, time in interactions(items=items)
    )
    movies = "".join(f"{item + 1}::Café {WORDS[item % 10]} (1995)::Drama|War\n" for item in range(items))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in (("ratings", ratings), ("movies", movies), ("users", "1::F::1::10::48067\n")):
            archive.writestr(zipfile.ZipInfo(f"ml-1m/{name}.dat"), text.encode("latin-1"))
    return {"ml-1m.zip": file.getvalue()}


def served(recipes: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
    """Files by path, as a mirror serves them: /<recipe>/<file>."""
    return {f"/{recipe}/{name}": data for recipe, files in recipes.items() for name, data in files.items()}
