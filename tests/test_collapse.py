"""Texts that a language model cannot tell apart: what preparation, runs and records say of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_folders import BLINK, TEN, TWELVE, write_folder

from benchmark.cli import main
from benchmark.results.record import read_record

ETHIOPIC = {item: chr(0x1200 + number) for number, item in enumerate(TEN)}
"""A letter each, none of which the tokenizer knows."""


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = {item: ETHIOPIC[item] if item in "abcd" else text for item, text in TEN.items()}
    return write_folder(tmp_path_factory.mktemp("data") / "half", TWELVE, texts)


def arguments(command: str, folder: Path, *more: str) -> list[str]:
    return [command, "--dataset", str(folder), "--llm", "random-tiny", *more]


def run(folder: Path, results: Path, method: str) -> list[str]:
    return arguments(
        "run", folder, "--method", method, "--epochs", "1", "--results", str(results), "--set", *BLINK,
    )  # fmt: skip


def test_preparation_reports_what_is_lost(
    half: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for methods in ("tmlp", "full"):  # readers of states and of tokens
        assert main(arguments("prepare", half, "--methods", methods, "--protocol", "paper")) == 0
        output = capsys.readouterr().out.splitlines()
        counts = "4 of 10 items (40.0%) have the tokens of another text, 14.3% of all tokens are unknown"
        assert f"half: texts as tokens of random-tiny: {counts}" in output
        (warning,) = (line for line in output if line.startswith("warning: random-tiny loses a part"))
        assert counts in warning
    assert main(arguments("prepare", folder, "--methods", "tmlp")) == 0
    output = capsys.readouterr().out.splitlines()
    assert any("0 of 10 items (0.0%) have the tokens of another text" in line for line in output)
    assert not any("loses a part" in line for line in output)


@pytest.mark.parametrize("method", ["tmlp", "full"])
def test_a_run_warns_and_its_record_has_the_counts(
    half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    assert main(run(half, tmp_path, method)) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning: random-tiny loses a part of what the texts say: 4 of 10 items") == 1
    details = read_record(Path(captured.out.strip())).llm_details
    assert (details["token_sequences"], details["items_collapsed"]) == (7, 4)
    assert details["items_with_equal_tokens"] == 4
    assert details["unknown_tokens"] == pytest.approx(4 / 28)


def test_items_that_are_all_one_text_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "one", TWELVE, ETHIOPIC)
    for command in (
        run(folder, tmp_path, "tmlp"),
        run(folder, tmp_path, "full"),
        arguments("prepare", folder, "--methods", "tmlp"),
        arguments("prepare", folder, "--methods", "full"),
    ):
        assert main(command) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(
            "adaptrec: error: all 10 items of 'one' have the same tokens for language model"
        )
        assert "(100.0% of them unknown to it)" in error
    assert not list(tmp_path.rglob("*.json"))
    assert main([*run(folder, tmp_path, "tmlp"), "ids=add"]) == 0  # their own vectors tell them apart
