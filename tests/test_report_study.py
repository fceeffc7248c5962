"""The paper's tables: from what it prints, from records, side by side; and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest
from report_records import failure, record, results_of

from benchmark.report.derived import claims, table1, table5
from benchmark.report.paper import sections
from benchmark.report.paper_study import Study, of_paper, of_records
from benchmark.report.rendering import render
from benchmark.report.section import Block, Section
from benchmark.results.figures import Results
from benchmark.results.figures import printed as printed_figures
from benchmark.results.published import published
from benchmark.results.record import RunRecord
from benchmark.results.tuning import Trial, Tuning

SCI = {"key": "k1", "fingerprint": {"users": 8442, "items": 4385, "interactions": 59427}}
TOOLS = {"key": "k2", "fingerprint": {"users": 8959, "items": 5871, "interactions": 145681}}


def cell(block: Block, *labels: str, column: str) -> str:
    """The text of the one row that begins with these labels."""
    rows = [row for row in block.rows if tuple(entry.text for entry in row[: len(labels)]) == labels]
    assert len(rows) == 1, [[entry.text for entry in row] for row in block.rows]
    return rows[0][block.heads.index(column)].text


def find(found: list[Section], stem: str) -> Section:
    return next(section for section in found if section.stem == stem)


@pytest.fixture(scope="module")
def printed() -> list[Section]:
    return sections(Results(source="paper"))


def studies() -> dict[str, Study]:
    return {study.llm: study for study in of_paper(printed_figures())}


def test_every_table_of_the_paper_is_made_from_the_paper_alone(printed: list[Section]) -> None:
    numbers = ["1", "2", "3", "4", "5", "6", "7", "8", "S1", "S2", "S3"]
    assert [section.stem for section in printed] == [*(f"paper-table{n}" for n in numbers), "paper-derived"]
    for section in printed:
        for style in ("markdown", "latex", "csv", "text"):
            assert render(section, style)


def test_table_5_follows_from_tables_2_to_4_in_every_digit() -> None:
    found = table5(published(), studies())
    assert len(found) == 60
    assert [entry.figure for entry in found if entry.verdict != "agrees"] == []


def test_the_averages_of_table_1_follow_from_its_counts() -> None:
    found = table1(published())
    assert [entry.verdict for entry in found] == ["agrees"] * 10


def test_statements_in_the_text_of_the_paper() -> None:
    """Two kinds of statement contradict the paper's own tables; the rest follow to the digit."""
    found = claims(published(), studies())
    verdicts = {entry.figure: (round(entry.computed, 2), entry.printed, entry.verdict) for entry in found}
    agree = [value for value in verdicts.values() if value[2] == "agrees"]
    assert agree == [
        (30.77, "30.8", "agrees"), (31.12, "31.1", "agrees"),  # speedups with DistilBERT
        (97.66, "97.7", "agrees"), (97.65, "97.7", "agrees"),  # memory on Toys with DistilBERT
        (2.34, "2.3", "agrees"), (2.35, "2.3", "agrees"), (10.95, "11.0", "agrees"),
        (4.11, "4.1", "agrees"),
        (3, "3", "agrees"), (4, "4", "agrees"), (5, "5", "agrees"), (5, "5", "agrees"),
    ]  # fmt: skip
    differ = {what: value for what, value in verdicts.items() if value[2] != "agrees"}
    over = "DistilBERT, {}: improvement against {}, %"
    nearest = "{}: improvement over the nearest baseline, %"
    assert differ == {
        over.format("R@10", "MEAN"): (9.07, "9.7", "differs"),
        over.format("R@10", "WEIGHTED"): (10.63, "11.3", "differs"),
        over.format("N@10", "MEAN"): (9.68, "10.4", "differs"),
        over.format("N@10", "WEIGHTED"): (11.03, "11.7", "differs"),
        nearest.format("BERTMedium, R@10"): (7.81, "8.5", "differs"),
        nearest.format("DistilRoBERTa, N@10"): (5.88, "7.0", "differs"),
    }


def test_table_8s_statements_by_hand_and_what_rounding_may_do() -> None:
    """Recall@10 of SSNA over MEAN, from Table 8 as printed: no rounding of its inputs gives 9.7."""
    s = [0.1059, 0.0581, 0.0673, 0.0855, 0.0841]
    b = [0.0990, 0.0526, 0.0593, 0.0787, 0.0795]
    claim = next(claim for claim in claims(published(), studies()) if claim.printed == "9.7")
    assert claim.computed == pytest.approx(100 * sum(x / y - 1 for x, y in zip(s, b, strict=True)) / 5)
    most = 100 * sum((x + 5e-5) / (y - 5e-5) - 1 for x, y in zip(s, b, strict=True)) / 5
    assert claim.high == pytest.approx(most) and most < 9.65


