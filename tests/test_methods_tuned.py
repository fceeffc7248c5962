"""Methods that train the language model, against plain transformers, PEFT driven by hand, and arithmetic."""

from __future__ import annotations

import copy
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_llms
import torch
from tiny_llms import ENCODERS, FAMILIES, INNER, LAYERS, WIDTH, states_behind, tiny_llm, tiny_texts
from torch import Tensor, nn

from benchmark.config import parse
from benchmark.results.published import best_values
from methods import registry
from methods.base import Context, Items, Method, state_covariance, state_statistics, trainable
from methods.checks import check_method
from methods.errors import UserError
from methods.kernels.attention import quicken_attention
from methods.kernels.dropout import quicken
from methods.pooling import Pooling, pool
from methods.tuned import Tuned

OUT, STEPS = 5, 40
TUNERS = ("lora", "adalora", "full", "peft")
ITEMS = tiny_texts()


def build(
    name: str,
    llm: nn.Module | None = None,
    pooling: Pooling = "first",
    lower: int = 0,
    seed: int = 1,
    **values: Any,
) -> Any:
    """The method over its own copy of `llm`, a tiny BERT if there is none."""
    cls = registry.get(name)
    config = cls.Config(**values)
    model = copy.deepcopy(llm) if llm is not None else tiny_llm("bert")
    statistics: list[Tensor] = []
    if config.init != "paper":
        statistics = statistics_of(pooled(model, pooling)[:, None])
    torch.manual_seed(seed)
    context = Context(
        OUT, 50, STEPS, LAYERS, WIDTH, *statistics, llm=model, pooling=pooling, lower=lower
    )  # fmt: skip
    return cls(config, context)


def statistics_of(states: Tensor) -> list[Tensor]:
    """Mean, deviation and covariance of `[I, A, D]`, in the order of the fields of `Context`."""
    mean, std = state_statistics(states)
    return [mean, std, state_covariance(states, mean)]


def pooled(llm: nn.Module, pooling: Pooling = "first") -> Tensor:
    assert ITEMS.attention_mask is not None
    return pool(states_behind(llm, ITEMS, LAYERS), ITEMS.attention_mask, pooling)


@torch.no_grad()
def embed(method: Method, items: Items = ITEMS) -> Tensor:
    return method.eval()(items)


def train(method: Method, steps: int = 3, optimiser: Any = None, begin: int = 0) -> Any:
    """Steps on a random target, as the harness takes them; dropout draws depend on the step alone."""
    optimiser = optimiser or torch.optim.Adam(method.param_groups(0.01))
    target = torch.randn(len(ITEMS), OUT, generator=torch.Generator().manual_seed(9))
    method.train()
    for step in range(begin + 1, begin + steps + 1):
        torch.manual_seed(step)
        loss = (method(ITEMS) - target).square().mean()
        auxiliary = method.aux_loss()
        (loss if auxiliary is None else loss + auxiliary).backward()
        optimiser.step()
        method.after_step(step)
        optimiser.zero_grad()
    return optimiser


# --- What all of them share ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TUNERS)
def test_they_keep_the_contract_without_dropout_too(name: str) -> None:
    cls = registry.get(name)
    check_method(cls, cls.Config(llm_dropout=False))


@pytest.mark.parametrize("init", ["paper", "standardised", "zca"])
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_before_training_they_are_a_linear_layer_on_frozen_states(init: str, pooling: Pooling) -> None:
    """That of `tmlp` with one layer, whose states the harness made."""
    llm = tiny_llm("bert")
    states = pooled(llm, pooling)[:, None]  # [M, 1, D]
    cls = registry.get("tmlp")
    context = Context(OUT, 50, STEPS, LAYERS, WIDTH, *statistics_of(states))
    plain = cls(cls.Config(mlp_layers=1, init=init), context).eval()
    for name in TUNERS:
        method = build(name, llm, pooling, init=init)
        method.head.load_state_dict(plain.mlp[-1].state_dict())
        torch.testing.assert_close(embed(method), plain(Items(states=states)), rtol=1e-4, atol=1e-5)


def test_one_seed_draws_one_linear_layer() -> None:
    heads = [build(name).head.weight for name in TUNERS]
    assert all(torch.equal(head, heads[0]) for head in heads)


