"""Write a model folder from a record and the kept model beside it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmark.files import digest_of, path_component, temporary_folder, write_atomically
from benchmark.results.record import RunRecord
from benchmark.results.store import read_result, warn
from benchmark.run.kept import CONTEXT, WEIGHTS, Kept, part, read_kept, save_tensors
from benchmark.serve.card import model_card
from benchmark.serve.folder import (
    CARD,
    EMBEDDINGS,
    FORMAT,
    ITEMS,
    METHOD,
    RECOMMENDER,
    ModelConfig,
)
from benchmark.serve.model import load_model
from methods.errors import UserError


def export(
    record_path: Path,
    folder: Path | None = None,
    onnx: bool = False,
    on_line: Callable[[str], None] = warn,
) -> Path:
    """Write the model of a finished run to `folder`, which must not exist: -> the folder.

    By default it lies below `models` in the working directory. With `onnx` its towers are written too, and
    `on_line` gets a line about one that cannot be. Raises `UserError` for a run without kept
    weights, one that did not end well, and a mixture.
    """
    record = read_result(record_path).record
    _check(record, record_path)
    kept = read_kept(record_path, record)
    folder = folder or default_folder(record)
    if folder.exists():
        raise UserError(f"{folder} exists; give another folder by -o, or remove it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder.parent, folder.name) as new:
        config = _write(new, record, kept)
        if onnx:
            from benchmark.serve.onnx_export import write_onnx

            for line in write_onnx(load_model(new, "cpu"), new):
                on_line(line)
        write_atomically(new / CARD, model_card(config, folder))
        new.chmod(0o755)
        new.rename(folder)
    return folder


def default_folder(record: RunRecord) -> Path:
    """Where the model of a run goes if the user names no folder."""
    parts = (record.dataset, record.llm or "none", record.method, f"{record.config_hash}-s{record.seed}")
    return Path("models", "-".join(map(path_component, parts)))


def _check(record: RunRecord, path: Path) -> None:
    if record.status != "ok":
        raise UserError(f"the run of {path} did not end well ({record.status}); run it again.")
    if record.fusion is not None and record.fusion.weight:
        raise UserError(
            f"{path} is of a mixture with the control '{record.fusion.control}', which is no model of its "
            "own; export a run without fuse."
        )


def _write(folder: Path, record: RunRecord, kept: Kept) -> ModelConfig:
    """Write everything but the card."""
    method = {f"{WEIGHTS}{name}": value for name, value in part(kept.weights, "method.").items()}
    method |= {f"{CONTEXT}{name}": value for name, value in kept.context.items()}
    files = {
        RECOMMENDER: save_tensors(folder / RECOMMENDER, part(kept.weights, "sasrec.")),
        METHOD: save_tensors(folder / METHOD, method),
        EMBEDDINGS: save_tensors(folder / EMBEDDINGS, {"embeddings": kept.embeddings, "row": kept.row}),
        ITEMS: _write_items(folder / ITEMS, kept),
    }
    assert record.best_epoch is not None
    config = ModelConfig(
        format=FORMAT,
        adaptrec=version("adaptrec"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=record.dataset,
        data={name: record.data.get(name) for name in ("key", "recipe", "fingerprint")},
        method=record.method,
        method_source=record.method_source,
        hyperparameters=record.hyperparameters,
        protocol=record.protocol,
        settings=record.settings,
        seed=record.seed,
        best_epoch=record.best_epoch,
        config_hash=record.config_hash,
        llm=record.llm,
        llm_details=record.llm_details,
        pooling=kept.facts["pooling"],
        total_steps=kept.facts["total_steps"],
        metrics=record.metrics,
        packages=record.environment.packages,
        files=files,
    )
    config.write(folder)
    return config


def _write_items(path: Path, kept: Kept) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"item_id": kept.item_ids, "text": kept.texts}), path, compression="zstd")
    return digest_of(path)
