"""`fedsec curve` as a user types it: numbers that the accountant gives, tables, and a picture."""

import json
import sys

import pytest

import fedsec
from fedsec import cli

SAMPLED = "curve --noise-multiplier 1.1 --sampling-probability 0.0042667 --steps 100 --delta 1e-5"


def run(line, capsys):
    status = cli.main(line.split())
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def numbers(line, capsys):
    status, out, err = run(line, capsys)
    assert (status, err) == (0, "")
    return json.loads(out)


def spent(count, accountant=fedsec.PLDAccountant, **options):
    return accountant(**options).compose(fedsec.Gaussian(9.0), count)


def test_numbers_are_the_accountants(capsys):
    relation = fedsec.NeighboringRelation.REPLACE_ONE
    found = numbers("curve --event Gaussian(9)*80 --delta 1e-5 --relation replace-one --json", capsys)
    assert (found["delta"], found["accountant"]) == (1e-5, "pld")
    whole = spent(80, neighboring_relation=relation)
    curve = found["delta_over_epsilon"]
    assert curve["epsilon"][0] == 0.0
    assert curve["epsilon"][-1] == pytest.approx(2.0 * whole.epsilon(1e-5), rel=1e-12)
    for i in (0, 30, 60):
        bounds = curve["delta_lower"][i], curve["delta_upper"][i]
        assert bounds == pytest.approx(whole.delta_interval(curve["epsilon"][i]), rel=1e-9)
    errors = found["tradeoff"]
    for alpha, beta in zip(errors["false_alarms"], errors["misses_at_least"], strict=True):
        assert beta == whole.tradeoff(alpha)
    steps = found["epsilon_over_steps"]
    assert (steps["steps"][0], steps["steps"][-1]) == (1, 80)
    for i in (0, 7, -1):
        bounds = steps["epsilon_lower"][i], steps["epsilon_upper"][i]
        expected = spent(steps["steps"][i], neighboring_relation=relation)
        assert bounds == expected.epsilon_interval(1e-5)


def test_steps_go_through_the_events_in_order(capsys):
    line = "curve --event Gaussian(2) --event 3*Gaussian(9) --delta 1e-5 --json --accountant rdp"
    steps = numbers(line, capsys)["epsilon_over_steps"]
    expected = [fedsec.RDPAccountant().compose(fedsec.Gaussian(2.0))]
    for count in (1, 2, 3):
        whole = fedsec.RDPAccountant().compose(fedsec.Gaussian(2.0))
        expected.append(whole.compose(fedsec.Gaussian(9.0), count))
    assert steps["steps"] == [1, 2, 3, 4]
    assert steps["epsilon_upper"] == [accountant.epsilon(1e-5) for accountant in expected]
    assert steps["epsilon_lower"] == [0.0] * 4


def test_tables(capsys):
    status, out, err = run(f"{SAMPLED} --accountant rdp", capsys)
    assert (status, err) == (0, "")
    for words in (
        "Delta at epsilon",
        "Misses of any attack, at least, by false alarms",
        "after steps, at delta",
    ):
        assert words in out
    whole = fedsec.RDPAccountant().compose(fedsec.PoissonSampled(fedsec.Gaussian(1.1), 0.0042667), 100)
    last = float(out.split("│")[-2])
    assert whole.epsilon(1e-5) <= last <= whole.epsilon(1e-5) * 1.00001


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_a_picture_is_written(accountant, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    target = tmp_path / "curve.png"
    line = f"curve --event Gaussian(9)*80 --delta 1e-5 --plot {target} --accountant {accountant} --json"
    status, out, err = run(line, capsys)
    assert (status, err) == (0, f"wrote {target}\n")
    assert json.loads(out)["accountant"] == accountant
    assert target.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [target]


def test_what_costs_nothing_has_curves_too(capsys):
    found = numbers("curve --event Composed([]) --delta 1e-5 --json", capsys)
    assert set(found["delta_over_epsilon"]["delta_upper"]) == {0.0}
    assert found["epsilon_over_steps"]["epsilon_upper"] == [0.0]
    assert found["tradeoff"]["misses_at_least"][0] == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("curve --event NonPrivate() --delta 1e-5", "there is no curve: epsilon is infinite at delta 1e-05"),
        ("curve --event Gaussian(9) --delta 2", "delta must be in (0, 1)"),
        ("curve --delta 1e-5", "Missing option '--steps'"),
        (f"{SAMPLED} --plot curve.pdf", "a picture must end in .png, got 'curve.pdf'"),
        (f"{SAMPLED} --plot nowhere/curve.png", "must be a file in a directory that can be written"),
    ],
)
def test_bad_input_is_one_sentence_and_status_two(line, words, capsys):
    status, out, err = run(line, capsys)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_without_matplotlib_the_extra_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    status, out, err = run(f"curve --event Gaussian(9) --delta 1e-5 --plot {tmp_path}/curve.png", capsys)
    assert (status, out) == (2, "")
    assert "pip install 'fedsec[plot]'" in err
    assert not list(tmp_path.iterdir())