@pytest.mark.parametrize("name", TUNERS)
def test_statistics_are_asked_for_where_they_are_used(name: str) -> None:
    cls = registry.get(name)
    assert cls.layers(cls.Config(), 6) == ()
    assert cls.layers(cls.Config(init="standardised"), 6) == (6,)
    assert cls.schedule == {"paper": {"batch_size": 32, "accumulation": 8}}


def test_the_linear_layer_keeps_items_apart_in_spite_of_a_large_mean() -> None:
    """bf16 has 8 bits; the mean is 2,000 times the spread."""
    method = build("full").eval()
    torch.manual_seed(0)
    states = 10 + 0.005 * torch.randn(len(ITEMS), 9, WIDTH)
    method.read = lambda items: states
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = method(ITEMS)
    head = copy.deepcopy(method.head).double()
    exact = head(states[:, 0].double())
    assert output.dtype == torch.float32
    apart = exact - exact.mean(0)
    assert float((output - output.mean(0) - apart).detach().norm() / apart.detach().norm()) < 1e-3


def draws(method: Method) -> int:
    """How many different embeddings training mode gives one item in 4 passes."""
    method.train()
    with torch.no_grad():
        return len({tuple(method(ITEMS)[0].tolist()) for _ in range(4)})


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_of_the_language_model_is_a_setting(family: str) -> None:
    llm = tiny_llm(family)
    assert draws(build("full", llm)) == 4
    assert draws(build("full", llm, llm_dropout=False)) == 1
    lora: dict[str, Any] = {"dropout": 0.0, "llm_dropout": False}
    assert draws(build("lora", llm, **lora)) == 1
    assert draws(build("lora", llm, **lora | {"llm_dropout": True})) == 4
    adapted = build("lora", llm, **lora | {"dropout": 0.5})
    train(adapted)  # before, the update is zero, whatever is dropped
    assert draws(adapted) == 4  # LoRA's own dropout is not the language model's


# --- full ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_full_is_plain_transformers_and_a_linear_layer(family: str) -> None:
    """Of one text at a time, without any padding, after training."""
    pooling: Pooling = "first" if family in ENCODERS else "last"
    method = build("full", tiny_llm(family), pooling, layers=2)
    train(method)
    assert ITEMS.input_ids is not None and ITEMS.attention_mask is not None
    rows = []
    for ids, mask in zip(ITEMS.input_ids, ITEMS.attention_mask, strict=True):
        text = ids[: int(mask.sum())][None]  # [1, t]
        with torch.no_grad():
            states = method.llm.eval()(input_ids=text).last_hidden_state[0]  # [t, D]
            rows.append(method.head(states[0 if pooling == "first" else -1]))
    torch.testing.assert_close(embed(method), torch.stack(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("top", [1, 3])
def test_full_runs_the_upper_part_alone(family: str, top: int) -> None:
    """From the states behind the frozen layers, as from the tokens: in eval, and in training, dropout on."""
    llm = tiny_llm(family)
    pooling: Pooling = "mean" if family in ENCODERS else "last"
    lower = LAYERS - top
    whole, upper = (build("full", llm, pooling, lower=part, layers=top) for part in (0, lower))
    items = Items(hidden=states_behind(llm, ITEMS, lower), attention_mask=ITEMS.attention_mask)
    torch.testing.assert_close(embed(upper, items), embed(whole), rtol=1e-4, atol=1e-5)
    grads = []
    for method, given in ((whole, ITEMS), (upper, items)):
        torch.manual_seed(3)
        method.train()
        out = method(given)
        out.square().mean().backward()
        grads.append({name: p.grad for name, p in method.named_parameters() if p.requires_grad} | {"": out})
    assert grads[0].keys() == grads[1].keys()
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-5)
    frozen = sum(p.numel() for p in upper.parameters() if not p.requires_grad)
    assert frozen < sum(p.numel() for p in whole.parameters() if not p.requires_grad) / 2  # memory is let go


@pytest.mark.parametrize("family", FAMILIES)
def test_full_trains_whole_layers_from_the_top(family: str) -> None:
    # a decoder's first token reads itself alone, which its queries have no part in
    method = build("full", tiny_llm(family), "first" if family in ENCODERS else "last", layers=2)
    start = {name: p.detach().clone() for name, p in method.named_parameters()}
    train(method)
    for name, parameter in method.named_parameters():
        match = re.search(r"\.(?:layer|layers|h)\.(\d+)\.", name)
        top = name.startswith("head.") or (match is not None and int(match.group(1)) >= LAYERS - 2)
        assert parameter.requires_grad is top, name
        assert torch.equal(parameter, start[name]) is not top, name
        assert (parameter.grad is None) or top, name
    assert method.frozen_layers(method.config, LAYERS) == LAYERS - 2


def test_full_counts_the_parameters_of_the_architecture() -> None:
    layer = 4 * (WIDTH**2 + WIDTH) + (2 * WIDTH * INNER + INNER + WIDTH) + 2 * (2 * WIDTH)
    for top in (1, 2, LAYERS):
        count = sum(p.numel() for p in trainable(build("full", layers=top)))
        assert count == top * layer + WIDTH * OUT + OUT


@pytest.mark.parametrize("family", FAMILIES)
def test_no_dropout_below_the_trained_layers(family: str) -> None:
    method = build("full", tiny_llm(family), layers=2)
    seen: list[Tensor] = []
    place = next(m for m in method.llm.modules() if isinstance(m, nn.ModuleList) and len(m) == LAYERS)
    place[LAYERS - 2].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    method.train()
    first, second = method(ITEMS), method(ITEMS)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)
    assert not torch.equal(first, second)
    expected = states_behind(tiny_llm(family), ITEMS, LAYERS - 2)
    assert ITEMS.attention_mask is not None
    torch.testing.assert_close(seen[0] * ITEMS.attention_mask[:, :, None], expected)


