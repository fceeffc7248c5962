"""The settings of a run or of a published figure, and the differences between two of them.

The order is that of the known effect on results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from benchmark.config import PROTOCOLS, Settings
from benchmark.data.recipe import Recipe
from benchmark.results.published import COUNTS, Published, folder, read_toml
from benchmark.results.record import RunRecord
from benchmark.results.tuning import label_of

SETTINGS = "settings.toml"
UNKNOWN = "not stated"
NONE = "-"

TOPICS: dict[str, tuple[str, ...]] = {
    "split": ("recipe.split", "recipe.valid_share", "recipe.test_share"),
    "core": ("recipe.core", "recipe.recent"),
    "data": (*COUNTS, "data.key", "recipe.text_fields", "recipe.no_text", "recipe.repeats"),
    "masking": ("select",),
    "ties": ("ties",),
    "harness": ("generation",),
    "loss": (
        "candidates", "temperature", "similarity", "label_smoothing", "positive_in_denominator",
        "catalogue_limit",
    ),
    "negatives": ("mask_false_negatives", "samples"),
    "batch": ("batch_size", "accumulation", "sequences", "slide_window", "stride"),
    "start": ("init",),
    "language model": (
        "llm", "llm.layers", "llm.width", "llm.digest", "pooling", "max_tokens", "quantize", "llm_dropout",
    ),
    "precision": ("precision", "states_dtype"),
    "method": ("method", "ids", "fuse"),
    "recommender": (
        "window", "width", "sasrec_layers", "sasrec_heads", "sasrec_inner", "sasrec_activation",
        "sasrec_dropout", "sasrec_eps",
    ),
    "training": (
        "learning_rate", "epochs", "patience", "select_by", "clip_norm", "weight_decay", "schedule",
        "warmup_epochs", "average_decay", "tuning",
    ),
    "cost only": ("encode", "chunk_tokens", "lower_states", "lower_states_gib", "replay"),
    "machine": ("device_name", "world_size", "threads"),
}  # fmt: skip
"""Topic -> names, in the order of their known effect on results: docs/statistics.md has the reasons.
Hyper-parameters not named here are under `method`, rules of the recipe under `data`, versions under
`machine`."""
PRIVATE = ("data.key", "generation", "llm.digest", "catalogue_limit", "threads")
"""What a paper need not state."""
RECIPE_NAMES = {
    "name", "summary", "edition", "licence", "source", "files", "format", "expected", "settings", "notes",
    "synthetic",
}  # fmt: skip
"""Fields of a recipe that are no rules of preparation."""


class Value(NamedTuple):
    """The value of a setting in one source."""

    value: Any
    agrees: tuple[Any, ...] = ()
    """Further values with the same meaning."""

    def __str__(self) -> str:
        if isinstance(self.value, (list, tuple)):
            return ", ".join(map(str, self.value)) or "none"
        return "none" if self.value is None or self.value == "" else str(self.value)

    def same(self, other: Value) -> bool:
        """Whether both have the same meaning."""
        return self.value == other.value or self.value in other.agrees or other.value in self.agrees


SettingValues = Mapping[str, Value]


@dataclass(frozen=True)
class Difference:
    """A setting in which two sources differ, or which only one of them states."""

    topic: str
    name: str
    a: str
    b: str

    @property
    def stated(self) -> bool:
        """Whether both sources state it."""
        return UNKNOWN not in (self.a, self.b)


def settings_of_run(run: RunRecord) -> SettingValues:
    """All settings in a record; a setting that was added after the record has its default."""
    recipe: Mapping[str, Any] = run.data.get("recipe") or {}
    defaults = {entry.name: entry.default for entry in fields(Recipe) if entry.default is not MISSING}
    rules = {**defaults, **recipe}
    rules["text_fields"] = rules["text_fields"] or "all columns"
    counts: Mapping[str, Any] = run.data.get("fingerprint") or {}
    details, machine = run.llm_details, run.environment
    values: dict[str, Any] = {
        **{f"recipe.{name}": rules[name] for name in rules if name not in RECIPE_NAMES},
        **{name: counts[name] for name in COUNTS if name in counts},
        "data.key": run.data.get("key"),
        "ties": "mean rank" if run.schema_version == 1 else "expectation",
        "method": run.method,
        "generation": run.generation,
        **({} if run.untrained else asdict(Settings())),
        **run.settings,
        **run.hyperparameters,
        "llm": run.llm or "none",
        **{f"llm.{ours}": details[name] for name, ours in LLM_NAMES.items() if name in details},
        **{name: getattr(machine, name) for name in ("precision", "device_name", "world_size", "threads")},
        "tuning": _tuning(run),
    }
    values["max_tokens"] = details.get("max_tokens", values.get("max_tokens", 0))
    for name, (setting, value) in ONLY_WHERE.items():
        if values.get(setting) != value:
            values.pop(name, None)
    values |= {f"version of {name}": version for name, version in machine.packages.items()}
    return {name: Value(value) for name, value in values.items()}


def defaults_of_run(run: RunRecord) -> dict[str, str]:
    """The settings of the harness that nobody chose -> the default that they have, in the order of TOPICS.

    Left out are settings of another value, and those that the user (`--set`), the protocol, a search or the
    dataset's recipe set, even to the default; also settings without effect on the metrics, or without effect
    in this run. A control, which is not trained, has none.
    """
    if run.untrained:
        return {}
    chosen = {pair.partition("=")[0] for pair in run.overrides} | set(PROTOCOLS.get(run.protocol, {}))
    if run.tuning:
        chosen |= {*run.tuning.grid, *(str(dimension["name"]) for dimension in run.tuning.space)}
    for suggested in ((run.data.get("recipe") or {}).get("settings") or {}).values():
        chosen |= set(suggested)
    values, defaults = settings_of_run(run), asdict(Settings())
    return {
        name: str(values[name])
        for topic, names in TOPICS.items()
        for name in names
        if topic != "cost only" and name in defaults and name in values and name not in chosen
        if values[name].value == defaults[name]
    }


LLM_NAMES = {"n_layers": "layers", "width": "width", "digest": "digest"}
"""Name in `llm_details` -> name of the setting, after `llm.`."""


ONLY_WHERE = {
    "recipe.target": ("recipe.split", "temporal"),
    "recipe.valid_share": ("recipe.split", "temporal"),
    "recipe.test_share": ("recipe.split", "temporal"),
    "samples": ("candidates", "sampled"),
    "catalogue_limit": ("candidates", "auto"),
    "lower_states_gib": ("lower_states", "auto"),
}
"""Name -> the setting and its value without which it has no effect."""


def _tuning(run: RunRecord) -> str:
    search = run.tuning
    if search is None:
        return "none"
    if search.mode == "paper":
        return "published values"
    if search.mode == "given":
        return f"given values, {label_of(search, run.dataset)}"
    return f"{search.mode}, {len(search.trials)} trials"


def settings_of_paper(paper: Published, llm: str, dataset: str, method: str) -> SettingValues:
    """The settings that the paper states for a figure."""
    here = {"llms": llm, "datasets": dataset, "methods": method}
    stated = _stated()
    values: dict[str, Value] = {}
    for setting in stated.facts:
        limits = {name: getattr(setting, name) for name in here}
        if all(limits[name] is None or here[name] in limits[name] for name in here):
            values[setting.name] = Value(setting.value, tuple(setting.agrees))
    counts = paper.counts()[dataset]
    values |= {name: Value(count) for name, count in zip(COUNTS, counts, strict=True)}
    best = paper.best(method).get((llm, dataset), {})
    values |= {name: Value(value) for name, value in best.items()}
    return {**values, "llm": Value(llm), "method": Value(method), "tuning": Value("grid")}


class _StatedSetting(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    value: Any
    agrees: list[Any] = []
    source: str
    datasets: list[str] | None = None
    llms: list[str] | None = None
    methods: list[str] | None = None


class _StatedSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    facts: list[_StatedSetting]


@cache
def _stated() -> _StatedSettings:
    """The content of `settings.toml` of the published figures. Raises `UserError` where it cannot be read."""
    return read_toml(folder() / SETTINGS, _StatedSettings)


def differences(
    a: SettingValues, b: SettingValues, published: tuple[bool, bool] = (False, False)
) -> list[Difference]:
    """Settings in which two sources differ, those with the largest known effect on results first.

    A setting that a `published` source does not have is `not stated`, and one that no paper would state is
    left out; a setting that a run does not have does not apply to it: `-`.
    """
    missing = [UNKNOWN if paper else NONE for paper in published]
    names = [name for topic in TOPICS.values() for name in topic]
    topics = list(TOPICS)
    differing = []
    for name in {**a, **b}:
        topic = _topic(name)
        value_a, value_b = a.get(name), b.get(name)
        if value_a is not None and value_b is not None:
            if not value_a.same(value_b):
                differing.append(Difference(topic, name, str(value_a), str(value_b)))
        elif not any(published) or _would_be_stated(topic, name):
            both = str(value_a or missing[0]), str(value_b or missing[1])
            differing.append(Difference(topic, name, *both))

    def order(difference: Difference) -> tuple[int, int, str]:
        name = difference.name
        return topics.index(difference.topic), names.index(name) if name in names else len(names), name

    return sorted(differing, key=order)


def _would_be_stated(topic: str, name: str) -> bool:
    if topic in {"cost only", "machine"} or name in PRIVATE:
        return False
    return not name.startswith("recipe.") or name in TOPICS[topic]


def _topic(name: str) -> str:
    for topic, names in TOPICS.items():
        if name in names:
            return topic
    if name.startswith("version of "):
        return "machine"
    return "data" if name.startswith("recipe.") else "method"
