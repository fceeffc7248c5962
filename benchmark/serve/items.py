"""Files of new items: their texts, and their embeddings as `adaptrec embed` writes them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.formats import check_columns
from benchmark.data.recipe import NO_OPTIONS, FolderOptions, Recipe
from benchmark.data.tables import item_batches, open_table, raw_file, require_columns
from benchmark.files import write_atomically
from benchmark.serve.folder import ModelConfig
from methods.errors import UserError

FORMATS = {".tsv": "tsv", ".csv": "csv", ".parquet": "parquet"}
"""Ending of a file of new items -> its format."""
ENDINGS = (".parquet", ".npz")
"""Of a file of embedded items."""
MODEL = "adaptrec_model"
"""Where such a file names the model whose vectors it holds."""


@dataclass(frozen=True)
class EmbeddedItems:
    """New items with their embeddings."""

    item_ids: list[str]
    texts: list[str]
    embeddings: NDArray[np.float32]
    """`[m, d]`, as SASRec reads them."""
    source: str
    """Where they come from, for messages."""


def read_new_items(
    path: Path, config: ModelConfig, reading: FolderOptions = NO_OPTIONS
) -> tuple[list[str], list[str]]:
    """Ids and texts of a TSV, CSV or Parquet file, made as a dataset folder's file of items is read.

    Texts are the text columns that the run's recipe names, where the file has them all, else all text columns
    in their order. `reading` gives other names of columns and a separator. Raises `UserError` for a missing
    file or column, an id that occurs twice or has no text.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise UserError(f"{path}: new items are read from .tsv, .csv or .parquet; give the file such a name.")
    if not path.is_file():
        raise UserError(f"there is no file {path}; give one with the columns item_id and text.")
    stated = tuple((config.data.get("recipe") or {}).get("text_fields") or ())
    check_columns(reading.columns, reading.separator, form, stated, path)
    columns = tuple(sorted(reading.columns))
    recipe = Recipe(name=path.name, format=form, columns=columns, separator=reading.separator)
    table = open_table(raw_file(path, recipe, Counter()))
    require_columns(table, *(name for name, _ in columns))
    if set(stated) <= set(table.names):
        recipe = replace(recipe, text_fields=stated)
    ids: list[str] = []
    texts: list[str] = []
    for batch in item_batches(raw_file(path, recipe, Counter())):
        ids += batch.column("item_id").to_pylist()
        texts += batch.column("text").to_pylist()
    _check(path, ids, texts)
    return ids, texts


def _check(path: Path, ids: Sequence[str], texts: Sequence[str]) -> None:
    if twice := next((name for name, count in Counter(ids).items() if count > 1), None):
        raise UserError(f"{path}: item {twice!r} occurs twice; give each item once.")
    if empty := next((name for name, text in zip(ids, texts, strict=True) if not text), None):
        raise UserError(f"{path}: item {empty!r} has no text; drop it or give it a title.")
    if not ids:
        raise UserError(f"{path} has no items.")


def check_output(path: Path) -> None:
    """Raise `UserError` unless embedded items can be written to `path`."""
    if path.suffix not in ENDINGS:
        raise UserError(
            f"-o {path}: embedded items are written as {' or '.join(ENDINGS)}; choose one of them."
        )


def write_embedded(path: Path, items: EmbeddedItems, config: ModelConfig) -> None:
    """Write `item_id`, `text` and `embedding` of each item, and which model made them, as `.parquet` or
    `.npz` (without pickle)."""
    check_output(path)
    sink = io.BytesIO()
    if path.suffix == ".npz":
        np.savez(
            sink,
            item_id=np.array(items.item_ids),
            text=np.array(items.texts),
            embedding=items.embeddings,
            adaptrec_model=np.array(config.model_digest),
        )
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        flat = pa.array(items.embeddings.reshape(-1), pa.float32())
        vectors = pa.FixedSizeListArray.from_arrays(flat, items.embeddings.shape[1])
        table = pa.table({"item_id": items.item_ids, "text": items.texts, "embedding": vectors})
        pq.write_table(table.replace_schema_metadata({MODEL: config.model_digest}), sink, compression="zstd")
    write_atomically(path, sink.getvalue())


def read_embedded(path: Path, config: ModelConfig) -> EmbeddedItems:
    """What `write_embedded` wrote for the same model. Raises `UserError` for anything else."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; `adaptrec embed MODEL --items FILE -o {path}` writes one.")
    try:
        model, ids, texts, vectors = (_from_npz if path.suffix == ".npz" else _from_parquet)(path)
    except Exception as error:  # NumPy and Arrow have many for a file that is none of theirs
        raise UserError(
            f"{path} is no file of embedded items ({type(error).__name__}); `adaptrec embed` writes one."
        ) from error
    if model != config.model_digest:
        raise UserError(f"{path} holds vectors of another model; embed the items with this one.")
    whole = len(ids) == len(texts) == len(vectors) and all(isinstance(name, str) for name in (*ids, *texts))
    if not whole or not np.isfinite(vectors).all():
        raise UserError(f"{path} is damaged; embed the items again.")
    return EmbeddedItems(ids, texts, vectors, str(path))


def _from_npz(path: Path) -> tuple[str, list[str], list[str], Any]:
    with np.load(path, allow_pickle=False) as file:
        return (
            str(file[MODEL]),
            file["item_id"].tolist(),
            file["text"].tolist(),
            file["embedding"].astype(np.float32),
        )


def _from_parquet(path: Path) -> tuple[str, list[str], list[str], Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["item_id", "text", "embedding"])
    model = (table.schema.metadata or {})[MODEL.encode()].decode()
    column = table.column("embedding").combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(table), -1).astype(np.float32)
    return model, table.column("item_id").to_pylist(), table.column("text").to_pylist(), vectors
