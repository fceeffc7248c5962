"""Which records stand in one table, with which labels, figures and marks."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
import statistics

import pytest
from report_records import (
    GIB,
    as_runs,
    failure,
    grouped,
    metrics,
    ranks,
    record,
    results_of,
    store,
    study,
    tuned,
)

from benchmark.report.rendering import FIT
from benchmark.report.tables import notes, print_tables, render
from benchmark.results.record import Cost
from benchmark.results.schema import METRICS, PeakMemory
from benchmark.results.statistics import bootstrap, estimate, interval, t_quantile
from methods.errors import UserError


def lines_of(group):
    return list(csv.DictReader(io.StringIO(render(group, "csv"))))


def as_tables(folder, records):
    """The tables of records that are stored with their ranks."""
    store(folder, records)
    return list(results_of(records, folder).groups.values())


def cells_of(group, label, block=0):
    """The cells of a row as printed on a terminal: of its figures, or of its cost with `block` 1."""
    rows = [line for line in render(group, "text").splitlines() if re.match(re.escape(label) + r"\s\s", line)]
    return re.split(r"\s{2,}", rows[block].strip())


# From the tables in statistics textbooks, P(|T| < t) = .95.
@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)]
)
def test_t_quantile_is_that_of_the_printed_tables(freedom, t):
    assert t_quantile(freedom) == pytest.approx(t, abs=5e-4)


def test_t_quantile_agrees_with_scipy():
    t = pytest.importorskip("scipy.stats").t
    for freedom, level in itertools.product((1, 2, 3, 4, 5, 8, 13, 50), (0.5, 0.9, 0.95, 0.99)):
        assert t_quantile(freedom, level) == pytest.approx(t.ppf((1 + level) / 2, freedom), rel=1e-9)


@pytest.mark.parametrize(("freedom", "level"), [(0, 0.95), (2, 0.0), (2, 1.0)])
def test_t_quantile_refuses_what_has_no_answer(freedom, level):
    with pytest.raises(ValueError, match="needs freedom"):
        t_quantile(freedom, level)


def test_estimate_by_hand():
    found = estimate([0.1, None, 0.2, 0.3])
    assert (found.mean, found.n, found.largest) == (pytest.approx(0.2), 3, 0.3)
    assert found.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert estimate([0.5]).half_width is None
    assert estimate([None]) is None
    assert estimate([0.0]).mean == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"key": "k2"}},
        {"llm": "bert"},
        {"protocol": "fair"},
        {"protocol_hash": "other"},
        {"device_name": "Another CPU"},
        {"world_size": 2},
        {"precision": "bf16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_unlike_records_never_share_a_table_and_none_is_lost(change):
    found = grouped([record("ssna"), record("tmlp", **change)])
    assert [[row.label for row in group.rows] for group in found] in (
        [["ssna"], ["tmlp"]],
        [["tmlp"], ["ssna"]],
    )
    assert found[0].caption != found[1].caption


def test_the_caption_has_the_expected_counts_where_the_data_have_others():
    counts = {"users": 1200, "items": 300, "interactions": 9000}
    for expected, expected_text in (
        (None, "data key k1); language model"),
        (counts, "data key k1); language model"),
        ({**counts, "items": 301}, "data key k1), not the 301 items that its recipe expects; language model"),
    ):
        one = record(data={"key": "k1", "fingerprint": counts, "recipe": {"expected": expected}})
        assert expected_text in grouped([one])[0].caption


def test_the_caption_states_how_a_table_differs_from_others():
    one = record("ssna", settings={"candidates": "batch", "batch_size": 256})
    two = record(
        "ssna", settings={"candidates": "batch", "batch_size": 512}, protocol_hash="h2", created="2026-02"
    )
    first, second = grouped([two, one])
    assert "batch_size=256" in first.caption
    assert "batch_size=512" in second.caption
    assert "candidates" not in first.caption + second.caption
    alone = grouped([one])[0].caption
    for expected_text in ("toy", "1,200 users", "minilm", "paper", "A CPU", "1 process", "precision: no"):
        assert expected_text in alone


def test_control_joins_every_language_model_of_its_data_and_protocol():
    runs = [
        record("ssna"),
        record("ssna", llm="bert"),
        record("id", llm=None),
        record("ssna", protocol="fair"),
    ]
    found = {(g.key.llm, g.key.protocol): [row.label for row in g.rows] for g in grouped(runs)}
    assert found == {
        ("minilm", "paper"): ["ssna", "id"],
        ("bert", "paper"): ["ssna", "id"],
        ("minilm", "fair"): ["ssna"],
    }


@pytest.mark.parametrize("change", [{"data": {"key": "k2"}}, {"device_name": "B"}, {"world_size": 2}])
def test_control_of_other_data_or_hardware_stands_alone(change):
    found = grouped([record("ssna"), record("id", llm=None, **change)])
    assert sorted((g.key.llm or "", [row.label for row in g.rows]) for g in found) == [
        ("", ["id"]),
        ("minilm", ["ssna"]),
    ]


def test_control_joins_the_table_with_its_settings():
    small, large = {"batch_size": 256}, {"batch_size": 512}
    runs = [
        record("ssna", settings=small),
        record("ssna", settings=large, protocol_hash="h2", overrides=["batch_size=512"]),
        record("id", llm=None, settings=small),
        record("id", llm=None, settings=large, protocol_hash="h3", overrides=["batch_size=512"]),
    ]
    found = {group.key.protocol_hash: group for group in grouped(runs)}
    assert [run.settings for row in found["h2"].rows for run in row.runs] == [large, large]
    assert [row.label for row in found["h2"].rows] == ["ssna", "id"]
    assert found["h2"].shared == ("batch_size=512",)


def test_control_never_joins_a_table_with_another_pool_of_candidates():
    whole, drawn = {"candidates": "catalogue"}, {"candidates": "sampled", "samples": 64}
    fewer = {"candidates": "sampled", "samples": 32}
    tables = [record("ssna", settings=whole), record("ssna", settings=drawn, protocol_hash="h2")]

    def hosts(settings):
        control = record("id", llm=None, settings=settings, protocol_hash="h3")
        found = grouped([*tables, control])
        return [group.rows[0].runs[0].settings for group in found if group.rows[-1].label == "id"]

    assert hosts(whole) == [whole]
    assert hosts({**whole, "samples": 7}) == [whole]  # of which none is drawn
    assert hosts(drawn) == [drawn]
    assert hosts(fewer) == [fewer]  # a table of its own


def test_rows_with_another_encoding_are_marked_however_it_was_set():
    settings = [{"encode": "cached"}, {"encode": "occurrences"}, {}]
    runs = [tuned("full", 0.3, settings=settings[0]), tuned("lora", 0.3, settings=settings[1])]
    runs += [record("ssna", settings=settings[2])]  # older than the setting
    (group,) = grouped(runs)
    assert [row.label for row in group.rows] == ["full", "lora (encode=occurrences)", "ssna"]
    runs = [run.model_copy(update={"settings": settings[1]}) for run in runs]
    assert [row.label for row in grouped(runs)[0].rows] == ["full", "lora", "ssna"]
    by_hand = [tuned("lora", 0.3, overrides=["encode=occurrences"], settings=settings[1]), tuned("lora", 0.3)]
    assert [row.label for row in grouped(by_hand)[0].rows] == ["lora", "lora (encode=occurrences)"]


def test_records_older_than_a_setting_are_no_other_table():
    old, new = {"batch_size": 256}, {"batch_size": 256, "encode": "cached"}
    first = record("ssna", settings=old)
    second = record("ssna", settings=new, protocol_hash="h2", device_name="B")
    control = record("id", llm=None, settings=old)
    found = grouped([first, second, control])
    assert not any("encode" in part for group in found for part in group.differs)
    assert {g.key.device_name: [row.label for row in g.rows] for g in found} == {
        "A CPU": ["ssna", "id"],
        "B": ["ssna"],
    }


def test_long_overrides_are_cut_in_labels_and_whole_in_the_notes():
    texts = ['config={"peft_type": "IA3", "target_modules": ["query"]}', "config=" + "x" * 33]
    (group,) = grouped([record("peft", overrides=[text]) for text in texts])
    assert [row.label for row in group.rows] == [
        f"peft ({texts[1]})",
        f"peft ({texts[0][:37]}...)",
    ]
    assert f"{group.rows[1].label}: {texts[0]}" in notes(group)
    (twins,) = grouped([record("peft", overrides=[texts[0] + end], config_hash=end * 9) for end in "ab"])
    assert [row.label[-14:] for row in twins.rows] == ["...) #aaaaaaaa", "...) #bbbbbbbb"]


def test_candidates_stand_in_the_table_and_unlike_ones_in_the_notes():
    (group,) = grouped([record("ssna"), tuned("lora", 0.3, 31.42), tuned("full", 0.3, 1001.0)])
    assert [cells_of(group, label, 1)[1] for label in ("ssna", "lora", "full")] == ["n/a", "31.4", "1,001"]
    (expected_text,) = [note for note in notes(group) if "number of softmax candidates" in note]
    assert "31.4 candidates: lora; 1,001 candidates: full." in expected_text
    (alike,) = grouped([tuned("lora", 0.3, 250.0), tuned("full", 0.3, 252.0)])
    assert not any("number of softmax candidates" in note for note in notes(alike))


def test_a_run_that_is_not_alive_shows_no_figures_even_where_it_has_them():
    dead = tuned("adalora", 0.3, status="failed", error="no rank moved")
    (group,) = grouped([dead, record("ssna")])
    assert cells_of(group, "adalora")[1:] == ["failed"] * 8 + ["0 of 1"]
    assert cells_of(group, "adalora", 1)[1:] == ["failed"] * 7 + ["0 of 1"]
    assert "adalora, seed 0: failed: no rank moved" in notes(group)


def test_readers_of_tokens_show_preparation_halvings_and_start():
    run = tuned("full", 0.3)
    run.cost.chunk_halvings = 2
    (group,) = grouped([run, record("ssna")])
    assert cells_of(group, "full", 1)[5] == cells_of(group, "ssna", 1)[5] == "31.2"
    assert "full, seed 0: chunks of texts were halved to fit into memory (2x, to 4,096 tokens)." in notes(
        group
    )
    full, ssna = lines_of(group)
    assert (full["initial_valid_recall@10"], ssna["initial_valid_recall@10"]) == ("0.02", "")
    assert (full["valid_recall@10"], full["ranks_moved"], full["encodings_per_epoch"]) == (
        "0.3",
        "0.97",
        "120000",
    )
    assert (full["chunk_halvings"], ssna["chunk_tokens"]) == ("2", "")


def test_labels_show_only_overrides_that_not_all_rows_have():
    runs = [record("ssna", overrides=["ids=add", "epochs=3"]), record("ssna", overrides=["epochs=3"])]
    (group,) = grouped(runs)
    assert [row.label for row in group.rows] == ["ssna", "ssna (ids=add)"]
    assert "every row with epochs=3" in group.caption


def test_equal_labels_of_two_configurations_are_distinguished():
    (group,) = grouped(
        [record("ssna", config_hash="aaaabbbbcccc"), record("ssna", config_hash="ddddeeeeffff")]
    )
    assert [row.label for row in group.rows] == ["ssna #aaaabbbb", "ssna #ddddeeee"]


def test_external_methods_name_their_distribution():
    source = {"distribution": "their-pkg", "version": "2.1", "external": True}
    (group,) = grouped([record("mine", method_source=source)])
    assert group.rows[0].label == "mine [external: their-pkg 2.1]"


def test_seeds_are_one_row_with_mean_and_interval(tmp_path):
    values = [0.30, 0.31, 0.35]
    runs = [record("ssna", value, seed) for seed, value in enumerate(values)] + [record("tmlp", 0.2)]
    (group,) = as_tables(tmp_path, runs)
    samples = bootstrap([{seed: (ranks(value * 1.1) <= 10)[:, None] for seed, value in enumerate(values)}])
    low, high = (float(end.item()) for end in interval(samples))
    half = f"{(high - low) / 2:.4f}".removeprefix("0")
    assert cells_of(group, "ssna")[1] == f"* .3520 ± {half}"
    assert cells_of(group, "ssna")[-1] == "3"
    assert re.fullmatch(r"\.2200 ± \.02\d\d", cells_of(group, "tmlp")[1])  # over users alone
    line = lines_of(group)[0]
    assert float(line["test_recall@10"]) == statistics.fmean(values)
    assert float(line["test_masked_recall@10_half_width"]) == pytest.approx((high - low) / 2, rel=1e-6)
    assert line["seeds"] == "0 1 2"
    (of_intervals,) = [note for note in notes(group) if "over users and seeds" in note]
    assert of_intervals.endswith("Over users alone, since they have one seed: tmlp.")


def test_costs_have_intervals_over_seeds():
    seconds = [2.0, 2.5, 3.5]
    (group,) = grouped([record("a", seed=seed, seconds=value) for seed, value in enumerate(seconds)])
    half = 4.302653 * statistics.stdev(seconds) / math.sqrt(3)
    assert cells_of(group, "a", 1)[2] == f"2.67 ± {half:.2f}"


def test_one_seed_twice_is_refused():
    with pytest.raises(UserError, match=r"2 records of ssna on toy .* seed 0; keep one"):
        grouped([record("ssna"), record("ssna")])


def test_bold_are_the_best_row_and_those_not_shown_to_differ_from_it(tmp_path):
    data = {"key": "k1", "chance": {"test": metrics(0.01)}, "ceiling": {"test": metrics(0.45)}}
    runs = [record(name, value) for name, value in (("a", 0.2), ("b", 0.3), ("c", 0.3), ("d", 0.1))]
    (group,) = as_tables(tmp_path, [run.model_copy(update={"data": data}) for run in runs])
    cells = {label: cells_of(group, label) for label in ("a", "b", "c", "d", "chance", "ceiling")}
    for column in range(1, 9):  # masked and raw
        assert [cells[label][column].startswith("* ") for label in "abcd"] == [False, True, True, False]
    assert cells["ceiling"][1:] == ["n/a"] * 4 + [".4500", ".9000", ".2250", ".3375"]
    assert cells["chance"][5:9] == [".0100", ".0200", ".0050", ".0075"]
    assert [row.label for row in group.bounds] == ["chance", "ceiling"]
    text = render(group, "markdown")
    assert text.count("**Bold**: the best row of a column, and all rows whose difference from it is not") == 1
    assert "**.3000 ± .0" in text and "**.2000" not in text


def test_rows_without_figures_show_their_status_and_reason():
    (group,) = grouped(
        [record("ssna"), failure("lora", "oom"), failure("full"), record("tmlp"), failure("tmlp", seed=1)]
    )
    assert cells_of(group, "lora")[1:] == ["oom"] * 8 + ["0 of 1"]
    assert cells_of(group, "full", block=1)[1:] == ["failed"] * 7 + ["0 of 1"]
    assert cells_of(group, "tmlp")[-1] == "1 of 2"
    text = render(group, "text")
    for expected_text in ("lora, seed 0: oom: lora broke badly", "tmlp, seed 1: failed: tmlp broke badly"):
        assert expected_text in text
    line = next(line for line in lines_of(group) if line["method"] == "lora")
    assert (line["status"], line["test_recall@10"], line["seeds"], line["seeds_not_ok"]) == (
        "oom",
        "",
        "",
        "0",
    )


def test_what_was_not_measured_is_never_zero():
    runs = [record("a", cost=Cost()), record("b", memory=PeakMemory(), llm=None)]
    (group,) = grouped(runs)
    assert cells_of(group, "a", 1)[1:] == ["n/a", "n/a", "n/a", "8 / 12", "n/a", "n/a", "n/a", "1"]
    assert cells_of(group, "b", 1)[5:7] == ["n/a", "n/a"]
    line = lines_of(group)[0]
    assert (line["epoch_seconds"], line["peak_memory_bytes"], line["test_warm_recall@10"]) == ("", "", "")


def test_memory_states_its_kind_and_takes_the_largest_seed():
    both = [PeakMemory(allocated=GIB * size, host=9 * GIB) for size in (2, 3)]
    runs = [record("a", seed=seed, memory=memory) for seed, memory in enumerate(both)]
    runs += [record("b", memory=PeakMemory(host=GIB // 2))]
    (group,) = grouped(runs)
    assert cells_of(group, "a", 1)[6] == "3.00 GPU"
    assert cells_of(group, "b", 1)[6] == "0.50 host"
    assert [(line["peak_memory_bytes"], line["peak_memory_kind"]) for line in lines_of(group)] == [
        (str(3 * GIB), "GPU"),
        (str(GIB // 2), "host"),
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.00123, "0.0012"), (0.5, "0.50"), (9.87, "9.87"), (31.25, "31.2"), (1234.5, "1,234")],
)
def test_seconds_keep_about_three_digits(value, shown):
    (group,) = grouped([record("a", seconds=value)])
    assert cells_of(group, "a", 1)[2] == shown


def test_without_a_comparison_nothing_is_bold(tmp_path):
    (alone,) = as_tables(tmp_path, [record("a", 0.2), failure("b")])
    assert "**Bold**" not in render(alone, "markdown") and "**.2" not in render(alone, "markdown")
    (without_ranks,) = grouped([record("a", 0.2), record("b", 0.3)])
    assert "**.3" not in render(without_ranks, "markdown") and "±" not in render(without_ranks, "markdown")


def test_warm_and_cold_stand_only_where_there_are_cold_targets():
    (without,) = grouped([record("a")])
    (group,) = grouped([record("a", 0.2, cold=0.1), record("b", 0.3)])
    assert "cold" not in render(without, "text")
    assert cells_of(group, "a")[9:13] == [".2004", ".1002", ".1000", ".0500"]
    assert cells_of(group, "b")[9:13] == ["n/a"] * 4
    assert "4 test targets are cold" in group.caption


NASTY = r"a_b & c% #1 ${x}$ ~^ \ | <i> [2] --x `q`"


def test_latex_escapes_everything_and_its_columns_agree():
    (group,) = grouped([record("x", overrides=[NASTY]), record("y"), failure("z", error=NASTY)])
    text = render(group, "latex")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    math_free = body.replace(r"$\pm$", "").replace(FIT, "{")
    for pattern in (r"(?<!\\)[%#$]", r"(?<!\\)_", r"[~^<>|]", r"(?<!\\)`"):
        assert not re.search(pattern, math_free), pattern
    bare = re.sub(r"\\[{}]", "", body)
    assert bare.count("{") == bare.count("}")
    tables = re.findall(r"\\begin\{tabular\}\{(lr*)\}(.*?)\\end\{tabular\}", text, re.S)
    assert len(tables) == 2
    for columns, inside in tables:
        rows = [line for line in inside.splitlines() if line.endswith(r"\\")]
        assert len(rows) == 4
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
        assert not any(row.lstrip().startswith("[") for row in rows)
        assert [inside.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"a\_b \& c\% \#1 \$\{x\}\$ \textasciitilde{}\textasciicircum{} \textbackslash{}" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 4


def test_markdown_has_as_many_cells_in_each_line_whatever_the_names():
    (group,) = grouped([record("x", overrides=[NASTY]), record("_y_*"), record("z")])
    text = render(group, "markdown")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    assert len(tables) == 2
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert r"\_y\_\*" in text
    assert "<i>" not in text


def test_csv_keeps_full_precision_and_has_one_line_a_row():
    value = 0.1234567890123456
    (group,) = grouped([record("a", value), record('b, "c"\n', 0.2)])
    lines = lines_of(group)
    assert len(lines) == 2
    assert float(lines[0]["test_recall@10"]) == value
    assert lines[1]["method"] == 'b, "c"\\n', "a line feed in a name is written as two characters"
    assert not re.search(r"\*", render(group, "csv"))
    assert {f"test_{name}" for name in METRICS} | {f"test_masked_{name}" for name in METRICS} <= set(lines[0])


def test_unknown_style_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'markdown'"):
        render(grouped([record()])[0], "markdwn")  # type: ignore[arg-type]


def test_printed_tables_are_those_of_every_group():
    text = print_tables(as_runs(study()))
    assert text.count("Test, full catalogue: the user's history masked, and raw") == 2
    assert all(name in text for name in ("protocol fair", "protocol paper", "chance", "ceiling", "oom"))
    assert print_tables(as_runs(reversed(study()))) == text
