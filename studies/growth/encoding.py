"""Encoding a large catalogue into the cache, measured against bare forward passes over the same batches."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch
from torch import Tensor

from benchmark.data.catalogue import find
from benchmark.data.prepare import prepare
from benchmark.files import cache_folder, temporary_folder
from benchmark.llm import encoder, states
from benchmark.llm.cache import DTYPES
from benchmark.llm.catalogue import resolve
from benchmark.llm.states import entry_of, load_states, stored_layers, token_budget
from benchmark.llm.tokens import Tokens, load_tokens
from benchmark.measure import MemoryGauge, Stopwatch, environment, pick_device
from benchmark.process.progress import print_steps
from benchmark.results.record import GENERATION
from benchmark.speed.record import Timed
from benchmark.speed.run import in_fresh_process
from methods.errors import UserError
from studies import command_line
from studies.growth.record import EncodingRecord

WARM_UP = 3
"""Batches before the clock starts."""
KILLED_AT = 0.4
"""Share of the texts after which a process is killed."""


def measure_encoding(
    dataset: str, llm: str, items: int | None, layers: Sequence[int], dtype: str, kill: bool
) -> EncodingRecord:
    """Encode the first `items` texts of `dataset` (all where None) into a cache that is then deleted.

    With `kill`, a second try is ended with SIGKILL on the way and a third goes on from there.
    """
    texts = _texts(dataset, items)
    with temporary_folder(_parent(), "growth") as folder:
        _say(f"{dataset}: {len(texts):,} texts, uninterrupted")
        record = in_fresh_process(
            in_this_process, dataset, llm, items, tuple(layers), dtype, folder / "whole"
        )
        if kill:
            _say(f"{dataset}: killed on the way, and taken up again")
            _interrupted(record, dataset, llm, items, dtype, folder)
    words = ["encode", "--dataset", dataset, "--llm", llm, "--layers", ",".join(map(str, record.layers))]
    words += ["--states-dtype", dtype, *(["--items", str(items)] if items else [])]
    record.command = command_line("growth", words + ([] if kill else ["--no-kill"]))
    return record


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parent() -> Path:
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _texts(dataset: str, items: int | None) -> Sequence[str]:
    with print_steps(dataset) as begin:
        texts = prepare(find(dataset), cache_folder(), begin).texts
    if items is not None and not 1 <= items <= len(texts):
        raise UserError(f"--items {items} is not possible: '{dataset}' has 1 to {len(texts):,}.")
    return texts if items is None else texts[:items]


def in_this_process(
    dataset: str, llm_name: str, items: int | None, layers: Sequence[int], dtype: str, cache: Path
) -> EncodingRecord:
    """One uninterrupted pass between two halves of the bare one."""
    device, texts, llm = pick_device(), _texts(dataset, items), resolve(llm_name)
    layers = tuple(layers) or (llm.n_layers,)
    layers = stored_layers(entry_of(texts, llm, "auto", dtype, cache), layers, len(texts), llm)
    clock, gauge = Stopwatch(device), MemoryGauge(device)
    with clock.phase("tokenise"):
        tokens = load_tokens(texts, llm).to(device)
    first, _ = tokens.texts()
    batches = encoder.length_batches(tokens.lengths[first].tolist(), token_budget(llm, device))
    model = encoder.load_frozen(llm, device)
    with torch.inference_mode():
        for ids, mask in _padded(tokens, first, batches[:WARM_UP], device):
            model(input_ids=ids, attention_mask=mask)
    bare, ours = Timed(), Timed()
    _bare(model, tokens, first, batches[::2], device, bare)
    before = psutil.Process().memory_info().rss
    with gauge.phase("encode"), clock.phase("encode"):
        load_states(texts, llm, layers, "auto", dtype, cache, device)
    ours.seconds.append(clock.seconds["encode"])
    ours.cpu_seconds.append(clock.cpu_seconds["encode"])
    _bare(model, tokens, first, batches[1::2], device, bare)
    size = len(texts) * llm.width * DTYPES[dtype].itemsize
    centre = 0 if dtype == "float32" else llm.width * 4
    return EncodingRecord(
        generation=GENERATION,
        command="",
        dataset=dataset,
        llm=llm.name,
        layers=list(layers),
        states_dtype=dtype,
        items=len(texts),
        distinct_texts=len(first),
        tokens=int(tokens.lengths[first].sum()),
        padded_tokens=sum(len(rows) * int(tokens.lengths[first[rows[0]]]) for rows in batches),
        batches=len(batches),
        environment=environment(device, "no", 1),
        bare=bare,
        encode=ours,
        tokenise=Timed(seconds=[clock.seconds["tokenise"]], cpu_seconds=[clock.cpu_seconds["tokenise"]]),
        predicted_bytes=len(layers) * (size + centre),
        written_bytes=sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()),
        peak_bytes=gauge.peaks["encode"].host,
        resident_before=before,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _padded(
    tokens: Tokens, first: Any, batches: Sequence[Sequence[int]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """`input_ids` and `attention_mask` `[M, T]` of each batch."""
    for rows in batches:
        of = first[rows]
        yield tokens.batch(torch.from_numpy(of).to(device), int(tokens.lengths[of[0]]))


def _bare(
    model: Any,
    tokens: Tokens,
    first: Any,
    batches: Sequence[Sequence[int]],
    device: torch.device,
    bare: Timed,
) -> None:
    """Time nothing but the language model's forward passes."""
    clock, wall, cpu = Stopwatch(device), 0.0, 0.0
    with torch.inference_mode():
        for ids, mask in _padded(tokens, first, batches, device):
            with clock.phase("forward"):
                model(input_ids=ids, attention_mask=mask)
            wall, cpu = wall + clock.seconds["forward"], cpu + clock.cpu_seconds["forward"]
    bare.seconds.append(wall)
    bare.cpu_seconds.append(cpu)


