"""Plots: what they show, and that labels hide nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from io import BytesIO

import pandas as pd
import pytest
from matplotlib.image import imread
from matplotlib.transforms import Bbox
from report_records import GIB, failure, grouped, record, study, tuned

from benchmark.report import drawing, plots, total_cost, tuning
from benchmark.results.groups import RunRow
from benchmark.results.record import Cost
from benchmark.results.schema import PeakMemory
from benchmark.results.tuning import Trial, Tuning


def drawn(group, kind):
    with drawing.new_figure(plots.HEIGHT) as figure:
        axes = figure.add_subplot()
        shown = (plots.draw_curves if kind == "curves" else plots.draw_quality)(group, figure, axes)
    return shown, figure, axes


def test_one_bold_line_a_row_with_the_chosen_epoch_marked():
    group = grouped(study())[0]
    _, figure, axes = drawn(group, "curves")
    bold = [line for line in axes.lines if line.get_linewidth() > 1]
    assert [line.get_label() for line in bold] == [
        f"{row.label} (n = {len(row.ok)})" for row in group.rows if row.ok
    ]
    assert all(line.get_xdata()[line.get_markevery()[0]] == 8 for line in bold)
    assert len(axes.lines) - len(bold) == 2  # the other two seeds of ssna
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [line.get_label() for line in bold]


def test_curves_begin_before_training_where_a_record_knows_it():
    (group,) = grouped([tuned("lora", 0.3), record("ssna")])
    _, _, axes = drawn(group, "curves")
    lora, ssna = axes.lines
    assert axes.get_xlabel() == "epoch (0: before training)"
    assert (lora.get_xdata()[0], lora.get_ydata()[0], ssna.get_xdata()[0]) == (0, 0.03, 1)
    assert [line.get_xdata()[line.get_markevery()[0]] for line in (lora, ssna)] == [8, 8]


def test_a_beginning_near_chance_does_not_press_the_curves_into_a_strip():
    low = record("id", 0.1, curve=[*record("id", 0.1).curve])
    low.curve[0].valid_masked["recall@10"] = 0.001
    (group,) = grouped([low, record("ssna", 0.12)])
    _, figure, axes = drawn(group, "curves")
    ends = [max(line.get_ydata()) for line in axes.lines]
    bottom, top = axes.get_ylim()
    assert 0.001 < bottom == pytest.approx(min(ends) * (1 - plots.BELOW)) and max(ends) < top
    assert "lowest beginnings cut off" in figure.legends[0].get_title().get_text()
    whole = drawn(grouped([record("ssna", 0.12)])[0], "curves")
    assert whole[2].get_ylim()[0] < min(whole[2].lines[0].get_ydata())
    assert "cut off" not in whole[1].legends[0].get_title().get_text()


def test_bars_are_the_least_and_the_most_of_the_seeds():
    (group,) = grouped([record("a", recall, seed) for seed, recall in enumerate((0.1, 0.5, 0.2))])
    _, figure, axes = drawn(group, "quality")
    bars = [
        list(line.get_ydata()) for line in axes.lines if line.get_marker() == "_" and len(line.get_xdata())
    ]
    assert bars == [pytest.approx([0.11, 0.55])]  # masked
    assert "least to most of the seeds" in [text.get_text() for text in figure.legends[0].get_texts()]
    _, figure, _ = drawn(grouped([record("a", 0.1)])[0], "quality")
    assert "least to most of the seeds" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_plot_of_rows_with_unlike_candidates_has_a_note():
    unlike, alike = (grouped([tuned("lora", 0.3, 31.0), tuned("full", 0.3, n)])[0] for n in (252.0, 31.0))
    note = b"differ in their number of candidates"
    for kind in ("curves", "quality"):
        assert note in plots.draw(unlike, kind)["svg"]
        assert note not in plots.draw(alike, kind)["svg"]


def test_the_line_of_several_seeds_is_the_median_one():
    (group,) = grouped([record("a", recall, seed) for seed, recall in enumerate((0.1, 0.5, 0.2))])
    _, _, axes = drawn(group, "curves")
    (bold,) = [line for line in axes.lines if line.get_linewidth() > 1]
    assert max(bold.get_ydata()) == pytest.approx(0.22)  # masked


def test_looks_of_28_rows_differ_even_without_colour_in_seven():
    looks = [drawing.look_of(place) for place in range(28)]
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == 28
    assert len({look["marker"] for look in looks[:7]}) == 7


def test_area_is_in_proportion_to_memory_and_hollow_where_unknown():
    memory = [PeakMemory(host=4 * GIB), PeakMemory(host=GIB), PeakMemory()]
    (group,) = grouped([record(name, 0.1, memory=one) for name, one in zip("abc", memory, strict=True)])
    _, _, axes = drawn(group, "quality")
    bubbles = [c for c in axes.collections if len(c.get_offsets()) == 1]
    assert bubbles[0].get_sizes()[0] == pytest.approx(4 * bubbles[1].get_sizes()[0])
    assert len(bubbles[2].get_facecolor()) == 0


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ((0.4, 0.4), {"0.40 GiB": 1}),
        ((0.4, 0.41), {"0.40 to 0.41 GiB": 1}),
        ((0.5, 2.0, 0.7), {"2.00 GiB": 1, "0.50 GiB": 0.25}),
        ((), {}),
    ],
)
def test_the_legend_shows_the_largest_and_the_smallest_bubble(memory, expected):
    peaks = [PeakMemory(host=int(size * GIB)) for size in memory] or [PeakMemory()]
    (group,) = grouped([record(f"m{n}", 0.1, memory=one) for n, one in enumerate(peaks)])
    _, figure, axes = drawn(group, "quality")
    areas = {c.get_label(): c.get_sizes()[0] / plots.LARGEST for c in axes.collections if c.get_label()}
    shown = [text.get_text() for text in figure.legends[0].get_texts() if "GiB" in text.get_text()]
    assert {label: areas[label] for label in shown} == pytest.approx(expected)


@pytest.mark.parametrize(("slow", "scale"), [(19.0, "linear"), (21.0, "log")])
def test_the_axis_of_seconds_is_logarithmic_from_a_factor_of_ten(slow, scale):
    (group,) = grouped([record("a", seconds=2.0), record("b", seconds=slow)])
    assert drawn(group, "quality")[2].get_xscale() == scale


def test_labels_hide_neither_each_other_nor_bubbles_and_stay_inside():
    crowd = [record(f"method-{n}", 0.2 + 0.004 * (n % 4), seconds=5 + 0.3 * (n // 4)) for n in range(12)]
    (group,) = grouped(crowd)
    _, figure, axes = drawn(group, "quality")
    figure.draw_without_rendering()
    labels = [text.get_window_extent() for text in axes.texts]
    bubbles = [axes.transData.transform((x, y)) for x, y in places(axes)]
    assert len(labels) == len(bubbles) == 12
    for place, label in enumerate(labels):
        assert shared(label, axes.bbox) == pytest.approx(label.width * label.height)
        assert all(shared(label, other) < 1 for other in labels[place + 1 :])
        assert not any(label.x0 < x < label.x1 and label.y0 < y < label.y1 for x, y in bubbles)


OVERRIDES = [f"setting_{n}={'v' * 3 * n}" for n in range(12)]
LABELS = ["W" * 150, *("tmoe (" + ", ".join(OVERRIDES[:count]) + ")" for count in range(1, 12))]
TITLE = "data, an/organisation-with-a-long-name/and-a-model-with-a-longer-one, protocol fair, " * 2


def plots_of_long_labels():
    """Plot -> its files."""
    overrides = [OVERRIDES[: n + 1] for n in range(12)]
    runs = [record("tmoe", 0.1 + n / 500, overrides=own, seconds=1 + n) for n, own in enumerate(overrides)]
    (group,) = grouped([*runs, record("W" * 150, 0.13)])
    group = replace(group, key=group.key._replace(dataset=TITLE))
    yield "curves", plots.draw(group, "curves")
    yield "quality", plots.draw(group, "quality")
    costs = pd.DataFrame({"preparation": 2.0, "validation": 31.0}, index=LABELS)
    yield "costs", total_cost.draw_costs(TITLE, costs)
    courses = [total_cost.Course(label, 5.0, 2.0 + n, bool(n % 2), 9) for n, label in enumerate(LABELS)]
    yield "epochs", total_cost.draw_epochs(TITLE, courses, [])
    trials = [Trial(overrides=[], config_hash=f"t{n}", status="ok", selection=0.1 * n) for n in (1, 2)]
    search = Tuning(mode="search", chosen=[], trials=trials)
    yield "search", tuning.draw(group, [(RunRow(label), search) for label in LABELS])


def test_no_label_is_cut_whatever_its_length():
    for name, files in plots_of_long_labels():
        image = imread(BytesIO(files["png"]))[..., :3]
        for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
            assert (edge == 1).all(), f"{name}: something reaches the edge"
        svg = files["svg"].decode()
        (box,) = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        texts = re.findall(r'<text[^>]* x="([-\d.]+)" y="([-\d.]+)"', svg)
        assert len(texts) > 10, name
        for place in texts:
            assert all(0 < float(x) < float(end) for x, end in zip(place, box, strict=True)), (name, place)


def test_a_label_is_shortened_only_where_its_lines_are_too_many():
    assert drawing.wrapped("id (tuned, best of 12)", 300.0) == "id (tuned, best of 12)"
    lines = drawing.wrapped(LABELS[4], 150.0).splitlines()
    assert " ".join(lines) == LABELS[4] and len(lines) > 1
    cut = drawing.wrapped(LABELS[-1], 150.0, most=3).splitlines()
    assert len(cut) == 3 and cut[-1].endswith("...") and LABELS[-1].startswith(cut[0])


def shared(a: Bbox, b: Bbox) -> float:
    """Square pixels that both cover."""
    both = Bbox.intersection(a, b)
    return both.width * both.height if both else 0.0


def places(axes):
    return [c.get_offsets()[0] for c in axes.collections if len(c.get_offsets()) == 1]


@pytest.mark.parametrize("kind", ["curves", "quality"])
def test_nothing_to_show_gives_no_files(kind):
    (group,) = grouped([failure("a"), record("b", curve=[], cost=Cost())])
    assert plots.draw(group, kind) == {}


def test_a_name_with_dollars_is_drawn_as_it_is():
    (group,) = grouped([record("a", overrides=["x=$\\frac$"]), record("b", 0.3)])
    assert set(plots.draw(group, "quality")) == {"png", "svg"}


def test_vector_plots_carry_no_date():
    svg = plots.draw(grouped(study())[0], "curves")["svg"].decode()
    assert not re.search(r"<dc:date>|20\d\d-\d\d-\d\d", svg)


def test_a_run_of_one_epoch_is_drawn():
    short = record("a", curve=record().curve[:1], epochs_run=1, best_epoch=1)
    (group,) = grouped([short, record("b")])
    assert set(plots.draw(group, "curves")) == {"png", "svg"}
