"""Settings of a run, the protocols, the space of a search, and the hash that names a configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from methods.errors import UserError, unknown
from methods.fields import later

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What the harness, not the method, decides. Every open point of the paper is a named setting here.

    A token reader and a state reader, an LLM method and the `id` control all run under the same settings.
    """

    candidates: Literal["batch", "catalogue", "sampled", "auto"] = "batch"
    """Softmax candidates: other users' targets, all items that occur in training, or shared draws of them;
    `auto` is `catalogue` up to `catalogue_limit` such items and `sampled` above."""
    catalogue_limit: Annotated[int, Field(ge=1, le=1_000_000_000)] = later(50_000)
    """Items in training up to which candidates=auto is `catalogue`."""
    samples: Annotated[int, Field(ge=1, le=1_000_000_000)] = 4096
    """Draws of a step when candidates = sampled."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 0.07
    """tau of Eq. 8."""
    similarity: Literal["cosine", "dot"] = later("cosine")
    """How a user state scores an item: by their cosine (Eq. 6) or by their dot product; the temperature
    divides either."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = later(0.0)
    """Share of the target's probability that is spread evenly over all softmax terms (arXiv 1512.00567)."""
    positive_in_denominator: bool = True
    """Whether the softmax of Eq. 8 has the positive among its terms (standard cross-entropy)."""
    mask_false_negatives: bool = True
    """Drop another user's target that is also mine from my negatives."""
    ids: Literal["none", "add"] = "none"
    """`add` sums a learned id embedding onto the method's item embedding (the transductive case)."""
    width: Annotated[int, Field(ge=2, le=16_384)] = 256
    """d, width of item embeddings and of SASRec."""
    sasrec_layers: Annotated[int, Field(ge=1, le=128)] = 2
    """SASRec blocks."""
    sasrec_heads: Annotated[int, Field(ge=1, le=1_024)] = 2
    """SASRec attention heads."""
    sasrec_inner: Annotated[int, Field(ge=1, le=65_536)] = 256
    """SASRec feed-forward width."""
    sasrec_activation: Literal["gelu", "relu", "silu"] = "gelu"
    """SASRec feed-forward activation."""
    sasrec_eps: Annotated[float, Field(gt=0, le=1e-2)] = 1e-12
    """Epsilon of SASRec's LayerNorms."""
    sasrec_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """SASRec dropout: embeddings, attention and feed-forward."""
    window: Annotated[int, Field(ge=1, le=100_000)] = 50
    """Most recent items of a history that SASRec reads."""
    sequences: Literal["packed", "prefixes"] = "packed"
    """`packed` reads a sequence once and predicts at each position; `prefixes` reads every prefix anew. The
    pairs of prefix and target are the same; packed, all of a sequence share a batch, and its candidates."""
    slide_window: Annotated[int, Field(ge=0, le=100_000)] = later(0)
    """Augmentation: training reads every run of so many successive interactions of a user as a sequence of
    its own, so that a target is predicted from histories of several lengths (arXiv 2403.11136); 0 is off."""
    stride: Annotated[int, Field(ge=1, le=100_000)] = later(1)
    """Training targets beyond a user's first `window` that one reading of `window` items serves. With 1 each
    target is predicted from exactly the `window` items before it; with more, from `window - stride + 1` items
    at least, and long histories cost less (docs/costs.md)."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000_000)] = 256
    """Predictions (prefix, target) of a batch, over all processes."""
    accumulation: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Batches whose gradients make one optimiser step."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3e-4
    """Adam's learning rate."""
    schedule: Literal["constant", "cosine"] = later("constant")
    """The learning rate after the warm-up: constant, or a half cosine down to zero at the end of `epochs`."""
    warmup_epochs: Annotated[float, Field(ge=0, le=1_000_000)] = later(0.0)
    """Epochs in which the learning rate rises linearly to its value."""
    weight_decay: Annotated[float, Field(ge=0, le=100)] = later(0.0)
    """Decoupled weight decay of matrices and embeddings (AdamW; Loshchilov and Hutter 2019); biases and the
    weights of LayerNorm have none."""
    average_decay: Annotated[float, Field(ge=0, lt=1)] = later(0.0)
    """Decay of each step of an exponential moving average of the weights, which is validated and tested in
    place of the last weights; 0 is off."""
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """Epochs at most."""
    patience: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """Epochs without a better value of `select_by` before training stops; 0 never stops early."""
    clip_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Gradient norm to clip at; 0 is off."""
    precision: Literal["auto", "bf16", "fp16", "no"] = "auto"
    """Mixed precision; `auto` is bf16 where the device computes in it natively, else no."""
    states_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which cached hidden states are stored."""
    pooling: Literal["auto", "first", "last", "mean"] = "auto"
    """Token that stands for an item: `auto` is the first for encoders, the last for decoders."""
    quantize: Literal["none", "8bit", "4bit"] = later("none")
    """Whether the language model's weights are loaded in 8 or 4 bits, which takes a GPU and
    `pip install 'adaptrec[quantized]'`. What trains, such as adapters, is not quantised (QLoRA)."""
    max_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Tokens of an item text at most; 0 is the language model's own limit."""
    encode: Literal["cached", "unique", "occurrences"] = later("cached")
    """How a step embeds items. `cached`: each once; where the language model trains, in chunks whose graph is
    built again for the backward pass, so that a chunk sets the memory (but see `chunk_tokens`). `unique`:
    each once, all graphs kept. `occurrences`: every slot of every padded sequence anew, in one piece, as
    published code does."""
    chunk_tokens: Annotated[int, Field(ge=0, le=1_000_000_000)] = later(0)
    """Tokens of a chunk, padding included, to start from; 0 is what the free memory has room for, up to 4,096
    on a CPU and 65,536 on a GPU, and where it has room for a whole step nothing is run again."""
    lower_states: Literal["auto", "on", "off"] = later("auto")
    """Whether layers below the lowest trained one run once and their tokens' states are kept on disk; `auto`
    does where these take up at most `lower_states_gib` and fit on the disk."""
    lower_states_gib: Annotated[float, Field(gt=0, le=1_000_000)] = later(16.0)
    """Disk budget in GiB of lower_states=auto."""
    replay: Literal["auto", "off"] = later("auto")
    """Whether steps on a GPU are recorded once for each shape of a batch and replayed (CUDA graphs); `auto`
    does for methods on frozen states or ids that allow it, in one process, without fp16."""
    select_by: str = later("recall@10")
    """Validation metric that selects the epoch, as `--metrics` takes it: `recall@10`, `ndcg@50`, `mrr`."""
    select: Literal["raw", "masked"] = "raw"
    """Whether the user's history is masked in the validation metric that selects the epoch."""
    fuse: str = later("none")
    """Name of a control whose scores are mixed with those of the trained model after training; validation
    chooses the weight, by the metric that selects the epoch. `none` is off."""


