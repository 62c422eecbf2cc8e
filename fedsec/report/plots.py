"""Pictures, with matplotlib (the extra `plot`)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec.errors import InvalidArgumentError, InvalidTypeError, MissingExtraError

# So many clients have a row each; of more, only how their sizes and labels are spread can be read.
_MAX_ROWS = 60


def accuracy_and_epsilon(
    accuracy: Sequence[float], epsilon: Sequence[float], reference: float | None, title: str
) -> bytes:
    """A PNG with accuracy (left axis) and epsilon (right axis) over rounds.

    `reference`, if there is one, is the accuracy without privacy, a dashed level. Where epsilon is infinite
    there is accuracy alone.
    """
    rounds = range(1, len(accuracy) + 1)
    figure = _figure(7.0, 4.0)
    left = figure.add_subplot()
    left.plot(rounds, accuracy, color="tab:blue", label="accuracy")
    if reference is not None:
        left.axhline(
            reference, color="tab:blue", linestyle="--", linewidth=1, label="accuracy without privacy"
        )
    left.set(xlabel="round", ylabel="accuracy", ylim=(0, 1), title=title)
    if all(map(math.isfinite, epsilon)):
        _epsilon_over_rounds(left.twinx(), epsilon)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return _png(figure)


def epsilon_over_rounds(epsilon: Sequence[float], title: str = "") -> bytes:
    """A PNG of what was spent after each round, an upper bound.

    Raises
    ------
    InvalidArgumentError
        No round, or one that has no finite epsilon.
    """
    if not epsilon or not all(map(math.isfinite, epsilon)):
        raise InvalidArgumentError(f"epsilon must be finite for each round, got {list(epsilon)!r:.100}")
    figure = _figure(6.0, 4.0)
    axes = figure.add_subplot()
    _epsilon_over_rounds(axes, epsilon)
    axes.set(xlabel="round", title=title)
    return _png(figure)


def accuracy_against_epsilon(lines: Mapping[str, Sequence[tuple[float, float, float]]]) -> bytes:
    """A PNG of accuracy over epsilon, on a logarithmic axis: what privacy costs.

    `lines` has for each name points (epsilon, accuracy, spread), ascending; bars are one spread to both
    sides. A run without privacy, at infinity, is a dashed level.

    Raises
    ------
    InvalidArgumentError
        No point at all.
    """
    if not any(lines.values()):
        raise InvalidArgumentError("lines must have at least one point, got none")
    figure = _figure(6.5, 4.0)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(lines.items()):
        color, label = f"C{number}", name or "accuracy"
        finite = [point for point in points if math.isfinite(point[0])]
        if finite:
            epsilon, accuracy, spread = zip(*finite, strict=True)
            axes.errorbar(epsilon, accuracy, spread, color=color, label=label, marker="o", capsize=3)
        for _, level, _ in (point for point in points if not math.isfinite(point[0])):
            axes.axhline(level, color=color, linestyle="--", linewidth=1, label=f"{label} without privacy")
    axes.set(xlabel="epsilon (upper bound)", ylabel="accuracy", xscale="log")
    axes.legend(frameon=False)
    return _png(figure)


def aggregation_by_phase(seconds: Mapping[str, Mapping[str, float]]) -> bytes:
    """A PNG of the seconds of secure aggregation by phase: one client's (left), the server's (right).

    `seconds` is {phase: {"client": seconds, "server": seconds}}, as `secagg.aggregate(...).seconds` is.

    Raises
    ------
    InvalidArgumentError
        No phase, or one without both sides.
    """
    if not seconds:
        raise InvalidArgumentError("seconds must have at least one phase, got none")
    for phase, sides in seconds.items():
        if not {"client", "server"} <= sides.keys():
            raise InvalidArgumentError(f"seconds of {phase} must be of client and server, got {list(sides)}")
    figure = _figure(9.0, 3.6)
    for axes, side in zip(figure.subplots(1, 2), ("client", "server"), strict=True):
        axes.barh(list(seconds), [sides[side] for sides in seconds.values()], color="tab:blue")
        axes.invert_yaxis()
        axes.set(xlabel="seconds", title={"client": "one client", "server": "server"}[side])
    return _png(figure)


def tradeoff_curve(curves: Mapping[str, Any]) -> bytes:
    """A PNG of the errors that no attack avoids, from what `curves.privacy_curves` computes."""
    figure = _figure(5.0, 4.0)
    _errors_of_an_attack(figure.add_subplot(), curves)
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


def label_counts(counts: npt.NDArray[np.integer[Any]], labels: Sequence[object] | None = None) -> bytes:
    """A PNG of who has how many records of which label.

    Up to 60 clients are rows of a heat map over labels. Of more, there are two histograms: of the records a
    client has, and of the labels it has any record of.

    Parameters
    ----------
    counts : integers (clients, labels), at least 0
        What `fedsec.federated.partition.label_counts` returns.
    labels : sequence, optional
        The labels' names, one a column; 0, 1, ... otherwise.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        `counts` is not such an array, or has no client or no label; another number of names.
    MissingExtraError
        Without matplotlib.
    """
    _require_counts(counts)
    names = [str(label) for label in (range(counts.shape[1]) if labels is None else labels)]
    if len(names) != counts.shape[1]:
        raise InvalidArgumentError(f"labels must name {counts.shape[1]} columns, got {len(names)}")
    return _png(_heat_map(counts, names) if len(counts) <= _MAX_ROWS else _histograms(counts))


def growth_of_aggregation(rows: Mapping[str, Mapping[str, float]]) -> bytes:
    """A PNG of CPU seconds and bytes of secure aggregation over the size of the cohort, on logarithmic axes.

    `rows` is the table of the row `growth` in what ``fedsec bench secagg --json`` prints:
    {clients: {"client": seconds, "server": seconds, ..., "bytes_up": bytes, ...}}.

    Raises
    ------
    InvalidArgumentError
        A row lacks a figure, or there is none.
    MissingExtraError
        Without matplotlib.
    """
    if not rows:
        raise InvalidArgumentError("rows must have at least one size, got none")
    sizes = sorted(rows, key=int)
    figure = _figure(11.0, 4.0)
    for axes, (unit, names) in zip(figure.subplots(1, 2), _GROWTH.items(), strict=True):
        for name, label in names.items():
            if missing := [size for size in sizes if name not in rows[size]]:
                raise InvalidArgumentError(f"rows must have {name!r} for each size, not so for {missing[0]}")
            axes.plot(
                [int(size) for size in sizes], [rows[size][name] for size in sizes], marker="o", label=label
            )
        axes.set(xlabel="clients in the cohort", ylabel=unit, xscale="log", yscale="log")
        axes.legend(frameon=False)
    return _png(figure)


_GROWTH = {
    "seconds of CPU": {
        "client": "one client, up to its upload",
        "agreement, client": "one client, agreement",
        "of all participants, client": "one client, once: reading the participants",
        "server": "server, without the agreement",
        "agreement, server": "server, agreement",
    },
    "bytes of one client, vector aside": {
        "bytes_up": "up",
        "bytes_down": "down, without the agreement",
        "agreement, bytes_down": "down, agreement",
    },
}


def _require_counts(counts: object) -> None:
    if not isinstance(counts, np.ndarray) or counts.dtype.kind not in "iu" or counts.ndim != 2:
        raise InvalidTypeError("counts must be an integer array (clients, labels)")
    if counts.size == 0:
        raise InvalidArgumentError(f"counts must have a client and a label, got shape {counts.shape}")
    if counts.min() < 0:
        raise InvalidArgumentError(f"counts must be at least 0, got {counts.min()}")


def _heat_map(counts: npt.NDArray[np.integer[Any]], names: Sequence[str]) -> Any:
    figure = _figure(2.5 + 0.35 * min(len(names), _MAX_ROWS), 1.5 + 0.18 * len(counts))
    axes = figure.add_subplot()
    image = axes.imshow(counts, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0)
    axes.set(xlabel="label", ylabel="client")
    every = -(-len(names) // _MAX_ROWS)
    axes.set_xticks(range(0, len(names), every), names[::every])
    figure.colorbar(image, label="records")
    return figure


def _histograms(counts: npt.NDArray[np.integer[Any]]) -> Any:
    figure = _figure(9.0, 3.6)
    sizes, held = figure.subplots(1, 2)
    sizes.hist(counts.sum(axis=1), bins="auto" if np.ptp(counts.sum(axis=1)) else 1)
    sizes.set(xlabel="records of a client", ylabel="clients")
    number, clients = np.unique(np.count_nonzero(counts, axis=1), return_counts=True)
    held.bar(number, clients)
    held.set(xlabel="labels of a client", ylabel="clients", xlim=(-0.6, counts.shape[1] + 0.6))
    return figure


def _epsilon_over_rounds(axes: Any, epsilon: Sequence[float]) -> None:
    axes.plot(range(1, len(epsilon) + 1), epsilon, color="tab:red", label="epsilon")
    axes.set(ylabel="epsilon (upper bound)", ylim=(0, None))


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
