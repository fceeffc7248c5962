"""What `advise` and the answer of a report say: cost, front, sentence, budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_ranks import ranked
from report_records import record, store

from benchmark.cli import main
from benchmark.config import NO_PROTOCOL
from benchmark.report import answer, plots
from benchmark.results.advice import Advice, main_tables
from benchmark.results.figures import Results
from benchmark.results.record import Cost
from benchmark.results.store import StoredRun
from benchmark.results.tuning import Trial, Tuning

ROOT = Path(__file__).resolve().parents[1]
USERS = 400


def ranks(hits: int, shift: int = 0) -> np.ndarray:
    """Ranks of which `hits` are 3 and the others 100; `shift` says which users are hit."""
    return np.where(np.roll(np.arange(USERS) < hits, shift), 3, 100).astype(np.int32)


def control(folder: Path, hits: int, seconds: float = 0.5) -> StoredRun:
    """The control `blend`, which took `seconds` to score validation under its one trial."""
    trial = Trial(overrides=["decay=0.8"], config_hash="c", status="ok", train_seconds=4 * seconds,
                  train_cpu_seconds=seconds)  # fmt: skip
    tuning = Tuning(mode="grid", chosen=["decay=0.8"], grid={"decay": [0.8]}, seed=0, trials=[trial])
    nothing = {"curve": [], "best_epoch": None, "epochs_run": 0}
    cost = Cost(prepare_seconds=31.25, eval_seconds=0.1)
    return ranked(folder, "blend", ranks(hits), protocol=NO_PROTOCOL, tuning=tuning, cost=cost, **nothing)


def advice_of(*runs: StoredRun) -> Advice:
    (advice,) = answer.advices(Results(runs))
    return advice


def test_the_cost_is_preparation_search_and_training_to_the_best_epoch(tmp_path: Path) -> None:
    trials = [
        Trial(overrides=["a=1"], config_hash="ssna-paper", status="ok", selection=0.2, train_cpu_seconds=48),
        Trial(overrides=["a=2"], config_hash="other", status="ok", selection=0.1, train_cpu_seconds=15),
        Trial(overrides=["a=3"], config_hash="lost", status="failed", train_cpu_seconds=2),
    ]
    tuning = Tuning(mode="search", chosen=["a=1"], seed=0, budget=3, trials=trials)
    advice = advice_of(
        ranked(tmp_path, "ssna", ranks(40), tuning=tuning), ranked(tmp_path, "id", ranks(20), llm=None)
    )
    parts = {choice.label: choice.parts for choice in advice.choices}
    # a trial that is a run of the row counts as training alone; 8 epochs of 4 CPU seconds; see `record`
    assert parts["ssna (tuned, best of 2 of 3 trials)"] == (31.25, 15 + 2, 8 * 4)
    assert parts["id"] == (0, 0, 8 * 4)
    assert [choice.label.split()[0] for choice in advice.choices] == ["id", "ssna"]  # the cheapest first


def test_a_row_pays_for_the_search_of_another_row_that_found_its_values(tmp_path: Path) -> None:
    found = "tmoe-tuned-a=2"
    trials = [Trial(overrides=["a=2"], config_hash=found, status="ok", selection=0.2, train_cpu_seconds=50)]
    search = Tuning(mode="search", chosen=["a=2"], seed=0, budget=1, trials=trials)
    given = Tuning(mode="given", chosen=["a=2"], source="toy")
    own = ranked(tmp_path, "tmoe", ranks(40), protocol="tuned", overrides=["a=2"], tuning=search)
    mixed = ranked(
        tmp_path, "tmoe", ranks(60), protocol="tuned", overrides=["a=2", "fuse=blend"], tuning=given
    )
    other = ranked(tmp_path, "ssna", ranks(30), protocol="tuned", overrides=["a=2"], tuning=given)
    advice = advice_of(own, mixed, other)
    costs = {choice.name: choice.parts.search for choice in advice.choices}
    assert list(costs.values()) == [0, 0, 50]
    assert max(costs, key=lambda name: costs[name]).startswith("tmoe (fuse=blend")
    (line,) = [line for line in answer.notes(advice) if "is not in the cost" in line]
    assert "ssna" in line and "tmoe" not in line


def test_a_run_on_a_gpu_counts_in_wall_seconds(tmp_path: Path) -> None:
    runs = [ranked(tmp_path, name, ranks(40), device="cuda", device_name="GPU") for name in ("ssna", "tmoe")]
    for run in runs:
        run.record.cost.seconds_to_best = 7.0
    advice = advice_of(*runs)
    assert not advice.clock.on_cpu and advice.clock.unit == "seconds"
    assert {choice.cost for choice in advice.choices} == {31.25 + 7}


def test_the_front_holds_what_no_other_row_beats(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    hits = generator.integers(20, 80, 9)
    seconds = generator.choice([1.0, 2.0, 3.0, 5.0], 9)
    runs = [
        ranked(tmp_path, f"m{n}", ranks(int(hit)), seconds=float(wall))
        for n, (hit, wall) in enumerate(zip(hits, seconds, strict=True))
    ]
    advice = advice_of(*runs)
    costs = {choice.label: choice.cost for choice in advice.choices}
    quality = {choice.label: choice.quality for choice in advice.choices}
    for choice in advice.choices:
        better = [
            name
            for name in costs
            if (costs[name] < choice.cost and quality[name] >= choice.quality)
            or (costs[name] <= choice.cost and quality[name] > choice.quality)
        ]
        assert choice.on_front == (not better)


@pytest.mark.parametrize(
    ("hits", "words"),
    [
        (40, "is best by masked R@10 .1500 ± .0"),
        (60, "is not shown to differ from the control blend"),
        (120, "stays below the control blend, which needs no training (.3000 ± .0"),
    ],
)
def test_the_sentence_compares_the_best_trained_row_with_the_best_control(
    tmp_path: Path, hits: int, words: str
) -> None:
    best = ranked(tmp_path, "ssna", ranks(60), seconds=40.0)
    advice = advice_of(best, ranked(tmp_path, "tmoe", ranks(59), seconds=1.0), control(tmp_path, hits))
    assert advice.sentence.startswith("toy, minilm, protocol paper: ssna")
    assert words in advice.sentence
    # 671.25 seconds against 47.25: the half of both is what the language model takes
    assert "tmoe is within the error of ssna at 1/14 of its cost" in advice.sentence


def test_the_sentence_says_where_all_other_rows_are_worse(tmp_path: Path) -> None:
    advice = advice_of(ranked(tmp_path, "ssna", ranks(200)), ranked(tmp_path, "tmoe", ranks(60)))
    assert advice.sentence.endswith("; every other trained row is below it.")
    assert "within the error" not in advice.sentence


def test_the_sentence_gives_the_ceiling_of_planted_data(tmp_path: Path) -> None:
    bound = {"test": dict.fromkeys(record().metrics["test"], 0.5)}
    data = {**record().data, "ceiling": {**bound, "test_masked": bound["test"]}}
    runs = [ranked(tmp_path, name, ranks(60), data=data) for name in ("ssna", "tmoe")]
    assert advice_of(*runs).sentence.endswith("At most .5000 is possible on these data.")


def test_tuned_rows_go_before_more_rows_under_another_protocol(tmp_path: Path) -> None:
    fair = [ranked(tmp_path, name, ranks(60), protocol="fair") for name in ("ssna", "tmoe", "tmlp")]
    tuned = [ranked(tmp_path, name, ranks(60), protocol="tuned") for name in ("ssna", "tmoe")]
    (chosen,) = main_tables(Results((*fair, *tuned)).groups.values())
    assert chosen.key.protocol == "tuned"
    (chosen,) = main_tables(Results((*fair, tuned[0])).groups.values())
    assert chosen.key.protocol == "fair"


def test_the_best_row_within_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranked(tmp_path, "ssna", ranks(60), seconds=40.0)
    ranked(tmp_path, "tmoe", ranks(50), seconds=1.0)
    control(tmp_path, 40)
    command = ["advise", "--results", str(tmp_path), "--budget"]
    assert [main([*command, budget]) for budget in ("60", "1m", "1s")] == [0, 0, 0]
    first, second, third = (
        " ".join(part.split()) for part in capsys.readouterr().out.split("toy, minilm, protocol paper")[1:]
    )
    assert "Within 60 CPU seconds, tmoe is best: masked R@10 .1250 ± .0" in first and first == second
    assert "No row costs 1 CPU seconds or less; the cheapest, blend, costs 31.8." in third


def test_the_price_is_that_of_wall_seconds(tmp_path: Path) -> None:
    runs = [ranked(tmp_path, name, ranks(60)) for name in ("ssna", "tmoe")]
    for run in runs:
        run.record.cost.seconds_to_best = 3600 - 31.25
    block = answer.choices_block(advice_of(*runs), 2.5)
    assert block.heads[-1] == "price at 2.5 an hour"
    assert [row[-1].text for row in block.rows] == ["2.5000", "2.5000"]


def test_the_picture_names_rows_far_below_and_does_not_draw_them(tmp_path: Path) -> None:
    runs = [ranked(tmp_path, "ssna", ranks(60)), ranked(tmp_path, "id", ranks(10), llm=None)]
    svg = plots.draw_answer(advice_of(*runs, control(tmp_path, 50)))["svg"].decode()
    assert "not drawn: id, .0250" in svg and ">ssna<" in svg and ">blend<" in svg


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--budget", "0"], "'0' is no time above 0: give seconds, or 90s, 10m, 2h"),
        (["--budget", "-5"], "--budget"),
        (["--budget", "nan"], "'nan' is no time above 0"),
        (["--rate", "0"], "'0' is no price above 0"),
        (["--dataset", "toi"], "Did you mean 'toy'?"),
        (["--llm", "bert"], "Allowed: minilm"),
        (["--protocol", "fair"], "Allowed: paper"),
    ],
)
def test_bad_values_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    store(tmp_path, [record("ssna"), record("tmoe")])
    assert main(["advise", "--results", str(tmp_path), *words]) == 2
    assert complaint in capsys.readouterr().err


def test_one_row_gives_no_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranked(tmp_path, "ssna", ranks(60))
    assert main(["advise", "--results", str(tmp_path)]) == 2
    assert "run two methods at least" in capsys.readouterr().err


def test_no_records_name_only_options_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", "--results", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there are no run records" in line and line.endswith("give their folder by --results.")


def test_the_readme_opens_with_the_answer_of_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["advise", "--dataset", "scientific", "--results", str(ROOT / "results")]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.partition("\n\n")[0].split())
    page = " ".join((ROOT / "README.md").read_text(encoding="utf-8").replace("\n> ", " ").split())
    assert printed in page