PROTOCOLS: dict[str, dict[str, Any]] = {
    # The published schedule: negatives from the batch, random starting values.
    "paper": {"candidates": "batch", "batch_size": 256, "init": "paper"},
    # The same full pool of candidates, batch and starting point for every method.
    "fair": {"candidates": "auto", "batch_size": 2048, "init": "standardised"},
    # The conditions of `fair`; each row is searched in `SPACE`, with the same number of trials.
    "tuned": {"candidates": "auto", "batch_size": 2048, "init": "standardised", "select": "masked"},
}
NO_PROTOCOL = "none"
"""In place of a protocol, of a control: nothing of a protocol concerns what is not trained."""
NO_FUSION = "none"
"""`Settings.fuse` of a run whose scores are those of the trained model alone."""
ALIKE = ("fair", "tuned")
"""Protocols that hold methods to the same conditions; `paper` gives each its own published ones."""
SEARCHED = "tuned"
"""The protocol whose rows may differ in the settings of `SPACE`."""


@dataclass(frozen=True)
class Dimension:
    """From what a search draws a setting or hyper-parameter: `values`, or numbers from `low` to `high`."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether numbers are drawn uniformly in their logarithm."""
    or_zero: bool = False
    """Whether half of the random draws are 0, which lies outside the range."""
    values: tuple[Any, ...] = ()
    when: tuple[str, str] | None = None
    """The setting, and its value, without which this range does not apply."""


SPACE = (
    Dimension("learning_rate", 1e-4, 3e-3, log=True),
    Dimension("sasrec_dropout", 0.1, 0.7),
    Dimension("similarity", values=("cosine", "dot")),
    Dimension("temperature", 0.03, 0.3, log=True, when=("similarity", "cosine")),
    Dimension("temperature", 0.5, 20.0, log=True, when=("similarity", "dot")),
    Dimension("width", values=(64, 128, 256)),
    Dimension("weight_decay", 1e-4, 0.1, log=True, or_zero=True),
    Dimension("dropout", 0.0, 0.5),
    Dimension("init", values=("standardised", "zca")),
)
"""What a search sets for every method that has it, before the method's own grid."""
TRIALS = 12
"""Trials of a search where the user names no number."""