def test_the_derived_section_lists_what_disagrees_and_tries_other_means(printed: list[Section]) -> None:
    section = find(printed, "paper-derived")
    assert "82 agree, 0 agree within rounding, 6 do not" in section.caption
    other = section.blocks[-1]
    assert [row[1].text for row in other.rows] == ["9.7", "11.3", "10.4", "11.7"]
    by_use = other.heads.index("by interactions per user")
    assert [row[by_use].text for row in other.rows] == ["9.68", "11.29", "10.34", "11.70"]
    assert any("by trying" in note for note in section.notes)


def test_tables_of_the_paper_as_it_prints_them(printed: list[Section]) -> None:
    table2 = find(printed, "paper-table2")
    block = table2.blocks[0]
    assert block.heads[2:] == ["LoRA", "ADA", "Full", "TMLP", "TMoE", "SSNA"]
    first = {head: cell.text for head, cell in zip(block.heads, block.rows[0], strict=True)}
    assert first["LoRA"] == ".1070" and first["SSNA"] == ".1059"
    assert not any(cell.mark for row in block.rows for cell in row)  # no user of the paper's is known
    assert block.rows[0][2].record == "paper:table2" and "paper:table2" in table2.records
    speed = find(printed, "paper-table6").blocks[0]
    assert cell(speed, "DistilBERT", "LoRA", column="mean speedup") == "30.8x"
    assert cell(speed, "BERTMedium", "ADA", column="Toys") == "1,743.7"
    memory = find(printed, "paper-table7").blocks[0]
    assert cell(memory, "DistilRoBERTa", "SSNA", column="Sci") == "0.7"
    assert cell(find(printed, "paper-tableS3").blocks[0], "Tools", column="SSNA a") == "3"


def test_the_asterisks_of_table_5(printed: list[Section]) -> None:
    """Against scipy on figures typed from Table 2: ADA under Recall@10 and Recall@50."""
    from scipy.stats import ttest_rel

    shown, chance = find(printed, "paper-table5").blocks
    ssna = {
        "R@10": [0.1059, 0.0581, 0.0673, 0.0855, 0.0841],
        "R@50": [0.1986, 0.1220, 0.1352, 0.1910, 0.1516],
    }
    ada = {"R@10": [0.1025, 0.0585, 0.0646, 0.0737, 0.0800], "R@50": [0.1950, 0.1239, 0.1299, 0.1815, 0.1523]}
    for metric, text in (("R@10", "5.6*"), ("R@50", "1.8")):
        p = ttest_rel(ssna[metric], ada[metric]).pvalue
        assert cell(chance, "DistilBERT", metric, column="ADA") == f"{p:.3f}"
        assert cell(shown, "DistilBERT", metric, column="ADA") == text
        assert (p < 0.15) == text.endswith("*")


def ours() -> list[RunRecord]:
    """Two datasets of the paper and one other, two protocols, a control, a tuned method and a failure."""
    tuning = Tuning(
        mode="grid", chosen=["batch_size=64", "top_layers=3"],
        grid={"batch_size": [64, 256], "top_layers": [2, 3]},
        trials=[Trial(overrides=["batch_size=64", "top_layers=3"], config_hash="x", status="ok", recall=0.1)],
    )  # fmt: skip
    sci: dict[str, Any] = {"dataset": "scientific", "data": SCI}
    tools: dict[str, Any] = {"dataset": "tools", "data": TOOLS}
    runs = [
        record(
            "ssna", 0.10, 0, seconds=4.0, tuning=tuning, overrides=["batch_size=64", "top_layers=3"], **sci
        ),
        record(
            "ssna", 0.12, 1, seconds=4.0, tuning=tuning, overrides=["batch_size=64", "top_layers=3"], **sci
        ),
        record("ssna", 0.30, overrides=["ids=add"], **sci),
        record("lora", 0.10, seconds=40.0, **sci),
        record("id", 0.08, llm=None, **sci),
        record("ssna", 0.06, seconds=5.0, **tools),
        record("lora", 0.05, seconds=100.0, **tools),
        failure("full", "oom", **tools),
        record("ssna", 0.2, protocol="fair", **sci),
        record("ssna", 0.2, dataset="toy"),
    ]
    for run in runs:
        run.protocol_hash = f"{run.protocol}-{run.dataset}"
    return runs


def test_ours_never_mixes_protocols_and_puts_paper_first() -> None:
    found = [section.stem for section in sections(results_of(ours()))]
    assert found == [
        "ours-datasets",
        "ours-quality-minilm-paper", "ours-improvement-paper", "ours-time-paper", "ours-memory-paper",
        "ours-best-minilm-paper",
        "ours-quality-minilm-fair", "ours-improvement-fair", "ours-time-fair", "ours-memory-fair",
    ]  # fmt: skip


