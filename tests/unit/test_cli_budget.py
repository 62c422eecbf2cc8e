"""`fedsec epsilon` and `fedsec calibrate` as a user types them."""

import json
import os
import subprocess
import sys

import pytest

import fedsec
from fedsec import cli

EPSILON = "epsilon --noise-multiplier 1.1 --sampling-probability 0.0042667 --steps 3510 --delta 1e-5"
CALIBRATE = "calibrate --target-epsilon 3 --sampling-probability 0.0042667 --steps 3510 --delta 1e-5"


def run(line, capsys):
    status = cli.main(line.split())
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def accountant(z, q, steps):
    return fedsec.RDPAccountant().compose(fedsec.PoissonSampled(fedsec.Gaussian(z), q), steps)


@pytest.mark.parametrize("flags", ["--json", "--json --accountant rdp"])
def test_epsilon_as_json(flags, capsys):
    status, out, err = run(f"{EPSILON} {flags}", capsys)
    expected = accountant(1.1, 0.0042667, 3510).epsilon(1e-5)
    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "epsilon_upper": expected,
        "epsilon_lower": 0.0,
        "delta": 1e-5,
        "accountant": "rdp",
    }


def test_calibrate_as_json(capsys):
    status, out, err = run(f"{CALIBRATE} --json", capsys)
    answer = json.loads(out)
    assert (status, err) == (0, "")
    assert answer["epsilon_upper"] <= 3.0
    assert answer["epsilon_upper"] == accountant(answer["noise_multiplier"], 0.0042667, 3510).epsilon(1e-5)
    assert 0.77 < answer["noise_multiplier"] < 0.78


def test_the_tight_accountant(capsys):
    tight = fedsec.PLDAccountant().compose(fedsec.PoissonSampled(fedsec.Gaussian(1.1), 0.0042667), 3510)
    status, out, err = run(f"{EPSILON} --json --accountant pld", capsys)
    answer = json.loads(out)
    assert (status, err) == (0, "")
    assert (answer["epsilon_lower"], answer["epsilon_upper"]) == tight.epsilon_interval(1e-5)
    status, out, err = run(f"{CALIBRATE} --json --accountant pld", capsys)
    assert (status, err) == (0, "")
    assert 0.72 < json.loads(out)["noise_multiplier"] < 0.73
    _, out, _ = run(f"{CALIBRATE} --accountant pld", capsys)
    assert "PLD (upper bound" in out


def test_tables_name_relation_and_sampler(capsys):
    for line, number in ((EPSILON, "1.28022"), (CALIBRATE, "0.773616")):
        status, out, err = run(line, capsys)
        text = " ".join(out.replace("│", " ").split())
        assert (status, err) == (0, "")
        for words in (number, "added or removed", "Poisson", "0.0042667", "cuts batches of fixed size"):
            assert words in text


def test_without_sampling(capsys):
    _, out, _ = run("epsilon --noise-multiplier 2 --steps 1 --delta 1e-5 --json", capsys)
    assert json.loads(out)["epsilon_upper"] == accountant(2.0, 1.0, 1).epsilon(1e-5)
    _, out, _ = run("epsilon --noise-multiplier 2 --steps 1 --delta 1e-5", capsys)
    assert "every record takes part in every step" in out


def test_printed_numbers_are_rounded_up(capsys):
    for z in ("1.1", "3.3", "0.9", "17"):
        _, out, _ = run(f"epsilon --noise-multiplier {z} --steps 9 --delta 1e-5", capsys)
        shown = float(next(line for line in out.splitlines() if "epsilon" in line).split("│")[2])
        exact = accountant(float(z), 1.0, 9).epsilon(1e-5)
        assert exact <= shown <= exact * 1.00001


def test_infinity_stays_valid_json(capsys):
    status, out, _ = run("epsilon --noise-multiplier 1e-200 --steps 1 --delta 0.1 --json", capsys)
    assert (status, json.loads(out)["epsilon_upper"]) == (0, None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "Missing command"),
        ("budget", "No such command 'budget'"),
        ("epsilon", "Missing option"),
        (
            EPSILON.replace("1.1", "nan"),
            "noise_multiplier must be a real number, positive and finite, got nan",
        ),
        (EPSILON.replace("1.1", "-1"), "noise_multiplier must be positive and finite, got -1.0"),
        (EPSILON.replace("1.1", "0"), "noise_multiplier must be positive and finite, got 0.0"),
        (EPSILON.replace("1.1", "much"), "'much' is not a valid float"),
        (EPSILON.replace("3510", "35.1"), "'35.1' is not a valid whole number of at least 1"),
        (EPSILON.replace("3510", "0"), "0 is not in the range"),
        (EPSILON.replace("3510", "1" + "0" * 30), "is not in the range"),
        (EPSILON.replace("0.0042667", "1.5"), "sampling_probability must be in [0, 1], got 1.5"),
        (
            EPSILON.replace("0.0042667", "nan"),
            "sampling_probability must be a real number, in [0, 1], got nan",
        ),
        (EPSILON.replace("1e-5", "1"), "delta must be in (0, 1)"),
        (EPSILON.replace("1e-5", "0"), "delta must be in (0, 1)"),
        (EPSILON + " --accountant guess", "'guess' is not"),
        (EPSILON + " extra", "unexpected extra argument"),
        (EPSILON + " --jsn", "No such option"),
        (CALIBRATE.replace("3 ", "-3 "), "target_epsilon must be positive and finite, got -3.0"),
        (CALIBRATE.replace("3 ", "inf "), "target_epsilon must be positive and finite, got inf"),
        (CALIBRATE.replace("0.0042667", "0"), "the event ignores it"),
    ],
)
@pytest.mark.parametrize("flag", ["", " --json"])
def test_bad_input_is_one_sentence_and_status_two(line, words, flag, capsys):
    status, out, err = run(line + flag if line else line, capsys)
    assert (status, out) == (2, "")
    assert words in err
    assert err.startswith("fedsec: ")
    assert err.count("\n") == 1


def test_interruption_is_not_an_error_trace(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.commands, "main", interrupted)
    assert run(EPSILON, capsys) == (130, "", "fedsec: interrupted\n")


def test_version_and_help(capsys):
    assert run("--version", capsys) == (0, f"fedsec, version {fedsec.__version__}\n", "")
    for line in ("--help", "epsilon --help", "calibrate --help"):
        status, out, err = run(line, capsys)
        assert (status, err) == (0, "")
        assert "Usage: fedsec" in out


def program(*arguments, **environment):
    code = "import sys; from fedsec.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_as_a_process():
    good = program(*EPSILON.split(), NO_COLOR="1")
    assert (good.returncode, good.stderr) == (0, "")
    assert "1.28022" in good.stdout
    assert "\x1b" not in good.stdout
    bad = program(*EPSILON.replace("1.1", "nan").split())
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "fedsec: noise_multiplier must be a real number, positive and finite, got nan\n"


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from fedsec.cli import main; main(['--help']);"
        "print(*(n for n in ('numpy', 'scipy', 'torch', 'rich') if n in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
