"""The record of one run: everything needed to read, compare and recompute it later, in one JSON file.

Beside `<hash>-s<seed>.json` lies `<hash>-s<seed>.ranks.parquet` with the rank of every test target and the
number of items that tie there, raw and masked, so that each metric and p-value can be recomputed without
running anything. `<hash>-s<seed>.top.parquet` has the best items for every target. Where the run was to keep
them, `<hash>-s<seed>.model.safetensors` has the weights of the chosen epoch. `SCHEMA` is the version;
docs/records.md explains the fields, docs/record.schema.json is the whole schema (`python -m
benchmark.results.record` prints it).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from benchmark.config import NO_PROTOCOL
from benchmark.files import CHECKSUM, checksum_of, write_atomically
from benchmark.results.schema import (
    CheckedMetrics,
    Count,
    DataFacts,
    Environment,
    LLMFacts,
    MethodSource,
    Part,
    PeakMemory,
    Plain,
    Shaped,
    Splits,
    Versioned,
    fault,
    not_valid,
)
from benchmark.results.tuning import TrialOf, Tuning
from methods.earlier_code import same_effect
from methods.errors import UserError

SCHEMA = 2
GENERATION = 1
"""Version of what the harness measures, raised when the same configuration may give other figures or costs.

1: metrics are expectations over ties, all methods are evaluated in fp32 and start from the same SASRec, and
dropout acts on centred states in every reader of states. Records without the field are of generation 0.
"""
NO_LLM = "none"
"""Folder of the records of methods that read no language model."""
AGAIN = "Run its cell again, or move the file away."
"""What to do about a record that cannot be used."""
ALWAYS = ("valid", "valid_masked", "test", "test_masked")
"""Splits that a finished run has metrics of."""


class Epoch(Part):
    """One epoch of the learning curve."""

    epoch: int
    """From 1. The model before training, epoch 0, stands in `RunRecord.initial`."""
    loss: float
    """Mean training loss over the epoch's predictions."""
    train_seconds: float
    train_cpu_seconds: float
    """CPU seconds of training, over all threads and processes."""
    train_joules: dict[Literal["gpu", "cpu"], float] = Field(default_factory=dict)
    """Energy of training by device, as far as it could be measured: the GPUs by NVML, the processor packages
    by RAPL, with whatever else ran on them; missing in older records."""
    eval_seconds: float
    save_seconds: float
    valid: CheckedMetrics
    valid_masked: CheckedMetrics
    selection: float | None = None
    """Validation metric that selects the epoch: `select_by` of `RunRecord.settings`, with the user's history
    masked if `select` is `masked`; missing in older records, where it is Recall@10."""


class Cost(Part):
    """What the run cost. Seconds are wall time of the slowest process, the device synchronised."""

    prepare_seconds: float | None = None
    """Cold cost of what the language model computes once: hidden states, the catalogue's statistics, or the
    token states below the lowest trained layer (from the cache's own record on a hit); null where none."""
    epoch_seconds: float | None = None
    """Median training seconds of an epoch, the first one apart."""
    epoch_cpu_seconds: float | None = None
    """Median CPU seconds of an epoch's training, all threads and processes; steadier than wall time on a
    machine that does other work too."""
    first_epoch_seconds: float | None = None
    eval_seconds: float | None = None
    """Median seconds of a validation pass."""
    train_seconds: float | None = None
    """Training seconds of all epochs."""
    seconds_to_best: float | None = None
    """Training seconds up to and including the chosen epoch."""
    predictions_per_epoch: int | None = None
    inputs_per_epoch: int | None = None
    """Items that the recommender reads in an epoch, each as often as it does; missing in older records."""
    steps_per_epoch: int | None = None
    """Optimiser steps of the first epoch; the order of the rows decides how many batches an epoch has."""
    candidates: float | None = None
    """Mean number of softmax candidates of a prediction, its positive included."""
    encodings_per_epoch: int | None = None
    """Item texts that went through the language model in the last epoch of training, over all processes, each
    as often as it did; running a chunk again for its gradients is not counted. Null where none is read."""
    chunk_tokens: int | None = None
    """Tokens of a chunk of item texts, padding included, at the end of training; null where none are read."""
    kept_tokens: int | None = None
    """Tokens of a step, padding included, up to which the graphs of its item texts were kept instead of run
    again, as memory was free when the run began or went on; null where none are read."""
    encoded_again: float | None = None
    """Share of the encodings in training that were run again for their gradients, since the run began or went
    on; null where no texts are read."""
    frozen_dtype: str | None = None
    """Precision in which the language model's frozen matrices were held; null where it was fp32."""
    lower_layers: int | None = None
    """Lowest layers of the language model that were run once for all; training reads their tokens' states."""
    chunk_halvings: int = 0
    """Times that a chunk did not fit into memory and was halved."""
    peak_memory: dict[str, PeakMemory] = Field(default_factory=dict)
    """Phase ("train", "eval") -> peaks. Of a run that was killed, "run": host memory of all its processes
    together, measured from outside four times a second."""
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    """Parameters that the recommender holds. A reader of tokens holds the language model, without the lower
    layers where their states are kept; a reader of states does not hold it."""
    states_on: str | None = None
    """Where cached hidden states lay in training: a device, or null where none were read."""