def test_ours_in_the_papers_form() -> None:
    found = sections(results_of(ours()))
    quality = find(found, "ours-quality-minilm-paper")
    masked, raw = quality.blocks
    assert raw.heads == ["dataset", "metric", "lora", "adalora", "full", "tmlp", "tmoe", "ssna", "id"]
    assert cell(raw, "Sci (scientific)", "R@10", column="lora") == ".1000"
    assert (
        cell(raw, "Sci (scientific)", "R@10", column="ssna") == ".1100"
    )  # the mean of the tuned one's seeds
    assert any(note.startswith("Seeds of each figure: n = 1, but ssna on Sci") for note in quality.notes)
    assert cell(raw, "Tools", "R@10", column="id") == "-"
    assert cell(raw, "toy", "R@10", column="ssna") == ".2000"
    assert cell(masked, "Tools", "R@10", column="ssna") == ".0660"
    assert any("full on Tools: oom" in note for note in quality.notes)
    assert any("not shown: ssna (ids=add)" in note for note in quality.notes)
    assert "The paper does not use minilm" in quality.caption
    best = find(found, "ours-best-minilm-paper").blocks[0]
    assert cell(best, "Sci (scientific)", column="ssna b") == "64"
    assert cell(best, "Sci (scientific)", column="ssna a") == "3"
    record_of = next(row for row in raw.rows if row[0].text.startswith("Sci"))[raw.heads.index("ssna")].record
    assert quality.records[record_of]["method"] == "ssna"


def test_whole_numbers_are_whole_in_the_csv() -> None:
    assert "\nours,toy,1200,300,9000\n" in render(find(sections(results_of(ours())), "ours-datasets"), "csv")
    found = sections(Results(source="paper"))
    for stem, whole in (("paper-table1", "interactions,59427,"), ("paper-tableS1", "ssna,batch_size,256,")):
        assert whole in render(find(found, stem), "csv")


def test_improvement_and_speedup_of_ours_by_hand() -> None:
    found = sections(results_of(ours()))
    shown = find(found, "ours-improvement-paper").blocks[0]
    by_hand = 100 * ((0.11 / 0.10 - 1) + (0.06 / 0.05 - 1)) / 2
    assert cell(shown, "minilm", "R@10", column="lora").rstrip("*") == f"{by_hand:.1f}"
    assert cell(shown, "minilm", "R@10", column="full") == "-"
    speed = find(found, "ours-time-paper").blocks[0]
    assert cell(speed, "minilm", "lora", column="mean speedup") == f"{(40 / 4 + 100 / 5) / 2:.1f}x"


def test_side_by_side_gives_differences_and_notes_another_language_model() -> None:
    found = sections(results_of(ours(), source="both"))
    pair = find(found, "both-quality-minilm-paper")
    assert "DistilBERT in the paper, minilm in our runs" in pair.caption
    assert "We have no runs on Pantry, Toys, Ins." in pair.notes
    sci = pair.blocks[0]
    assert sci.title == "Sci (scientific), ours with the user's history masked"
    sci = next(block for block in pair.blocks if block.title == "Sci (scientific), ours not masked")
    line = [cell.text for cell in sci.rows[[row[0].text for row in sci.rows].index("lora")]]
    assert line == ["lora", "R@10", ".1070", ".1000", "-.0070", "-6.5"]
    assert (
        cell(sci, "adalora", "R@10", column="ours")
        == cell(sci, "adalora", "R@10", column="difference")
        == "-"
    )
    assert cell(sci, "id", "R@10", column="paper") == cell(sci, "id", "R@10", column="relative %") == "-"
    time = find(found, "both-time-minilm-paper")
    assert cell(time.blocks[1], "lora", "wall seconds", column="ours") == "15.0"
    printed = (228.1 / 16.3 + 1223.7 / 36.8) / 2  # the paper's, over the datasets that both have
    assert cell(time.blocks[1], "lora", "wall seconds", column="paper") == f"{printed:.1f}"
    tuned = find(found, "both-best-minilm-paper").blocks[0]
    assert cell(tuned, "Sci (scientific)", "ssna batch_size", column="difference") == "-192"
    counts = find(found, "both-datasets").blocks[0]
    assert cell(counts, "Sci (scientific)", "users", column="difference") == "0"
    assert cell(counts, "toy", "users", column="paper") == "-"
    assert "paper-table2" in [section.stem for section in found]
    assert "paper-derived" in [section.stem for section in found]


def test_a_language_model_of_the_paper_stands_next_to_its_own_table() -> None:
    run = record("ssna", 0.1, dataset="scientific", data=SCI, llm="bert-medium")
    found = sections(results_of([run], source="both"))
    pair = find(found, "both-quality-bert-medium-paper")
    assert pair.title.startswith("Table 4 and our runs") and "differs" not in pair.caption
    assert "paper-table4" not in [section.stem for section in found]
    others = {"paper-table2", "paper-table5", "paper-table6"}  # these hold other language models too
    assert others <= {section.stem for section in found}


def test_without_records_both_is_the_papers_and_ours_is_nothing() -> None:
    assert sections(Results(source="ours")) == []
    assert next(section.stem for section in sections(Results(source="both"))) == "both-datasets"


def test_a_recipe_with_a_name_but_not_the_counts_of_the_paper_is_not_its_dataset() -> None:
    run = record("ssna", 0.1, dataset="sci")
    results = results_of([run])
    (study,) = of_records(results.groups.values())
    assert list(study.datasets) == ["sci (not the paper's counts)"]
