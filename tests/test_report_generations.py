"""Figures of an older generation of the harness carry a mark wherever they stand beside newer ones."""

from __future__ import annotations

from pathlib import Path

from report_records import few, grouped, record, results_of, store, tuned

from benchmark.report import agreement, differences, sweeps, tables, total_cost
from benchmark.report.build import build_report
from benchmark.report.paper_study import of_records
from benchmark.results.figures import Results
from benchmark.results.groups import MARK
from benchmark.results.store import iter_runs


def test_only_older_rows_of_a_mixed_table_are_marked() -> None:
    old = [record("a", 0.1), record("b", 0.2, seed=0), record("b", 0.2, seed=1, generation=1)]
    (group,) = grouped([*old, record("c", 0.3, generation=1), record("d", status="failed", error="x")])
    assert [row.label for row in group.rows] == ["a" + MARK, "b" + MARK, "c", "d"]
    assert "measured by generation 0 of the harness, the newest here is 1" in group.caption
    text = tables.render(group, "text")
    assert "a †" in text and "c †" not in text
    assert r"\dag{}" in tables.render(group, "latex")


def test_a_table_of_one_generation_has_no_mark(tmp_path: Path) -> None:
    for generation in (0, 1):
        runs = [run.model_copy(update={"generation": generation}) for run in few()]
        build_report(store(tmp_path / str(generation), runs), tmp_path / "r")
        assert not any(MARK.encode() in path.read_bytes() for path in (tmp_path / "r").glob("*.md"))


def test_costs_and_tests_and_plots_carry_the_mark(tmp_path: Path) -> None:
    runs = [record("ssna", 0.3), tuned("lora", 0.4, generation=1)]
    for run in runs:
        run.cost.seconds_to_best = 8.0
    stored = Results(tuple(iter_runs(store(tmp_path, runs))))
    (costs,) = total_cost.sections(stored)
    assert [cell[0].text for cell in costs.blocks[0].rows] == ["lora", "ssna" + MARK]
    assert costs.blocks[1].rows[0][0].text == f"ssna{MARK} against lora"
    (tests,) = differences.sections(stored)
    assert any(cell.text == "ssna" + MARK for row in tests.blocks[0].rows for cell in row)
    for section in (costs, tests):
        assert "by generation 0 of the harness" in section.caption


def test_a_speed_record_of_another_generation_than_the_runs_is_marked() -> None:
    run = record("ssna", 0.3, generation=1)
    run.cost.seconds_to_best = 8.0
    (group,) = grouped([run])
    courses = total_cost._courses(group, [])
    assert [entry.label for entry in courses] == ["ssna"]
    assert total_cost._mixed(group, courses) == []
    old = [*courses, total_cost.Course("lora [speed/x.json]", 0.0, 1.0, True, 0.0, "steps", 0)]
    assert "by generation 0 of the harness" in total_cost._mixed(group, old)[0]


def test_the_papers_tables_name_the_older_figures() -> None:
    runs = [record("ssna", 0.3), record("tmlp", 0.3, generation=1), record("lora", 0.3, dataset="other")]
    results = results_of(runs)
    (study,) = of_records(results.groups.values())
    assert list(study.datasets.values()) == ["other" + MARK, "toy" + MARK]
    assert "toy: figures of an older generation: ssna." in study.notes
    assert not any("is ssna" in line for line in study.notes), "the mark is no setting"


def test_orders_match_rows_whatever_their_mark(tmp_path: Path) -> None:
    runs = [record(name, 0.1 * n, generation=n % 2) for n, name in enumerate("abc", 1)]
    runs += [record(name, 0.1 * n, protocol="fair", generation=1) for n, name in enumerate("abc", 1)]
    (section,) = agreement.sections(Results(tuple(iter_runs(store(tmp_path, runs)))))
    assert all(MARK not in line["first_figures"] for line in section.lines)
    assert any("by generation 0 of the harness" in line for line in section.notes)


def test_a_sweep_marks_its_older_values() -> None:
    runs = [
        record("ssna", 0.1 * n, hyperparameters={"heads": n}, config_hash=f"h{n}", generation=n > 1)
        for n in (1, 2, 3, 4)
    ]
    (section,) = sweeps.sections(results_of(runs))
    marked = [row[1].text for row in section.blocks[0].rows]
    assert [MARK.strip() in text for text in marked] == [True, False, False, False]
