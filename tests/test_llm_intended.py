"""Folders of sentence-transformers are read as their authors state: pooling, prompt, longest input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_folders import make_folder

from benchmark.llm import catalogue, encoder
from benchmark.llm.intended import Intended, intended
from benchmark.llm.states import entry_of, load_states
from benchmark.llm.tokens import load_tokens
from methods.errors import UserError

TEXTS = ["red tea with mint", "lamp", ""]
CPU = torch.device("cpu")


def states_its_use(
    folder: Path,
    pooling: dict[str, Any] | None = None,
    prompts: dict[str, Any] | None = None,
    longest: int | None = None,
    parts: tuple[str, ...] = (),
) -> Path:
    """Add the files of sentence-transformers to a folder, as that package writes them."""
    kinds = ("Transformer", "Pooling", *parts)
    package = "sentence_transformers.models"
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"{package}.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    stated = {"word_embedding_dimension": 16, **(pooling or {"pooling_mode_mean_tokens": True})}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(stated))
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    if longest is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    return folder


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_auto_is_the_pooling_that_the_folder_states(
    tmp_path: Path, stated: dict[str, Any], expected: str
) -> None:
    llm = catalogue.resolve(str(states_its_use(make_folder(tmp_path / "m"), stated)))
    assert encoder.resolve_pooling("auto", llm) == expected
    assert encoder.resolve_pooling("first", llm) == "first", "a stated pooling does not bind the user"
    assert llm.details()["intended"]["pooling"] == expected, "the record says what was used"


@pytest.mark.parametrize(
    "stated",
    [{"pooling_mode_max_tokens": True}, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}],
)
def test_a_pooling_that_is_not_had_is_one_line(tmp_path: Path, stated: dict[str, Any]) -> None:
    llm = catalogue.resolve(str(states_its_use(make_folder(tmp_path / "m"), stated)))
    with pytest.raises(
        UserError, match=r"states the pooling '.*', which AdaptRec does not have; choose one by"
    ):
        encoder.resolve_pooling("auto", llm)
    assert encoder.resolve_pooling("mean", llm) == "mean"


def test_a_plain_folder_and_the_short_name_stay_as_they_were(tmp_path: Path) -> None:
    plain = catalogue.resolve(str(make_folder(tmp_path / "m")))
    assert plain.intended is None and "intended" not in plain.details()
    assert encoder.resolve_pooling("auto", plain) == "first"
    minilm = catalogue.resolve("minilm")
    assert minilm.max_tokens == 512 and "intended" not in minilm.details()
    assert encoder.resolve_pooling("auto", minilm) == "first"


def test_the_real_minilm_as_a_folder_is_read_as_its_authors_state() -> None:
    llm = catalogue.resolve(catalogue.resolve("minilm").location)
    assert llm.intended == Intended("mean", "", 256, ("Normalize",))
    assert (encoder.resolve_pooling("auto", llm), llm.max_tokens) == ("mean", 256)


@pytest.mark.parametrize(
    ("stated", "prompt"),
    [
        ({"prompts": {"query": "query: ", "document": "doc: "}}, "doc: "),
        ({"prompts": {"query": "query: ", "passage": "passage: "}}, "passage: "),
        ({"prompts": {"a": "A ", "b": "B "}, "default_prompt_name": "b"}, "B "),
        ({"prompts": {"query": "query: "}, "default_prompt_name": None}, ""),
        ({"__version__": {}}, ""),
    ],
)
def test_the_prompt_of_a_document_stands_before_each_text(
    tmp_path: Path, stated: dict[str, Any], prompt: str
) -> None:
    plain = catalogue.resolve(str(make_folder(tmp_path / "plain")))
    llm = catalogue.resolve(str(states_its_use(make_folder(tmp_path / "m"), prompts=stated)))
    found, expected = load_tokens(TEXTS, llm), load_tokens([prompt + text for text in TEXTS], plain)
    for item in range(len(TEXTS)):
        rows = [
            tokens.batch(torch.tensor([item]), int(tokens.lengths[item]))[0] for tokens in (found, expected)
        ]
        assert torch.equal(*rows)


def test_states_are_those_of_prompted_texts_pooled_and_have_a_cache_entry_of_their_own(
    tmp_path: Path,
) -> None:
    plain = catalogue.resolve(str(make_folder(tmp_path / "plain")))
    folder = states_its_use(
        make_folder(tmp_path / "m"), prompts={"prompts": {"document": "doc: "}}, longest=9
    )
    llm = catalogue.resolve(str(folder))
    assert (plain.max_tokens, llm.max_tokens) == (64, 9)
    found = load_states(TEXTS, llm, [3, 1], "auto", "float32", tmp_path / "cache", CPU)
    cut = replace(plain, max_tokens=9)
    expected = load_states(
        [f"doc: {text}" for text in TEXTS], cut, [3, 1], "mean", "float32", tmp_path / "c2", CPU
    )
    torch.testing.assert_close(found.values + found.mean, expected.values + expected.mean)
    same = entry_of(TEXTS, replace(llm, intended=Intended("mean")), "auto", "float32", tmp_path)
    assert same.folder != entry_of(TEXTS, llm, "auto", "float32", tmp_path).folder


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("modules.json", "{}", "modules.json is not a JSON list"),
        ("modules.json", "[1]", "each module must be an object"),
        ("modules.json", '[{"type": "x.Transformer", "path": ""}]', "names no Pooling"),
        ("modules.json", "[", "cannot be read as JSON"),
        ("1_Pooling/config.json", "{}", "states no pooling; give one by --set pooling=first, last or mean"),
        (
            "config_sentence_transformers.json",
            '{"prompts": {"document": 3}}',
            "prompts must be names with texts",
        ),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, file: str, content: str, complaint: str) -> None:
    folder = states_its_use(make_folder(tmp_path / "m"))
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=complaint) as caught:
        catalogue.resolve(str(folder))
    assert "\n" not in str(caught.value)


def test_parts_that_cannot_be_applied_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of the dense layer there is no safetensors."""
    folder = states_its_use(make_folder(tmp_path / "m"), parts=("Dense", "Normalize"))
    assert intended(folder) == Intended("mean", left_out=("Dense", "Normalize"))
    load_tokens(TEXTS, catalogue.resolve(str(folder)))
    assert "m: Dense is not applied" in caplog.text
