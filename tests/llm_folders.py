"""Tiny language models in folders, made on the spot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM

from benchmark.llm import catalogue, encoder

PLAIN = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": PLAIN,
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32},
    "roberta": PLAIN,
    "mpnet": PLAIN,
    "deberta-v2": PLAIN | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
    "modernbert": PLAIN
    | {
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2},
    "llama": PLAIN | {"num_key_value_heads": 1},
    "qwen3": PLAIN | {"num_key_value_heads": 1, "head_dim": 8},
    # as EmbeddingGemma: local and global attention take turns, and both look ahead
    "gemma3_text": PLAIN
    | {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "use_bidirectional_attention": True,
    },
}
DECODERS = ("gpt2", "llama", "qwen3", "gemma3_text")


def make_folder(folder: Path, model_type: str = "bert", positions: int = 64, seed: int = 1) -> Path:
    """A model with its head, as checkpoints have it, and a tokenizer without a stated limit."""
    values = {**SHAPES[model_type], "vocab_size": 1500, "initializer_range": 0.2, "pad_token_id": 0}
    config = CONFIG_MAPPING[model_type](**values, max_position_embeddings=positions)
    auto = AutoModelForCausalLM if model_type in DECODERS else AutoModelForMaskedLM
    torch.manual_seed(seed)
    auto.from_config(config).save_pretrained(folder)
    encoder.load_tokenizer(catalogue.resolve("random-tiny")).save_pretrained(folder)
    return folder


def hub_cache(cache: Path, repo: str, commit: str, folder: Path, ref: str | None = None) -> Path:
    """Lay `folder` out as the hub library lays out its cache."""
    root = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(folder, root / "snapshots" / commit)
    if ref is not None:
        (root / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (root / "refs" / ref).write_text(commit)
    return root
