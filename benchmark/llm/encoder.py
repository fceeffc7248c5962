"""A language model and its tokenizer in memory: loading, and batches by length."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import string
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.llm import weights
from benchmark.llm.catalogue import LLM, model_config
from methods.errors import UserError, unknown
from methods.pooling import Pooling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def resolve_pooling(pooling: str, llm: LLM) -> Pooling:
    """What `pooling` means for `llm`.

    `auto` is what the model's authors state; else the first token for encoders, and for decoders the last,
    which has read the whole text. Raises `UserError` for a pooling that AdaptRec does not have.
    """
    if pooling == "auto":
        if llm.intended is not None:
            if llm.intended.pooling not in get_args(Pooling):
                raise UserError(
                    f"language model '{llm.name}' states the pooling '{llm.intended.pooling}', which "
                    f"AdaptRec does not have; choose one by --set pooling={', '.join(get_args(Pooling))}."
                )
            return cast(Pooling, llm.intended.pooling)
        return "first" if llm.family == "encoder" else "last"
    if pooling not in get_args(Pooling):
        raise unknown("pooling", pooling, ("auto", *get_args(Pooling)))
    return cast(Pooling, pooling)


def load_tokenizer(llm: LLM) -> PreTrainedTokenizerBase:
    """The model's tokenizer, padding and cutting on the right. Raises `UserError` where it cannot be read."""
    if llm.random is not None:
        return _letter_tokenizer(int(llm.random["vocab_size"]), llm)
    from transformers import AutoTokenizer

    right = {"padding_side": "right", "truncation_side": "right"}
    with _reading(f"the tokenizer in {llm.location} cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(
            llm.location, config=model_config(llm), trust_remote_code=False, **right
        )
    if tokenizer.pad_token is None:
        # Decoders often name none; padding is masked, so any token serves.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    if llm.append_eos:
        _append_eos(tokenizer, llm)
    return tokenizer


def _append_eos(tokenizer: Any, llm: LLM) -> None:
    """Let `tokenizer` put its end token behind each text, where it does not.

    transformers reads `add_eos_token` only where there is no tokenizer.json. Raises `UserError` where no end
    token is named.
    """
    from tokenizers import processors

    if tokenizer.eos_token is None:
        raise UserError(
            f"{llm.location}: tokenizer_config.json states add_eos_token and names no eos_token; name one, or"
            " remove add_eos_token"
        )
    if not tokenizer.is_fast or tokenizer("")["input_ids"][-1:] == [tokenizer.eos_token_id]:
        return
    backend, token = tokenizer.backend_tokenizer, tokenizer.eos_token
    end = processors.TemplateProcessing(
        single=f"$A {token}", special_tokens=[(token, tokenizer.eos_token_id)]
    )
    own = backend.post_processor
    backend.post_processor = processors.Sequence([own, end]) if own else end


def load_model(
    llm: LLM, device: torch.device | str = "cpu", compute: torch.dtype = torch.float32
) -> nn.Module:
    """The model for training, without pooler and head, in eval mode: float32 on the CPU.

    One that is to be quantised comes frozen and on `device`, and multiplies in `compute`. Random weights come
    from their seed. Raises `UserError` where the files lack weights that the architecture needs, and where
    there is no room for them.
    """
    model = _loaded(llm, torch.float32, torch.device(device), compute)
    if llm.quantize != "none":
        from peft import prepare_model_for_kbit_training

        # the harness itself runs chunks again where memory is short
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model


def load_frozen(llm: LLM, device: torch.device | str = "cpu") -> nn.Module:
    """The model for its states alone, on `device`; as `load_model` else.

    It computes in float32. The matrices of a checkpoint that is stored in 16 bits stay so, which gives the
    same numbers from half the memory.
    """
    device, dtype = torch.device(device), torch.float32
    if llm.random is None and llm.quantize == "none":
        dtype = weights.short_type(llm, weights.read_stored(llm))
    model = _loaded(llm, dtype, device, torch.float32)
    if dtype != torch.float32:
        weights.compute_in_float32(model)
    return model if llm.quantize != "none" else model.to(device)


