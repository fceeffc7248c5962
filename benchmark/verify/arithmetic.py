"""L2, arithmetic: every figure of a record follows from what lies beside it, and nothing in it is impossible.

The checks are of one run each, but those of `ACROSS`, and do not depend on each other.
"""

from __future__ import annotations

import numpy as np

from benchmark.config import NO_FUSION
from benchmark.files import digest_of
from benchmark.results.metrics import BUILT_IN, Ranks, metrics_of
from benchmark.results.record import GENERATION, Epoch, is_as_written, ranks_path, top_path
from benchmark.results.store import read_result
from benchmark.results.tuning import Trial, Tuning
from benchmark.verify.configuration import hashes, llm, settings
from benchmark.verify.costs import bounds, costs, times
from benchmark.verify.format import shown
from benchmark.verify.opened import BundledRun
from benchmark.verify.seeds import seeds

EXACT = 1e-12
"""How far a metric may be from what its ranks give."""


def checksums(run: BundledRun) -> None:
    """A record matches its checksum, and its ranks and lists the digests that it states."""
    if not is_as_written(run.path):
        raise run.fail("its record does not match its own checksum.")
    for what, path, stated in (
        ("ranks", ranks_path(run.path), run.record.ranks_sha256),
        ("lists", top_path(run.path), run.record.top_sha256),
    ):
        if stated is not None and digest_of(path) != stated:
            raise run.fail(f"its {what} are not the file whose digest its record has.")


def users(run: BundledRun) -> None:
    """The test targets are of as many users as the fingerprint has, each one of them."""
    counts, found = run.fingerprint, run.ranks.users
    most, expected = counts.users or 0, counts.test_users or counts.test_targets
    if len(found) != expected:
        raise run.fail(
            f"its ranks are of {len(found):,} users, and its data have {expected:,} with test targets."
        )
    if found[0] < 0 or found[-1] >= most:
        raise run.fail(f"its ranks are of a user {found[-1]:,}, and its data have {most:,} users.")


def ranks(run: BundledRun) -> None:
    """Every rank lies in the catalogue, and no masked rank is above the raw one."""
    ends = []
    for split, found in run.splits.items():
        first, last = (
            (found.best, found.best + found.tied - 1) if isinstance(found, Ranks) else (found, found)
        )
        if not np.isfinite(first).all():
            raise run.fail(f"a rank of {split} is not a number.")
        if isinstance(found, Ranks) and found.tied.min() < 1:
            raise run.fail(
                f"a target of {split} ties with {found.tied.min()} items; it ties with itself at least."
            )
        if first.min() < 1:
            raise run.fail(f"a rank of {split} is {first.min():g}; ranks begin at 1.")
        if last.max() > run.items:
            raise run.fail(f"a rank of {split} is {last.max():,g}, in a catalogue of {run.items:,} items.")
        ends.append((first, last))
    (raw_first, raw_last), (first, last) = ends
    if ((first > raw_first) | (last > raw_last) | (last - first > raw_last - raw_first)).any():
        raise run.fail("a masked rank is above the raw rank, though masking leaves out other items alone.")


def metrics(run: BundledRun) -> None:
    """The test metrics are those of the ranks, to 1e-12."""
    for split, found in run.splits.items():
        stated = run.record.metrics[split]
        with np.errstate(all="ignore"):  # `ranks` says so where a number of ties is no number
            again = metrics_of(found, [*stated], run.ranks.weight)
        wrong = [name for name in stated if not abs(stated[name] - again[name]) <= EXACT]
        if not wrong:
            continue
        for other, values in run.record.metrics.items():
            if other != split and values == stated:
                raise run.fail(f"its metrics of {split} are those of {other}.")
        name = wrong[0]
        raise run.fail(f"{split} {name} is {stated[name]!r}, and its ranks give {again[name]!r}.")


def stored(run: BundledRun) -> None:
    """It counts as a result of a store: warm and cold targets make the whole, lists agree with ranks."""
    read_result(run.path)


def curve(run: BundledRun) -> None:
    """The epochs follow each other, and the one that was tested is the best on validation."""
    record = run.record
    if record.untrained:
        if record.curve or record.epochs_run or record.best_epoch or record.stopped:
            raise run.fail("it is of a control, which has no epochs, and has some.")
        return
    epochs = [point.epoch for point in record.curve]
    if epochs != [*range(1, record.epochs_run + 1)]:
        raise run.fail(f"its curve has not each of the {record.epochs_run} epochs once, in their order.")
    values = [_selection(run, point) for point in record.curve]
    best = 1 + max(range(len(values)), key=values.__getitem__)  # of equal ones the first
    if best != record.best_epoch:
        raise run.fail(
            f"epoch {record.best_epoch} was tested, and the best by validation is epoch {best} "
            f"({values[best - 1]:.6g} against {values[(record.best_epoch or 1) - 1]:.6g})."
        )
    _check_end(run, values)


