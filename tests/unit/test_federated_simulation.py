"""The simulator: what a deployment would do, one client at a time, and what it writes down."""

import csv
import json

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

import fedsec
from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError, ProtocolError
from fedsec.federated import Losses, partition, simulate
from fedsec.federated.aggregation import SessionKeyMasked
from fedsec.federated.mechanism import without_noise
from fedsec.secagg.local import default_parameters

CLIENT = {"l2_clip_norm": 1.0, "noise_multiplier": 1.0, "target_delta": 1e-5}
KINDS = [True, False, "insecure_session_key"]


def federate(num_clients=8, num_rounds=2, **arguments):
    model = torch.nn.Linear(4, 1)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    return fedsec.Federation(model, num_clients=num_clients, num_rounds=num_rounds, **arguments)


def add_own_number(rnd, client):
    local = rnd.model()
    with torch.no_grad():
        for parameter in local.parameters():
            parameter.add_(float(client))
    rnd.submit(client, local)


def flat(model):
    return torch.cat([t.flatten().double() for t in model.state_dict().values()])


@pytest.mark.parametrize("secure", KINDS)
def test_the_sum_is_over_those_who_uploaded(secure):
    federation = federate(secure_aggregation=secure)
    done = simulate(federation, add_own_number, losses={1: {2: "share", 7: "unmask"}})
    first, second = (one.operator_only for one in done.history)
    assert (first.survivors, first.dropped) == ((0, 1, 3, 4, 5, 6, 7), (2,))
    assert second.survivors == tuple(range(8))
    expected = 26 / 7 + 28 / 8
    assert torch.allclose(flat(federation.model), torch.full((5,), expected, dtype=torch.float64), atol=1e-6)
    assert ("one process" in done.aggregation) is (secure is True)
    assert ("rehearsal" in done.aggregation) is (secure == "insecure_session_key")


@pytest.mark.parametrize("secure", KINDS)
def test_who_submits_nothing_is_lost_at_its_upload(secure):
    federation = federate(num_clients=12, num_rounds=1, secure_aggregation=secure)
    done = simulate(federation, lambda rnd, client: client == 4 or add_own_number(rnd, client))
    assert done.history[0].operator_only.dropped == (4,)
    assert torch.allclose(flat(federation.model), torch.full((5,), 62 / 11, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("secure", KINDS)
def test_contributions_are_let_go_of_one_by_one(secure):
    """Memory holds the sum and the client at work, not the cohort's updates."""
    federation, sizes = federate(num_clients=10, num_rounds=1, secure_aggregation=secure), []

    def contribute(rnd, client):
        add_own_number(rnd, client)
        sizes.append(rnd._contributions[client].integers.size)

    simulate(federation, contribute)
    assert sizes == [0] * 10


def test_a_client_that_has_uploaded_cannot_be_dropped_before():
    federation = federate()
    rnd = next(federation.rounds(lost=lambda _id, _cohort: {1: "upload"}))
    add_own_number(rnd, 0)
    with pytest.raises(ProtocolError, match="in the sum"):
        rnd.drop(0, "upload")
    rnd.drop(0, "unmask")
    with pytest.raises(InvalidArgumentError, match="dropped out"):
        add_own_number(rnd, 1)


@pytest.mark.parametrize("secure", [True, "insecure_session_key"])
def test_rounds_with_too_few_survivors_abort_and_are_not_charged(secure):
    lost = {1: dict.fromkeys(range(7), "advertise"), 2: dict.fromkeys(range(7), "upload")}
    federation = federate(num_rounds=3, secure_aggregation=secure, **CLIENT)
    done = simulate(federation, add_own_number, losses=lost)
    assert [one.aborted for one in done.history] == [True, True, False]
    assert done.aborted == 2
    assert done.guarantee.rounds_charged == 1
    assert done.history[0].operator_only is None


def test_losses_by_chance_have_their_probabilities_and_a_seed():
    """Binomial of 20,000: within five standard errors."""
    cohort = tuple(range(20_000))
    lost = Losses(dropout=0.2, straggling=0.1, phases=("share", "unmask"), seed=3)(7, cohort)
    phases = list(lost.values())
    for phase, share in [("share", 0.1), ("unmask", 0.1), ("upload", 0.08)]:
        assert abs(phases.count(phase) / 20_000 - share) < 5 * (share / 20_000) ** 0.5
    assert Losses(0.2, 0.1, ("share", "unmask"), 3)(7, cohort) == lost
    assert Losses(0.2, 0.1, ("share", "unmask"), 4)(7, cohort) != lost
    assert Losses(0.2, 0.1, ("share", "unmask"), 3)(8, cohort) != lost
    assert Losses()(1, cohort) == {}


@pytest.mark.parametrize(
    "arguments", [{"dropout": 1.5}, {"straggling": -1}, {"phases": ("lunch",)}, {"phases": ()}]
)
def test_losses_are_checked(arguments):
    with pytest.raises(InvalidArgumentError):
        Losses(**arguments)


def accuracy(model):
    return {"bias": float(model.bias.detach())}


@pytest.mark.parametrize("operator", [False, True])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_logs_are_written_and_keep_what_no_guarantee_covers_to_themselves(tmp_path, ending, operator):
    path = tmp_path / f"run.{ending}"
    federation, heard = federate(num_rounds=3, **CLIENT), []
    done = simulate(
        federation, add_own_number, evaluate=accuracy, log=path, on_round=heard.append,
        include_operator_data=operator, losses={2: {0: "upload"}},
    )  # fmt: skip
    with path.open() as file:
        rows = list(csv.DictReader(file)) if ending == "csv" else [json.loads(line) for line in file]
    assert [int(row["round"]) for row in rows] == [1, 2, 3]
    assert float(rows[2]["epsilon"]) == federation.spent().epsilon
    assert float(rows[2]["bias"]) == accuracy(federation.model)["bias"]
    secret = {"survivors", "dropped", "bytes_per_client", "clipped_fraction", "seconds_masking"}
    assert secret & set(rows[0]) == (secret if operator else set())
    assert tuple(heard) == done.history
    assert ("bytes_per_client" in done.record()) is False
    assert "survivors" not in json.dumps(done.record())
    assert json.dumps(done.record(include_operator_data=True))


def test_a_log_is_json_where_epsilon_is_infinite(tmp_path):
    path = tmp_path / "run.jsonl"
    simulate(federate(num_rounds=1), add_own_number, evaluate=lambda model: {"odd": float("nan")}, log=path)

    def refused(constant):
        raise AssertionError(f"{constant} is no JSON")

    row = json.loads(path.read_text(), parse_constant=refused)
    assert (row["round"], row["epsilon"], row["odd"]) == (1, None, None)


def test_a_target_ends_the_run_and_is_paid_for():
    federation = federate(num_rounds=9, **CLIENT)
    done = simulate(federation, add_own_number, evaluate=accuracy, stop=lambda one: one.round_id == 2)
    assert len(done.history) == 2
    assert done.guarantee.epsilon == federation.plan.epsilon(9)


def test_what_contribute_raises_is_the_callers():
    def broken(rnd, client):
        local = rnd.model()
        with torch.no_grad():
            local.bias.fill_(float("nan"))
        rnd.submit(client, local)

    with pytest.raises(NonFiniteError, match="bias"):
        simulate(federate(), broken)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"contribute": 3}, InvalidTypeError),
        ({"evaluate": 3}, InvalidTypeError),
        ({"losses": 3}, InvalidTypeError),
        ({"log": "run.txt"}, InvalidArgumentError),
    ],
)
def test_bad_arguments(change, error):
    arguments = {"federation": federate(), "contribute": add_own_number} | change
    with pytest.raises(error, match=next(iter(change))):
        simulate(**arguments)


