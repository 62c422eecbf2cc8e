"""`fedsec epsilon` and `fedsec calibrate` as a user types them."""

import json
import os
import subprocess
import sys

import click
import pytest

import fedsec
from fedsec import cli

EPSILON = "epsilon --noise-multiplier 1.1 --sampling-probability 0.0042667 --steps 3510 --delta 1e-5"
CALIBRATE = "calibrate --target-epsilon 3 --sampling-probability 0.0042667 --steps 3510 --delta 1e-5"


def run(line, capsys):
    status = cli.main(line.split())
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def words(line, capsys):
    """What a command prints, without the frames of its tables."""
    status, out, err = run(line, capsys)
    assert (status, err) == (0, "")
    return " ".join(out.replace("│", " ").split())


def answer(line, capsys):
    status, out, err = run(line, capsys)
    assert (status, err) == (0, "")
    return json.loads(out)


def rdp(z, q, steps):
    return fedsec.RDPAccountant().compose(fedsec.PoissonSampled(fedsec.Gaussian(z), q), steps)


def pld(z, q, steps):
    return fedsec.PLDAccountant().compose(fedsec.PoissonSampled(fedsec.Gaussian(z), q), steps)


@pytest.mark.parametrize(
    ("flags", "name", "accountant"),
    [("", "pld", pld), (" --accountant pld", "pld", pld), (" --accountant rdp", "rdp", rdp)],
)
def test_epsilon_as_json(flags, name, accountant, capsys):
    found = answer(f"{EPSILON} --json{flags}", capsys)
    expected = accountant(1.1, 0.0042667, 3510).epsilon_interval(1e-5)
    assert (found["epsilon_lower"], found["epsilon_upper"]) == expected
    assert (found["delta"], found["accountant"]) == (1e-5, name)
    assert found["unit"] == "adding or removing one unit"
    assert "shuffled" in found["samplers"][0]


@pytest.mark.parametrize(
    ("flags", "accountant", "between"),
    [("", pld, (0.728, 0.729)), (" --accountant rdp", rdp, (0.773, 0.774))],
)
def test_calibrate_as_json(flags, accountant, between, capsys):
    found = answer(f"{CALIBRATE} --json{flags}", capsys)
    assert 3.0 * (1 - 1e-4) <= found["epsilon_upper"] <= 3.0
    assert found["epsilon_upper"] == accountant(found["noise_multiplier"], 0.0042667, 3510).epsilon(1e-5)
    assert between[0] < found["noise_multiplier"] < between[1]


@pytest.mark.parametrize(
    ("line", "key", "bolder"),
    [
        (
            "--for steps --noise-multiplier 1.1 --sampling-probability 0.0042667",
            "steps",
            lambda n: rdp(1.1, 0.0042667, n + 1),
        ),
        (
            "--for sampling-probability --noise-multiplier 1.1 --steps 3510",
            "sampling_probability",
            lambda q: rdp(1.1, q * 1.001, 3510),
        ),
        (
            "--for batch-size --noise-multiplier 1.1 --steps 3510 --population-size 60000",
            "batch_size",
            lambda b: rdp(1.1, (b + 1) / 60_000, 3510),
        ),
    ],
)
def test_calibrate_for_other_things(line, key, bolder, capsys):
    line = f"calibrate --target-epsilon 3 --delta 1e-5 --accountant rdp {line}"
    found = answer(f"{line} --json", capsys)
    assert 2.99 <= found["epsilon_upper"] <= 3.0 < bolder(found[key]).epsilon(1e-5)
    shown = f"{key.replace('_', ' ')}, at most {str(found[key])[:6]}"
    assert shown in words(line, capsys)


def test_calibrate_for_expressions(capsys):
    by_event = [
        ("noise", "PoissonSampled(Gaussian(z),0.0042667)*3510", "noise_multiplier"),
        ("steps", "PoissonSampled(Gaussian(1.1),0.0042667)", "steps"),
        ("sampling-probability", "PoissonSampled(Gaussian(1.1),q)*3510", "sampling_probability"),
        (
            "batch-size --population-size 500 --relation zero-out",
            "SampledWithoutReplacement(Gaussian(9),500,b)",
            "batch_size",
        ),
    ]
    for wanted, event, key in by_event:
        line = f"calibrate --for {wanted} --target-epsilon 3 --delta 1e-5 --event {event} --json"
        found = answer(line, capsys)
        assert found["epsilon_upper"] <= 3.0
        assert found[key] > 0
    assert found["batch_size"] == 500


