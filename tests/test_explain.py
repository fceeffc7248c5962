"""`explain`: who is meant, what differs in which order, how wide intervals are, what a user gets wrong."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields

import numpy as np
import pytest
from report_ranks import ranked, some_ranks
from report_records import failure

from benchmark import cli
from benchmark.config import Settings
from benchmark.explain.explain import BOOTSTRAP, ERRORS, explain, show
from benchmark.explain.settings import NONE, TOPICS, UNKNOWN
from benchmark.explain.sources import find
from benchmark.results.record import ranks_path
from benchmark.results.tuning import Tuning
from methods.errors import UserError

PAPER = "paper:distilbert/sci/ssna"
RECIPE = {"name": "toy", "split": "leave-one-out", "core": 5, "text_fields": ["text"]}


@pytest.fixture
def results(tmp_path):
    """Configurations `a` (two seeds) and `b` on the same data."""
    changes = {"data": {"key": "k1", "recipe": RECIPE, "fingerprint": {"users": 300, "items": 9}}}
    ranked(tmp_path, "a", some_ranks(1, hit=0.4), 0, **changes)
    ranked(tmp_path, "a", some_ranks(2, hit=0.4), 1, **changes)
    other = {"settings": {"candidates": "catalogue", "batch_size": 64, "learning_rate": 0.1}}
    ranked(tmp_path, "b", some_ranks(3, hit=0.2), 0, **changes, **other, hyperparameters={"init": "whitened"})
    return tmp_path


def both(results, a="toy/minilm/a", b="toy/minilm/b"):
    return explain(find(a, results), find(b, results))


def test_a_beginning_names_all_seeds_and_a_path_one(results):
    path = next((results / "toy/minilm/a").glob("*-s1.json"))
    assert find("toy/minilm/a", results).seeds == [0, 1]
    assert find(str(path), results).seeds == [1]
    assert find(str(results / "toy/minilm/a"), results).name == find("toy/minilm/a", results).name
    assert find("toy/minilm/a/a-paper-s1", results).seeds == [1]


def test_settings_that_move_results_come_first(results):
    found = [entry for entry in both(results)["settings"] if entry["stated"]]
    assert [entry["name"] for entry in found[:2]] == ["candidates", "batch_size"]
    assert (found[0]["a"], found[0]["b"]) == ("batch", "catalogue")
    topics = [list(TOPICS).index(entry["topic"]) for entry in both(results)["settings"]]
    assert topics == sorted(topics)
    assert {"name": "init", "topic": "start", "a": NONE, "b": "whitened", "stated": True} in found


def test_every_setting_of_the_harness_has_a_topic():
    assert {field.name for field in fields(Settings)} <= {name for names in TOPICS.values() for name in names}


def test_settings_that_nobody_chose_are_listed(results):
    """Neither the user, the protocol, a search nor the recipe set them, not even to the default."""
    recipe = {**RECIPE, "settings": {"all": {"clip_norm": 1.0}}}
    tuning = Tuning(mode="grid", chosen=["sasrec_dropout=0.5"], grid={"sasrec_dropout": [0.5]}, seed=0)
    ranked(
        results, "c", some_ranks(3), protocol="fair", overrides=["width=256"], tuning=tuning,
        settings={**asdict(Settings()), "candidates": "auto", "learning_rate": 0.1},
        data={"key": "k1", "recipe": recipe, "fingerprint": {"users": 300}},
    )  # fmt: skip
    explained = both(results, "toy/minilm/c", PAPER)
    defaults = explained["a"]["defaults"]
    assert defaults["temperature"] == str(Settings().temperature) and defaults["window"] == "50"
    by_others = {"candidates", "batch_size", "init", "width", "sasrec_dropout", "clip_norm", "learning_rate"}
    assert not by_others & defaults.keys()
    assert not {"samples", "replay"} & defaults.keys()  # without effect on the metrics
    assert explained["b"]["defaults"] == {}  # what the paper does not state is not known
    text = show(explained)
    assert "Settings of A that nobody chose" in text and "Settings of B that nobody chose" not in text


def test_equal_users_are_resampled_together(results):
    gap = both(results)["metrics"][0]
    expected = np.mean([np.mean(some_ranks(seed, hit=0.4) <= 11) for seed in (1, 2)])  # one better if masked
    assert gap["a"] == pytest.approx(expected)
    assert gap["b"] == pytest.approx(np.mean(some_ranks(3, hit=0.2) <= 11))
    assert gap["low"] < gap["a"] - gap["b"] < gap["high"]
    assert (gap["metric"], gap["history_masked"], gap["interval"]) == ("recall@10", True, BOOTSTRAP)


def test_a_configuration_without_ranks_is_one_line(results, capsys):
    for path in (results / "toy/minilm/b").glob("*.parquet"):
        path.unlink()
    assert cli.main(["explain", "toy/minilm/a", "toy/minilm/b", "--results", str(results)]) == 2
    error = capsys.readouterr().err
    assert "b-paper-s0.ranks.parquet is missing. Run its cell again" in error and error.count("\n") == 1


def test_a_published_figure_has_the_binomial_error(results):
    gap = both(results, b=PAPER)["metrics"][0]
    own = find("toy/minilm/a", results).gains.values("test_masked", "recall@10")
    half = 1.959964 * math.hypot(
        own.std(ddof=1) / math.sqrt(300), math.sqrt(gap["b"] * (1 - gap["b"]) / 8442)
    )
    assert gap["high"] - gap["low"] == pytest.approx(2 * half)
    assert gap["interval"] == ERRORS


def test_other_data_is_allowed_and_reported(results):
    changes = {"data": {"key": "k2", "fingerprint": {"users": 200}}, "dataset": "other"}
    ranked(results, "c", some_ranks(4, users=200), **changes)
    found = both(results, b="other/minilm/c")
    assert found["same_data"] is False
    assert found["notes"][0].startswith("The data differ")
    assert {gap["interval"] for gap in found["metrics"]} == {ERRORS}


def test_a_run_and_a_published_figure(results):
    counts = {"users": 8442, "items": 4385, "interactions": 59427}
    ranked(results, "ssna", some_ranks(5), data={"key": "k", "recipe": RECIPE, "fingerprint": counts})
    found = both(results, "toy/minilm/ssna", PAPER)
    assert found["same_data"] is True
    named = {entry["name"]: entry for entry in found["settings"]}
    assert named["llm"]["b"] == "distilbert" and named["llm"]["stated"]
    assert named["mask_false_negatives"] == {
        "topic": "negatives", "name": "mask_false_negatives", "a": "True", "b": UNKNOWN, "stated": False,
    }  # fmt: skip
    agreed = {"recipe.split", "recipe.core", "recipe.text_fields", "candidates", "temperature", "batch_size"}
    assert not agreed & named.keys()
    masked, first = found["metrics"][0], found["metrics"][4]
    assert (first["b"], masked["b"], masked["history_masked"]) == (0.1059, 0.1059, True)
    assert found["b"]["users"] == 8442
    text = show(found)
    assert "not stated" in text and "SSNA on Sci with DistilBERT" in text


def test_two_published_figures():
    found = both(None, PAPER, "paper:distilbert/sci/lora")
    assert [gap["history_masked"] for gap in found["metrics"]] == [False] * 4
    named = {entry["name"]: (entry["a"], entry["b"]) for entry in found["settings"]}
    assert named["batch_size"] == ("256", "32")
    assert named["top_layers"] == ("3", UNKNOWN)


def test_the_paper_states_of_a_method_what_the_method_has():
    found = both(None, "paper:distilbert/toys/tmlp", "paper:distilbert/toys/lora")
    named = {entry["name"]: (entry["a"], entry["b"]) for entry in found["settings"]}
    assert not {"heads", "noise"} & named.keys()  # of mixtures of experts alone
    assert named["device_name"] == ("NVIDIA V100 32 GB", "NVIDIA A100 80 GB")


def test_a_configuration_does_not_differ_from_itself(results):
    found = both(results, b="toy/minilm/a")
    assert found["settings"] == []
    assert all(gap["low"] == gap["high"] == 0 for gap in found["metrics"])
    assert "none" in show(found)


def test_the_command_prints_and_writes(results, capsys):
    file = results / "out" / "said.json"
    assert cli.main(["explain", "toy/minilm/a", PAPER, "--results", str(results), "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "Difference in each metric" in printed and "seeds 0, 1" in printed
    assert json.loads(file.read_text())["b"]["name"] == PAPER


def test_a_file_that_cannot_be_written_is_one_line(results, capsys):
    record = next(results.rglob("*.json"))
    for place, named in ((results, results), (record / "said.json", record)):
        command = ["explain", "toy/minilm/a", PAPER, "--results", str(results), "--json", str(place)]
        assert cli.main(command) == 2
        error = capsys.readouterr().err
        assert "adaptrec: error: " in error and str(named) in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("toy/minilm", "'toy/minilm' begins 2 configurations below"),
        ("toy/minilm/aa", "Did you mean 'toy/minilm/a/a-paper'? Give a record's path"),
        ("nowhere.json", "there is no record nowhere.json"),
        ("paper:distilbert/sci", "is not paper:<llm>/<dataset>/<method>, such as paper:distilbert/sci/lora"),
        ("paper:distilbert/sic/ssna", "unknown dataset of the paper: 'sic'. Did you mean 'sci'?"),
        ("paper:bert-medium/sci/ssna-mean", "the paper prints no quality of"),
    ],
)
def test_a_bad_reference_is_one_line(results, reference, message, capsys):
    assert cli.main(["explain", reference, PAPER, "--results", str(results)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_configuration_without_a_finished_run(results):
    run = failure("x")
    run.write(results / "toy/minilm/x/x-paper-s0.json")
    with pytest.raises(UserError, match="has no finished run: failed: x broke"):
        find("toy/minilm/x", results)


def test_a_seed_without_ranks_is_left_out_and_named(results):
    path = next((results / "toy/minilm/a").glob("*-s1.json"))
    ranks_path(path).unlink()
    found = both(results)
    assert found["a"]["seeds"] == [0]
    assert {gap["interval"] for gap in found["metrics"]} == {BOOTSTRAP}
    assert any("a-paper-s1.ranks.parquet is missing" in note for note in found["notes"])