def test_rehearsals_say_what_they_are_in_every_report():
    federation = federate(secure_aggregation="insecure_session_key", insecure_sampling_seed=1, **CLIENT)
    done = simulate(federation, add_own_number)
    said = " ".join(done.guarantee.warnings)
    assert "simulation, no guarantee: cohorts were drawn from a seed" in said
    assert "masks came from one session key" in said
    with pytest.raises(InvalidTypeError, match="secure_aggregation"):
        federate(secure_aggregation="insecure")


def test_seeded_cohorts_repeat_and_others_do_not():
    def cohorts(**arguments):
        federation = federate(
            num_clients=1000, cohort_size=20, num_rounds=3, secure_aggregation=False, **arguments
        )
        seen = []
        simulate(federation, lambda rnd, client: seen.append(client) or add_own_number(rnd, client))
        return seen

    assert cohorts(insecure_sampling_seed=5) == cohorts(insecure_sampling_seed=5)
    assert cohorts(insecure_sampling_seed=5) != cohorts(insecure_sampling_seed=6)
    np.random.seed(0)
    first = cohorts()
    np.random.seed(0)
    assert cohorts() != first


def test_the_masks_of_a_rehearsal_are_real():
    """An upload is uniform where the vector is zero, and what is lost mid-way comes off again.

    False alarm over keys: 1e-11, at 7 standard errors of the mean.
    """
    cohort = tuple(range(40))
    mechanism = without_noise(2000, 40)
    lost = {5: "upload", 9: "share"}
    collector = SessionKeyMasked(mechanism, default_parameters(40, 2), cohort, lost)
    collector.add(0, np.zeros(2000, np.int64))
    words = collector._sum.astype(np.float64) / 2.0**mechanism.modulus_bits
    assert abs(words.mean() - 0.5) < 7 * (1 / 12 / 2000) ** 0.5
    for client in set(cohort) - {0, 5, 9}:
        collector.add(client, np.full(2000, client, np.int64))
    total = collector.finish(lost)
    assert np.all(total.integers == sum(cohort) - 14)
    assert total.survivors == tuple(c for c in cohort if c not in (5, 9))


def test_clients_hold_indices_into_one_data_set():
    x = torch.randn(200, 4)
    dataset = TensorDataset(x, (x[:, 0] > 0).long())
    parts = partition.iid(200, 5, seed=0)
    clients = [Subset(dataset, part) for part in parts]
    torch.manual_seed(0)
    federation = fedsec.Federation(
        torch.nn.Linear(4, 2), num_clients=5, num_rounds=15, unit="record", sampling_probability=0.5,
        num_records=200, l2_clip_norm=1.0, noise_multiplier=0.5, target_delta=1e-5,
        strategy=fedsec.FedAvg(learning_rate=3.0),
    )  # fmt: skip

    def contribute(rnd, client):
        rnd.submit_records(client, clients[client], torch.nn.functional.cross_entropy)

    def evaluate(model):
        with torch.no_grad():
            return {"accuracy": float((model(x).argmax(dim=1) == dataset.tensors[1]).double().mean())}

    done = simulate(federation, contribute, evaluate=evaluate, progress=True)
    assert done.history[-1].metrics["accuracy"] > 0.85
