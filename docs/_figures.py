"""The figures of docs/concepts.md, computed anew: `python docs/_figures.py` writes docs/figures/*.svg.

Each function computes what its figure shows and draws it in a box of 600 by 220, in colours that can be read
on white and on black.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from math import cos, pi, sin
from pathlib import Path

import numpy as np

import fedsec
from fedsec import masks

BLUE, ORANGE, GREEN, GREY = "#3b82c4", "#d9822b", "#4c9f70", "#808a94"
WIDTH, HEIGHT = 600, 220
Point = tuple[float, float]


def text(x: float, y: float, words: str, *, colour: str = GREY, anchor: str = "start") -> str:
    """Words that begin, end or are centred at a point."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{words}</text>'


def line(points: Iterable[Point], colour: str, *, width: float = 2.0, dash: str = "") -> str:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashes}/>'


def dot(at: Point, colour: str, radius: float = 3.0) -> str:
    """A filled circle."""
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:g}" fill="{colour}"/>'


def bars(values: Sequence[float], box: tuple[float, float, float, float], colour: str) -> list[str]:
    """One bar a value from 0 to 1, side by side from the foot of a box (left, top, width, height)."""
    left, top, width, height = box
    step = width / len(values)
    return [
        f'<rect x="{left + i * step:.1f}" y="{top + height * (1.0 - value):.1f}" width="{0.8 * step:.1f}" '
        f'height="{height * value:.1f}" fill="{colour}"/>'
        for i, value in enumerate(values)
    ]


def federated_averaging() -> list[str]:
    """Three clients with least-squares problems of their own, two steps each in a round, averaged."""
    own = np.array([[1.0, 2.6], [3.4, 2.2], [2.6, 0.2]])  # where each client's loss is least
    curvature = np.array([[1.0, 0.2], [0.3, 1.0], [0.8, 0.8]])

    def place(at: np.ndarray) -> Point:
        return 60.0 + 120.0 * at[0], 200.0 - 65.0 * at[1]

    model, found = np.zeros(2), []
    for _ in range(5):
        ends = []
        for target, weight in zip(own, curvature, strict=True):
            local, path = model.copy(), [place(model)]
            for _ in range(2):
                local -= 0.4 * weight * (local - target)
                path.append(place(local))
            found.append(line(path, GREY, width=1.0, dash="3 3"))
            ends.append(local)
        after = np.mean(ends, axis=0)
        found += [line([place(model), place(after)], BLUE, width=3.0), dot(place(after), BLUE)]
        model = after
    for number, target in enumerate(own, start=1):
        x, y = place(target)
        found += [
            dot((x, y), ORANGE, 5.0),
            text(min(x + 10.0, 430.0), y - 10.0, f"client {number} alone would end here"),
        ]
    return [*found, text(66.0, 214.0, "start")]


def secure_aggregation() -> list[str]:
    """Three vectors, the same under masks of `fedsec.masks`, and the sum in which the masks cancel."""
    places, top = 12, 2**16
    rng = np.random.default_rng(1)
    secrets = rng.integers(0, 256, (3, 32), dtype=np.uint8)  # of the pairs (1, 2), (1, 3), (2, 3)
    signs = ((1, 1, 0), (-1, 0, 1), (0, -1, -1))
    shape = 0.5 + 0.4 * np.sin(np.arange(places) / 2.0)
    plain = [(shape * top / 3.0 * scale).astype(np.uint16) for scale in (1.0, 0.7, 0.4)]
    masked = []
    for vector, row in zip(plain, signs, strict=True):
        out, used = vector.copy(), [i for i, sign in enumerate(row) if sign]
        masks.accumulate(out, secrets[used], np.array([row[i] for i in used], np.int8), modulus_bits=16)
        masked.append(out)
    total = sum(masked[1:], masked[0])
    if not np.array_equal(total, sum(plain[1:], plain[0])):
        raise AssertionError("the masks do not cancel")
    found = [text(120.0, 15.0, "what each client has", anchor="middle")]
    found += [text(320.0, 15.0, "what the server sees", anchor="middle")]
    found += [text(515.0, 15.0, "and their sum", anchor="middle")]
    for i, (vector, sent) in enumerate(zip(plain, masked, strict=True)):
        y = 25.0 + 64.0 * i
        found += [text(5.0, y + 40.0, f"{i + 1}"), text(225.0, y + 40.0, "→", anchor="middle")]
        found += bars((3.0 * vector / top).clip(0, 1), (25.0, y, 180.0, 56.0), ORANGE)
        found += bars(sent / top, (245.0, y, 160.0, 56.0), GREY)
    found.append(text(422.0, 130.0, "→", anchor="middle"))
    return found + bars(total / top, (440.0, 60.0, 150.0, 130.0), BLUE)


def differential_privacy() -> list[str]:
    """A noisy count with and without one person, and the odds between them, at two amounts of noise."""
    found = []
    for left, z in ((20.0, 1.0), (320.0, 4.0)):
        epsilon = fedsec.PLDAccountant().compose(fedsec.Gaussian(z)).epsilon(1e-5)
        for mean, colour in ((9.0, GREY), (10.0, ORANGE)):
            xs = np.linspace(-3.0, 22.0, 101)
            heights = np.exp(-((xs - mean) ** 2) / (2.0 * z * z)) / z
            found.append(line(zip(left + 10.4 * (xs + 3.0), 180.0 - 140.0 * heights, strict=True), colour))
        found.append(line([(left, 180.0), (left + 260.0, 180.0)], GREY, width=1.0))
        words = f"noise {z:g}: epsilon at most {epsilon:.2f}"
        found.append(text(left + 130.0, 206.0, words, anchor="middle"))
    found += [text(20.0, 20.0, "without you: 9"), text(150.0, 20.0, "with you: 10", colour=ORANGE)]
    return found