def test_full_of_more_layers_than_there_are() -> None:
    cls = registry.get("full")
    with pytest.raises(UserError, match=r"layers=5 is too much .* it has 4 layers; choose 1 to 4\.$"):
        cls.frozen_layers(cls.Config(layers=5), 4)
    assert cls.frozen_layers(cls.Config(layers=4), 4) == 0


class AnswersInTuples(nn.Module):
    """A language model of the older make: its layers return tuples."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.kind = nn.Linear(WIDTH, WIDTH), "odd"

        def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, None]:
            return torch.tanh(self.linear(hidden * mask[:, :, None])), None

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(tiny_llms.VOCABULARY, WIDTH)
        self.stack = nn.ModuleList(self.Layer() for _ in range(LAYERS))

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.words = value

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, attention_mask: Any = None
    ) -> Any:
        hidden = self.words(input_ids) if inputs_embeds is None else inputs_embeds
        every = [hidden]
        for layer in self.stack:
            assert layer.kind == "odd"
            hidden = layer(hidden, attention_mask)[0]
            every.append(hidden)
        return SimpleNamespace(last_hidden_state=hidden, hidden_states=every)


def test_what_lies_behind_the_lowest_layer_is_not_done_twice() -> None:
    """DeBERTa's convolution, where the states behind the first layer, and so behind it, are given."""
    llm = tiny_llm("deberta-v2")
    whole, upper = (build("full", llm, "mean", lower=part, layers=LAYERS - 1) for part in (0, 1))
    items = Items(hidden=states_behind(llm, ITEMS, 1), attention_mask=ITEMS.attention_mask)
    torch.testing.assert_close(embed(upper, items), embed(whole), rtol=1e-4, atol=1e-5)


def test_layers_that_return_tuples() -> None:
    llm = AnswersInTuples()
    whole, upper = (build("full", llm, lower=part, layers=1) for part in (0, LAYERS - 1))
    with torch.no_grad():
        hidden = llm(ITEMS.input_ids, attention_mask=ITEMS.attention_mask).hidden_states[LAYERS - 1]
    output = embed(upper, Items(hidden=hidden, attention_mask=ITEMS.attention_mask))
    torch.testing.assert_close(output, embed(whole))


