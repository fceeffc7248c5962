"""The model card of a model folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from benchmark.escape import code_span, escape_markdown, fenced
from benchmark.llm.catalogue import short_names
from benchmark.serve.folder import ModelConfig

_SPLITS = {"valid": "validation", "test": "test", "test_masked": "test, history left out"}


def model_card(config: ModelConfig, folder: Path) -> str:
    """Markdown: what the model is, its metrics, its data, how to load it, and whose licence holds."""
    data, facts = config.data, config.data.get("fingerprint") or {}
    return f"""# {escape_markdown(f"{config.method} on {config.dataset}")}

A sequential recommender: SASRec over item embeddings that the method {code_span(config.method)} makes of
{escape_markdown(_reads(config))}. It was trained by AdaptRec {config.adaptrec} and is epoch
{config.best_epoch} of the run {code_span(f"{config.config_hash}-s{config.seed}")}, which validation chose.

## Metrics

{_metrics(config)}

The rank of each test target counts among all items; `@k` means the top k.

## Data

{code_span(config.dataset)} ({escape_markdown(str(data.get("key")))}): {facts.get("users", 0):,} users,
{facts.get("items", 0):,} items, {facts.get("interactions", 0):,} interactions; SHA-256 of the prepared
content {code_span(str(facts.get("sha256")))}.

## Use

{fenced(f"adaptrec recommend {shlex.quote(folder.name)} --history ITEM,ITEM,... --k 10", "sh")}

{fenced(_python(folder.name), "python")}

Recommendations need this folder alone. {_embeds(config)}

## Hyper-parameters

| setting | value |
|---|---|
{_rows({"protocol": config.protocol, "seed": config.seed, **config.hyperparameters})}

Settings of the harness, and all of this for programs, are in `config.json`.

## Language model and licence

Language model: {code_span(config.llm or "none")}. {_licence(config)}
Versions at training: {escape_markdown(", ".join(f"{name} {n}" for name, n in config.packages.items()))}.
"""


def _python(name: str) -> str:
    return f"""import adaptrec

model = adaptrec.load_model({name!a})
model.recommend(["ITEM", "ITEM"], k=10)"""


def _reads(config: ModelConfig) -> str:
    reads = config.method_source.get("reads") or ["its inputs"]
    words = {
        "ids": "item ids",
        "tokens": "the tokens of item texts",
        "states": "frozen hidden states of item texts",
    }
    return " and ".join(words.get(kind, kind) for kind in reads)


def _metrics(config: ModelConfig) -> str:
    names = list(config.metrics["test"])
    head = ["split", *map(escape_markdown, names)]
    rows = [
        [title, *(f"{config.metrics[split][name]:.4f}" for name in names)]
        for split, title in _SPLITS.items()
        if split in config.metrics
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _rows(values: dict[str, Any]) -> str:
    cells = ((escape_markdown(name), escape_markdown(str(value))) for name, value in values.items())
    return "\n".join(f"| {name} | {value} |" for name, value in cells)


def _embeds(config: ModelConfig) -> str:
    if config.llm is None:
        return "Its items have learned vectors, so that new items cannot be embedded."
    return (
        "`adaptrec embed` also reads the files of the language model, which are found by its name and "
        "checked by their digests."
    )


def _licence(config: ModelConfig) -> str:
    """Of the language model; the data have their own."""
    if config.llm is None:
        return "No language model is read."
    details = config.llm_details
    if details.get("source") == "random":
        return "Its weights are random numbers, under no licence."
    revision = f", revision {code_span(details['revision'])}" if details.get("revision") else ""
    entry = short_names().get(config.llm, {})
    licence = entry.get("licence")
    stated = (
        f"Its licence is {licence}." if licence
        else "Its licence is not known here; see where it was published before you pass this folder on."
    )  # fmt: skip
    read = f" It was trained on: {data}." if (data := entry.get("training_data")) else ""
    return f"Weights of SHA-256 {code_span(str(details.get('digest')))}{revision}. {stated}{read}"