class Certificate(Part):
    """Proof of life, from the weights that were tested and the optimiser that trained them.

    `reached + decayed` and `changed` are `trainable_tensors` in a run that is alive.
    """

    trainable_tensors: int
    """Parameters that the method and the recommender declare to train, by name."""
    trainable_parameters: int
    """Numbers in them."""
    frozen_tensors: int
    """All other parameters, and buffers."""
    frozen_digest: str
    """SHA-256 over names and contents of the frozen tensors."""
    reached: int
    """Trainable tensors that a gradient other than zero reached."""
    decayed: int = 0
    """Trainable tensors of which that cannot be told: weight decay feeds their Adam moments too."""
    changed: int
    """Trainable tensors that training changed, those of `pruned` included."""
    pruned: int = 0
    """Trainable tensors that began at zero, trained, and were set back to zero by the method (AdaLoRA's
    singular values of a matrix that was given rank 0)."""
    moved_buffers: list[str] = Field(default_factory=list)
    """Buffers that training changed. They are part of the saved state, so that this is no fault."""
    ranks_moved: float
    """Share of users whose validation rank is not the one before training."""
    problems: list[str] = Field(default_factory=list)
    """What makes the run `failed`, in plain words, the first one also as its `error`."""


class WeightTrial(Part):
    """One weight of a control in a mixture."""

    weight: float
    """From 0, the trained row alone, to 1, the control alone."""
    selection: float
    """Its validation metric, `select_by` and `select` of `RunRecord.settings`."""


class Fusion(Part):
    """A trained row whose scores were mixed with those of a control (`fuse`): ranks, lists and
    `RunRecord.metrics` are those of the mixture."""

    control: str
    code: str | None
    """Digest of the control's code; null where its source cannot be found."""
    hyperparameters: dict[str, Plain]
    """Every setting of the control, as validation chose them for the control alone."""
    tuning: Tuning | None = None
    """That choice; null where the control has nothing to choose."""
    weight: float
    """Weight of the control, the best of `weights`; of equal ones the least."""
    weights: list[WeightTrial]
    """All that were tried on validation."""
    trials: Count
    """Configurations that validation chose from: of the control, and weights."""
    trained: Splits
    """The metrics of the trained row alone, as `RunRecord.metrics` of a run without `fuse`."""
    seconds: float
    """Wall seconds of scoring validation for all trials."""