def test_a_language_model_without_a_list_of_layers() -> None:
    from transformers import AlbertConfig, AlbertModel

    llm = AlbertModel(
        AlbertConfig(vocab_size=40, embedding_size=8, hidden_size=WIDTH, num_attention_heads=2,
                     num_hidden_layers=LAYERS, intermediate_size=INNER)
    )  # fmt: skip
    with pytest.raises(UserError, match=r"AlbertModel keeps no list of its 4 layers"):
        build("full", llm)


# --- lora ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_is_the_language_model_with_merged_weights(family: str) -> None:
    method = build("lora", tiny_llm(family), "mean", rank=3, alpha=6)
    before = embed(method)
    train(method)
    output = embed(method)
    assert not torch.allclose(output, before, atol=1e-2)
    method.llm = method.llm.merge_and_unload()
    torch.testing.assert_close(embed(method), output, rtol=1e-4, atol=1e-5)


def test_lora_is_w_plus_scaled_b_a() -> None:
    """Written into a plain BERT by hand, without PEFT."""
    rank, alpha = 3, 7
    method = build("lora", rank=rank, alpha=alpha)
    train(method)
    learned = {name: p.detach() for name, p in method.llm.named_parameters() if "lora_" in name}
    plain = tiny_llm("bert")
    head = copy.deepcopy(method.head)
    with torch.no_grad():
        for number, layer in enumerate(plain.encoder.layer):  # type: ignore[union-attr, arg-type]
            for part in ("query", "value"):
                stem = f"base_model.model.encoder.layer.{number}.attention.self.{part}.lora_"
                a, b = learned.pop(f"{stem}A.default.weight"), learned.pop(f"{stem}B.default.weight")
                getattr(layer.attention.self, part).weight += alpha / rank * b @ a
        assert not learned
        torch.testing.assert_close(embed(method), head(pooled(plain)), rtol=1e-4, atol=1e-5)


def test_lora_counts_parameters() -> None:
    head = WIDTH * OUT + OUT
    rank = 3
    pair = rank * (WIDTH + WIDTH)

    def count(**values: Any) -> int:
        return sum(p.numel() for p in trainable(build("lora", rank=rank, **values)))

    assert count() == LAYERS * 2 * pair + head
    assert count(targets="query") == LAYERS * pair + head
    assert count(targets="query, key,value") == LAYERS * 3 * pair + head
    inner = rank * (WIDTH + INNER)
    assert count(targets="all-linear") == LAYERS * (4 * pair + 2 * inner) + head


@pytest.mark.parametrize(
    ("family", "targets"),
    [("bert", {"query", "value"}), ("distilbert", {"q_lin", "v_lin"}), ("modernbert", {"Wqkv"}),
     ("llama", {"q_proj", "v_proj"}), ("gpt2", {"c_attn"})],
)  # fmt: skip
@pytest.mark.parametrize("name", ["lora", "adalora"])
def test_default_targets(name: str, family: str, targets: set[str]) -> None:
    method = build(name, tiny_llm(family))
    adapted = method.extra_record()["adapted_modules"]
    assert len(adapted) == LAYERS * len(targets)
    assert {module.rpartition(".")[2] for module in adapted} == targets
    train(method)


def test_wrong_targets() -> None:
    with pytest.raises(UserError) as caught:
        build("lora", targets="query,valeu")
    assert str(caught.value) == (
        "unknown module in targets: 'valeu'. Did you mean 'value'?"
        " Allowed: dense, key, query, value, all-linear."
    )
    other: Any = tiny_llm("mpnet")
    other.config.model_type = "houseplant"
    with pytest.raises(UserError) as caught:
        build("lora", other)
    wanted = "no default for the architecture houseplant; .* targets=<names .*> of dense, k, o, q, v, or targ"
    assert re.search(wanted, str(caught.value))
    build("lora", other, targets="q,v")
    with pytest.raises(
        UserError, match=r"PEFT cannot put LORA into BertModel: .*Modules that can be adapted: "
    ):
        build("lora", targets="LayerNorm")


def test_only_adapters_of_the_language_model_move() -> None:
    method = build("lora")
    start = {name: p.detach().clone() for name, p in method.named_parameters()}
    train(method)
    for name, parameter in method.named_parameters():
        moves = "lora_" in name or name.startswith("head.")
        assert parameter.requires_grad is moves
        assert torch.equal(parameter, start[name]) is not moves