def _interrupted(
    record: EncodingRecord, dataset: str, llm: str, items: int | None, dtype: str, folder: Path
) -> None:
    """Kill a process that encodes, let another go on, and compare with what was not interrupted."""
    cache = folder / "killed"
    arguments = (dataset, llm, items, tuple(record.layers), dtype, cache)
    process = get_context("spawn").Process(target=count_encoded, args=arguments)
    process.start()
    wanted, row_bytes = KILLED_AT * record.distinct_texts, 4 * len(record.layers) * resolve(llm).width
    while process.is_alive() and _kept(cache, row_bytes) < wanted:
        time.sleep(0.2)
    if process.pid is not None and process.is_alive():
        psutil.Process(process.pid).send_signal(signal.SIGKILL)
    process.join()
    if not list(cache.glob("states/*/parts-*")):  # it was over before it could be killed
        return
    record.texts_before_kill = _kept(cache, row_bytes)
    record.texts_after_kill = in_fresh_process(count_encoded, *arguments)
    record.same_after_kill = _digests(cache) == _digests(folder / "whole")


def _kept(cache: Path, row_bytes: int) -> int:
    """Texts whose states an unfinished entry holds, each of `row_bytes`."""
    journals = cache.glob("states/*/parts-*/journal.json")
    return sum(json.loads(path.read_text())["bytes"] // row_bytes for path in journals)  # less a short header


def _digests(cache: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in cache.glob("states/*/layer-*.safetensors")
    }


def count_encoded(
    dataset: str, llm: str, items: int | None, layers: Sequence[int], dtype: str, cache: Path
) -> int:
    """Encode: -> texts that went through the language model in this process."""
    counts: list[int] = []
    real = states.hidden_states

    def counted(model: Any, ids: Tensor, mask: Tensor) -> Sequence[Tensor]:
        counts.append(len(ids))
        return real(model, ids, mask)

    with patch.object(states, "hidden_states", counted):
        load_states(_texts(dataset, items), resolve(llm), layers, "auto", dtype, cache, pick_device())
    return sum(counts)
