"""Time training batches of one peer. The Python that runs this file has RecBole and need not have AdaptRec.

    PYTHON recbole_side.py versions            prints the versions of that Python's packages as JSON
    PYTHON recbole_side.py measure JOB.json    writes what the job asks for to the file that it names

The peers train in RecBole's own trainer, on batches of RecBole's own loader. This file hands the batches to
the trainer and reads the clock between them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

PACKAGES = ("recbole", "torch", "numpy")
PROOF_ROWS = 256
"""Rows of the batch on which a loss without padding is compared with the padded one."""
PROOF_DIFFERENCE = 1e-4
"""Largest relative difference of the two losses: that of sums of 32-bit numbers in another order."""
Peer = tuple[Any, Any, Any]
"""RecBole's configuration, training loader and model."""


def main(words: list[str]) -> int:
    """Run one of the two commands; returns the exit status."""
    if words == ["versions"]:
        print(json.dumps(versions()))
        return 0
    job = json.loads(Path(words[1]).read_text(encoding="utf-8"))
    Path(job["out"]).write_text(json.dumps(measure(job)), encoding="utf-8")
    return 0


def versions() -> dict[str, str]:
    """Package -> version. Raises `PackageNotFoundError` where one is missing."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Train on the job's batches: -> seconds of each, peak memory, and what was trained."""
    import torch

    torch.set_num_threads(job["threads"])
    config, loader, model = BUILD[job["model"]](job)
    losses = None
    batches: Iterable[Any] = islice(chain.from_iterable(repeat(loader)), job["warm_up"] + job["batches"])
    if not job["padded"]:
        torch.autograd.set_detect_anomaly(False)
        losses = without_padding(model, loader.dataset.inter_feat)
        batches = by_length(model, loader.dataset.inter_feat, config["train_batch_size"], job["warm_up"])
    trainer = import_module("recbole.utils").get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    clocked, load = Clocked(loader, batches), os.getloadavg()[0]
    forget_peak()
    trainer.fit(clocked, saved=False, verbose=False, show_progress=False)
    timed = clocked.laps[job["warm_up"] :]
    return {
        "anomaly_mode": torch.is_anomaly_enabled(),
        "parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "width": model.hidden_size,
        "items": model.n_items - 1,  # RecBole counts the padding
        "places": loader.dataset.inter_feat[model.ITEM_SEQ].shape[1],
        "predictions_per_epoch": len(loader.dataset.inter_feat),
        "batch_size": config["train_batch_size"],
        "predictions": [lap[0] for lap in timed],
        "batches": {"seconds": [lap[1] for lap in timed], "cpu_seconds": [lap[2] for lap in timed]},
        "peak_host": peak(),
        "load_average": load,
        "losses": losses,
        "versions": versions(),
    }


def recbole_config(job: dict[str, Any], model: Any, files: list[str], more: dict[str, Any]) -> Any:
    """RecBole's configuration for the exported files; what is not named here keeps the peer's default."""
    values = {
        "data_path": job["folder"],
        "checkpoint_dir": job["folder"],
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "train_neg_sample_args": None,
        "epochs": 1,
        "use_gpu": False,
        "show_progress": False,
    }
    config_class = import_module("recbole.config").Config
    return config_class(
        model=model, dataset=job["dataset"], config_file_list=files, config_dict={**values, **more}
    )


def build_sasrec(job: dict[str, Any]) -> Peer:
    """RecBole's SASRec of the job's width."""
    config = recbole_config(job, "SASRec", [], {"hidden_size": job["width"], "loss_type": "CE"})
    data = import_module("recbole.data")
    import_module("recbole.utils").init_seed(config["seed"], config["reproducibility"])
    loader = data.data_preparation(config, data.create_dataset(config))[0]
    model = import_module("recbole.model.sequential_recommender").SASRec(config, loader.dataset)
    return config, loader, model.to(config["device"])


def build_unisrec(job: dict[str, Any]) -> Peer:
    """UniSRec in the inductive setting, from scratch, with the settings of its repository."""
    root = Path(job["unisrec"])
    sys.path.insert(0, str(root))
    unisrec = import_module("unisrec").UniSRec
    files = [str(root / "props" / name) for name in ("UniSRec.yaml", "finetune.yaml")]
    width = {"plm_size": job["llm_width"]}
    config = recbole_config(job, unisrec, files, {"train_stage": "inductive_ft", **width})
    config["adaptor_layers"] = [job["llm_width"], config["hidden_size"]]
    import_module("recbole.utils").init_seed(config["seed"], config["reproducibility"])
    dataset = import_module("data.dataset").UniSRecDataset(config)
    loader = import_module("recbole.data").data_preparation(config, dataset)[0]
    return config, loader, unisrec(config, loader.dataset).to(config["device"])


BUILD: dict[str, Callable[[dict[str, Any]], Peer]] = {"sasrec": build_sasrec, "unisrec": build_unisrec}


def without_padding(model: Any, rows: Any) -> list[float]:
    """Cut what the model's loss reads of a batch to the longest history in it.

    Returns the loss of a fixed batch in evaluation mode with its padding and without; raises `RuntimeError`
    where they differ. The peers pad on the right and mask what follows a row's last item.
    """
    import torch

    padded_loss = model.calculate_loss

    def trimmed_loss(batch: Any) -> Any:
        histories = batch[model.ITEM_SEQ]  # [B, L]
        longest = int(batch[model.ITEM_SEQ_LEN].max())
        batch.interaction[model.ITEM_SEQ] = histories[:, :longest]  # [B, L] -> [B, longest]
        return padded_loss(batch)

    lengths = rows[model.ITEM_SEQ_LEN]
    shorter = torch.argsort(lengths, stable=True)[: max(1, len(lengths) // 2)]
    fixed = rows[shorter[:: max(1, len(shorter) // PROOF_ROWS)]]
    model.eval()
    with torch.no_grad():
        losses = [float(loss(fixed)) for loss in (padded_loss, trimmed_loss)]
    model.train()
    if abs(losses[0] - losses[1]) > PROOF_DIFFERENCE * abs(losses[0]):
        raise RuntimeError(f"the loss is {losses[0]} with padding and {losses[1]} without")
    model.calculate_loss = trimmed_loss
    return losses


def by_length(model: Any, rows: Any, size: int, warm_up: int) -> Iterator[Any]:
    """All rows in batches of like length, each batch once; before them `warm_up` batches from the middle."""
    import torch

    order = torch.argsort(rows[model.ITEM_SEQ_LEN], stable=True)
    starts = list(range(0, len(order), size))
    middle = starts[len(starts) // 2]
    for start in [middle] * warm_up + starts:
        yield rows[order[start : start + size]]


class Clocked:
    """Stands in for the loader of an epoch: gives out `batches`, each timed until the next is asked for."""

    def __init__(self, loader: Any, batches: Iterable[Any]) -> None:
        self.loader, self.batches = loader, batches
        self.laps: list[tuple[int, float, float]] = []
        """Predictions, wall and CPU seconds of each batch, its own making included."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in self.batches:
            yield batch
            now, cpu_now = time.perf_counter(), time.process_time()
            self.laps.append((len(batch), now - wall, cpu_now - cpu))
            wall, cpu = now, cpu_now


def forget_peak() -> None:
    """Let the kernel measure the peak of the resident set from now on, where it is Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> int | None:
    """Bytes of the largest resident set, None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    here = Path(__file__).resolve().parent  # the modules beside it are AdaptRec's
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != here]
    sys.exit(main(sys.argv[1:]))
