"""Pictures, with matplotlib (the extra `plot`)."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedsec.errors import MissingExtraError


def accuracy_and_epsilon(
    accuracy: Sequence[float], epsilon: Sequence[float], reference: float, title: str
) -> bytes:
    """A PNG with accuracy (left axis, the level reached without privacy dashed) and epsilon over rounds."""
    rounds = range(1, len(accuracy) + 1)
    figure = _figure(7.0, 4.0)
    left = figure.add_subplot()
    left.plot(rounds, accuracy, color="tab:blue", label="accuracy")
    left.axhline(reference, color="tab:blue", linestyle="--", linewidth=1, label="accuracy without privacy")
    left.set(xlabel="round", ylabel="accuracy", ylim=(0, 1), title=title)
    right = left.twinx()
    right.plot(rounds, epsilon, color="tab:red", label="epsilon")
    right.set(ylabel="epsilon (upper bound)", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return _png(figure)


def privacy_curves(curves: Mapping[str, Any]) -> bytes:
    """A PNG of what `curves.privacy_curves` computes, side by side."""
    figure = _figure(13.0, 4.0)
    for axes, draw in zip(figure.subplots(1, 3), _CURVES.values(), strict=True):
        draw(axes, curves)
    return _png(figure)


def privacy_curves_svg(curves: Mapping[str, Any]) -> dict[str, str]:
    """The same pictures by name, each as an SVG element for a page."""
    return {name: _drawn(draw, curves) for name, draw in _CURVES.items()}


def _drawn(draw: Callable[[Any, Mapping[str, Any]], None], curves: Mapping[str, Any]) -> str:
    figure = _figure(5.0, 3.6)
    draw(figure.add_subplot(), curves)
    return _svg(figure)


def _delta_over_epsilon(axes: Any, curves: Mapping[str, Any]) -> None:
    bounds = curves["delta_over_epsilon"]
    _band(axes, bounds["epsilon"], bounds["delta_lower"], bounds["delta_upper"])
    axes.set_yscale("log", nonpositive="mask")
    axes.axhline(curves["delta"], color="tab:gray", linestyle=":", linewidth=1)
    axes.set(xlabel="epsilon", ylabel="delta", title="delta over epsilon")


def _errors_of_an_attack(axes: Any, curves: Mapping[str, Any]) -> None:
    errors = curves["tradeoff"]
    axes.plot(errors["false_alarms"], errors["misses_at_least"], color="tab:blue", label="no attack is below")
    axes.plot([0, 1], [1, 0], color="tab:gray", linestyle=":", linewidth=1, label="guessing")
    axes.set(xlabel="false alarms", ylabel="misses", xlim=(0, 1), ylim=(0, 1), title="errors of an attack")
    axes.legend(frameon=False)


def _epsilon_over_steps(axes: Any, curves: Mapping[str, Any]) -> None:
    spent = curves["epsilon_over_steps"]
    _band(axes, spent["steps"], spent["epsilon_lower"], spent["epsilon_upper"])
    axes.set(xlabel="steps", ylabel="epsilon", ylim=(0, None), title=f"epsilon at delta {curves['delta']:g}")


_CURVES = {
    "delta over epsilon": _delta_over_epsilon,
    "errors of an attack": _errors_of_an_attack,
    "epsilon over steps": _epsilon_over_steps,
}


def _band(axes: Any, x: Sequence[float], lower: Sequence[float], upper: Sequence[float]) -> None:
    """An upper bound as a line and, where one is known, the lower one dashed and what lies between shaded."""
    axes.plot(x, upper, color="tab:red", label="upper bound")
    known = [bound > 0.0 for bound in lower]
    if any(known):
        axes.plot(x, lower, color="tab:blue", linestyle="--", label="lower bound")
        axes.fill_between(x, lower, upper, where=known, color="tab:red", alpha=0.15, linewidth=0)
    axes.legend(frameon=False)


def _figure(width: float, height: float) -> Any:
    """An empty figure that needs no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("a picture needs matplotlib: pip install 'fedsec[plot]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format="png")
    return png.getvalue()


def _svg(figure: Any) -> str:
    """The figure as an element: no prolog, no outside resource."""
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    text = svg.getvalue()
    return text[text.index("<svg") :]
