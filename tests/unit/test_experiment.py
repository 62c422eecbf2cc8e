"""Federations that a file describes: strict keys, data of one's own, runs that go on, sweeps."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsec import cli, experiment
from fedsec.errors import DataFormatError, FedsecError, InvalidArgumentError, InvalidTypeError
from fedsec.experiment import Experiment, Sweep, config, records
from fedsec.experiment.run import Clients
from fedsec.experiment.sweep import accuracy_by_epsilon

ROOT = Path(__file__).parents[2]
PRIVATE = {"l2_clip_norm": 1.0, "noise_multiplier": 1.0, "target_delta": 1e-5}


def document(**tables):
    """A small federation on named arrays, with some tables changed."""
    usual = {
        "data": {"source": "own.npz"},
        "partition": {"num_clients": 4},
        "model": {"name": "linear"},
        "rounds": {"num_rounds": 2},
        "aggregation": {"secure": False},
    }
    tables = {
        name: {**usual.get(name, {}), **value} if isinstance(value, dict) else value
        for name, value in (usual | tables).items()
    }
    return {
        name: {key: one for key, one in value.items() if one is not None}
        if isinstance(value, dict)
        else value
        for name, value in tables.items()
    }


@pytest.fixture
def here(tmp_path):
    """A folder with a data set in which the first numbers tell the label."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = x[:, :3].argmax(axis=1)
    np.savez(tmp_path / "own.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    np.savez(
        tmp_path / "whole.npz", pixels=(x * 20 + 128).clip(0, 255).astype(np.uint8), kind=y,
        level=x[:, :2].astype(np.float64), ward=np.repeat(["a", "b", "c", "d"], 100),
        words=y[:, None] + [0, 3],
    )  # fmt: skip
    return tmp_path


def built(here, **tables):
    return Experiment(experiment.parse(document(**tables), here))


# ---- keys


@pytest.mark.parametrize(
    ("changed", "nearest"),
    [
        (
            {"privacy": {"epsilon": 1.0}},
            "'privacy.epsilon'; the nearest known one is 'privacy.target_epsilon'",
        ),
        ({"privcy": {}}, "'privcy'; the nearest known one is 'privacy'"),
        ({"sede": 1}, "'sede'; the nearest known one is 'seed'"),
        ({"partition": {"alpha": 1.0}}, "'partition.alpha'"),
        ({"training": {"l2_clip_norm": 1.0}}, "the nearest known one is 'privacy.l2_clip_norm'"),
        ({"base": "x"}, "'base'"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_known_one(changed, nearest):
    with pytest.raises(InvalidArgumentError, match=re.escape(nearest)):
        experiment.parse(document(**changed))


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"seed": 1.0}, "seed must be a whole number, got 1.0"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"rounds": {"num_rounds": "2"}}, "rounds.num_rounds must be a whole number, got '2'"),
        ({"privacy": {"l2_clip_norm": float("inf")}}, "privacy.l2_clip_norm must be a finite number"),
        ({"losses": {"phases": [1]}}, "losses.phases must be a list of texts"),
        ({"aggregation": {"secure": 1}}, "aggregation.secure must be true or false or a text"),
        ({"output": {"include_operator_data": 1}}, "output.include_operator_data must be true or false"),
        ({"model": 3}, "model must be a table"),
        ({"model": {"name": None, "factory": "m:f", "arguments": {"when": 3j}}}, "model.arguments must be"),
    ],
)
def test_values_have_their_keys_types(changed, names):
    with pytest.raises(InvalidTypeError, match=re.escape(names)):
        experiment.parse(document(**changed))


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"seed": -1}, "seed"),
        ({"partition": {"kind": "random"}}, "partition.kind must be one of iid, dirichlet, shards"),
        ({"partition": {"concentration": 1.0}}, "partition.concentration belongs to dirichlet, quantity"),
        (
            {"partition": {"kind": "by_key", "num_clients": None}},
            "data.keys and partition.kind = 'by_key' come together",
        ),
        (
            {"partition": {"num_clients": 0}, "data": {"source": "digits", "keys": "k"}},
            "data.keys belongs to",
        ),
        ({"algorithm": {"name": "sgd"}}, "algorithm.name must be one of fedavg, fedprox"),
        ({"algorithm": {"tau": 0.1}}, "algorithm.tau belongs to fedadagrad, fedadam, fedyogi"),
        ({"algorithm": {"name": "fedadagrad", "beta2": 0.1}}, "algorithm.beta2 belongs to fedadam, fedyogi"),
        ({"model": {"hidden": 3}}, "model.hidden belongs to mlp"),
        ({"model": {"factory": "a:b"}}, "one of model.name"),
        ({"model": {"arguments": {}}}, "model.arguments belongs to model.factory"),
        ({"privacy": {"unit": "record"}, "training": {"epochs": 2}}, "training.epochs has no effect"),
        ({"privacy": {"unit": "record"}, "algorithm": {"name": "fedprox"}}, "'fedprox' trains at clients"),
        ({"data": {"test_inputs": "x"}}, "come together"),
        ({"data": {"test_inputs": "x", "test_targets": "y", "test_fraction": 0.1}}, "data.test_fraction"),
    ],
)
def test_keys_without_effect_are_refused(changed, names):
    with pytest.raises(InvalidArgumentError, match=re.escape(names)):
        experiment.parse(document(**changed))