def test_events_add_up_on_the_command_line(capsys):
    events = ["PoissonSampled(Gaussian(1.1), 256/60000) * 3510", "2 * Laplace(noise_multiplier=20)"]
    status = cli.main(["epsilon", "--delta", "1e-5", "--json", *(f"--event={event}" for event in events)])
    expected = pld(1.1, 256 / 60_000, 3510).compose(fedsec.Laplace(20.0), 2).epsilon(1e-5)
    assert status == 0
    assert json.loads(capsys.readouterr().out)["epsilon_upper"] == expected


def test_names_in_events_take_their_numbers_from_options(capsys):
    line = "epsilon --event Laplace(z)*n --noise-multiplier 20 --steps 2 --delta 1e-5 --json"
    expected = fedsec.PLDAccountant().compose(fedsec.Laplace(20.0), 2).epsilon(1e-5)
    assert answer(line, capsys)["epsilon_upper"] == expected


@pytest.mark.parametrize(
    ("name", "relation", "unit"),
    [
        ("add-remove", "ADD_OR_REMOVE_ONE", "adding or removing one unit"),
        ("replace-one", "REPLACE_ONE", "replacing one unit"),
        ("zero-out", "REPLACE_SPECIAL", "zeroing out one unit"),
    ],
)
def test_relations(name, relation, unit, capsys):
    line = f"--event Gaussian({{}}) --delta 1e-5 --relation {name}"
    relation = fedsec.NeighboringRelation[relation]
    spent = fedsec.PLDAccountant(neighboring_relation=relation).compose(fedsec.Gaussian(3.0))
    found = answer(f"epsilon {line.format(3)} --json", capsys)
    assert found["epsilon_upper"] == spent.epsilon(1e-5)
    assert found["unit"].startswith(unit)
    found = answer(f"calibrate --target-epsilon 1 {line.format('z')} --json", capsys)
    spent = fedsec.PLDAccountant(neighboring_relation=relation).compose(
        fedsec.Gaussian(found["noise_multiplier"])
    )
    assert found["epsilon_upper"] == spent.epsilon(1e-5)


def test_groups(capsys):
    found = answer("epsilon --event Gaussian(9) --delta 1e-5 --group-size 3 --json", capsys)
    expected = fedsec.PLDAccountant().compose(fedsec.Gaussian(3.0)).epsilon(1e-5)
    assert found["epsilon_upper"] == pytest.approx(expected, rel=1e-9)
    assert "3 units" in words("epsilon --event Gaussian(9) --delta 1e-5 --group-size 3", capsys)


CONFIG = """
event = ["PoissonSampled(Gaussian(1.1), 256/60000) * 3510", "Gaussian(20) * 2"]
delta = 1e-5
relation = "zero-out"
accountant = "rdp"
"""


def test_a_configuration_file_holds_the_options(tmp_path, capsys):
    path = tmp_path / "plan.toml"
    path.write_text(CONFIG)
    zero_out = fedsec.NeighboringRelation.REPLACE_SPECIAL
    plan = [(fedsec.PoissonSampled(fedsec.Gaussian(1.1), 256 / 60_000), 3510), (fedsec.Gaussian(20.0), 2)]
    for flags, accountant in (
        ("", fedsec.RDPAccountant(neighboring_relation=zero_out)),
        (" --accountant pld --relation add-remove", fedsec.PLDAccountant()),
    ):
        for event, count in plan:
            accountant.compose(event, count)
        found = answer(f"epsilon --config {path} --json{flags}", capsys)
        assert found["epsilon_upper"] == accountant.epsilon(1e-5)
    path.write_text("noise-multiplier = 2\nsteps = 4\ndelta = 0.001\ntarget_epsilon = 1")
    assert run(f"epsilon --config {path}", capsys)[0] == 2
    path.write_text("event = 'Gaussian(z) * n'\nsteps = 4\ndelta = 0.001\ntarget_epsilon = 1")
    assert answer(f"calibrate --config {path} --json", capsys)["epsilon_upper"] <= 1.0


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ("delta =", "is no TOML file"),
        ("\0", "is no TOML file"),
        ("a = " + "[" * 5000, "is no TOML file"),
        ("detla = 1e-5", "has the unknown key 'detla'"),
        ("as_json = true", "as_json must be a number or a text"),
        ("config = 'x'", "has the unknown key 'config'"),
        ("delta = [1e-5]", "delta must be a number or a text"),
        ("delta = true", "delta must be a number or a text"),
        ("delta = 1979-05-27", "delta must be a number or a text"),
        ("[delta]\nx = 1", "delta must be a number or a text"),
        ("event = [[]]", "event must be a number or a text"),
        ("event = 1", "--event must be an event such as"),
        ("[[event]]\ntype = 'Gaussian'", "event must be"),
        ("delta = 'small'", "'small' is not a valid float"),
        ("steps = 1.5", "not a valid whole number"),
        ("noise_multiplier = nan", "noise_multiplier must be a real number"),
        ("accountant = 'guess'", "'guess' is not one of"),
        ("accountant = 1", "'1' is not one of"),
    ],
)
def test_a_bad_configuration_file(contents, words, tmp_path, capsys):
    path = tmp_path / "plan.toml"
    path.write_text(contents)
    missing = {"delta": "--delta 1e-5", "noise_multiplier": "--noise-multiplier 1", "steps": "--steps 1"}
    rest = " ".join(option for key, option in missing.items() if key not in contents)
    rest = "--delta 1e-5" if "event" in contents else rest
    status, out, err = run(f"epsilon --config {path} {rest}", capsys)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_configuration_file_that_is_not_there(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "none.toml"):
        status, _, err = run(f"{EPSILON} --config {path}", capsys)
        assert status == 2
        assert str(path) in err


