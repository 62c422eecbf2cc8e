"""Pictures, with matplotlib (the extra `plot`)."""

from __future__ import annotations

import io
from collections.abc import Sequence

from fedsec.errors import MissingExtraError


def accuracy_and_epsilon(
    accuracy: Sequence[float], epsilon: Sequence[float], reference: float, title: str
) -> bytes:
    """A PNG with accuracy (left axis, the level reached without privacy dashed) and epsilon over rounds."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("a picture needs matplotlib: pip install 'fedsec[plot]'") from None
    rounds = range(1, len(accuracy) + 1)
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    left.plot(rounds, accuracy, color="tab:blue", label="accuracy")
    left.axhline(reference, color="tab:blue", linestyle="--", linewidth=1, label="accuracy without privacy")
    left.set(xlabel="round", ylabel="accuracy", ylim=(0, 1), title=title)
    right = left.twinx()
    right.plot(rounds, epsilon, color="tab:red", label="epsilon")
    right.set(ylabel="epsilon (upper bound)", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format="png")
    return png.getvalue()
