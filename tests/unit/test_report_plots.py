"""Pictures: each shows what it was given, and refuses what it cannot draw."""

import sys

import numpy as np
import pytest

from fedsec.errors import InvalidArgumentError, InvalidTypeError, MissingExtraError
from fedsec.report import plots

GROWTH = {
    str(n): {
        "client": 0.03, "server": 0.002 * n, "agreement, client": 1e-4 * n, "agreement, server": 3e-4 * n,
        "of all participants, client": 2e-4 * n, "bytes_up": 9e3, "bytes_down": 6e4,
        "agreement, bytes_down": 61.0 * n,
    }
    for n in (1000, 100)
}  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """The figure itself, as it goes into the file."""
    pytest.importorskip("matplotlib")
    figures = []
    to_file = plots._png
    monkeypatch.setattr(plots, "_png", lambda figure: figures.append(figure) or to_file(figure))
    return figures


def test_few_clients_are_rows_of_a_heat_map(drawn):
    counts = np.arange(24).reshape(6, 4)
    png = plots.label_counts(counts, ["a", "b", "c", "d"])
    axes = drawn[0].axes[0]
    assert png.startswith(b"\x89PNG")
    assert np.array_equal(axes.images[0].get_array(), counts)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b", "c", "d"]


def test_many_clients_are_two_histograms(drawn):
    counts = np.random.default_rng(0).poisson(0.7, (3000, 10))
    plots.label_counts(counts)
    sizes, held = ([bar.get_height() for bar in axes.patches] for axes in drawn[0].axes)
    labels = (counts > 0).sum(axis=1)
    assert sum(sizes) == 3000
    assert held == [np.sum(labels == number) for number in np.unique(labels)]


@pytest.mark.parametrize("clients", [1, 60, 61])
def test_clients_that_are_all_alike_and_many_labels_can_be_drawn(drawn, clients):
    plots.label_counts(np.full((clients, 200), 3))
    assert len(drawn[0].axes) == 2  # the map and its scale, or two histograms


@pytest.mark.parametrize(
    ("counts", "labels", "error"),
    [
        ([[1, 2]], None, InvalidTypeError),
        (np.ones((2, 2)), None, InvalidTypeError),
        (np.ones(2, int), None, InvalidTypeError),
        (np.ones((0, 2), int), None, InvalidArgumentError),
        (np.array([[1, -1]]), None, InvalidArgumentError),
        (np.ones((2, 2), int), ["one"], InvalidArgumentError),
    ],
)
def test_counts_that_are_none_are_refused(counts, labels, error):
    with pytest.raises(error):
        plots.label_counts(counts, labels)


def test_growth_has_a_line_for_each_figure_over_ascending_sizes(drawn):
    plots.growth_of_aggregation(GROWTH)
    seconds, size = drawn[0].axes
    assert (len(seconds.lines), len(size.lines)) == (5, 3)
    assert list(seconds.lines[3].get_xdata()) == [100, 1000]
    assert list(seconds.lines[3].get_ydata()) == [0.2, 2.0]


def test_growth_without_a_figure_or_a_size_is_refused():
    pytest.importorskip("matplotlib")
    with pytest.raises(InvalidArgumentError, match="at least one size"):
        plots.growth_of_aggregation({})
    with pytest.raises(InvalidArgumentError, match="'agreement, client' for each size, not so for 7"):
        plots.growth_of_aggregation({"7": {"client": 1.0}})


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"fedsec\[plot\]"):
        plots.label_counts(np.ones((2, 2), int))


def test_accuracy_and_epsilon_share_rounds_and_infinity_is_left_out(drawn):
    plots.accuracy_and_epsilon([0.2, 0.6], [1.0, 1.5], 0.9, "run")
    accuracy, epsilon = drawn[0].axes
    assert [list(line.get_ydata()) for line in accuracy.lines] == [[0.2, 0.6], [0.9, 0.9]]
    assert list(epsilon.lines[0].get_ydata()) == [1.0, 1.5]
    plots.accuracy_and_epsilon([0.2, 0.6], [np.inf, np.inf], None, "run")
    assert [len(axes.lines) for axes in drawn[1].axes] == [1]


def test_epsilon_over_rounds(drawn):
    assert plots.epsilon_over_rounds([0.5, 0.8, 1.0], "run").startswith(b"\x89PNG")
    assert list(drawn[0].axes[0].lines[0].get_xdata()) == [1, 2, 3]
    for given in ([], [1.0, np.inf]):
        with pytest.raises(InvalidArgumentError, match="epsilon must be finite"):
            plots.epsilon_over_rounds(given)


def test_accuracy_against_epsilon_has_a_line_for_each_name_and_levels_at_infinity(drawn):
    lines = {"fedavg": [(1.0, 0.5, 0.1), (4.0, 0.8, 0.0), (np.inf, 0.9, 0.0)], "fedadam": [(2.0, 0.6, 0.0)]}
    plots.accuracy_against_epsilon(lines)
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "fedavg without privacy", "fedavg", "fedadam",
    ]  # fmt: skip
    assert list(axes.containers[0].lines[0].get_ydata()) == [0.5, 0.8]
    with pytest.raises(InvalidArgumentError, match="at least one point"):
        plots.accuracy_against_epsilon({"fedavg": []})


def test_phases_have_a_bar_for_each_side(drawn):
    seconds = {"share": {"client": 0.1, "server": 0.2}, "upload": {"client": 0.3, "server": 0.4}}
    plots.aggregation_by_phase(seconds)
    widths = [[bar.get_width() for bar in axes.patches] for axes in drawn[0].axes]
    assert widths == [[0.1, 0.3], [0.2, 0.4]]
    with pytest.raises(InvalidArgumentError, match="at least one phase"):
        plots.aggregation_by_phase({})
    with pytest.raises(InvalidArgumentError, match="seconds of share must be of client and server"):
        plots.aggregation_by_phase({"share": {"client": 0.1}})


def test_the_tradeoff_curve_is_drawn_alone(drawn):
    curves = {"tradeoff": {"false_alarms": [0.0, 0.5, 1.0], "misses_at_least": [1.0, 0.3, 0.0]}}
    plots.tradeoff_curve(curves)
    assert list(drawn[0].axes[0].lines[0].get_ydata()) == [1.0, 0.3, 0.0]
