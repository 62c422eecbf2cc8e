"""Reports: complete or not there at all, and valid for who reads them."""

import json
import math
import subprocess
import sys

import pytest

from fedsec.errors import InvalidArgumentError, MissingExtraError
from fedsec.report import Report, plots, require_target, write

REPORT = Report(
    title="A run",
    tables={"Result": {"accuracy": "0.9"}},
    notes=("That is all.",),
    record={"accuracy": 0.9, "epsilon": math.inf, "history": ({"epsilon": -math.inf},)},
)


def test_markdown_has_the_tables_the_notes_and_the_picture(tmp_path):
    target = require_target(str(tmp_path / "run.md"))
    write(REPORT, target, b"picture")
    lines = target.read_text().splitlines()
    assert (tmp_path / "run.png").read_bytes() == b"picture"
    assert lines[0] == "# A run"
    assert "| accuracy | 0.9 |" in lines
    assert "That is all." in lines
    assert lines[-1].endswith("(run.png)")


def test_json_is_valid_json_even_for_infinity(tmp_path):
    target = require_target(str(tmp_path / "run.json"))
    write(REPORT, target)
    record = json.loads(target.read_text(), parse_constant=pytest.fail)
    assert record == {"accuracy": 0.9, "epsilon": None, "history": [{"epsilon": None}]}


@pytest.mark.parametrize("name", ["run.pdf", "run", "missing/run.md", "."])
def test_targets_that_cannot_be_written_are_refused(tmp_path, name):
    with pytest.raises(InvalidArgumentError, match="report"):
        require_target(str(tmp_path / name))


def test_a_failed_write_leaves_the_old_files_and_no_other(tmp_path, monkeypatch):
    target, picture = tmp_path / "run.json", tmp_path / "run.png"
    target.write_text("old")
    picture.write_text("old picture")
    with pytest.raises(TypeError):
        write(Report("x", {}, (), {"value": object()}), target, b"new")
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", full_disk)
        with pytest.raises(OSError, match="full"):
            write(REPORT, target, b"new")
    assert (target.read_text(), picture.read_text()) == ("old", "old picture")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "run.png"]


def full_disk(path, contents):
    path.write_text("half")
    raise OSError("the disk is full")


def test_a_picture_that_cannot_be_written_is_refused_beforehand(tmp_path):
    (tmp_path / "run.png").mkdir()
    with pytest.raises(InvalidArgumentError, match=r"run\.png"):
        require_target(str(tmp_path / "run.md"))


def test_a_picture_is_a_png():
    pytest.importorskip("matplotlib")
    assert plots.accuracy_and_epsilon([0.1, 0.5], [0.4, 0.6], 0.9, "A run").startswith(b"\x89PNG")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"fedsec\[plot\]"):
        plots.accuracy_and_epsilon([0.1], [0.1], 0.9, "x")


def test_reports_load_no_matplotlib():
    code = "import fedsec.report, fedsec.report.plots, sys; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