class RunRecord(Versioned):
    """One run of one method on one dataset with one language model, protocol and seed."""

    reads: ClassVar[tuple[int, ...]] = (1, 2)
    schema_version: int = SCHEMA
    """Version of this schema."""
    generation: int = 0
    """`GENERATION` of the harness that made it; figures of two generations may differ for that alone."""
    status: Literal["ok", "failed", "oom", "killed", "interrupted"]
    """`killed`: the system ended the process with a signal, as it does when memory runs out."""
    error: str | None = None
    """One line where status is not ok."""
    dataset: str
    data: Annotated[dict[str, Any], Shaped(DataFacts)]
    """Key, recipe, fingerprint (counts), `ceiling` of a planted set, and `chance` metrics."""
    llm: str | None
    """Short name, hub id or folder; null for a method that reads none."""
    llm_details: Annotated[dict[str, Any], Shaped(LLMFacts)]
    """Source, revision, digests, layers, width, and what its tokens cannot tell apart; empty where `llm` is
    null."""
    method: str
    method_source: Annotated[dict[str, Any], Shaped(MethodSource)]
    """Distribution, version, whether it came from outside the project (`external`), and `code`, a digest of
    the method's code (null where its source cannot be found; missing in older records); `reads`, what the
    method reads of the catalogue and of the training sequences (missing in older records); of a method from
    outside the project `text`, that of its module."""
    protocol: str
    """`paper`, `fair`; `none` of a control, which is not trained: it has no epochs, and no `liveness`."""
    settings: dict[str, Plain]
    """Every harness setting, resolved; of a control those that concern it."""
    overrides: list[str]
    """The `key=value` pairs given on top of the protocol, sorted."""
    hyperparameters: dict[str, Plain]
    """Every hyper-parameter of the method, resolved."""
    config_hash: str
    """Names the cell: data, language model, method, settings and hyper-parameters, without the seed."""
    protocol_hash: str
    """Same for rows that may stand in one table: data, protocol and its settings, save those in which rows
    may differ (`config.ROW_SETTINGS`). A table also keeps to one language model, device and world size."""
    seed: Count
    """Seed of every random number."""
    trials: int = 1
    """Configurations tried in tuning before this one was chosen, itself included."""
    tuning: Tuning | None = None
    """How its hyper-parameters were chosen; null where they are the protocol's and the user's own."""
    trial_of: TrialOf | None = None
    """The search that the run is a trial of, known before it ended; null for other runs, missing in older
    records."""
    epochs_run: int = 0
    """Epochs trained."""
    best_epoch: int | None = None
    """The epoch, from 1, whose weights were tested."""
    stopped: str | None = None
    """Why training ended: `patience`, `epochs`."""
    metrics: Splits = Field(default_factory=dict)
    """valid, valid_masked, test, test_masked; where there are cold items also test_warm, test_cold and
    their `_masked` forms."""
    initial: Splits = Field(default_factory=dict)
    """valid, valid_masked of the model before training (epoch 0)."""
    fusion: Fusion | None = None
    """Of a run with `fuse`: the control, its weight, and the trained row alone; null for other runs, missing
    in older records."""
    cold_targets: Count = 0
    """Test targets that never occur in training."""
    cold_weight: float | None = Field(None, ge=0)
    """The sum of their weights where users have several test targets: one over the user's number of targets
    each, so that every user has weight one. Null where each user has one target, so that it is their number;
    missing in older records."""
    curve: list[Epoch] = Field(default_factory=list)
    cost: Cost = Field(default_factory=Cost)
    liveness: Certificate | None = None
    """Proof that the method adapted; null where the run did not get that far."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Facts that only the method knows."""
    environment: Environment
    created: str
    """UTC, ISO 8601."""
    ranks_sha256: str | None = None
    """SHA-256 of the file of ranks beside the record; null where there is none, missing in older records."""
    top_sha256: str | None = None
    """SHA-256 of the file of the best items of each user beside the record; null where there is none, missing
    in older records."""
    model_sha256: str | None = None
    """SHA-256 of the file of the chosen epoch's weights beside the record (`--keep-model`); null where there
    is none, missing in older records."""
    checksum: str | None = None
    """SHA-256 of all other fields, as JSON with sorted keys; missing in older records."""

    @model_validator(mode="before")
    @classmethod
    def _without_checksum(cls, value: Any) -> Any:
        """The checksum is the file's: `is_as_written` compares it."""
        if not isinstance(value, dict):
            return value
        return {name: field for name, field in value.items() if name != CHECKSUM}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """A finished run has what every table reads."""
        if self.status == "ok":
            if missing := [split for split in ALWAYS if split not in self.metrics]:
                raise fault(f"metrics.{missing[0]}: is missing, though status is ok")
            if not self.untrained and not 0 < (self.best_epoch or 0) <= self.epochs_run:
                raise fault(f"best_epoch: {self.best_epoch} is none of the {self.epochs_run} epochs run")
        return self

    @property
    def untrained(self) -> bool:
        """Whether it is of a control, which has no epochs."""
        return self.protocol == NO_PROTOCOL

    def made_by_other(self, code: str | None) -> bool:
        """Whether the method's code was not that of digest `code`, nor earlier code with the same effect; no
        where one of the two is not known."""
        own = self.method_source.get("code")
        return own is not None and code is not None and not same_effect(own, code)

    def write(self, path: Path, exclude_unset: bool = False) -> Path:
        """Write atomically, with the checksum: a reader sees the old file, the new one, or none."""
        fields = json.loads(self.model_dump_json(exclude_unset=exclude_unset, exclude={CHECKSUM}))
        whole = {**fields, CHECKSUM: checksum_of(fields)}
        write_atomically(path, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
        return path


def read_record(path: Path) -> RunRecord:
    """Read and validate one record; raises `UserError` naming the file and the first fault."""
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"there is no record {path}.") from error
    except OSError as error:
        raise UserError(f"the record {path} cannot be read: {error.strerror}. Make it readable.") from error
    except ValidationError as error:
        raise not_valid(path, "run record", error, AGAIN) from error


def is_as_written(path: Path) -> bool:
    """Whether the fields of a record that can be read match its checksum, where it has one."""
    fields = json.loads(path.read_bytes())
    return fields.pop(CHECKSUM, None) in (None, checksum_of(fields))


def below_results(path: Path) -> str:
    """`<dataset>/<llm>/<method>/<file>`: the path of a file of a run below the folder of the results."""
    return "/".join(path.parts[-4:])


def ranks_path(record_path: Path) -> Path:
    """Where the per-user ranks of a record lie."""
    return record_path.with_suffix(".ranks.parquet")


def top_path(record_path: Path) -> Path:
    """Where the best items of each user of a record lie."""
    return record_path.with_suffix(".top.parquet")


def model_path(record_path: Path) -> Path:
    """Where the kept weights of the chosen epoch lie."""
    return record_path.with_suffix(".model.safetensors")


def files_of_run(record_path: Path) -> tuple[Path, ...]:
    """The record and the files beside it, whether they exist or not; the record is written last."""
    return ranks_path(record_path), top_path(record_path), model_path(record_path), record_path


if __name__ == "__main__":
    print(json.dumps(RunRecord.model_json_schema(), indent=1))
