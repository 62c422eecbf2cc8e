"""Flower's own strategies and ClientApp over a grid in this process: what is hidden, refused and charged."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: make test-flower")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, Krum
from flwr.supercore.task_identity import TaskIdentity
from protocol.node_policies import insist

from fedsec.accounting import Ledger
from fedsec.errors import (
    BudgetExceededError,
    InvalidArgumentError,
    InvalidTypeError,
    ProtocolError,
    UnsupportedError,
)
from fedsec.integrations.flower import SecureAggregation, secure_aggregation_mod
from fedsec.integrations.node import Node, enrol

pytestmark = pytest.mark.flower

NODES = 4
SECRET = 12345.678
PRIVACY = {"l2_clip_norm": 2.0, "noise_multiplier": 1.0, "target_epsilon": 20.0, "target_delta": 1e-5}


def train(message, context):
    """Node i moves by i + 1 with weight i + 1."""
    assert "fedsec" not in message.content
    number = int(context.node_config["partition-id"]) + 1
    arrays = {name: Array(array.numpy() + number) for name, array in message.content["arrays"].items()}
    metrics = MetricRecord({"num-examples": number, "loss": SECRET})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)


def evaluate(message, context):
    """Node i says i / 4 with weight i + 1, and what must not be seen."""
    assert "fedsec" not in message.content
    assert set(message.content["arrays"]) == {"w", "b"}
    number = int(context.node_config["partition-id"])
    metrics = {"num-examples": number + 1, "accuracy": number / 4, "loss": SECRET}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


class InProcess(Grid):
    """Nodes in this process; `lost(node, step)` says who does not answer, `change` what arrives."""

    def __init__(self, root, training=train):
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 0
        self.root, self.requests, self.replies = root, [], []
        self.lost = lambda number, step: False
        self.change = lambda message: message
        self.app = ClientApp(mods=[secure_aggregation_mod])
        self.app.train()(training)
        self.app.evaluate()(evaluate)

    def ask(self, message):
        number = message.metadata.dst_node_id - 100
        where = {"partition-id": number, "fedsec": str(self.root / str(number))}
        context = Context(run_id=1, node_id=number, node_config=where, state=RecordDict(), run_config={})
        return self.app(message, context)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            message.metadata._message_id = "m"
            self.requests.append(message)
            record = message.content.config_records.get("fedsec", {})
            if not self.lost(message.metadata.dst_node_id - 100, record.get("step")):
                replies.append(self.ask(self.change(message)))
        self.replies += replies
        return replies

    def get_node_ids(self):
        return [100 + number for number in range(NODES)]

    def set_run(self, run):
        raise NotImplementedError

    run = property(lambda self: SimpleNamespace(run_id=1))

    def create_message(self, *_):
        raise NotImplementedError

    push_messages = pull_messages = create_message


@pytest.fixture
def grid(tmp_path):
    authority = enrol(tmp_path, NODES, **OWNER)
    one = InProcess(tmp_path)
    one.authority = authority
    return one


OWNER = {
    "max_corrupt": 0,
    "min_survivors": 3,
    "noise": ["none"],
    "metrics": ["num-examples", "accuracy", "loss"],
}
TRUSTING = OWNER | {"noise": ["central", "distributed", "local"], "target_epsilon": 1e3}


def insist_all(grid, **policy):
    for number in range(NODES):
        insist(grid.root / str(number), **policy)


def strategy_of(grid, inner=None, policy=None, **settings):
    """With owners who allow what is asked for, or whatever is in `policy`."""
    if policy or "l2_clip_norm" in settings:
        insist_all(grid, **(policy or TRUSTING))
    return SecureAggregation(
        inner or FedAvg(min_train_nodes=3, min_available_nodes=3),
        directory=grid.root / "clients.directory",
        authority=grid.authority.hex(),
        max_clients=NODES,
        corrupt_fraction=0.0,
        dropout_fraction=0.25,
        **settings,
    )


def initial():
    return ArrayRecord({"w": Array(np.zeros((5, 3), np.float32)), "b": Array(np.ones(2))})


def moved(result):
    """By how much each weight has moved."""
    return np.concatenate([result.arrays["w"].numpy().ravel(), result.arrays["b"].numpy() - 1.0])


def mean(numbers):
    return sum(n * n for n in numbers) / sum(numbers)


def test_the_mean_and_nothing_else(grid):
    result = strategy_of(grid).start(grid, initial(), num_rounds=2)
    np.testing.assert_allclose(moved(result), 2 * mean([1, 2, 3, 4]), rtol=1e-6)
    for reply in grid.replies:
        assert set(reply.content) == {"fedsec"}
        assert set(reply.content["fedsec"]) <= {"client-id", "payload"}
        assert str(SECRET) not in str(reply.content)
    types = {reply.metadata.message_type for reply in grid.replies}
    assert types == {"train"}, "nobody evaluates in the clear"


METRICS = {"accuracy": (0.0, 1.0), "loss": (0.0, 10.0)}


def require_no_secret(grid):
    for reply in grid.replies:
        assert set(reply.content) == {"fedsec"}
        assert set(reply.content["fedsec"]) <= {"client-id", "payload"}


def test_metrics_of_training_are_a_mean_within_their_bounds(grid):
    result = strategy_of(grid, train_metrics={"loss": (0.0, 10.0)}).start(grid, initial(), num_rounds=2)
    np.testing.assert_allclose(moved(result), 2 * mean([1, 2, 3, 4]), rtol=1e-6)
    for metrics in result.train_metrics_clientapp.values():
        assert dict(metrics) == {"loss": pytest.approx(10.0)}
    require_no_secret(grid)


def test_an_evaluation_is_a_weighted_mean_and_nothing_else(grid):
    result = strategy_of(grid, evaluate_metrics=METRICS).start(grid, initial(), num_rounds=2)
    np.testing.assert_allclose(moved(result), 2 * mean([1, 2, 3, 4]), rtol=1e-6)
    assert set(result.evaluate_metrics_clientapp) == {1, 2}
    expected = (0 * 1 + 1 * 2 + 2 * 3 + 3 * 4) / 4 / 10
    for metrics in result.evaluate_metrics_clientapp.values():
        assert dict(metrics) == {"accuracy": pytest.approx(expected), "loss": pytest.approx(10.0)}
    require_no_secret(grid)
    assert {reply.metadata.message_type for reply in grid.replies} == {"train", "evaluate"}


def test_an_evaluation_with_a_node_lost_or_too_many(grid):
    def lost(number, step):
        evaluates = grid.requests[-1].metadata.message_type == "evaluate"
        return evaluates and step == "answer" and number in grid.victims

    grid.lost, grid.victims = lost, {3}
    result = strategy_of(grid, evaluate_metrics=METRICS).start(grid, initial(), num_rounds=1)
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx((1 * 2 + 2 * 3) / 4 / 6)
    grid.victims = {2, 3}
    result = strategy_of(grid, evaluate_metrics=METRICS).start(grid, initial(), num_rounds=2)
    assert not result.evaluate_metrics_clientapp
    np.testing.assert_allclose(moved(result), 2 * mean([1, 2, 3, 4]), rtol=1e-6)


@pytest.mark.parametrize("noise", ["central", "local", "distributed"])
def test_a_private_evaluation_is_charged_as_a_round_is(grid, tmp_path, noise):
    said = PRIVACY | {"target_epsilon": 60.0, "noise": noise, "noise_multiplier": 0.9}
    path = tmp_path / "study.ledger"
    strategy = strategy_of(grid, evaluate_metrics=METRICS, ledger=path, **said)
    result = strategy.start(grid, initial(), num_rounds=2)
    alone = strategy_of(grid, **said)
    alone.start(grid, initial(), num_rounds=4)
    assert strategy.spent().rounds_charged == 4
    assert strategy.spent().epsilon == alone.spent().epsilon
    entries = [entry.purpose for entry in Ledger.open(path).entries()]
    assert entries == ["round 1", "evaluation of round 1", "round 2", "evaluation of round 2"]
    for metrics in result.evaluate_metrics_clientapp.values():
        assert 0.0 <= metrics["accuracy"] <= 1.0
        assert 0.0 <= metrics["loss"] <= 10.0


def test_evaluations_count_against_the_budget(grid):
    said = PRIVACY | {"target_epsilon": 7.0}
    strategy_of(grid, **said).start(grid, initial(), num_rounds=2)
    grid.requests.clear()
    with pytest.raises(BudgetExceededError, match="4 rounds and evaluations"):
        strategy_of(grid, evaluate_metrics=METRICS, **said).start(grid, initial(), num_rounds=2)
    assert not grid.requests


def test_metrics_of_private_training_are_refused(grid):
    with pytest.raises(UnsupportedError, match="evaluate_metrics"):
        strategy_of(grid, train_metrics=METRICS, **PRIVACY)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [0.5], None])
def test_a_metric_that_is_no_number_stays_at_home(grid, value):
    def odd(message, context):
        reply = evaluate(message, context)
        if int(context.node_config["partition-id"]) == 3:
            metrics = {"num-examples": 4, "loss": 1.0} | ({} if value is None else {"accuracy": value})
            reply.content["metrics"] = MetricRecord(metrics)
        return reply

    grid.app = ClientApp(mods=[secure_aggregation_mod])
    grid.app.train()(train)
    grid.app.evaluate()(odd)
    result = strategy_of(grid, evaluate_metrics=METRICS).start(grid, initial(), num_rounds=1)
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx((1 * 2 + 2 * 3) / 4 / 6)
    require_no_secret(SimpleNamespace(replies=[one for one in grid.replies if not one.has_error()]))


def test_a_client_asked_for_another_task_than_the_session_is_for_does_nothing(grid):
    """An update in the place of metrics, or the other way round, would be a sum that nobody bounded."""
    asked = []

    def changed(message):
        if message.metadata.dst_node_id == 102 and message.content["fedsec"]["terms"]:
            other = {"train": "evaluate", "evaluate": "train"}[message.metadata.message_type]
            asked.append(other)
            message = Message(message.content, 102, other)
            message.metadata._message_id = "m"
        return message

    grid.change = changed
    result = strategy_of(grid, evaluate_metrics=METRICS).start(grid, initial(), num_rounds=1)
    np.testing.assert_allclose(moved(result), mean([1, 2, 4]), rtol=1e-6)
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx((1 * 2 + 3 * 4) / 4 / 7)
    assert asked == ["evaluate", "train"]


def test_a_client_asked_for_other_metrics_answers_none(grid):
    """Bounds so narrow that they tell on which side of a value it is, or metrics that nobody else reports."""

    def changed(message):
        record = message.content["fedsec"]
        if message.metadata.dst_node_id == 102 and record["terms"]:
            said = json.loads(record["terms"])
            said["evaluate_metrics"] = [["accuracy", 0.4, 0.4001], ["loss", 0.0, 10.0]]
            record["terms"] = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
        return message

    grid.change = changed
    result = strategy_of(grid, evaluate_metrics=METRICS).start(grid, initial(), num_rounds=1)
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx((1 * 2 + 3 * 4) / 4 / 7)


@pytest.mark.parametrize("noise", ["central", "distributed"])
def test_an_adaptive_bound_goes_from_round_to_round(grid, noise):
    said = PRIVACY | {"target_epsilon": 60.0, "clipping": "adaptive", "l2_clip_norm": 0.5, "noise": noise}
    bounds = []

    def seen(message):
        if message.content["fedsec"]["terms"] and message.metadata.dst_node_id == 100:
            settings = json.loads(message.content["fedsec"]["terms"])["settings"]
            bounds.append(settings["l2_clip_norm"] or settings["clipping"]["l2_clip_norm"])
        return message

    grid.change = seen
    strategy = strategy_of(grid, **said)
    strategy.start(grid, initial(), num_rounds=3)
    assert bounds[0] == 0.5
    assert bounds[0] != bounds[1] != bounds[2], bounds  # the third may be the first again
    assert strategy.spent().rounds_charged == 3
    assert strategy.spent().epsilon <= 60.0


@pytest.mark.parametrize("step", ["hello", "join", "answer"])
def test_a_lost_node(grid, step):
    grid.lost = lambda number, asked: (number, asked) == (2, step)
    result = strategy_of(grid).start(grid, initial(), num_rounds=1)
    np.testing.assert_allclose(moved(result), mean([1, 2, 4]), rtol=1e-6)


def test_a_round_with_too_few_moves_nothing_and_the_run_goes_on(grid):
    asked = []

    def lost(number, step):
        asked.append(step)
        return number < 2 and step == "join" and len(asked) < 9

    grid.lost = lost
    result = strategy_of(grid).start(grid, initial(), num_rounds=2)
    np.testing.assert_allclose(moved(result), mean([1, 2, 3, 4]), rtol=1e-6)


def test_server_optimizers_step_from_the_mean(grid):
    adam = FedAdam(min_train_nodes=3, min_available_nodes=3, eta=0.5, tau=1e-3)
    result = strategy_of(grid, adam).start(grid, initial(), num_rounds=1)
    assert np.ptp(moved(result)) < 1e-6
    assert moved(result)[0] > 0
    strategy_of(grid, FedProx(proximal_mu=0.1, min_train_nodes=3)).start(grid, initial(), num_rounds=1)


def test_privacy(grid):
    strategy = strategy_of(grid, **PRIVACY)
    result = strategy.start(grid, initial(), num_rounds=2)
    # Each update has norm 2 after clipping, whatever its weight; four of them, over four, twice; plus noise.
    expected, deviation = 2 * 2.0 / np.sqrt(17), np.sqrt(2) * 2.0 / 4
    assert abs(moved(result).mean() - expected) < 6 * deviation / np.sqrt(17)
    assert np.ptp(moved(result)) > 0.1 * deviation
    spent = strategy.spent()
    assert spent.rounds_charged == 2
    assert 0 < spent.epsilon <= 20.0


def test_noise_is_calibrated_once_and_clients_plan_the_same(grid):
    said = {"l2_clip_norm": 2.0, "target_epsilon": 3.0, "target_delta": 1e-5}
    strategy = strategy_of(grid, **said)
    strategy.start(grid, initial(), num_rounds=3)
    assert strategy.spent().epsilon <= 3.0


@pytest.mark.parametrize("noise", ["central", "distributed"])
@pytest.mark.parametrize(("phase", "charged"), [("agree", 0), ("unmask", 1)])
def test_a_round_is_charged_once_shares_are_asked_for(grid, noise, phase, charged):
    """The sum is open to whoever holds them, even if this process has too few and gives the round up."""
    asked = Counter()

    def lost(number, step):
        asked[number] += step == "answer"
        return number in (1, 2) and asked[number] == {"agree": 3, "unmask": 4}[phase]

    grid.lost = lost
    strategy = strategy_of(grid, noise=noise, **PRIVACY | {"target_epsilon": 60.0})
    result = strategy.start(grid, initial(), num_rounds=1)
    assert not result.arrays
    assert strategy.spent().rounds_charged == charged


def test_local_noise_is_charged_when_it_leaves(grid):
    grid.lost = lambda number, step: False
    strategy = strategy_of(grid, noise="local", **PRIVACY)
    strategy.start(grid, initial(), num_rounds=1)
    assert strategy.spent().noise == "local"
    assert strategy.spent().rounds_charged == 1


@pytest.mark.parametrize("lost", [(), (2,)])
def test_distributed_noise_and_a_lost_node(grid, lost):
    grid.lost = lambda number, step: number in lost and step == "answer"
    strategy = strategy_of(grid, noise="distributed", **PRIVACY | {"target_epsilon": 60.0})
    result = strategy.start(grid, initial(), num_rounds=2)
    assert strategy.spent().noise == "distributed"
    assert strategy.spent().rounds_charged == 2
    assert 0 < np.abs(moved(result)).max() < 20


def test_more_rounds_than_the_budget_are_refused_before_anything_runs(grid):
    with pytest.raises(BudgetExceededError, match="budget is 20"):
        strategy_of(grid, **PRIVACY).start(grid, initial(), num_rounds=1000)
    assert not grid.requests


def test_a_ledger_outlives_the_run(grid, tmp_path):
    path = tmp_path / "study.ledger"
    for _ in range(2):
        strategy_of(grid, ledger=path, **PRIVACY).start(grid, initial(), num_rounds=3)
    ledger = Ledger.open(path)
    assert [entry.purpose for entry in ledger.entries()] == [f"round {i}" for i in (1, 2, 3)] * 2
    left = ledger.remaining(ledger.entries()[0].event)
    with pytest.raises(BudgetExceededError, match=f"room for {left} rounds"):
        strategy_of(grid, ledger=path, **PRIVACY).start(grid, initial(), num_rounds=left + 1)


@pytest.fixture
def said(caplog):
    """What the nodes of this process log, for their owners."""
    return lambda: [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def reasons(grid):
    """What the server hears of errors."""
    return {reply.error.reason for reply in grid.replies if reply.has_error()}


def test_a_refusal_tells_the_owner_what_to_write_and_the_server_a_name(grid, said):
    strategy = strategy_of(grid, policy=TRUSTING | {"min_noise_multiplier": 4.0}, **PRIVACY)
    result = strategy.start(grid, initial(), num_rounds=1)
    assert not result.arrays
    assert reasons(grid) == {"fedsec: PolicyError"}
    assert len(said()) == NODES
    assert said()[0] == (
        f"fedsec: refused by [policy] of {grid.root / '0' / 'node.toml'}: the noise multiplier is 1; "
        "this node has min_noise_multiplier = 4.0, to take it: min_noise_multiplier = 0.99"
    )


def test_owners_who_said_nothing_of_it_take_no_exact_sums(grid, said):
    result = strategy_of(grid, policy={"max_corrupt": 0, "min_survivors": 3}).start(grid, initial(), 2)
    assert not result.arrays
    assert reasons(grid) == {"fedsec: PolicyError"}
    assert all("noise is 'none'" in one for one in said())


@pytest.mark.parametrize("evaluates", [False, True])
def test_rounds_and_evaluations_beyond_the_nodes_own_budget(grid, said, evaluates):
    """The server plans for as much as it likes; each node gives what its ledger has room for."""
    plan = PRIVACY | {"noise": "local", "target_epsilon": 1e3}
    policy = TRUSTING | {"target_epsilon": 7.7}  # of two contributions, 6.6; of three, 8.4
    metrics = METRICS if evaluates else None
    strategy = strategy_of(grid, policy=policy, evaluate_metrics=metrics, **plan)
    strategy.start(grid, initial(), num_rounds=3)
    assert reasons(grid) == {"fedsec: BudgetExceededError"}
    for number in range(NODES):
        ledger = Ledger.open(grid.root / str(number) / "state" / "ledger")
        assert len(ledger.entries()) == 2
        assert ledger.epsilon() <= 7.7
    assert all("target_epsilon 7.7 has no room" in one for one in said())


@pytest.mark.parametrize("message_type", ["train", "evaluate"])
def test_a_plain_message_is_refused(grid, message_type):
    content = RecordDict({"arrays": initial(), "config": ConfigRecord({"lr": 0.1})})
    message = Message(content, 100, message_type)
    reply = grid.ask(message)
    assert reply.has_error()
    assert reply.error.reason == "fedsec: ProtocolError"


@pytest.mark.parametrize("change", ["model", "terms", "weight", "no-terms"])
def test_a_client_told_another_model_or_other_terms_does_not_train(grid, change):
    """Its update would be the difference of two sums, clipped at any bound, or outweigh the others."""

    def changed(message):
        record = message.content["fedsec"]
        if message.metadata.dst_node_id == 102 and record["terms"]:
            if change == "model":
                message.content["arrays"] = ArrayRecord({"w": Array(np.ones((5, 3), np.float32))})
            elif change in ("terms", "weight"):
                said = json.loads(record["terms"])
                other = {"settings": said["settings"] | {"num_rounds": 7}, "weighted_by": "loss"}
                name = "settings" if change == "terms" else "weighted_by"
                said[name] = other[name]
                record["terms"] = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
            else:
                record["terms"] = b""
        return message

    grid.change = changed
    strategy = strategy_of(grid)
    result = strategy.start(grid, initial(), num_rounds=1)
    np.testing.assert_allclose(moved(result), mean([1, 2, 4]), rtol=1e-6)


def test_a_message_delivered_twice_gets_the_same_answer(grid):
    plain = grid.ask
    grid.ask = lambda message: (
        plain(Message(RecordDict(dict(message.content)), message.metadata.dst_node_id, "train")),
        plain(message),
    )[1]
    result = strategy_of(grid).start(grid, initial(), num_rounds=1)
    np.testing.assert_allclose(moved(result), mean([1, 2, 3, 4]), rtol=1e-6)


def test_what_an_error_says_stays_on_the_client(grid):
    def leaky(message, context):
        if int(context.node_config["partition-id"]) == 1:
            raise ValueError(f"a record with the value {SECRET}")
        return train(message, context)

    grid.app = ClientApp(mods=[secure_aggregation_mod])
    grid.app.train()(leaky)
    result = strategy_of(grid).start(grid, initial(), num_rounds=1)
    np.testing.assert_allclose(moved(result), mean([1, 3, 4]), rtol=1e-6)
    assert {reply.error.reason for reply in grid.replies if reply.has_error()} == {"fedsec: ValueError"}


def test_a_node_by_another_ones_id_is_left_out(grid):
    other = Node.load(grid.root / "1")
    text = (grid.root / "3" / "node.toml").read_text()
    (grid.root / "3" / "node.toml").write_text(
        text.replace("client_id = 3", f"client_id = {other.client_id}")
    )
    result = strategy_of(grid).start(grid, initial(), num_rounds=1)
    np.testing.assert_allclose(moved(result), mean([1, 2, 3]), rtol=1e-6)


@pytest.mark.parametrize("inner", [Krum, FedMedian])
def test_strategies_that_compare_updates_are_refused(grid, inner):
    with pytest.raises(UnsupportedError, match=inner.__name__):
        strategy_of(grid, inner())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_clients": 2}, InvalidArgumentError),
        ({"authority": "no key"}, InvalidArgumentError),
        ({"authority": 7}, InvalidTypeError),
        ({"strategy": object()}, InvalidTypeError),
        ({"ledger": "file"}, InvalidArgumentError),
        ({"phase_timeout": 0.0}, InvalidArgumentError),
    ],
)
def test_arguments_that_do_not_fit(grid, settings, error):
    said = {
        "strategy": FedAvg(),
        "directory": grid.root / "clients.directory",
        "authority": grid.authority,
        "max_clients": NODES,
    }
    with pytest.raises(error):
        SecureAggregation(**(said | settings))


def test_more_nodes_than_said_are_refused(grid):
    strategy = strategy_of(grid)
    settings = replace(strategy._asked.settings, num_clients=3)
    strategy._asked = replace(strategy._asked, settings=settings)
    with pytest.raises(InvalidArgumentError, match="max_clients is 3"):
        strategy.start(grid, initial(), num_rounds=1)


def test_start_comes_first(grid):
    with pytest.raises(ProtocolError, match="start"):
        strategy_of(grid).configure_train(1, initial(), ConfigRecord(), grid)