def test_tables_name_relation_and_sampler(capsys):
    for line, number in ((EPSILON, "1.28022"), (CALIBRATE, "0.77361")):
        text = words(line + " --accountant rdp", capsys)
        for expected in (
            number,
            "adding or removing one unit",
            "Poisson",
            "0.0042667",
            "fixed size does not",
        ):
            assert expected in text
    text = words(
        "epsilon --delta 1e-5 --relation replace-one --event SampledWithoutReplacement(Gaussian(9),500,50)",
        capsys,
    )
    assert "50 of 500 units drawn anew for each step" in text
    assert "fixed size does not draw such samples" in text


def test_terms_are_explained_on_request(capsys):
    assert "factor e^epsilon" not in words(EPSILON, capsys)
    for line in (EPSILON, CALIBRATE):
        text = words(line + " --explain", capsys)
        for term in ("factor e^epsilon", "one over the number of units", "all records of one client"):
            assert term in text


def test_without_sampling(capsys):
    line = "epsilon --noise-multiplier 2 --steps 1 --delta 1e-5"
    assert answer(f"{line} --json", capsys)["epsilon_upper"] == pld(2.0, 1.0, 1).epsilon(1e-5)
    assert "every unit takes part in every step" in words(line, capsys)


def test_printed_numbers_are_rounded_up(capsys):
    for z in ("1.1", "3.3", "0.9", "17"):
        _, out, _ = run(f"epsilon --noise-multiplier {z} --steps 9 --delta 1e-5", capsys)
        shown = float(next(line for line in out.splitlines() if "epsilon" in line).split("│")[2])
        exact = pld(float(z), 1.0, 9).epsilon(1e-5)
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
        (EPSILON + " --relation remove", "'remove' is not one of"),
        (EPSILON + " --group-size 0", "0 is not in the range"),
        (EPSILON + " --event Gaussian(2)", "--steps has no place: write n where --event needs it"),
        ("epsilon --delta 1e-5 --event Gaussian(z)", "Missing option '--noise-multiplier'."),
        ("epsilon --delta 1e-5 --event Gaussian(x)", "must not hold 'x', which stands for nothing here"),
        ("epsilon --delta 1e-5", "Missing option '--steps'."),
        (CALIBRATE + " --noise-multiplier 1", "--noise-multiplier is what is looked for: leave it out"),
        (CALIBRATE + " --for steps", "Missing option '--noise-multiplier'."),
        (CALIBRATE + " --for steps --noise-multiplier 1", "--steps has no place"),
        (CALIBRATE + " --for batch-size --noise-multiplier 1", "Missing option '--population-size'."),
        (CALIBRATE + " --population-size 9", "--population-size has no place"),
        ("calibrate --target-epsilon 1 --delta 1e-5 --event Gaussian(2)", "must hold z, which is what is"),
        (
            "calibrate --target-epsilon 1 --delta 1e-5 --event [Gaussian(z),NonPrivate()]",
            "--event must be an event such as 'Gaussian(1.1) * 10', got '[Gaussian(z),NonPrivate()]'",
        ),
        (
            "calibrate --target-epsilon 1 --delta 1e-5 --event Composed([Gaussian(z),Gaussian(1)])",
            "no noise multiplier meets target_epsilon 1.0, not even 1e+12: the best reachable epsilon is",
        ),
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
    status, out, err = run("--help", capsys)
    assert (status, err) == (0, "")
    assert "Usage: fedsec" in out


def leaves(command, *names):
    if not isinstance(command, click.Group):
        return [names]
    return [leaf for name, below in command.commands.items() for leaf in leaves(below, *names, name)]


@pytest.mark.parametrize("names", leaves(cli.commands), ids=" ".join)
def test_the_help_of_each_command_has_an_example(capsys, names):
    status, out, err = run(" ".join([*names, "--help"]), capsys)
    assert (status, err) == (0, "")
    assert f"Example: fedsec {' '.join(names)} " in out.replace("\n", " ").replace("  ", " ")


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
    assert "1.13288" in good.stdout
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