def _loaded(llm: LLM, dtype: torch.dtype, device: torch.device, compute: torch.dtype) -> nn.Module:
    from transformers import MODEL_MAPPING, AutoModel

    config = model_config(llm)
    accepts = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    options: dict[str, Any] = {"add_pooling_layer": False} if "add_pooling_layer" in accepts else {}
    options |= weights.quantisation(llm, device, compute)
    model: Any
    if llm.random is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(llm.random["seed"]))
            model = AutoModel.from_config(config, dtype=dtype, **options)
    else:
        weights.check_room(llm, weights.read_stored(llm), dtype, device)
        options |= {"config": config, "dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        with _reading(f"the weights in {llm.location} cannot be loaded"):
            model, info = AutoModel.from_pretrained(llm.location, trust_remote_code=False, **options)
        wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info.get("mismatched_keys", ()))
        if wrong:
            raise UserError(
                f"the weights in {llm.location} do not fit its config.json: {len(wrong)} are missing or of"
                f" another shape, {wrong[0]} among them"
            )
    model.config.use_cache = False  # a decoder would keep keys and values that no code reads
    module: nn.Module = model.eval()
    return module


@contextlib.contextmanager
def _reading(fault: str) -> Iterator[None]:
    """Raise transformers' errors as `UserError`; it does not list the weights left out on purpose."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each architecture and format has checks of its own; some raise `Exception`
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if "ignore_mismatched_sizes" in reason:  # transformers points at a table that it has logged
            reason = "they are of other shapes than its config.json states"
        raise UserError(f"{fault} ({reason})") from error
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _letter_tokenizer(vocab_size: int, llm: LLM) -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer made of letters, pairs and triples of letters: as long as `vocab_size` allows.

    It needs no training corpus and cuts a word into as many pieces as a small real vocabulary would.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    singles = string.ascii_lowercase + string.digits + string.punctuation
    strings = itertools.chain(
        singles, *(map("".join, itertools.product(string.ascii_lowercase, repeat=n)) for n in (2, 3))
    )
    pieces = itertools.chain.from_iterable((text, f"##{text}") for text in strings)
    vocab = {
        token: i for i, token in enumerate(itertools.islice(itertools.chain(special, pieces), vocab_size))
    }
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    single = "[CLS] $A [SEP]" if llm.family == "encoder" else "[CLS] $A"
    marks = [(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        padding_side="right",
    )


def length_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices in batches of near-equal length, the longest first (so that memory runs out early or never).

    A batch has at most `token_budget` tokens with padding, and at least one text.
    """
    sizes = np.asarray(lengths, np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches: list[list[int]] = []
    begin = 0
    while begin < len(order):
        # The first text of a batch is its longest: the width that all are padded to.
        end = begin + max(1, token_budget // int(sizes[order[begin]]))
        batches.append(order[begin:end].tolist())
        begin = end
    return batches


class FrozenMatrices:
    """Weights and biases of the linear maps in `llm` that do not train, cast to `dtype`.

    Autocast casts a 32-bit matrix each time that it is multiplied; the numbers that come out are the same.
    For evaluation, which is in fp32 for all methods, the matrices get their own values back.

    Make it when all has been frozen that is to be. What trains stays as it is, so does what is looked up
    (embeddings) and what normalises: these are not multiplied in 16 bits under autocast. The fp32 values stay
    in the host's memory.
    """

    def __init__(self, llm: nn.Module, dtype: torch.dtype) -> None:
        linear = [module for module in llm.modules() if type(module) is nn.Linear]
        own = {id(module) for module in linear}
        shared = {
            id(parameter)
            for module in llm.modules()
            if id(module) not in own
            for parameter in module.parameters(recurse=False)
        }
        self._exact: dict[nn.Parameter, Tensor] = {}
        """Parameter -> its fp32 values."""
        for module in linear:
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad and id(parameter) not in shared:
                    self._exact.setdefault(parameter, parameter.data)
                    parameter.data = parameter.data.to(dtype)

    @contextlib.contextmanager
    def full_precision(self) -> Iterator[None]:
        """Give the matrices their fp32 values for a while, on the device that they are on."""
        held = {parameter: parameter.data for parameter in self._exact}
        for parameter, exact in self._exact.items():
            parameter.data = exact.to(parameter.device)
        try:
            yield
        finally:
            for parameter, low in held.items():
                parameter.data = low


def held_in(module: nn.Module) -> str | None:
    """The 16-bit precision in which `module` holds some of its frozen parameters; None where it does not."""
    dtypes = {
        str(parameter.dtype).removeprefix("torch.")
        for parameter in module.parameters()
        if not parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16)
    }
    return ", ".join(sorted(dtypes)) or None