def clipping() -> list[str]:
    """Eight contributions, as they are and scaled back to a bound."""
    rng = np.random.default_rng(7)
    norms = np.array([15.0, 28.0, 40.0, 55.0, 70.0, 85.0, 95.0, 45.0])
    angles = 2.0 * pi * np.arange(8) / 8.0 + rng.uniform(-0.2, 0.2, 8)
    bound = 45.0
    found = []
    for centre, limit, words in ((150.0, np.inf, "what clients send"), (450.0, bound, "what counts")):
        for norm, angle in zip(norms, angles, strict=True):
            length = min(norm, limit)
            end = (centre + length * cos(angle), 100.0 + length * sin(angle))
            colour = ORANGE if norm > bound else BLUE
            found += [line([(centre, 100.0), end], colour), dot(end, colour)]
        around = np.linspace(0.0, 2.0 * pi, 61)
        circle = zip(centre + bound * np.cos(around), 100.0 + bound * np.sin(around), strict=True)
        found.append(line(circle, GREY, width=1.0, dash="4 4"))
        found.append(text(centre, 214.0, words, anchor="middle"))
    return found


def accounting() -> list[str]:
    """Epsilon over the steps of one plan: added up, by Rényi divergences, and by the certified accountant."""
    step, delta = fedsec.PoissonSampled(fedsec.Gaussian(1.0), sampling_probability=0.01), 1e-5
    moments = [1, 50, 100, 200, 400, 600, 800, 1000]
    once = fedsec.PLDAccountant().compose(step).epsilon(delta / moments[-1])
    curves = {
        "added up": (ORANGE, [once * n for n in moments]),
        "Rényi": (GREEN, [fedsec.RDPAccountant().compose(step, n).epsilon(delta) for n in moments]),
        "certified": (BLUE, [fedsec.PLDAccountant().compose(step, n).epsilon(delta) for n in moments]),
    }
    most = 2.0 * max(curves["Rényi"][1])

    def place(n: float, epsilon: float) -> Point:
        return 50.0 + 0.4 * n, 190.0 - 170.0 * epsilon / most

    found = [line([(50.0, 20.0), (50.0, 190.0), (470.0, 190.0)], GREY, width=1.0)]
    found += [text(5.0, 16.0, "epsilon"), text(470.0, 210.0, f"{moments[-1]} steps", anchor="end")]
    for name, (colour, values) in curves.items():
        inside = np.linspace(moments[0], moments[-1], 1000)
        heights = np.interp(inside, moments, values)
        shown = [place(n, height) for n, height in zip(inside, heights, strict=True) if height <= most]
        x, y = shown[-1]
        found.append(line(shown[::20] + shown[-1:], colour))
        found += [
            text(
                x + 8.0,
                y + (12.0 if name == "certified" else 0.0),
                f"{name}: {values[-1]:.2f}",
                colour=colour,
            )
        ]
    return found


def who_adds_the_noise() -> list[str]:
    """Noise in the sum over the number of clients, in units of what hides one of them."""
    counts = np.arange(10, 201, 10)
    curves = {
        "local": (ORANGE, np.sqrt(counts)),
        "distributed": (
            GREEN,
            np.sqrt(counts / (0.8 * counts)),
        ),  # sized for 8 of 10; all are there
        "central": (BLUE, np.ones(len(counts))),
    }
    most = max(curves["local"][1])
    found = [line([(50.0, 20.0), (50.0, 190.0), (430.0, 190.0)], GREY, width=1.0)]
    found += [text(5.0, 14.0, "noise in the sum"), text(430.0, 210.0, f"{counts[-1]} clients", anchor="end")]
    for name, (colour, values) in curves.items():
        points = [(50.0 + 1.9 * n, 190.0 - 165.0 * v / most) for n, v in zip(counts, values, strict=True)]
        x, y = points[-1]
        found.append(line(points, colour))
        words = f"{name}: {values[-1]:.2f}"
        found.append(text(x + 8.0, y + (12.0 if name == "central" else -2.0), words, colour=colour))
    return found


def why_integers() -> list[str]:
    """Which results float16 can show near 0.1 if the value underneath is 0, 1 or 4, whatever the noise."""
    noise = np.arange(2**16, dtype=np.uint16).view(np.float16)
    noise = noise[np.isfinite(noise)]
    low, high = 0.1, 0.108
    found = []
    for row, value in enumerate((0.0, 1.0, 4.0)):
        y = 30.0 + 60.0 * row
        results = np.unique(np.float16(value) + noise[np.abs(noise) < 8.0])
        shown = results[(results >= low) & (results <= high)].astype(float)
        found += [
            line([(x, y), (x, y + 30.0)], (BLUE, GREEN, ORANGE)[row], width=1.2)
            for x in 20.0 + 440.0 * (shown - low) / (high - low)
        ]
        found.append(text(475.0, y + 20.0, f"{value:g} + noise: {len(shown)}"))
    return [*found, text(20.0, 212.0, f"all results between {low:g} and {high:g}")]


FIGURES: tuple[Callable[[], list[str]], ...] = (
    federated_averaging,
    secure_aggregation,
    differential_privacy,
    clipping,
    accounting,
    who_adds_the_noise,
    why_integers,
)


def svg(figure: Callable[[], list[str]]) -> str:
    """One figure as a file of its own."""
    words = (figure.__doc__ or "").strip()
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13" role="img"><title>{words}</title>'
    )
    return "\n".join([head, *figure(), "</svg>", ""])


def write(folder: Path) -> None:
    """All figures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for figure in FIGURES:
        (folder / f"{figure.__name__}.svg").write_text(svg(figure), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures")
