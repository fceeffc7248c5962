"""A frozen language model as an encoder of item texts: tokens, batches by length, pooling.

Symbols in shape comments: `M` texts of a batch, `T` tokens, `D` the language model's width.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import string
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.llm import catalogue
from benchmark.llm.catalogue import LLM
from methods.errors import UserError, unknown
from methods.pooling import Pooling, pool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def resolve_pooling(pooling: str, llm: LLM) -> Pooling:
    """`auto` is the first token for encoders, the last (which has read the whole text) for decoders."""
    if pooling == "auto":
        return "first" if llm.family == "encoder" else "last"
    for known in get_args(Pooling):
        if pooling == known:
            return cast(Pooling, known)
    raise unknown("pooling", pooling, ("auto", *get_args(Pooling)))


def load_tokenizer(llm: LLM) -> PreTrainedTokenizerBase:
    """The model's tokenizer, padding and cutting on the right. Raises `UserError` where it cannot be read."""
    if llm.random is not None:
        return _letter_tokenizer(int(llm.random["vocab_size"]), llm)
    from transformers import AutoTokenizer

    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                llm.location,
                config=model_config(llm),
                trust_remote_code=False,
                padding_side="right",
                truncation_side="right",
            )
    except Exception as error:  # readers of many formats, some of which raise plain `Exception`
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"the tokenizer in {llm.location} cannot be read ({reason})") from error
    if tokenizer.pad_token is None:
        # Decoders often name none; padding is masked, so any token serves.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def vocabulary(llm: LLM) -> int:
    """Rows of the model's embedding of tokens."""
    return int(model_config(llm).vocab_size)


def load_model(llm: LLM, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model without pooler and head, in eval mode, from safetensors; random weights come from their seed.

    Raises `UserError` where the files lack weights that the architecture needs.
    """
    from transformers import MODEL_MAPPING, AutoModel

    config = model_config(llm)
    accepts = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    options: dict[str, Any] = {"add_pooling_layer": False} if "add_pooling_layer" in accepts else {}
    if llm.random is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(llm.random["seed"]))
            return _as_module(AutoModel.from_config(config, dtype=dtype, **options))
    try:
        with _quiet():
            model, info = AutoModel.from_pretrained(
                llm.location,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each architecture has checks of its own, not all of them before it is built
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if "ignore_mismatched_sizes" in reason:  # transformers points at a table that it has logged
            reason = "they are of other shapes than its config.json states"
        raise UserError(f"the weights in {llm.location} cannot be loaded ({reason})") from error
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info.get("mismatched_keys", ()))
    if wrong:
        raise UserError(
            f"the weights in {llm.location} do not fit its config.json: {len(wrong)} are missing or of"
            f" another shape, {wrong[0]} among them"
        )
    return _as_module(model)


def _as_module(model: Any) -> nn.Module:
    model.config.use_cache = False  # a decoder would keep keys and values that nobody reads
    module: nn.Module = model.eval()
    return module


def model_config(llm: LLM) -> Any:
    """The configuration of the model in transformers."""
    if llm.random is not None:
        values = {key: value for key, value in llm.random.items() if key != "seed"}
        return catalogue.build_config(values, llm.name)
    return catalogue.config_of(llm.location, llm.model_type)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from listing the pooler and head weights that are left out on purpose."""
    from transformers.utils import logging as hf_logging

    level, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bar:
            hf_logging.enable_progress_bar()


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


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int, before: int = 0
) -> list[list[int]]:
    """Token ids of each text, special tokens included, cut at `max_tokens`; the log says how many were cut.

    `before` texts came in earlier calls: an error counts from there.

    Raises `UserError` for a text that has no token at all (an empty one, with a tokenizer that adds none).
    """
    ids = _ids(tokenizer, list(texts))
    long = [row for row, tokens in enumerate(ids) if len(tokens) > max_tokens]
    if long:
        # The tokenizer cuts, not we: its closing special token must stay.
        cut = tokenizer([texts[row] for row in long], truncation=True, max_length=max_tokens)["input_ids"]
        for row, tokens in zip(long, cut, strict=True):
            ids[row] = tokens
        log.warning("%d of %d texts were cut at %d tokens", len(long), len(texts), max_tokens)
    for row, tokens in enumerate(ids):
        if not tokens:
            raise UserError(
                f"item text {before + row + 1} has no tokens: {texts[row][:40]!r}; drop it or give it a title"
            )
    return ids


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, uncut."""
    if not tokenizer.is_fast:
        ids: list[list[int]] = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        return ids
    # past the masks, types and offsets that a call of the tokenizer makes of each text and nobody reads:
    # on short texts they take a third of its time
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return [encoding.ids for encoding in backend.encode_batch_fast(texts)]


def length_batches(
    lengths: Sequence[int], *, batch: int | None = None, token_budget: int | None = None
) -> list[list[int]]:
    """Indices in batches of near-equal length, the longest first (so that memory runs out early or never).

    Either at most `batch` texts a batch, or at most `token_budget` tokens with padding (but one text at
    least). The result depends only on the arguments.
    """
    if (batch is None) == (token_budget is None):
        raise ValueError("give either batch or token_budget")
    sizes = np.asarray(lengths, np.int64)
    order = np.argsort(-sizes, kind="stable")
    sizes, rows = sizes[order], order.tolist()
    batches: list[list[int]] = []
    begin = 0
    while begin < len(rows):
        # The first text of a batch is its longest: the width that all are padded to.
        count = batch if token_budget is None else max(1, token_budget // int(sizes[begin]))
        assert count is not None
        batches.append(rows[begin : begin + count])
        begin += count
    return batches


def pad(
    tokens: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Pad on the right to the longest: -> `input_ids` and `attention_mask`, both `[M, T]` int64."""
    rows = [torch.tensor(row, dtype=torch.long) for row in tokens]
    lengths = torch.tensor([len(row) for row in rows])  # [M]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)  # M of [t] -> [M, T]
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()  # [T] < [M, 1] -> [M, T]
    return ids.to(device), mask.to(device)


def forward_layers(
    model: nn.Module, ids: Tensor, mask: Tensor, layers: Sequence[int], pooling: Pooling
) -> Tensor:
    """Pooled states of the asked layers for one padded batch: `[M, T]` twice -> `[M, A, D]`.

    Layer 0 is the output of the embeddings, layer `k` that of the k-th Transformer layer, layer `n` the
    model's `last_hidden_state`: in a decoder that ends in a norm, the state after that norm.
    """
    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    states = [pool(output.hidden_states[layer], mask, pooling) for layer in layers]
    return torch.stack(states, dim=1)  # A of [M, D] -> [M, A, D]


def forward_layer(model: nn.Module, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
    """States of every token behind `layer`, numbered as above, padded positions included: -> `[M, T, D]`."""
    states: Tensor = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[layer]
    return states


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
