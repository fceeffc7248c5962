"""What is known of the settings behind a figure, of a run or of a published one, in the order in which they
are known to move results."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.config import Settings
from benchmark.data.recipe import Recipe
from benchmark.results.published import COUNTS, Published, folder
from benchmark.results.record import RunRecord
from methods.errors import UserError

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
    "loss": ("candidates", "temperature", "positive_in_denominator", "catalogue_limit"),
    "negatives": ("mask_false_negatives", "samples"),
    "batch": ("batch_size", "accumulation", "sequences"),
    "start": ("init",),
    "language model": (
        "llm", "llm.layers", "llm.width", "llm.digest", "pooling", "max_tokens", "llm_dropout",
    ),
    "precision": ("precision", "states_dtype"),
    "method": ("method", "ids"),
    "recommender": (
        "window", "width", "sasrec_layers", "sasrec_heads", "sasrec_inner", "sasrec_activation",
        "sasrec_dropout", "sasrec_eps",
    ),
    "training": ("learning_rate", "epochs", "patience", "select_by", "clip_norm", "tuning"),
    "cost only": ("encode", "chunk_tokens", "lower_states", "lower_states_gib", "replay"),
    "machine": ("device_name", "world_size", "threads"),
}  # fmt: skip
"""Topic -> names, the ones that move results most first: docs/statistics.md says why. Hyper-parameters not
named here come under `method`, rules of the recipe under `data`, versions under `machine`."""
PRIVATE = ("data.key", "generation", "llm.digest", "catalogue_limit", "threads")
"""What a paper does not state and nobody would miss."""
RECIPE_NAMES = {
    "name", "summary", "edition", "licence", "source", "files", "format", "expected", "settings", "notes",
    "synthetic",
}  # fmt: skip
"""What a recipe says that is no rule of preparation."""


class Value(NamedTuple):
    """What one side says of a setting."""

    value: Any
    agrees: tuple[Any, ...] = ()
    """Further values that mean the same."""

    def __str__(self) -> str:
        if isinstance(self.value, (list, tuple)):
            return ", ".join(map(str, self.value)) or "none"
        return "none" if self.value is None or self.value == "" else str(self.value)

    def same(self, other: Value) -> bool:
        """Whether both mean the same."""
        return self.value == other.value or self.value in other.agrees or other.value in self.agrees


Facts = Mapping[str, Value]


@dataclass(frozen=True)
class Difference:
    """A setting in which two sides differ, or which only one of them states."""

    topic: str
    name: str
    a: str
    b: str

    @property
    def stated(self) -> bool:
        """Whether both sides say something."""
        return UNKNOWN not in (self.a, self.b)


def facts_of_run(run: RunRecord) -> Facts:
    """All that a record knows of its settings; a setting that came after the record has its default."""
    recipe: Mapping[str, Any] = run.data.get("recipe") or {}
    later = {one.name: one.default for one in fields(Recipe) if one.default is not MISSING}
    rules = {**later, **recipe}
    rules["text_fields"] = rules["text_fields"] or "all columns"
    found: dict[str, Any] = {f"recipe.{name}": rules[name] for name in rules if name not in RECIPE_NAMES}
    counts: Mapping[str, Any] = run.data.get("fingerprint") or {}
    found |= {name: counts[name] for name in COUNTS if name in counts}
    ties = "mean rank" if run.schema_version == 1 else "expectation"
    found |= {
        "data.key": run.data.get("key"),
        "ties": ties,
        "method": run.method,
        "generation": run.generation,
    }
    found |= {**asdict(Settings()), **run.settings, **run.hyperparameters}
    details = run.llm_details
    found |= {"llm": run.llm or "none"}
    found |= {f"llm.{ours}": details[name] for name, ours in LLM_NAMES.items() if name in details}
    place = run.environment
    found |= {"precision": place.precision, "device_name": place.device_name}
    found |= {"world_size": place.world_size, "threads": place.threads}
    found |= {"tuning": _tuning(run)}
    found |= {"max_tokens": details.get("max_tokens", found["max_tokens"])}
    for name, (asked, value) in ONLY_WHERE.items():
        if found.get(asked) != value:
            found.pop(name, None)
    found |= {f"version of {name}": version for name, version in place.packages.items()}
    return {name: Value(value) for name, value in found.items()}


LLM_NAMES = {"n_layers": "layers", "width": "width", "digest": "digest"}
"""Name in `llm_details` -> name of the fact, after `llm.`."""


ONLY_WHERE = {
    "recipe.valid_share": ("recipe.split", "temporal"),
    "recipe.test_share": ("recipe.split", "temporal"),
    "samples": ("candidates", "sampled"),
    "catalogue_limit": ("candidates", "auto"),
    "lower_states_gib": ("lower_states", "auto"),
}
"""Name -> another name and its value, without which it does nothing."""


def _tuning(run: RunRecord) -> str:
    search = run.tuning
    if search is None:
        return "none"
    if search.mode == "paper":
        return "published values"
    return f"grid, {len(search.trials)} trials"


def facts_of_paper(paper: Published, llm: str, dataset: str, method: str) -> Facts:
    """What the paper states of the run behind a figure."""
    here = {"llms": llm, "datasets": dataset, "methods": method}
    stated = _stated()
    found: dict[str, Value] = {}
    for fact in stated.facts:
        limits = {name: getattr(fact, name) for name in here}
        if all(limits[name] is None or here[name] in limits[name] for name in here):
            found[fact.name] = Value(fact.value, tuple(fact.agrees))
    counts = paper.counts()[dataset]
    found |= {name: Value(count) for name, count in zip(COUNTS, counts, strict=True)}
    best = paper.best(method).get((llm, dataset), {})
    found |= {name: Value(value) for name, value in best.items()}
    return {**found, "llm": Value(llm), "method": Value(method), "tuning": Value("grid")}


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    value: Any
    agrees: list[Any] = []
    source: str
    datasets: list[str] | None = None
    llms: list[str] | None = None
    methods: list[str] | None = None


class _Stated(BaseModel):
    model_config = ConfigDict(extra="forbid")
    facts: list[_Fact]


@cache
def _stated(path: Path | None = None) -> _Stated:
    """What `settings.toml` beside the published figures says. Raises `UserError` where it cannot be read."""
    path = path or folder() / SETTINGS
    try:
        return _Stated.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}. It belongs to the published figures.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


def differences(a: Facts, b: Facts, published: tuple[bool, bool] = (False, False)) -> list[Difference]:
    """Settings in which two sides differ, those first that are known to move results most.

    What a `published` side does not say is `not stated`, and what no paper would say is left out; what a run
    does not have does not apply to it: `-`.
    """
    missing = [UNKNOWN if one else NONE for one in published]
    places = {name: place for place, name in enumerate(name for names in TOPICS.values() for name in names)}
    order = {topic: place for place, topic in enumerate(TOPICS)}
    found = []
    for name in {**a, **b}:
        topic = _topic(name)
        one, other = a.get(name), b.get(name)
        if one is not None and other is not None:
            if not one.same(other):
                found.append(Difference(topic, name, str(one), str(other)))
        elif not any(published) or _would_be_stated(topic, name):
            found.append(Difference(topic, name, str(one or missing[0]), str(other or missing[1])))
    return sorted(found, key=lambda one: (order[one.topic], places.get(one.name, len(places)), one.name))


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
