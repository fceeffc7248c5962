"""Embed new item texts with the method of a model folder, without training.

A text goes the way that the texts of the catalogue went: the same tokens, the same layers and pooling of the
language model, the same precision of stored states, and the method with the weights of the chosen epoch.

Symbols in shape comments: `m` texts, `A` layers read, `T` tokens, `D` width of the language model, `d` that
of the recommender.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.config import Settings, parse
from benchmark.llm import encoder
from benchmark.llm.cache import DTYPES
from benchmark.llm.catalogue import LLM
from benchmark.llm.dense import applies, vectors_behind
from benchmark.llm.server import BATCH
from benchmark.llm.server_states import vectors_of
from benchmark.llm.states import hidden_states, pooled_states, token_budget
from benchmark.llm.tokens import Tokens, load_tokens
from benchmark.model.items import ItemEncoder, ItemInputs
from benchmark.results.store import warn
from benchmark.run.kept import CONTEXT, STATISTICS, WEIGHTS, part
from benchmark.run.spec import find_llm
from benchmark.serve.folder import CONFIG, METHOD, ModelConfig, read_tensors
from benchmark.train.batches import share_of
from benchmark.train.checkpoint import restore
from methods import registry
from methods.base import Context, Items, Method, kinds, precomputes
from methods.code import code_digest
from methods.earlier_code import same_effect
from methods.errors import UserError
from methods.pooling import Pooling

_PINNED = {"digest": "weights", "config_digest": "config.json", "tokenizer_digest": "tokenizer files"}


class TextEmbedder:
    """The method and the language model of a model folder.

    `llm` names the language model where the folder's own name for it does not lead to it, such as a folder
    of another machine. Raises `UserError` for a method that needs more than texts, and for a language model
    with other files.
    """

    def __init__(
        self, folder: Path, config: ModelConfig, device: torch.device, llm: str | None = None
    ) -> None:
        self.config, self.device = config, device
        self.cls: type[Method] = registry.get(config.method)
        self.settings = parse(Settings, config.settings, str(folder / CONFIG))
        self._check_reads()
        self._check_code()
        self.llm = self._find_llm(llm)
        tensors = read_tensors(folder, METHOD, config)
        self._given = part(tensors, CONTEXT)
        self.hyper = parse(self.cls.Config, config.hyperparameters, str(folder / CONFIG))
        self.method = self._build(part(tensors, WEIGHTS), folder)

    def _check_reads(self) -> None:
        name, reads = self.config.method, kinds(self.cls)
        if "ids" in reads or self.settings.ids == "add":
            why = "settings with ids=add give" if "ids" not in reads else f"method '{name}' gives"
            raise UserError(
                f"{why} each item a vector of its own, which only training makes: new items cannot be "
                "embedded; take a run of a method that reads texts alone."
            )

    def _check_code(self) -> None:
        then, now = self.config.method_source.get("code"), code_digest(self.cls)
        if then and now and not same_effect(then, now):
            warn(f"the code of method '{self.config.method}' has changed since the run: vectors may differ")

    def _find_llm(self, name: str | None) -> LLM:
        """The language model of the run, its files checked."""
        stated = self.config.llm_details
        if name is None and (source := stated.get("source")) in ("folder", "server"):
            raise UserError(
                f"the language model '{self.config.llm}' was a {source}; say where it is by "
                f"--llm {source.upper()} (from Python: llm=...)."
            )
        llm = find_llm(name or str(self.config.llm))
        found = llm.details()
        for field, what in _PINNED.items():
            if found.get(field) != stated.get(field):
                raise UserError(
                    f"the {what} of language model '{llm.name}' are not those of the run (SHA-256 "
                    f"{found.get(field)}, not {stated.get(field)}); give the right one by --llm."
                )
        return replace(llm, max_tokens=int(stated["max_tokens"]), quantize=self.settings.quantize)

    def _build(self, weights: dict[str, Tensor], folder: Path) -> Method:
        """The method as the run built it, with the weights of the chosen epoch."""
        known: dict[str, Any] = {name: self._given[name] for name in STATISTICS if name in self._given}
        context = Context(
            self.settings.width,
            self._n_items,
            self.config.total_steps,
            self.llm.n_layers,
            int(known["state_mean"].shape[-1]) if "state_mean" in known else self.llm.width,
            **known,
            **self._more(),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)  # what is random and never trains is drawn as in the run
            method = self.cls(self.hyper, context)
        # neither what only further training needs is kept, nor buffers of layers that the run did not hold
        parameters = dict(method.named_parameters(remove_duplicate=False))
        own = {name: value for name, value in method.state_dict().items() if name not in parameters}
        restore(method, own | weights, folder / METHOD, "export the run again")
        return method.to(self.device).eval()

    @property
    def _n_items(self) -> int:
        return int(self.config.data["fingerprint"]["items"])

    def _more(self) -> dict[str, Any]:
        """Cooccurrences and the language model, where the method gets them."""
        found: dict[str, Any] = {}
        if "cooccurrence_items" in self._given:
            found["cooccurrences"] = torch.sparse_coo_tensor(
                self._given["cooccurrence_items"],
                self._given["cooccurrence_counts"],
                (self._n_items, self._n_items),
                check_invariants=True,
            ).coalesce()  # [I, I]
        if "tokens" in kinds(self.cls):
            found |= {"llm": encoder.load_model(self.llm, self.device), "pooling": self.config.pooling}
        return found

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings as SASRec reads them, fp32: -> `[m, d]`.

        Raises `UserError` for a text without tokens.
        """
        tokens = self.tokens(texts) if "tokens" in kinds(self.cls) else None
        states = self._states(texts) if "states" in kinds(self.cls) else None  # [m, ...]

        def read(items: Tensor, width: int) -> Items:
            found: dict[str, Tensor] = {}
            if tokens is not None:
                found["input_ids"], found["attention_mask"] = tokens.batch(items, width)  # both [c, T]
            if states is not None:
                found["states"] = states[items]  # [c, ...]
            return Items(**found)

        lengths = None if tokens is None else tokens.lengths
        encode = ItemEncoder(ItemInputs(read, lengths), self.settings, self.device)
        return encode(self.method, share_of(np.arange(len(texts)), 0, 1))  # [m, d]

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Texts as tokens of the language model."""
        return load_tokens(texts, self.llm).to(self.device)

    def _states(self, texts: Sequence[str]) -> Tensor:
        """What the method reads of the states of all texts: -> `[m, A, D]`, or `[m, ...]` where it
        precomputes, which it does on the CPU."""
        states = self.raw_states(texts)  # [m, A, D]
        if precomputes(self.cls):
            states = self.method.cpu().precompute(states)  # [m, A, D] -> [m, ...]
            self.method.to(self.device)
        return states.to(self.device)

    @torch.no_grad()
    def raw_states(self, texts: Sequence[str]) -> Tensor:
        """States of the layers that the method names, on the CPU: -> `[m, A, D]`; behind the dense layers of
        the language model where these apply."""
        if (server := self.llm.server) is not None:
            parts = [texts[begin : begin + BATCH] for begin in range(0, len(texts), BATCH)]
            vectors = torch.cat([vectors_of(server, part, self.llm.width) for part in parts])  # [m, D]
            return self._as_stored(vectors[:, None])  # [m, D] -> [m, 1, D]
        tokens = self.tokens(texts)
        items, text_of_item = tokens.texts()  # [u], [m]
        lengths = tokens.lengths[items]  # [u]
        batches = encoder.length_batches(lengths.tolist(), token_budget(self.llm, self.device))
        layers = self.cls.layers(self.hyper, self.llm.n_layers)
        pooling = cast(Pooling, self.config.pooling)
        found = []
        for batch in batches:
            index = torch.from_numpy(items[batch]).to(self.device)  # [M]
            ids, mask = tokens.batch(index, int(lengths[batch[0]]))  # both [M, T]
            found.append(pooled_states(hidden_states(self.language_model, ids, mask), mask, layers, pooling))
        place = np.empty(len(items), np.int64)  # [u]
        place[np.concatenate(batches)] = np.arange(len(items))
        states = self._as_stored(torch.cat(found)[place[text_of_item]])  # [u, A, D] at [m] -> [m, A, D]
        return vectors_behind(states, self.llm) if applies(self.llm, layers, kinds(self.cls)) else states

    def _as_stored(self, states: Tensor) -> Tensor:
        """The states as the cache gives them: 16 bits keep what differs from the catalogue's mean."""
        if self.settings.states_dtype == "float32":
            return states
        centre = self._given["states_centre"]  # [A, D]
        return (states - centre).to(DTYPES[self.settings.states_dtype]).float() + centre

    @cached_property
    def language_model(self) -> nn.Module:
        """The frozen language model, for a method that reads its states."""
        return encoder.load_frozen(self.llm, self.device)