# --- adalora ------------------------------------------------------------------------------------------------

QUICK: dict[str, Any] = {"init_rank": 6, "target_rank": 2, "warmup": 0.1, "budget_by": 0.5}
"""Of STEPS = 40 steps: the budget shrinks from step 5, and is reached at step 20."""
START, TARGET, WARM, DUE = 6 * 2 * LAYERS, 2 * 2 * LAYERS, 4, 20


def budget(step: int) -> int:
    """The paper's Eq. 12: a cubic from the start to the target."""
    if step <= WARM:
        return START
    if step >= DUE:
        return TARGET
    return int(TARGET + (START - TARGET) * (1 - (step - WARM) / (DUE - WARM)) ** 3)


def total_rank(method: Any) -> int:
    return sum(method.extra_record()["ranks"].values())


def test_adalora_follows_the_cubic_budget() -> None:
    method = build("adalora", **QUICK)
    optimiser = torch.optim.Adam(method.param_groups(0.01))
    ranks = []
    for step in range(30):
        train(method, 1, optimiser, begin=step)
        ranks.append(total_rank(method))
    assert ranks == [budget(step) for step in range(1, 31)]
    record = method.extra_record()
    assert record["mean_rank"] == {"start": 6, "target": 2, "tested": 2}
    assert record["budget_due_at_step"] == DUE
    assert record["budget_reached_at_step"] == ranks.index(TARGET) + 1  # the cubic's last steps are below one
    assert record["note"] is None
    assert len(record["ranks"]) == 2 * LAYERS
    assert "encoder.layer.0.attention.self.query" in record["ranks"]
    assert method.fault() is None


def test_adalora_does_what_peft_driven_by_its_documentation_does() -> None:
    """Another training loop, on PEFT's model alone; PEFT adds its term to an output that carries a loss."""
    from peft import AdaLoraConfig, get_peft_model

    method = build("adalora", **QUICK)
    head = copy.deepcopy(method.head)
    train(method, 25)

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert, self.head = tiny_llm("bert"), head
            self.config = self.bert.config

        def forward(self, labels: Tensor) -> Any:
            out = self.bert(input_ids=ITEMS.input_ids, attention_mask=ITEMS.attention_mask)
            return SimpleNamespace(loss=(self.head(out.last_hidden_state[:, 0]) - labels).square().mean())

    torch.manual_seed(1)
    nn.Linear(WIDTH, OUT)  # the method draws its linear layer first
    config = AdaLoraConfig(
        init_r=6, target_r=2, tinit=WARM, tfinal=STEPS - DUE, total_step=STEPS, lora_dropout=0.2,
        target_modules=["query", "value"],
    )  # fmt: skip
    plain = get_peft_model(WithLoss(), config)
    quicken(plain)  # so that it draws the same random numbers
    quicken_attention(plain.base_model.model.bert)
    plain.base_model.model.head.requires_grad_(True)
    optimiser = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=0.01)
    target = torch.randn(len(ITEMS), OUT, generator=torch.Generator().manual_seed(9))
    plain.train()
    for step in range(1, 26):
        torch.manual_seed(step)
        plain.base_model(labels=target).loss.backward()
        optimiser.step()
        plain.base_model.update_and_allocate(step)
        optimiser.zero_grad()
    adapters = {name: p for name, p in method.llm.named_parameters() if "lora_" in name}
    wanted = {name.replace(".bert.", "."): p for name, p in plain.named_parameters() if "lora_" in name}
    assert adapters.keys() == wanted.keys()
    torch.testing.assert_close(adapters, wanted, rtol=1e-4, atol=1e-6)


def test_orthogonality_is_pefts() -> None:
    method = build("adalora", orthogonality=0.3)
    train(method, 2)
    tuner = method.llm.base_model
    tuner.model.forward = lambda: SimpleNamespace(loss=torch.zeros(()))
    theirs, ours = tuner().loss, method.aux_loss()
    torch.testing.assert_close(ours, theirs)
    assert float(ours.detach()) > 0
    for loss in (theirs, ours):
        method.zero_grad()
        loss.backward()
        grads = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
        assert {name.rsplit(".", 2)[1] for name in grads} == {"lora_A", "lora_B"}
        if loss is theirs:
            first = grads
    torch.testing.assert_close(grads, first)