def test_one_table_in_the_documents_has_every_key():
    page = (ROOT / "docs" / "simulator.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    assert [row for row in rows if row in set(config.keys())] == list(config.keys())


def test_the_file_in_the_documents_can_be_built():
    page = (ROOT / "docs" / "simulator.md").read_text()
    (text,) = re.findall(r"^```toml\n(# federation\.toml\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    one = Experiment(experiment.parse(config.tomllib.loads(text)))
    assert one.federation.settings.max_cohort == 20
    assert len(one.parts) == 40


def test_the_example_runs(capsys, tmp_path):
    text = (ROOT / "examples" / "simulate" / "digits.toml").read_text()
    (tmp_path / "digits.toml").write_text(text.replace("num_rounds = 100", "num_rounds = 2"))
    assert cli.main(["simulate", str(tmp_path / "digits.toml"), "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["rounds"], result["clients"], result["num_parameters"]) == (2, 10, 1610)
    assert 2.9 < result["epsilon"] <= 3.0
    assert (result["guarantee"]["unit"], result["guarantee"]["sampler"][:7]) == ("record", "Poisson")
    assert [path.name for path in tmp_path.iterdir()] == ["digits.toml"]


# ---- records


def test_arrays_of_ones_own(here):
    own = built(here)
    assert (own.records.num_outputs, len(own.records.targets), len(own.records.test_targets)) == (3, 300, 100)
    split = built(here, data={"source": "whole.npz", "inputs": "pixels", "targets": "kind"})
    assert len(split.records.test_targets) == 80
    assert 0.0 <= float(split.records.inputs.min()) < float(split.records.inputs.max()) <= 1.0
    numbers = built(
        here, data={"source": "whole.npz", "inputs": "pixels", "targets": "level", "keys": "ward"},
        partition={"kind": "by_key", "num_clients": None},
    )  # fmt: skip
    assert (numbers.records.num_outputs, len(numbers.parts)) == (2, 4)
    assert set(numbers.run()["history"][0]) == {"round", "aborted", "epsilon", "loss"}


@pytest.mark.parametrize(
    ("data", "tables", "names"),
    [
        ({"source": "none.npz"}, {}, "none.npz: no such file"),
        ({"source": "own.npz", "inputs": "pixels", "targets": "kind"}, {}, "has no array named pixels, kind"),
        ({"source": "whole.npz"}, {}, "has no array named x_train"),
        ({"source": "whole.npz", "inputs": "pixels", "targets": "ward"}, {}, "must be numbers, got <U1"),
        ({"source": "whole.npz", "inputs": "words", "targets": "kind"}, {}, "takes real numbers or bytes"),
        ({"source": "whole.npz", "inputs": "pixels", "targets": "level"},
         {"partition": {"kind": "shards"}}, "goes by labels"),
        ({"source": "whole.npz", "inputs": "pixels", "targets": "level"},
         {"rounds": {"stop_accuracy": 0.5}}, "rounds.stop_accuracy needs labels"),
        ({"source": "own.npz", "test_fraction": 1.5}, {}, "data.test_fraction must be in (0, 1)"),
        ({"source": "own.npz"}, {"model": {"name": "cnn"}}, "input_shape"),
        ({"source": "own.npz"}, {"model": {"name": "mlp", "hidden": 0}}, "model.hidden"),
        ({"source": "own.npz"}, {"training": {"learning_rate": 0.0}}, "training.learning_rate"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(here, data, tables, names):
    with pytest.raises(FedsecError, match=re.escape(names)):
        built(here, data=data, **tables)


def test_what_is_no_archive_is_refused(here):
    (here / "own.npz").write_bytes(b"PK not quite")
    with pytest.raises(DataFormatError, match=r"own\.npz: cannot be read"):
        built(here)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards", "quantity"])
def test_partitions_are_of_all_records(here, kind):
    parts = built(here, partition={"kind": kind}).parts
    assert sorted(np.concatenate(parts)) == list(range(300))
    assert len(parts) == 4


# ---- models and algorithms


def test_a_model_by_its_import_path_comes_from_the_seed(here):
    (here / "my_models_of_a_test.py").write_text(
        "import torch\n\n\ndef build(width):\n    return torch.nn.Linear(width, 3)\n"
    )
    model = {"factory": "my_models_of_a_test:build", "arguments": {"width": 6}}

    def weight(seed):
        tables = document(seed=seed) | {"model": model}
        return Experiment(experiment.parse(tables, here)).federation.model.weight.detach()

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))
    for change, names in [
        ({"factory": "no_such_module:f"}, "cannot be imported"),
        ({"factory": "torch.nn:NoSuch"}, "cannot be imported"),
        ({"arguments": {"depth": 6}}, "refuses model.arguments"),
        ({"factory": "builtins:dict"}, "must make a torch.nn.Module, got dict"),
        ({"factory": "nothing"}, "module:function"),
    ]:
        with pytest.raises(FedsecError, match=names):
            Experiment(experiment.parse(document() | {"model": model | change}, here))


@pytest.mark.parametrize("name", config.ALGORITHMS)
def test_every_algorithm_learns(here, name):
    rates = {"fedadagrad": 0.3, "fedadam": 0.1, "fedyogi": 0.1}
    algorithm = {"name": name, "learning_rate": rates.get(name, 0.5)}
    result = built(here, algorithm=algorithm, rounds={"num_rounds": 12}).run()
    assert result["accuracy"] > 0.8
    assert result["ended"] == "all rounds"


def test_fedprox_holds_clients_back(here):
    one = built(
        here, algorithm={"name": "fedprox", "mu": 50.0}, training={"learning_rate": 0.01, "epochs": 5}
    )
    start = one.federation.model
    free = Clients(one_dataset(one), one.parts, one.config.training, 0.0, records=False, weighted=True)
    held = Clients(one_dataset(one), one.parts, one.config.training, 50.0, records=False, weighted=True)

    def moved(clients):
        local = clients._trained(start, one.parts[0])
        pairs = zip(local.parameters(), start.parameters(), strict=True)
        return sum(float((mine - theirs).detach().norm()) for mine, theirs in pairs)

    assert moved(held) < 0.5 * moved(free)


def one_dataset(one):
    return torch.utils.data.TensorDataset(one.records.inputs, one.records.targets)


# ---- runs


def test_a_run_leaves_what_it_promises(here):
    one = built(here, privacy=PRIVATE, output={"folder": "out"}, losses={"dropout": 0.2},
                aggregation={"secure": True}, partition={"num_clients": 10})  # fmt: skip
    result = one.run()
    written = json.loads((here / "out" / "result.json").read_text())
    assert written == json.loads(json.dumps(result))
    rows = [json.loads(line) for line in (here / "out" / "metrics.jsonl").read_text().splitlines()]
    assert rows == written["history"]
    with (here / "out" / "metrics.csv").open() as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [row["accuracy"] for row in rows]
    assert "survivors" not in rows[0]
    page = (here / "out" / "report.html").read_text()
    assert "Privacy report of a simulated federation" in page
    assert "survivors" not in page
    state = torch.load(here / "out" / "state.pt", weights_only=True)
    assert set(state) == {"config", "rows", "model", "federation"}
    with pytest.raises(InvalidArgumentError, match="holds a run already"):
        built(here, output={"folder": "out"}).run()


def test_operator_data_are_there_when_asked_for(here):
    pytest.importorskip("matplotlib")
    one = built(here, privacy=PRIVATE, output={"folder": "out", "include_operator_data": True},
                aggregation={"secure": True})  # fmt: skip
    result = one.run()
    assert result["history"][0]["survivors"] == 4
    assert result["history"][0]["seconds_upload_client"] > 0
    assert {p.name for p in (here / "out").glob("*.png")} == {"rounds.png", "labels.png", "phases.png"}
    assert "survivors" in (here / "out" / "report.html").read_text()


def run_with(one, patched, evaluate):
    patched.setattr(records.Records, "evaluate", evaluate)
    one.run()


def interrupted_after(one, number, monkeypatch):
    """Runs it and interrupts it while round `number` + 1 is evaluated, after it was released."""
    calls = iter(range(number))

    def evaluate(self, model):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return real(self, model)

    real = records.Records.evaluate
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        run_with(one, patched, evaluate)


def test_a_run_goes_on_where_it_was_interrupted(here, monkeypatch):
    tables = {"rounds": {"num_rounds": 5}, "output": {"folder": "out"}, "algorithm": {"name": "fedavgm"}}
    whole = built(here, **(tables | {"output": {"folder": "whole"}})).run()
    interrupted_after(built(here, **tables), 3, monkeypatch)
    with (here / "out" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 4, "cut o')
    with pytest.raises(InvalidArgumentError, match="another configuration: training is"):
        built(here, **tables, training={"epochs": 2}).run(resume=True)
    result = built(here, **tables).run(resume=True)
    assert [row["round"] for row in result["history"]] == [1, 2, 3, 4, 5]
    assert result["loss"] == pytest.approx(whole["loss"], abs=1e-5)
    assert built(here, **tables).run(resume=True) == json.loads(
        json.dumps(result).replace("Infinity", "null")
    )


def test_a_run_ends_at_its_target_or_its_budget(here):
    reached = built(
        here, rounds={"num_rounds": 50, "stop_accuracy": 0.8}, privacy=PRIVATE | {"noise_multiplier": 0.1}
    )
    result = reached.run()
    assert result["ended"] == "the accuracy to stop at was reached"
    assert result["accuracy"] >= 0.8
    assert result["epsilon"] == reached.federation.plan.epsilon(50)  # stopping tells something, too
    assert built(here, rounds={"num_rounds": 50, "stop_loss": 5.0}).run()["rounds"] == 1
    spent = PRIVATE | {"target_epsilon": 20.0}
    budget = built(here, rounds={"num_rounds": None}, privacy=spent).run()
    assert budget["ended"] == "the budget is spent"
    assert budget["epsilon"] <= 20.0
    early = built(here, rounds={"num_rounds": 99}, privacy=spent).run()
    assert early["ended"].startswith("the budget: another round would bring")
    assert early["rounds"] == budget["rounds"]


def test_records_of_clients_are_the_unit_where_asked(here):
    one = built(
        here, privacy=PRIVATE | {"unit": "record"}, rounds={"sampling_probability": 0.5},
        algorithm={"learning_rate": 1.0},
    )  # fmt: skip
    assert one.run()["guarantee"]["unit"] == "record"


# ---- the command


def typed(here, text, *options):
    (here / "run.toml").write_text(text)
    return cli.main(["simulate", str(here / "run.toml"), *options])


SMALL = """
[data]
source = "own.npz"
[partition]
num_clients = 5
[model]
name = "linear"
[privacy]
l2_clip_norm = 1.0
target_epsilon = 4.0
target_delta = 1e-5
[rounds]
num_rounds = 2
[aggregation]
secure = false
"""


def test_tables_are_for_people(here, capsys):
    assert typed(here, SMALL) == 0
    printed = capsys.readouterr()
    assert "fixed cohort, no amplification" in printed.out
    assert "the server sees each client's contribution" in printed.out
    assert printed.err == ""


def test_sweeps_run_all_combinations_and_are_drawn(here, capsys):
    pytest.importorskip("matplotlib")
    text = SMALL + '[output]\nfolder = "out"\n'
    options = ["--sweep", "privacy.target_epsilon=1,4", "--sweep", "seed=1", "--json"]
    assert typed(here, text, *options) == 0
    printed = capsys.readouterr()
    runs = json.loads(printed.out)["runs"]
    settings = [(run["privacy.target_epsilon"], run["seed"]) for run in runs]
    assert settings == [(1, 1), (4, 1)]
    assert all(
        0.9 * run["privacy.target_epsilon"] < run["epsilon"] <= run["privacy.target_epsilon"] for run in runs
    )
    assert "run 2 of 2: privacy.target_epsilon 4, seed 1" in printed.err
    for name in ("sweep.json", "sweep.csv", "accuracy_against_epsilon.png"):
        assert (here / "out" / name).stat().st_size > 0
    assert (here / "out" / "privacy.target_epsilon=4,seed=1" / "result.json").exists()
    assert typed(here, text, *options) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert typed(here, text, *options[:-1], "--resume", "--quiet") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "target_epsilon" in printed.out


def test_points_of_a_sweep_are_means_over_seeds():
    settings = [
        {"privacy.target_epsilon": e, "seed": s, "algorithm.name": "fedavg"} for e in (1, 2) for s in (0, 1)
    ]
    rows = [{"accuracy": a, "epsilon": e} for a, e in [(0.5, 0.9), (0.7, 1.0), (0.8, 2.0), (0.8, 2.0)]]
    points = accuracy_by_epsilon(settings, rows)["algorithm.name fedavg"]
    assert points[0] == pytest.approx((1.0, 0.6, 0.1 * 2**0.5))
    assert points[1] == pytest.approx((2.0, 0.8, 0.0))
    assert accuracy_by_epsilon([{}], [{"loss": 1.0, "epsilon": 1.0}]) == {}


@pytest.mark.parametrize(
    ("text", "options", "names"),
    [
        (SMALL, ["--sweep", "privacy.epsilon=1"], "the nearest known one is 'privacy.target_epsilon'"),
        (SMALL, ["--sweep", "seed"], "--sweep must be KEY=VALUE,..."),
        (SMALL, ["--sweep", "seed.x=1"], "seed must be a whole number"),
        (SMALL, ["--workers", "-1"], "workers"),
        (SMALL.replace("4.0", "-4.0"), [], "target_epsilon must be positive"),
        ("seed = ", [], "is no TOML file"),
        (SMALL + "[colour]\n", [], "unknown key 'colour'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(here, capsys, text, options, names):
    assert typed(here, text, *options) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert names in printed.err


def test_help_shows_an_example(capsys):
    assert cli.main(["simulate", "--help"]) == 0
    assert "Example: fedsec simulate digits.toml" in capsys.readouterr().out


def test_workers_give_the_same(here):
    here_alone = built(here, partition={"num_clients": 3}).run()
    apart = built(here, partition={"num_clients": 3}).run(workers=1)
    assert apart["loss"] == pytest.approx(here_alone["loss"], abs=1e-5)


def test_a_sweep_needs_values(here):
    with pytest.raises(InvalidArgumentError, match="at least one value"):
        Sweep(document(), {"seed": []}, here)
