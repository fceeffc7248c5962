"""What to run: `RunSpec` has the names that a user gives, `ResolvedRun` what they mean.

A run is resolved once a process and handed on. Between processes it travels as the JSON of its `RunSpec`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from benchmark.config import (
    CONTROL_SETTINGS,
    NO_FUSION,
    NO_PROTOCOL,
    PROTOCOLS,
    SETTINGS,
    Settings,
    config_hash,
    first_fault,
    parse,
    protocol_hash,
    split_overrides,
)
from benchmark.data.catalogue import find
from benchmark.data.prepare import Prepared, prepare
from benchmark.data.recipe import NO_OPTIONS, FolderOptions
from benchmark.files import cache_folder
from benchmark.llm import dense
from benchmark.llm.catalogue import LLM, check_name, resolve
from benchmark.process.progress import print_steps
from benchmark.results.metrics import measure
from benchmark.results.record import NO_LLM
from benchmark.results.tuning import TrialOf
from benchmark.run.served import check_served
from methods import registry
from methods.base import kinds, reads_llm
from methods.code import code_digest
from methods.controls.base import Control
from methods.errors import UserError, unknown
from methods.fields import hashed

if TYPE_CHECKING:
    from methods.base import Method

    AnyMethod = type[Method] | type[Control]


@dataclass(frozen=True)
class RunSpec:
    """What a user asks for: one run."""

    dataset: str
    """Name of a recipe, or a folder."""
    llm: str
    """NO_LLM, or any name that can be one, for a method that reads no language model."""
    method: str
    protocol: str = "paper"
    """NO_PROTOCOL, or any one, for a control; likewise its seed is 0."""
    seed: int = 0
    overrides: tuple[str, ...] = ()
    """`key=value` pairs on top of the protocol."""
    reading: FolderOptions = NO_OPTIONS
    """How the folder of the dataset is to be read."""
    trial_of: TrialOf | None = field(default=None, compare=False)
    """The search that asks for the run, for its record."""

    def __str__(self) -> str:
        extra = f" ({', '.join(self.overrides)})" if self.overrides else ""
        dataset = Path(self.dataset).name or self.dataset  # of a folder its name, as in its records
        return f"{dataset} {self.llm} {self.method} {self.protocol} seed {self.seed}{extra}"


SPECS = TypeAdapter(list[RunSpec])


def specs_to_json(specs: Iterable[RunSpec]) -> str:
    """One line, for `specs_from_json` in another process."""
    return SPECS.dump_json([*specs]).decode()


def specs_from_json(text: str) -> list[RunSpec]:
    """The runs that `specs_to_json` wrote. Raises `UserError` for any other text."""
    try:
        return SPECS.validate_json(text)
    except ValidationError as error:
        raise UserError(f"--spec is no JSON list of runs: {first_fault(error)}.") from error


@dataclass(frozen=True)
class ResolvedRun:
    """A run whose names were found, whose settings were checked, and whose data is prepared.

    Two are equal if their specs are.
    """

    spec: RunSpec
    entry: registry.RegisteredMethod = field(compare=False)
    cls: AnyMethod = field(compare=False)
    settings: Settings = field(compare=False)
    config: Any = field(compare=False)
    """The method's hyper-parameters, an instance of `cls.Config`; of a control, those that the user fixed and
    the defaults of the others."""
    prepared: Prepared = field(compare=False)
    llm: LLM | None = field(compare=False)
    """None where neither the method nor the control that it is mixed with reads a language model."""
    fixed: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Of a control: the settings that the user fixed, which validation does not choose."""
    fused: ResolvedRun | None = field(default=None, compare=False)
    """The control that the trained model is mixed with (`fuse`), under the same settings; None for none."""

    def __str__(self) -> str:
        return str(self.spec)

    @property
    def method(self) -> type[Method]:
        """The class of a method that trains."""
        assert not issubclass(self.cls, Control)
        return self.cls

    @property
    def control(self) -> type[Control] | None:
        """The class of a control; None for a method that trains."""
        return self.cls if issubclass(self.cls, Control) else None

    @property
    def readers(self) -> list[ResolvedRun]:
        """This run, and the control that it is mixed with, as far as they read a language model."""
        return [run for run in (self, self.fused) if run is not None and reads_llm(run.cls)]

    @property
    def reads_dense(self) -> bool:
        """Whether it reads vectors behind the dense layers of its language model."""
        return self.llm is not None and dense.applies(
            self.llm, self.cls.layers(self.config, self.llm.n_layers), kinds(self.cls)
        )

    @property
    def applied_settings(self) -> dict[str, Any]:
        """The settings of the harness that concern the run, JSON-able."""
        values = asdict(self.settings)
        return {name: values[name] for name in harness_settings(self.cls)}

    @cached_property
    def config_hash(self) -> str:
        """Identifies the run without its seed."""
        values = {"settings": hashed(self.settings), "config": hashed(self.config)}
        if self.control:
            own = harness_settings(self.cls)
            settings = {name: value for name, value in values["settings"].items() if name in own}
            values = {"settings": settings, "fixed": dict(self.fixed)}
        llm = self.llm and self.llm.identity()
        words = self.prepared.key, llm, self.spec.protocol, self.entry.name, self.entry.target
        return config_hash(*words, values)

    @property
    def protocol_hash(self) -> str:
        """Equal for runs that may stand in one table."""
        shared = {} if self.control else hashed(self.settings)
        return protocol_hash(self.prepared.key, self.spec.protocol, shared)

    @cached_property
    def code(self) -> str | None:
        """Digest of the method's code, of a mixture also of the control's; None where the source of one
        cannot be found."""
        own = code_digest(self.cls)
        if self.fused is None:
            return own
        return f"{own}+{self.fused.code}" if own and self.fused.code else None

    @property
    def identity(self) -> str:
        """Identifies what a checkpoint is of: the configuration and the code that trains it."""
        return f"{self.config_hash} {self.code}"

    def record_path(self, results: Path) -> Path:
        """`<results>/<dataset>/<llm>/<method>/<hash>-s<seed>.json`."""
        llm = self.llm.slug if self.llm else NO_LLM
        name = f"{self.config_hash}-s{self.spec.seed}.json"
        return results / self.prepared.name / llm / self.spec.method / name

    def with_seed(self, seed: int) -> ResolvedRun:
        """The same configuration with another seed, which is no trial of a search. Raises `UserError` for a
        seed that cannot be.

        A control has no random numbers: it stays as it is.
        """
        check_seed(seed)
        if self.control:
            return self
        return replace(self, spec=replace(self.spec, seed=seed, trial_of=None))