def _check_end(run: BundledRun, values: list[float]) -> None:
    """Training stopped at the first epoch at which its settings end it, for the reason that it states."""
    patience, most = (run.record.settings.get(name) for name in ("patience", "epochs"))
    best, stopped, ran = 1, run.record.stopped, len(values)
    for epoch, value in enumerate(values, 1):
        best = epoch if value > values[best - 1] else best
        reason = "patience" if patience and epoch - best >= patience else "epochs" if epoch == most else None
        if (epoch == ran) != (reason is not None) or (reason and reason != stopped):
            ends = f"end it by {reason}" if reason else "go on"
            raise run.fail(
                f"it stopped after {ran} epochs by {shown(stopped or 'nothing')}; patience={shown(patience)} "
                f"and epochs={shown(most)} {ends} after epoch {epoch}, {epoch - best} after the best."
            )


def _selection(run: BundledRun, point: Epoch) -> float:
    """The metric of an epoch that selects; of one that the curve does not have, what the epoch states."""
    settings = run.record.settings
    name = str(settings.get("select_by", "recall@10"))
    if name.partition("@")[0] not in BUILT_IN:
        raise run.fail(f"its epoch is selected by {shown(name)}, which is no metric of this project.")
    own = (point.valid_masked if settings.get("select") == "masked" else point.valid).get(name)
    stated = point.selection
    if own is not None and stated is not None and own != stated:
        raise run.fail(
            f"epoch {point.epoch} was selected by {stated!r}, and its {name} on validation is {own!r}."
        )
    value = stated if own is None else own
    if value is None:
        raise run.fail(f"epoch {point.epoch} does not state its {name} on validation, which selects.")
    return value


def trials(run: BundledRun) -> None:
    """As many trials as it counts are described, and the chosen one is the best of them on validation."""
    record, tuning = run.record, run.record.tuning
    fuse = record.settings.get("fuse", NO_FUSION)
    control = record.fusion.control if record.fusion else NO_FUSION
    if fuse != control:
        raise run.fail(f"its fuse is {shown(fuse)}, and the control of its mixture is {shown(control)}.")
    described = max(1, len(tuning.trials) if tuning else 0) + (record.fusion.trials if record.fusion else 0)
    if record.trials != described:
        raise run.fail(f"it counts {record.trials} trials and describes {described}.")
    if tuning and tuning.trials and tuning.mode in ("grid", "search"):
        _check_choice(run, tuning)
    own = record.trial_of
    if own and own.search.budget and not 1 <= own.number <= own.search.budget:
        raise run.fail(f"it is trial {own.number} of a search of {own.search.budget}.")
    if record.fusion:
        weights = record.fusion.weights
        best = max(weights, key=lambda trial: (trial.selection, -trial.weight), default=None)
        if best is None or best.weight != record.fusion.weight:
            raise run.fail(
                f"its control has weight {record.fusion.weight:g}, which is not the best on validation."
            )


def _check_choice(run: BundledRun, tuning: Tuning) -> None:
    def quality(trial: Trial) -> float | None:
        return trial.selection if tuning.mode == "search" else trial.recall

    ended = [(value, trial) for trial in tuning.trials if (value := quality(trial)) is not None]
    value, best = max(ended, key=lambda pair: pair[0], default=(0.0, None))  # of equal ones the first
    if best is None or best.overrides != tuning.chosen:
        raise run.fail(f"its search chose {shown(', '.join(tuning.chosen))}, which is not the best trial.")
    split = "valid_masked" if tuning.select == "masked" else "valid"
    trained = run.record.fusion.trained if run.record.fusion else run.record.metrics
    own = trained[split].get(tuning.select_by)
    if own is not None and run.record.seed == tuning.seed and own != value:
        raise run.fail(f"its {tuning.select_by} on validation is {own!r}, and its search has {value!r}.")
    if tuning.budget and len(tuning.trials) > tuning.budget:
        raise run.fail(f"its search has {len(tuning.trials)} trials, and was allowed {tuning.budget}.")


def generation(run: BundledRun) -> None:
    """Its generation is one that this version of the harness knows."""
    if run.record.generation > GENERATION:
        raise run.fail(
            f"it is of generation {run.record.generation} of the harness, and this version measures "
            f"generation {GENERATION}; check it with the version that made it."
        )


def liveness(run: BundledRun) -> None:
    """A trained run shows that all that it declares to train was reached by a gradient and changed."""
    proof = run.record.liveness
    if run.record.untrained:
        return
    if proof is None:
        raise run.fail("it has no proof that it trained.")
    if proof.problems:
        raise run.fail(f"its proof that it trained has a problem: {shown(proof.problems[0])}.")
    for name, count in (("reached", proof.reached + proof.decayed), ("changed", proof.changed)):
        if count != proof.trainable_tensors:
            raise run.fail(
                f"training {name} {count} of the {proof.trainable_tensors} tensors that it declares."
            )


CHECKS = (
    checksums, bounds, users, ranks, metrics, curve, trials, times, costs, generation, liveness, llm,
    settings, hashes, stored,
)  # fmt: skip
ACROSS = (seeds,)
"""Checks of all runs together."""