def reload(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("cut", [2, 11, DUE - 1, DUE, 24])
def test_adalora_resumes_exactly(cut: int) -> None:
    """Importances are in no weight; without them the ranks would be allocated otherwise."""
    through = build("adalora", **QUICK)
    train(through, 28)
    first = build("adalora", **QUICK)
    optimiser = train(first, cut)
    kept = reload({"method": first.state_dict(), "optimiser": optimiser.state_dict()})
    second = build("adalora", seed=7, **QUICK)
    second.load_state_dict(kept["method"])
    optimiser = torch.optim.Adam(second.param_groups(0.01))
    optimiser.load_state_dict(kept["optimiser"])
    train(second, 28 - cut, optimiser, begin=cut)
    torch.testing.assert_close(
        dict(second.named_parameters()), dict(through.named_parameters()), rtol=0, atol=0
    )
    assert second.extra_record() == through.extra_record()


def test_the_record_is_of_the_tested_weights_and_of_the_whole_run() -> None:
    method = build("adalora", **QUICK)
    optimiser = train(method, 10)
    best = reload(method.state_dict())
    train(method, 20, optimiser, begin=10)
    reached = method.extra_record()["budget_reached_at_step"]
    method.load_state_dict(best)
    record = method.extra_record()
    assert sum(record["ranks"].values()) == budget(10)
    assert record["mean_rank"]["tested"] == budget(10) / (2 * LAYERS)
    assert record["budget_reached_at_step"] == reached <= DUE
    assert record["steps"] == {"run": 30, "tested": 10}
    assert record["note"] == (
        f"the tested weights are those of step 10, before the budget was reached at step {reached}"
    )
    json.dumps(record)


def test_a_run_that_ends_early_states_why() -> None:
    method = build("adalora", **QUICK)
    train(method, 10)
    record = method.extra_record()
    assert record["budget_reached_at_step"] is None
    assert record["note"] == "the run ended after 10 steps, before the budget was due at step 20"
    assert method.fault() is None  # late, but alive


def test_ranks_that_never_moved_are_a_fault() -> None:
    method = build("adalora", **QUICK)
    train(method, WARM)
    fault = method.fault()
    assert fault is not None and re.match(r"the ranks never moved from 6 in 4 steps", fault)
    train(method, 1, begin=WARM)
    assert method.fault() is None


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_adalora_in_runs_of_a_few_steps(steps: int) -> None:
    cls = registry.get("adalora")
    method = cls(cls.Config(), Context(OUT, 50, steps, LAYERS, WIDTH, llm=tiny_llm("bert")))
    train(method, steps)
    assert method.fault() is None


@pytest.mark.parametrize(
    ("values", "message"),
    [({"init_rank": "4"}, r"target_rank=8 is not valid: must be below init_rank=4\.$"),
     ({"target_rank": "12"}, r"target_rank=12 is not valid: must be below init_rank=12\.$"),
     ({"warmup": "0.1"}, r"budget_by=0\.05 is not valid: must be above warmup=0\.1\.$"),
     ({"budget_by": "1.5"}, r"budget_by=1\.5 is not valid")],
)  # fmt: skip
def test_schedules_that_cannot_be(values: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(registry.get("adalora").Config, values, "--set")


def test_adalora_counts_parameters() -> None:
    count = sum(p.numel() for p in trainable(build("adalora", init_rank=6, target_rank=2)))
    assert count == LAYERS * 2 * 6 * (WIDTH + WIDTH + 1) + WIDTH * OUT + OUT


# --- peft ---------------------------------------------------------------------------------------------------


def given(config: Any) -> Any:
    """As a user gives it."""
    text = config if isinstance(config, str) else json.dumps(config)
    return parse(registry.get("peft").Config, {"config": text}, "--set")


KINDS: dict[str, dict[str, Any]] = {
    "dora": {"peft_type": "LORA", "use_dora": True},
    "bitfit": {"peft_type": "LORA", "r": 1, "bias": "all"},
    "ia3": {"peft_type": "IA3"},
    "vera": {"peft_type": "VERA", "r": 8},
    "norms": {"peft_type": "LN_TUNING", "target_modules": ["LayerNorm"]},
    "oft": {"peft_type": "OFT"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_adapters_keep_the_contract(kind: str) -> None:
    check_method(registry.get("peft"), given(KINDS[kind]))


def test_peft_with_loras_configuration_is_lora() -> None:
    same = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "lora_dropout": 0.1}
    first = build("peft", config=given(same).config)
    other = build("lora", rank=3, alpha=6, dropout=0.1)
    for method in (first, other):
        train(method)
    assert torch.equal(embed(first), embed(other))


def test_a_configuration_is_kept_in_one_form(tmp_path: Path) -> None:
    wanted = '{"peft_type": "LORA", "r": 4, "use_dora": true}'
    assert given('{"use_dora":true,"r":4, "peft_type":"lora"}').config == wanted
    assert given(wanted).config == wanted
    file = tmp_path / "adapter_config.json"
    file.write_text(
        '{"peft_type": "LORA", "r": 4, "use_dora": true, "inference_mode": true, "revision": null}'
    )
    assert given(str(file)).config == wanted
    assert given(registry.get("peft").Config().config) == registry.get("peft").Config()


def test_what_peft_itself_saves_can_be_given(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    saved = get_peft_model(tiny_llm("bert"), LoraConfig(r=2, target_modules=["key"], inference_mode=True))
    saved.peft_config["default"].save_pretrained(tmp_path)
    method = build("peft", config=given(str(tmp_path / "adapter_config.json")).config)
    assert sum(p.numel() for p in trainable(method)) == LAYERS * 2 * 2 * WIDTH + WIDTH * OUT + OUT


@pytest.mark.parametrize(
    ("config", "message"),
    [('{"peft_type": "LORA",}', r"config is not JSON: .* at character 22\."),
     ("[]", r"neither JSON .* nor a file that can be read \(FileNotFoundError\)"),
     ("{}", r"unknown peft_type 'None'"),
     ('{"peft_type": "LORRA"}', r"unknown peft_type 'LORRA'\. Did you mean 'LORA'\? Allowed: .*VERA"),
     ('{"peft_type": ["LORA"]}', r"unknown peft_type"),
     ('{"peft_type": "LORA", "rank": 3}', r"unknown field of LORA 'rank'\. Did you mean '\w+'\? Allowed: "),
     ('{"peft_type": "ADALORA"}', r"ADALORA cannot be used here: .*--method adalora\."),
     ('{"peft_type": "PREFIX_TUNING"}', r"PREFIX_TUNING cannot be used here: it adds tokens to the text"),
     ('{"peft_type": "CPT"}', r"CPT cannot be used here: it adds tokens"),
     ('{"peft_type": "VBLORA", "vector_length": 3, "layers_pattern": "x"}', r"refused by PEFT: When `")],
)  # fmt: skip
def test_wrong_configurations_of_peft(config: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        given(config)
    assert str(caught.value).startswith("--set: config=")
    assert "\n" not in str(caught.value)


def test_a_configuration_that_does_not_fit_the_language_model() -> None:
    with pytest.raises(UserError, match=r"PEFT cannot put LN_TUNING into BertModel: .*target_modules"):
        build("peft", config=given({"peft_type": "LN_TUNING"}).config)


def test_published_values() -> None:
    """Tables S1 to S3."""
    for name in ("lora", "adalora"):
        assert registry.get(name).grid == {"dropout": (0.1, 0.2, 0.3)}
    assert registry.get("full").grid == {"layers": (2, 4, 6)}
    assert best_values("lora")["distilbert", "pantry"] == {"dropout": 0.3}
    assert best_values("lora")["bert-medium", "tools"] == {"dropout": 0.2}
    assert best_values("adalora")["distilroberta", "sci"] == {"dropout": 0.3}
    assert best_values("adalora")["bert-medium", "tools"] == {"dropout": 0.1}
    assert best_values("full")["bert-medium", "ins"] == {"layers": 4}
    assert best_values("full")["distilroberta", "ins"] == {"layers": 2}
    assert issubclass(registry.get("full"), Tuned)
