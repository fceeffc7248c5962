"""Numbers as tables print them."""

from __future__ import annotations

from collections.abc import Callable

from benchmark.report.stats import Estimate


def seconds(figure: Estimate) -> str:
    """Seconds to about three digits, and the half-width to as many decimals."""
    decimals = next((places for limit, places in ((0.1, 4), (10, 2), (100, 1)) if figure.mean < limit), 0)
    return with_interval(figure, lambda value: f"{value:,.{decimals}f}")


def gibibytes(value: float) -> str:
    """Bytes as GiB."""
    return f"{value / 2**30:.2f}"


def share(value: float) -> str:
    """A metric in [0, 1] to four digits, without the zero before the point."""
    return f"{value:.4f}".removeprefix("0")


def with_interval(figure: Estimate, show: Callable[[float], str]) -> str:
    """`mean ± half-width`, or the plain figure of one seed."""
    return show(figure.mean) + (f" ± {show(figure.half_width)}" if figure.half_width is not None else "")


def count(value: float) -> str:
    """A mean number of things, or a sum of seconds, to about three digits where it is small."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
