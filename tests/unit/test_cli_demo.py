"""`fedsec demo` and `fedsec bench` as a user types them: one JSON object, one sentence, no half-done file."""

import json

import pytest

from fedsec import cli

pytest.importorskip("sklearn")
pytest.importorskip("torch")

SHORT = ["demo", "--clients", "4", "--rounds", "2", "--dropout", "0.25"]


def test_json_is_one_object_and_nothing_else(capsys):
    assert cli.main([*SHORT, "--json"]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    for key in ("accuracy", "epsilon", "delta", "rounds", "clients", "dropped", "seconds", "dataset"):
        assert key in record
    assert (record["clients"], record["rounds"], record["dropped"], record["dataset"]) == (4, 2, 2, "digits")
    assert 0.0 <= record["accuracy"] <= 1.0
    assert record["epsilon"] <= 3.0


def test_tables_name_relation_and_sampler(capsys):
    assert cli.main([*SHORT, "--target-epsilon", "8"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "one record added or removed",
        "Poisson over records",
        "without privacy",
        "masking",
        "1e-05",
    ):
        assert words in text


@pytest.mark.parametrize(("extra", "shown"), [([], True), (["--quiet"], False)])
def test_a_terminal_gets_a_progress_bar_unless_it_wants_quiet(capsys, monkeypatch, extra, shown):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what a terminal is to rich
    assert cli.main([*SHORT, "--json", *extra]) == 0
    printed = capsys.readouterr()
    assert ("survivors" in printed.err) is shown
    assert shown or printed.err == ""
    json.loads(printed.out)


def test_a_report_and_its_picture_are_written(capsys, tmp_path):
    target = tmp_path / "run.json"
    assert cli.main([*SHORT, "--report", str(target), "--json"]) == 0
    printed = capsys.readouterr()
    assert str(target) in printed.err
    written = json.loads(target.read_text())
    assert written["accuracy"] == json.loads(printed.out)["accuracy"]
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--clients", "1"], "clients must be in [2, 255], got 1"),
        (["--clients", "many"], "'many'"),
        (["--rounds", "0"], "rounds"),
        (["--rounds", "2.5"], "2.5"),
        (["--dropout", "1.5"], "dropout must be in [0, 1], got 1.5"),
        (["--dropout", "nan"], "nan"),
        (["--target-epsilon", "0"], "target_epsilon must be positive"),
        (["--target-epsilon", "nan"], "nan"),
        (["--delta", "1"], "target_delta must be in (0, 1)"),
        (["--noise", "pink"], "central, distributed, local"),
        (["--data", "no/such/file.npz"], "no/such/file.npz"),
        (["--report", "run.pdf"], ".html, .md, .json"),
        (["--threads", "0"], "threads"),
        (["--bogus"], "--bogus"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(capsys, tmp_path, monkeypatch, arguments, names):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert names in printed.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["noise", "secagg"])
def test_bench_prints_json_and_lines(capsys, what):
    assert cli.main(["bench", what, "--quick", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {what}
    assert cli.main(["bench", what, "--quick"]) == 0
    assert capsys.readouterr().out.count("\n") >= 3


def test_bench_refuses_what_it_does_not_know(capsys):
    assert cli.main(["bench", "lunch"]) == 2
    assert "lunch" in capsys.readouterr().err
