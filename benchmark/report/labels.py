"""Where the labels of a plot's bubbles stand: near their own, off all others, on nothing that is drawn.

Symbols in shape comments: `P` bubbles, `C` places tried for a label, `N` boxes that are taken, `L` boxes of a
line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmark.report.drawing import look_of
from benchmark.results.metrics import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Point(NamedTuple):
    """A row in the plots of quality."""

    place: int
    label: str
    x: float
    y: float
    ends: tuple[float, float] | None
    """Of its bar: the least and the most of its seeds, or the interval; None where there is none."""
    memory: float | None
    """Bytes; None where it was not measured in the kind that the plot shows."""
    control: bool = False
    on_front: bool = False


GAPS = ((3.0, 8), (14.0, 16), (28.0, 24), (44.0, 24), (62.0, 24))
"""Points between a bubble and its label, tried from the nearest, and in how many directions."""
LINKS = np.arange(2, 25)[:, None] / 25  # [L, 1]
"""Where the boxes that a line is taken for stand between a bubble and its label."""
NEAR, MISTAKEN = 6.0, 600.0
"""Points by which its own bubble must be nearer to a label than any other, and the cost where it is not: that
of so many square points covered."""
ON_TEXT = 8.0
"""What a square pixel of another label costs, where one of a bubble, bar or line costs 1: of two letters on
each other none can be read."""
Boxes = Floats
"""`[..., 4]` left, lower, right and upper ends in pixels."""


def place_labels(
    figure: Figure,
    axes: Axes,
    points: Sequence[Point],
    areas: Sequence[float],
    corners: Sequence[tuple[float, float]],
) -> None:
    """Write each label at the nearest place where it hides no bubble, label, edge or step of the front.

    A label that is not at its bubble gets a line to it, which counts as taken room too.
    """
    figure.draw_without_rendering()  # fixes the axes, so that pixels can be counted
    figure.set_layout_engine("none")
    to_pixels, scale = axes.transData.transform, figure.dpi / 72  # pixels of a point
    radii = np.sqrt(np.array(areas) / np.pi) * scale
    frame = np.array(axes.bbox.extents)  # [4]
    centres = to_pixels([(point.x, point.y) for point in points])  # [P, 2]
    ends = to_pixels([(point.x, end) for point in points for end in point.ends or (point.y, point.y)])
    steps = to_pixels(corners)  # [S, 2]
    taken = np.concatenate(
        [
            _around(centres, centres, radii[:, None]),
            _around(ends[::2], ends[1::2], np.array([3, 0])),
            _around(np.minimum(steps[:-1], steps[1:]), np.maximum(steps[:-1], steps[1:]), 2),
        ]
    )  # [N, 4]
    weights = np.ones(len(taken))  # [N]
    for place, (point, centre, radius) in enumerate(zip(points, centres, radii, strict=True)):
        colour = look_of(point.place)["color"]
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": radius / scale}
        look: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "zorder": 5}
        note = axes.annotate(point.label, (point.x, point.y), (0, 0), arrowprops=line, **look)
        size = np.array(note.get_window_extent().size)
        others = np.delete(centres, place, axis=0), np.delete(radii, place)
        middle, box, links = _best_place(centre, radius, scale, size, (taken, weights), frame, others)
        note.set_position((middle - centre) / scale)
        if note.arrow_patch is not None:
            note.arrow_patch.set_visible(len(links) > 0)
        taken = np.concatenate([taken, box[None], links])
        weights = np.concatenate([weights, [ON_TEXT], np.ones(len(links))])


def _best_place(
    centre: Floats,
    radius: float,
    scale: float,
    size: Floats,
    taken: tuple[Boxes, Floats],
    frame: Boxes,
    others: tuple[Floats, Floats],
) -> tuple[Floats, Boxes, Boxes]:
    """The middle `[2]` of a label of this size about a bubble, its box `[4]`, and those of its line `[L, 4]`.

    It is the place of least cost inside the frame: square pixels that it covers of what is `taken`, boxes and
    their weights, a little for distance, and more where one of the `others`, centres and radii, is as near as
    its own bubble.
    """
    tried = [(gap, turn / turns) for gap, turns in GAPS for turn in range(turns)]
    gap, turn = np.array(tried).T  # [C] each
    reach = radius + gap * scale
    direction = np.stack([np.cos(turn * math.tau), np.sin(turn * math.tau)], axis=1)  # [C, 2]
    side = np.stack([np.sign(direction[:, 0].round(9)), direction[:, 1]], axis=1)  # [C, 2] of the label
    middles = centre + direction * reach[:, None] + side * size / 2  # [C, 2]
    middles = np.clip(middles, frame[:2] + size / 2, frame[2:] - size / 2)  # none is cut at an edge
    boxes = _around(middles, middles, size / 2)  # [C, 4]
    own = _distance(boxes, centre[None])[:, 0] - radius  # [C, 1] -> [C]
    near = (_distance(boxes, others[0]) - others[1]).min(1, initial=np.inf) <= own + NEAR * scale  # [C]
    apart = own > GAPS[0][0] * scale + 0.5  # an edge of the frame may move a label away from its bubble
    chain = centre + (middles - centre)[:, None] * LINKS  # [C, L, 2]
    links = _around(chain, chain, 1.5)  # [C, L, 4]
    seen = apart[:, None] & (overlap(links, boxes[:, None]) == 0)  # [C, L]
    covered = overlap(boxes[:, None], taken[0]) @ taken[1]  # [C, N] -> [C]
    crossed = (overlap(links[:, :, None], taken[0]) @ taken[1] * seen).sum(1)  # [C, L, N] -> [C, L] -> [C]
    cost = covered + crossed + reach / 2 + near * MISTAKEN * scale**2  # [C]
    best = int(cost.round(6).argmin())  # of places as good, the first on any machine
    return middles[best], boxes[best], links[best, seen[best]]


def _distance(boxes: Boxes, points: Floats) -> Floats:
    """Pixels from each box `[C, 4]` to each point `[N, 2]`, 0 inside: `[C, N]`."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]  # [C, 1, 2]
    outside = np.maximum(np.maximum(low - points, points - high), 0)  # [C, N, 2]
    distance: Floats = np.hypot(outside[..., 0], outside[..., 1])  # [C, N]
    return distance


def _around(low: Floats, high: Floats, margin: Floats | float) -> Boxes:
    """Boxes from `low` to `high`, both `[..., 2]`, and a margin about them."""
    return np.concatenate([low - margin, high + margin], axis=-1)  # [..., 4]


def overlap(a: Boxes, b: Boxes) -> Floats:
    """Square pixels that boxes share, `[...]`."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # [..., 2]
    area: Floats = sides.clip(0).prod(-1)  # [..., 2] -> [...]
    return area