def check_protocol(name: str) -> None:
    """Raise `UserError` unless `name` is a protocol under which methods train."""
    if name == NO_PROTOCOL:
        raise UserError(
            f"protocol '{NO_PROTOCOL}' is for controls, which do not train; for a method that trains give "
            f"{' or '.join(PROTOCOLS)}."
        )
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)


def check_seed(seed: int) -> None:
    """Raise `UserError` unless `seed` can be one."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed must be from 0 to 4294967295, got {seed}.")


def harness_settings(cls: AnyMethod) -> tuple[str, ...]:
    """The settings of the harness that concern a method or control: what `--set` may give it."""
    return CONTROL_SETTINGS[cls.reads] if issubclass(cls, Control) else SETTINGS


def accepted(cls: AnyMethod) -> set[str]:
    """Every key that `--set` may give a method or control: settings of the harness and hyper-parameters."""
    return {*harness_settings(cls), *_hyperparameters(cls)}


def _hyperparameters(cls: AnyMethod) -> set[str]:
    return {field.name for field in fields(cls.Config)}


def applicable(pairs: Iterable[str], cls: AnyMethod) -> tuple[str, ...]:
    """The `key=value` pairs that a method or control can take, of those given to several."""
    return tuple(pair for pair in pairs if pair.partition("=")[0] in accepted(cls))


def check_overrides(pairs: Collection[str], methods: Sequence[str] | None) -> None:
    """Raise `UserError` for a `key=value` pair that none of the methods has (None: those by default)."""
    names = registry.chosen_names(methods) if pairs else ()
    split_overrides(pairs, set().union(*(accepted(registry.load(name)) for name in names)), ())


def resolve_run(spec: RunSpec) -> ResolvedRun:
    """Check every name and value of `spec` and prepare its data. Raises `UserError` with the first fault."""
    entry, cls = registry.entry(spec.method), registry.load(spec.method)
    check_seed(spec.seed)
    if issubclass(cls, Control):
        return _resolve_control(replace(spec, protocol=NO_PROTOCOL, seed=0), entry, cls)
    check_protocol(spec.protocol)
    harness, own = split_overrides(spec.overrides, _hyperparameters(cls))
    recipe = find(spec.dataset, spec.reading)
    settings, config = _settings(cls, spec.protocol, recipe.settings, harness, own)
    prepared = prepared_once(spec.dataset, spec.reading)
    if settings.candidates == "auto":
        fits = len(prepared.trained) <= settings.catalogue_limit
        settings = replace(settings, candidates="catalogue" if fits else "sampled")
    fused = _resolve_fused(spec, settings)
    llm = _language_model(spec, cls, settings, config)
    if llm is not None:
        cls.frozen_layers(config, llm.n_layers)
    elif fused is not None:
        llm = fused.llm
    return ResolvedRun(spec, entry, cls, settings, config, prepared, llm, fused=fused)


def fused_control(name: str) -> type[Control] | None:
    """The control of `fuse=name`; None for NO_FUSION. Raises `UserError` where there is no such control."""
    if name == NO_FUSION:
        return None
    cls = registry.load(name) if name in registry.names() else None
    if cls is None or not issubclass(cls, Control):
        raise unknown(
            "value of fuse:", name, [NO_FUSION, *registry.controls()],
            "A trained model is mixed with a control, which does not train.",
        )  # fmt: skip
    return cls


def needs_llm(cls: AnyMethod, overrides: Iterable[str]) -> bool:
    """Whether a run reads a language model: its method does, or the control that it is mixed with."""
    name = dict(pair.partition("=")[::2] for pair in overrides).get("fuse", NO_FUSION)
    return any(part is not None and reads_llm(part) for part in (cls, fused_control(name)))


def _resolve_fused(spec: RunSpec, settings: Settings) -> ResolvedRun | None:
    """The run of the control that `spec` is mixed with, under its settings that concern a control."""
    cls = fused_control(settings.fuse)
    if cls is None:
        return None
    values = asdict(settings)
    overrides = tuple(f"{name}={values[name]}" for name in CONTROL_SETTINGS[cls.reads])
    return resolve_run(replace(spec, method=settings.fuse, overrides=overrides))


def _resolve_control(spec: RunSpec, entry: registry.RegisteredMethod, cls: type[Control]) -> ResolvedRun:
    """A control reads few settings: the recipe's for all protocols, then the user's; fp32 always."""
    allowed = CONTROL_SETTINGS[cls.reads]
    harness, own = split_overrides(spec.overrides, _hyperparameters(cls), allowed)
    suggested = find(spec.dataset, spec.reading).settings.get("all", {})
    values = {name: value for name, value in suggested.items() if name in allowed}
    settings = parse(Settings, {**values, **harness, "precision": "no"}, "--set")
    config = parse(cls.Config, own, "--set")
    llm = _language_model(spec, cls, settings, config)
    fixed = {name: value for name, value in asdict(config).items() if name in own}
    prepared = prepared_once(spec.dataset, spec.reading)
    return ResolvedRun(spec, entry, cls, settings, config, prepared, llm, fixed)


def _language_model(spec: RunSpec, cls: AnyMethod, settings: Settings, config: Any) -> LLM | None:
    """The language model of `spec`, where the method reads one."""
    if not reads_llm(cls):
        check_unread(spec.llm)
        return None
    if spec.llm == NO_LLM:
        raise UserError(
            f"'{spec.method}' reads the states or tokens of a language model; name one by --llm. "
            "`adaptrec list llms` lists them."
        )
    llm = find_llm(spec.llm)
    if llm.server is not None:
        check_served(spec.method, cls, config, settings, llm)
        return llm
    llm = replace(llm, quantize=settings.quantize)
    if settings.max_tokens:
        llm = replace(llm, max_tokens=min(llm.max_tokens, settings.max_tokens))
    cls.layers(config, llm.n_layers)  # raise now if the language model is too shallow
    return llm


def check_unread(llm: str) -> None:
    """Raise `UserError` where the name of a language model that nothing reads is misspelt."""
    if llm != NO_LLM:
        check_name(llm)


@cache
def prepared_once(dataset: str, reading: FolderOptions) -> Prepared:
    """Prepared once a process; the runs of a grid share it."""
    with print_steps(Path(dataset).name or dataset) as begin:
        return prepare(find(dataset, reading), cache_folder(), begin)


def look_again() -> None:
    """Let data and language models be looked for anew: in a process that lives long, such as a notebook's,
    their files may have changed."""
    prepared_once.cache_clear()
    find_llm.cache_clear()


@cache
def find_llm(name: str) -> LLM:
    """Found and verified once a process: its weights are read to check their digest."""
    return resolve(name)


def _settings(
    cls: type[Method],
    protocol: str,
    suggested: dict[str, dict[str, Any]],
    harness: dict[str, str],
    own: dict[str, str],
) -> tuple[Settings, Any]:
    """Settings and hyper-parameters, the later ones winning: protocol, the method's published schedule,
    what the dataset's recipe suggests, the user's overrides."""
    layers: list[tuple[str, dict[str, Any]]] = [
        (f"protocol {protocol}", PROTOCOLS[protocol]),
        ("the method's schedule", dict(cls.schedule.get(protocol, {}))),
        ("the recipe's settings", {**suggested.get("all", {}), **suggested.get(protocol, {})}),
    ]
    known, hyper = set(SETTINGS), _hyperparameters(cls)
    merged: dict[str, Any] = {}
    for where, values in layers:
        others = set(values) - known - hyper  # protocols and recipes also speak to other methods
        for names in registry.hyperparameters() if others else ():
            others -= names
            if not others:  # then no other package need be imported
                break
        checked = {name: value for name, value in values.items() if name in known | others}
        parse(Settings, checked, where)
        merged.update(values)
    settings = parse(
        Settings, {name: value for name, value in merged.items() if name in known} | harness, "--set"
    )
    config = parse(
        cls.Config, {name: value for name, value in merged.items() if name in hyper} | own, "--set"
    )
    _check_together(settings)
    return settings, config


def _check_together(settings: Settings) -> None:
    measure(settings.select_by)  # raises for an unknown metric
    if settings.width % settings.sasrec_heads:
        raise UserError(
            f"width={settings.width} cannot be split into sasrec_heads={settings.sasrec_heads}; "
            "choose heads that divide the width."
        )
    if settings.stride > settings.window:
        raise UserError(
            f"stride={settings.stride} is above window={settings.window}: one reading serves at most as many "
            f"targets as it has items; choose 1 to {settings.window}."
        )
    if settings.stride > 1 and settings.sequences == "prefixes":
        raise UserError(
            f"stride={settings.stride} goes with sequences=packed alone: prefixes reads the history of every "
            "target anew."
        )