Tune = Literal["none", "grid", "search", "paper"]
TUNE: dict[Tune, str] = {
    "none": "the protocol's values",
    "grid": "each method's published grid, the best by validation Recall@10",
    "search": f"the same number of trials for every method in one shared space, under protocol {SEARCHED}, "
    "which implies it",
    "paper": "each method's published best values for the language model and dataset",
}
"""Ways to choose hyper-parameters, and what each takes."""


ROW_SETTINGS = (
    "ids", "batch_size", "accumulation", "encode", "chunk_tokens", "lower_states", "lower_states_gib",
    "replay", "fuse",
)  # fmt: skip
"""Settings in which rows of one table may differ: the published schedules give methods their own batches, and
how texts are encoded changes what a run costs, and nothing else but which dropout masks are drawn; a mixture
(`fuse`) is compared with the trained row and the control that it is made of."""


def held(protocol: str) -> set[str]:
    """The names that tuning leaves alone under `protocol`, so that they are the same for all methods.

    Under one of `ALIKE` every setting of the harness, and the hyper-parameters that the protocol sets; under
    `SEARCHED` all of these but `searched`.
    """
    if protocol not in ALIKE:
        return set()
    own = {field.name for field in fields(Settings)} | set(PROTOCOLS[protocol])
    return own - searched(protocol)


def searched(protocol: str) -> set[str]:
    """The names in which rows of one table may differ under `protocol` because a search sets them."""
    return {dimension.name for dimension in SPACE} if protocol == SEARCHED else set()


def parse(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the frozen dataclass `cls` from `values` (strings as typed by a user, or typed values).

    `where` names the origin of the values in an error (`--set`, a file). Raises `UserError` with the
    field, its value and what is allowed.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise unknown(f"setting in {where}:", name, known)
    try:
        parsed: Any = _checks(cls).validate_python(dict(values))  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        if first["type"] == "literal_error":
            allowed = get_args(get_type_hints(cls)[name])
            raise unknown(f"value of {name} in {where}:", first["input"], allowed) from error
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise UserError(f"{where}: {name}={first['input']!s} is not valid: {message}.") from error
    return cls(**{name: getattr(parsed, name) for name in known})


@cache  # making them takes longer than checking values, which a grid does thousands of times
def _checks(cls: type[Any]) -> TypeAdapter[Any]:
    """The checks of the fields of `cls`."""
    strict = ConfigDict(extra="forbid", allow_inf_nan=False)  # no record could hold an infinite number
    return TypeAdapter(type(cls.__name__, (cls,), {"__pydantic_config__": strict}))


def first_fault(error: ValidationError) -> str:
    """The first fault of a value, and where in it the fault is, for a message."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


SETTINGS = tuple(field.name for field in fields(Settings))
CONTROL_SETTINGS: dict[str, tuple[str, ...]] = {
    "ids": ("window",),
    "states": ("window", "pooling", "max_tokens", "states_dtype", "quantize"),
}
"""What a control reads -> settings of the harness that concern it."""


def split_overrides(
    pairs: Collection[str], own: Collection[str], harness: Collection[str] = SETTINGS
) -> tuple[dict[str, str], dict[str, str]]:
    """Sort `key=value` pairs into settings of the `harness` and a method's `own` hyper-parameters.

    Raises `UserError` for a pair without `=`, a key given twice, or a key that neither side has.
    """
    chosen: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UserError(f"--set takes key=value, got '{pair}'.")
        if key in chosen[0] or key in chosen[1]:
            raise UserError(f"--set gives '{key}' twice; give it once.")
        if key not in {*harness, *own}:
            raise unknown("setting in --set:", key, sorted(own) + sorted(set(harness) - set(own)))
        chosen[key in own][key] = value
    return chosen


def digest(value: Any, length: int = 12) -> str:
    """Short SHA-256 of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def config_hash(
    data: str, llm: Any, protocol: str, method: str, target: str, values: Mapping[str, Any]
) -> str:
    """Names a run without its seed: key of its `data`, identity of its language model, and what the rest of
    its configuration gives to the hash.

    `target` is `module:Class` of the method. `values` are settings and hyper-parameters as
    `methods.fields.hashed` gives them: `settings` and `config`; of a control `settings` and `fixed`, those
    that the user fixed.
    """
    return digest(
        {"data": data, "llm": llm, "protocol": protocol, "method": method, "target": target, **values}
    )


def protocol_hash(data: str, protocol: str, settings: Mapping[str, Any]) -> str:
    """Equal for runs that may stand in one table; `settings` as `methods.fields.hashed` gives them, none of a
    control."""
    own = {*ROW_SETTINGS, *searched(protocol)}
    shared = {name: value for name, value in settings.items() if name not in own}
    return digest({"data": data, "protocol": protocol, "settings": shared})
