"""Decoders of what trains: terms of a run, saved federations and trainings, nodes' files, ranks' messages."""

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property.mutations import VALUES, changed_bytes, changed_value, outcome
from protocol.secagg_loop import Loop, complete, config_of
from torch.utils.data import TensorDataset

import fedsec
from fedsec.cli import main
from fedsec.errors import AggregationAborted, FedsecError, IdentityError, InvalidArgumentError
from fedsec.federated.settings import Settings
from fedsec.integrations import process_group
from fedsec.integrations.node import Node, enrol
from fedsec.integrations.terms import Terms

LONG = os.environ.get("FEDSEC_LONG") == "1"
SOME = settings(
    max_examples=3000 if LONG else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
TENSORS = st.sampled_from([torch.zeros(2), torch.full((5,), torch.nan), torch.zeros(0), torch.ones(3).bool()])


def federation(**arguments):
    return fedsec.Federation(
        torch.nn.Linear(4, 1),
        num_clients=5,
        num_rounds=3,
        l2_clip_norm=1.0,
        noise_multiplier=1.0,
        target_delta=1e-5,
        strategy=fedsec.FedAdam(learning_rate=0.1),
        secure_aggregation=False,
        **arguments,
    )


def after_a_round():
    made = federation()
    rnd = next(made.rounds())
    for client in rnd.cohort:
        rnd.submit(client, rnd.model())
    rnd.finish()
    return made.state_dict()


@pytest.fixture(scope="module")
def saved():
    return after_a_round()


def plain(state):
    return repr(state)


@SOME
@given(data=st.data())
def test_a_saved_federation(saved, data):
    """Refused by name, and the federation is as it was; or taken, and then it can be saved again."""
    mine = federation()
    before = plain(mine.state_dict())
    changed = data.draw(changed_value([saved], VALUES | TENSORS))
    kind, _ = outcome(mine.load_state_dict, changed)
    if kind == "refused":
        assert plain(mine.state_dict()) == before
        return
    assert mine.spent().rounds_charged >= 0
    torch.save(mine.state_dict(), os.devnull)


def training():
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dataset = TensorDataset(torch.zeros(40, 4), torch.zeros(40, 1))
    return fedsec.attach(
        model,
        optimizer,
        dataset,
        batch_size=10,
        l2_clip_norm=1.0,
        noise_multiplier=1.0,
        target_delta=1e-5,
        epochs=2,
    )


@pytest.fixture(scope="module")
def attached():
    with_privacy = training()
    yield with_privacy
    with_privacy.detach()


@SOME
@given(data=st.data())
def test_a_saved_training(attached, data):
    before = plain(attached.state_dict())
    changed = data.draw(changed_value([attached.state_dict()], VALUES | TENSORS))
    kind, _ = outcome(attached.load_state_dict, changed)
    assert kind == "value" or plain(attached.state_dict()) == before
    attached._steps = 0


TERMS = Terms(
    Settings(num_clients=5, num_rounds=3, l2_clip_norm=1.0, noise_multiplier=1.0, target_delta=1e-5)
)


@SOME
@given(changed_bytes([TERMS.to_bytes()]))
def test_terms_of_changed_bytes(data):
    kind, found = outcome(lambda data: Terms.from_bytes(data).to_bytes(), data)
    assert kind == "refused" or found == data


@SOME
@given(changed_value([json.loads(TERMS.to_bytes())]))
def test_terms_of_changed_values(values):
    """What is taken as terms is a plan, or refused as one."""
    data = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    arrays = {"w": np.zeros((3, 2), np.float32)}
    kind, found = outcome(lambda data: Terms.from_bytes(data).to_bytes(), data)
    assert kind == "refused" or found == data
    if kind == "value":
        outcome(lambda data: Terms.from_bytes(data).task("train", arrays), data)


def test_terms_nested_in_thousands_are_refused():
    with pytest.raises(InvalidArgumentError, match="terms must be"):
        Terms.from_bytes(b"[" * 100_000)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes")
    enrol(folder, 3, max_corrupt=0, min_survivors=3)
    return folder / "1"


@SOME
@given(data=st.data())
def test_a_nodes_file(node, data):
    text = (node / "node.toml").read_bytes()
    (node / "node.toml").write_bytes(data.draw(changed_bytes([text])))
    try:
        outcome(lambda _: Node.load(node), b"", errors=FedsecError)
    finally:
        (node / "node.toml").write_bytes(text)


@pytest.mark.parametrize("authority", ["xyz", "ab", "é" * 64])
def test_a_node_without_an_authority_is_refused_by_name(node, tmp_path, authority):
    shutil.copytree(node, tmp_path / "node")
    path = tmp_path / "node" / "node.toml"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(f'authority = "{authority}"' if "authority" in one else one for one in lines))
    with pytest.raises(IdentityError, match="authority"):
        Node.load(tmp_path / "node")


@SOME
@given(data=st.data())
def test_what_ranks_send_to_the_server(data):
    """Any bytes from any rank: a phase closes, or the session is given up."""
    loop = Loop(3)
    honest = [loop.answer(client) for client in loop.ids]
    hub = process_group._Hub(loop.config)
    arrived = data.draw(st.lists(changed_bytes(honest) | st.just(b""), min_size=3, max_size=3))
    status, answers = hub.close(arrived)
    assert status == process_group._ABORTED or set(answers) <= {0, 1, 2}


@pytest.mark.parametrize("length", [2**60, 2**40, -1])
def test_a_rank_that_claims_a_length_is_not_believed(length):
    """A message of the protocol is no longer than its cohort lets it be: nobody makes room for more."""
    with pytest.raises(AggregationAborted, match="must take"):
        process_group._require_length(config_of(complete(4)), length)


def test_every_message_is_as_short_as_that():
    sparse = fedsec.secagg.recommend(num_clients=40, corrupt_fraction=0.05, dropout_fraction=0.05)
    for loop in (Loop(4), Loop(parameters=sparse)):
        loop.finish()
        for heap in (loop.given, loop.sent):
            for message in (one for rows in heap.values() for one in rows):
                process_group._require_length(loop.config, len(message))


PLANS = [
    b'noise-multiplier = 1.1\nsampling-probability = 0.01\nsteps = 10\ndelta = 1e-5\naccountant = "rdp"\n',
    b'event = ["Gaussian(2) * 10", "Laplace(3)"]\ndelta = 1e-6\naccountant = "rdp"\n',
]


@SOME
@given(data=st.data())
def test_a_plan_in_a_file(tmp_path_factory, data):
    """An answer, or status 2 and one sentence."""
    path = Path(tmp_path_factory.getbasetemp()) / "plan.toml"
    path.write_bytes(data.draw(changed_bytes(PLANS)))
    assert main(["epsilon", "--json", "--config", str(path)]) in (0, 2)
