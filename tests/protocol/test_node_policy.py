"""What nodes refuse to servers that plan too little noise, too much work, or a forgetful ledger.

Real sessions: each message to the victim is answered by a node that is loaded from its folder for it alone,
as a restart between any two messages would have it. The server is one that says whatever it likes.
"""

import os
import shutil
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from protocol.node_policies import insist

import fedsec
from fedsec.accounting import Gaussian, Ledger, NeighboringRelation
from fedsec.errors import (
    BudgetExceededError,
    FedsecError,
    IdentityError,
    InvalidArgumentError,
    InvalidTypeError,
    LedgerError,
    PolicyError,
    ProtocolError,
    UnsupportedError,
)
from fedsec.federated.settings import Settings
from fedsec.integrations.metrics import Metrics
from fedsec.integrations.node import Node, enrol, tomllib
from fedsec.integrations.policy import NodePolicy
from fedsec.integrations.terms import EVALUATE, TRAIN, Terms
from fedsec.secagg import (
    Client,
    Config,
    Directory,
    Identity,
    Phase,
    Policy,
    Server,
    SessionStore,
    recommend,
)

NODES = 4
VICTIM = 1
MODEL = {"w": np.zeros((3, 2), np.float32)}
OWNER = {"max_corrupt": 0, "min_survivors": 3}
ACCURACY = Metrics((("accuracy", 0.0, 1.0),))
PARAMETERS = recommend(num_clients=NODES, corrupt_fraction=0.0, dropout_fraction=0.25)


def planned(noise="distributed", num_rounds=1, *, evaluate=(), train=(), weighted_by="num-examples", **said):
    """What a server asks for; with noise="none" without privacy."""
    if noise != "none":
        said = {"l2_clip_norm": 1.0, "noise_multiplier": 2.0, "target_delta": 1e-5, "noise": noise} | said
    if noise == "distributed":
        said = {"corrupt_fraction": 0.0, "dropout_fraction": 0.25} | said
    settings = Settings(num_clients=NODES, num_rounds=num_rounds, **said)
    return Terms(settings, weighted_by, Metrics(tuple(train)), Metrics(tuple(evaluate)))


class Study:
    """Enrolled clients: the victim a node in its folder, the others in memory, content with anything."""

    def __init__(self, root, authority):
        self.root, self.folder = root, root / str(VICTIM)
        self.directory = dict(Directory.load(root / "clients.directory", authority))
        self.state, self.worked = self.folder / "state", 0

    def load(self):
        return Node.load(self.folder)

    def insist(self, **policy):
        insist(self.folder, **OWNER | policy)

    @property
    def charged(self):
        return [entry.event for entry in Ledger.open(self.state / "ledger").entries()]

    @property
    def reserved(self):
        return list(self.load().budget.reserved().values())

    def run(self, terms, task=TRAIN, *, parameters=PARAMETERS, told=None, silent=None):
        """One session: the sum, in residues, and what the victim refused, if it did.

        The victim is `told` other terms than those that the session is bound to; once the phase `silent` is
        due the server asks nothing more.
        """
        config = self.config(terms, task, parameters)
        server, asked, refusal = Server(config), terms.task(task, MODEL), None
        others = {client: self.other(config, client, asked) for client in range(NODES) if client != VICTIM}

        def ask_the_victim(question):
            nonlocal refusal
            try:
                server.receive(VICTIM, question(self.load()))
            except FedsecError as error:
                refusal = error

        ask_the_victim(lambda node: node.participant.join(node.accept(config.to_bytes())))
        for number, client in others.items():
            server.receive(number, client.start())
        answers = server.close_phase()
        while server.phase is not Phase.DONE and server.phase.value != silent:
            for number, message in answers.items():
                if number == VICTIM:
                    ask_the_victim(lambda node, m=message: self.answer(node, config, m, told or terms, task))
                else:
                    server.receive(number, others[number].receive(message))
            answers = server.close_phase()
        if server.phase is not Phase.DONE:
            return None, refusal
        assert (VICTIM in server.survivors) is (refusal is None)
        return server.result(), refusal

    def config(self, terms, task, parameters):
        length, bits = terms.task(task, MODEL).ring
        return Config(
            session_id=os.urandom(32),
            round_id=time.time_ns(),
            participants=self.directory,
            vector_length=length,
            modulus_bits=bits,
            parameters=parameters,
            model_digest=terms.digest(task, MODEL),
        )

    def other(self, config, number, task):
        identity = Identity.load(self.root / str(number) / "identity.pem")
        policy = Policy(max_corrupt=0, min_survivors=3)
        client = Client(config, number, identity, policy=policy, store=SessionStore.in_memory())
        client.submit(contribution(task, config))
        return client

    def answer(self, node, config, message, terms, name):
        def work(given):
            _, task = node.undertake(given, terms.to_bytes(), name, MODEL)
            self.worked += 1
            return contribution(task, given)

        return node.participant.answer(config.session_id, message, work)


def contribution(task, config):
    """The app: everything moves by one, the accuracy is 1/2."""
    after = {key: value + 1.0 for key, value in MODEL.items()}
    return task.contribution(MODEL, after, [0.5] * len(task.metrics), 1.0, config.session_id)


@pytest.fixture
def study(tmp_path):
    def enrolled(**policy):
        return Study(tmp_path / "nodes", enrol(tmp_path / "nodes", NODES, **(OWNER | policy)))

    return enrolled


@lru_cache
def epsilon_of(noise_multiplier, count):
    return (
        fedsec.PLDAccountant(neighboring_relation=NeighboringRelation.REPLACE_SPECIAL)
        .compose(Gaussian(noise_multiplier), count)
        .epsilon(1e-5)
    )


def room_for(count, noise_multiplier=2.0):
    """A budget for so many contributions of a noise multiplier, and for half of one more."""
    low, high = epsilon_of(noise_multiplier, count), epsilon_of(noise_multiplier, count + 1)
    return {"target_epsilon": 0.5 * (low + high), "target_delta": 1e-5}


def require_refused(study, terms, error, match, task=TRAIN, **said):
    """By name and before the app works; nothing is charged, and the others go on."""
    _, refusal = study.run(terms, task, **said)
    assert type(refusal) is error
    with pytest.raises(error, match=match):
        raise refusal
    assert study.worked == 0
    if study.load().budget is not None:
        assert study.charged == study.reserved == []


# ---- an honest server


@pytest.mark.parametrize("noise", ["distributed", "local", "central"])
def test_a_session_that_the_policy_allows_is_charged(study, noise):
    nodes = study(noise=[noise], **room_for(2))
    total, refusal = nodes.run(planned(noise))
    assert total is not None
    assert refusal is None
    (event,) = nodes.charged
    assert nodes.reserved == []
    assert Ledger.open(nodes.state / "ledger").epsilon() <= epsilon_of(2.0, 1) * (1 + 1e-9)
    if noise != "distributed":
        assert event == Gaussian(2.0)


def test_a_node_of_the_servers_own_target_goes_all_the_way_and_no_further(study):
    """Calibrated by numeric accounting on one side, charged as one goes on the other: the same number."""
    count = 3
    nodes = study(target_epsilon=3.0, target_delta=1e-5, noise=["local"])
    asked = {"noise_multiplier": None, "target_epsilon": 3.0, "target_delta": 1e-5}
    terms = planned("local", count, **asked)
    for _ in range(count):
        assert nodes.run(terms)[1] is None
    assert type(nodes.run(terms)[1]) is BudgetExceededError
    assert len(nodes.charged) == count


def test_more_survivors_than_the_fewest_cost_less(study):
    nodes = study(**room_for(3))
    nodes.run(planned(), silent="agree")
    (worst,) = nodes.reserved
    assert nodes.charged == []
    nodes.run(planned())
    (all_four,) = nodes.charged
    assert nodes.reserved == [worst]
    assert all_four.variance == pytest.approx(worst.variance * 3 / 2)  # one of each is known to whoever looks


# ---- too little noise


@pytest.mark.parametrize("noise", ["distributed", "local"])
@pytest.mark.parametrize("multiplier", [0.3, 1e-2])
def test_less_noise_than_the_owner_insists_on(study, noise, multiplier):
    nodes = study(min_noise_multiplier=0.5, target_epsilon=1e6)
    says = r"noise multiplier is 0\.\d*; this node has min_noise_multiplier = 0.5, to take it: min_noise"
    require_refused(nodes, planned(noise, noise_multiplier=multiplier), PolicyError, says)


def test_the_line_that_a_refusal_names_takes_what_was_refused(study):
    nodes = study(min_noise_multiplier=2.5, noise=["local"], target_epsilon=1e3)
    path = nodes.folder / "node.toml"
    asked = [
        (planned("local"), TRAIN),
        (planned("distributed"), TRAIN),
        (planned("distributed", evaluate=ACCURACY.bounds), EVALUATE),
    ]
    for terms, task in asked:
        old, new = str(nodes.run(terms, task)[1]).split("this node has ")[1].split(", to take it: ")
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
    for terms, task in asked:
        assert nodes.run(terms, task)[1] is None


@pytest.mark.parametrize("noise", ["distributed", "local", "central"])
def test_as_much_noise_as_the_owner_insists_on_is_enough(study, noise):
    nodes = study(min_noise_multiplier=2.0, noise=[noise], target_epsilon=10.0)
    assert nodes.run(planned(noise))[1] is None


@pytest.mark.parametrize("noise", ["distributed", "local"])
def test_noise_that_one_contribution_breaks_the_budget_with(study, noise):
    terms = planned(noise, noise_multiplier=0.2)
    require_refused(study(), terms, BudgetExceededError, "target_epsilon 3 has no room .* another folder")


def test_noise_of_next_to_nothing(study):
    """Shares that no law has are no plan at all; noise enough for itself breaks any budget."""
    with pytest.raises(UnsupportedError, match="share"):
        planned(noise_multiplier=1e-6).task(TRAIN, MODEL)
    require_refused(study(), planned("local", noise_multiplier=1e-6), BudgetExceededError, "no room")


@pytest.mark.parametrize("noise", ["central", "none"])
def test_noise_that_the_server_only_promises_and_exact_sums_are_for_owners_who_say_so(study, noise):
    says = rf'noise is \'{noise}\'; this node has noise = \["distributed", "local"\], to take it: noise = \['
    require_refused(study(), planned(noise), PolicyError, says)


def test_control_a_node_that_takes_exact_sums_gives_them(study):
    nodes = study(noise=["none"])
    total, refusal = nodes.run(planned("none"))
    assert refusal is None
    np.testing.assert_allclose(planned("none").task(TRAIN, MODEL).mean(total, bytes(32)).update, 1.0)
    assert nodes.load().budget is None
    assert not (nodes.state / "ledger").exists()


def test_shares_sized_for_fewer_corrupt_clients_than_the_owner_counts_with(study):
    """The plan says nobody is corrupt; the node counts the honest shares of its own session."""
    nodes = study(max_corrupt=2, target_epsilon=20.0)
    parameters = recommend(num_clients=NODES, corrupt_fraction=0.5, dropout_fraction=0.0)
    assert (parameters.max_corrupt, parameters.min_survivors) == (2, 4)
    terms = planned(dropout_fraction=0.0)
    plan = plan_of(terms)
    assert (plan.cohort.max_corrupt, plan.cohort.honest_shares(4)) == (0, 3)
    assert nodes.run(terms, parameters=parameters)[1] is None
    (event,) = nodes.charged
    assert event.variance == pytest.approx(2 * plan.shares.variance)


def test_a_session_of_fewer_survivors_than_the_noise_is_for(study):
    _, refusal = study().run(planned(dropout_fraction=0.0))
    assert type(refusal) is ProtocolError
    assert "noise in shares needs" in str(refusal)


def plan_of(terms):
    return terms.task(TRAIN, MODEL).plan.distributed


@pytest.mark.parametrize("name", ["max_corrupt", "min_survivors"])
def test_a_session_of_fewer_than_the_owner_counts_with(study, name):
    """Refused when it is proposed: what a cohort full of the server's own clients would need."""
    nodes = study(**{name: OWNER[name] + 2})
    require_refused(nodes, planned(), PolicyError, f"{name} of at least {OWNER[name] + 2}, got")


# ---- too much work


@pytest.mark.parametrize(("noise", "done"), [("local", 2), ("distributed", 3)])
def test_rounds_end_when_the_nodes_own_budget_does(study, noise, done):
    """Whatever number of rounds the server planned, and in runs of its own each.

    As nobody is lost, shares of noise cost less than at worst, and two such rounds leave room for a third.
    """
    nodes = study(noise=[noise], **room_for(2))
    refusals = [nodes.run(planned(noise, num_rounds=number))[1] for number in range(1, done + 3)]
    assert refusals[:done] == [None] * done
    assert {type(one) for one in refusals[done:]} == {BudgetExceededError}
    assert len(nodes.charged) == done
    assert nodes.reserved == []
    assert nodes.worked == done, "it works for no session that it will refuse"


def test_evaluations_are_charged_as_training_is(study):
    nodes = study(noise=["local"], metrics=["accuracy"], **room_for(2))
    terms = planned("local", evaluate=ACCURACY.bounds)
    for task in (EVALUATE, TRAIN):
        assert nodes.run(terms, task)[1] is None
    for task in (EVALUATE, TRAIN):
        assert type(nodes.run(terms, task)[1]) is BudgetExceededError
    assert nodes.charged == [Gaussian(2.0)] * 2


def test_a_server_that_says_a_round_has_failed_has_it_counted(study):
    """The others can open what has been uploaded: it counts, settled or not."""
    nodes = study(noise=["local"], **room_for(2))
    refusals = [nodes.run(planned("local"), silent="agree")[1] for _ in range(4)]
    assert refusals[:2] == [None, None]
    assert {type(one) for one in refusals[2:]} == {BudgetExceededError}
    assert nodes.charged == []
    assert nodes.reserved == [Gaussian(2.0)] * 2
    assert nodes.worked == 2


# ---- terms that are not those of the session


@pytest.mark.parametrize(
    "told",
    [
        planned(noise_multiplier=1.0),
        planned("local"),
        planned(num_rounds=7),
        planned(l2_clip_norm=100.0),
        planned("none"),
    ],
    ids=["less noise", "another place", "more rounds", "a wider clip", "exact"],
)
def test_terms_of_another_digest(study, told):
    require_refused(study(), planned(), ProtocolError, "not those of the session", told=told)


def test_units_that_nobody_clips_are_no_terms():
    """A plan for records would leave a client's whole update unclipped."""
    with pytest.raises(UnsupportedError, match="unit must be 'client'"):
        planned("central", unit="record", sampling_probability=0.1, num_records=1000)
    with pytest.raises(UnsupportedError, match="secure_aggregation must be True"):
        planned("local", secure_aggregation=False)


# ---- numbers beside updates


def test_metrics_that_the_owner_did_not_name(study):
    says = r"the metric 'accuracy' is asked for; .* to take it: metrics = \[\"num-examples\", \"accuracy\"\]"
    require_refused(study(), planned(evaluate=ACCURACY.bounds), PolicyError, says, EVALUATE)


def test_an_exact_sum_with_metrics_that_the_owner_did_not_name(study):
    nodes = study(noise=["none"])
    require_refused(nodes, planned("none", train=ACCURACY.bounds), PolicyError, "'accuracy'")


def test_the_weight_of_an_exact_mean_is_a_number_like_any_other(study):
    """Weighted by a secret its sum would be seen."""
    nodes = study(noise=["none"])
    require_refused(nodes, planned("none", weighted_by="income"), PolicyError, "'income'")


# ---- a ledger that has forgotten


def spent(study):
    """A node with one contribution charged, which has room for three."""
    nodes = study(noise=["local"], **room_for(3))
    assert nodes.run(planned("local"))[1] is None
    return nodes


def test_a_ledger_that_is_gone(study):
    nodes = spent(study)
    (nodes.state / "ledger").unlink()
    with pytest.raises(LedgerError, match="it is gone"):
        nodes.load()
    assert not (nodes.state / "ledger").exists()


def test_reservations_that_are_gone(study):
    nodes = spent(study)
    (nodes.state / "ledger.reserved").unlink()
    with pytest.raises(LedgerError, match="reservations are gone"):
        nodes.load()


@pytest.mark.parametrize(
    ("name", "says"), [("ledger", "not the ledger"), ("ledger.reserved", "reservations are gone")]
)
def test_a_file_that_was_emptied(study, name, says):
    nodes = spent(study)
    (nodes.state / name).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(LedgerError, match=says):
            nodes.load()


def test_a_new_key_begins_no_new_budget(study):
    """Which an owner may take at any time (docs/identities.md)."""
    nodes = spent(study)
    (nodes.folder / "identity.pem").unlink()
    Identity.new().save(nodes.folder / "identity.pem")
    assert len(nodes.charged) == 1
    assert nodes.load().budget is not None
    for name in ("ledger", "ledger.reserved"):
        (nodes.state / name).unlink()
    with pytest.raises(LedgerError, match="no ledger counts"):
        nodes.load()


def test_a_ledger_and_reservations_that_are_gone(study):
    nodes = spent(study)
    for name in ("ledger", "ledger.reserved"):
        (nodes.state / name).unlink()
    for _ in range(2):  # and it stays so, whatever the first attempt left
        with pytest.raises(LedgerError, match="no ledger counts"):
            nodes.load()


def test_a_session_store_that_is_gone(study):
    nodes = spent(study)
    (nodes.state / "sessions").unlink()
    with pytest.raises(LedgerError, match="sessions: it has forgotten"):
        nodes.load()


def test_a_ledger_put_back(study, tmp_path):
    nodes = spent(study)
    shutil.copy(nodes.state / "ledger", tmp_path / "before")
    nodes.run(planned("local"))
    shutil.copy(tmp_path / "before", nodes.state / "ledger")
    with pytest.raises(LedgerError, match="2 entries and are 1"):
        nodes.load()


def test_somebody_elses_ledger(study):
    nodes = spent(study)
    other = nodes.load().policy.ledger(nodes.root / "other")
    other.charge(Gaussian(2.0), purpose="as was charged here")
    shutil.copy(other.path, nodes.state / "ledger")
    with pytest.raises(LedgerError, match="not the ledger that was charged before"):
        nodes.load()


def test_a_node_whose_ledger_is_gone_takes_no_part_and_the_others_go_on(study):
    nodes = spent(study)
    (nodes.state / "ledger").unlink()
    total, refusal = nodes.run(planned("local"))
    assert total is not None
    assert type(refusal) is LedgerError


def test_a_budget_is_not_raised_once_something_has_left(study):
    nodes = study(noise=["local"], **room_for(2))
    nodes.load()
    nodes.insist(noise=["local"], target_epsilon=100.0)
    with pytest.raises(
        LedgerError, match=r"target_epsilon of this ledger is .* delete ledger and ledger.reserved"
    ):
        nodes.load()
    for name in ("ledger", "ledger.reserved"):
        (nodes.state / name).unlink()
    assert nodes.run(planned("local"))[1] is None
    nodes.insist(noise=["local"], target_epsilon=1000.0)
    with pytest.raises(LedgerError, match=r"target_epsilon of this ledger is 100.0, got 1000.0$"):
        nodes.load()


def test_a_node_with_a_budget_gives_no_exact_sums(study):
    nodes = spent(study)
    nodes.insist(noise=["none"])
    with pytest.raises(LedgerError, match="gives no exact sums"):
        nodes.load()


def test_a_node_that_gave_exact_sums_begins_no_budget(study):
    nodes = study(noise=["none"])
    nodes.run(planned("none"))
    nodes.insist()
    with pytest.raises(LedgerError, match="no ledger counts"):
        nodes.load()


def test_control_a_whole_folder_put_back_is_not_noticed(study, tmp_path):
    """What no file can see (docs/flower.md): the session store's own promise ends there as well."""
    nodes = spent(study)
    shutil.copytree(nodes.state, tmp_path / "before")
    nodes.run(planned("local"))
    shutil.rmtree(nodes.state)
    shutil.copytree(tmp_path / "before", nodes.state)
    assert len(nodes.charged) == 1
    assert nodes.run(planned("local"))[1] is None


# ---- the table itself


@pytest.mark.parametrize(
    ("policy", "error", "says"),
    [
        ({"noise": "central"}, InvalidTypeError, "list of strings"),
        ({"noise": []}, InvalidArgumentError, "noise must be of"),
        ({"noise": ["loud"]}, InvalidArgumentError, "loud"),
        ({"noise": ["local", "local"]}, InvalidArgumentError, "each once"),
        ({"noise": ["none", "local"]}, InvalidArgumentError, "alone"),
        ({"noise": ["none"], "target_epsilon": 3.0}, InvalidArgumentError, "target_epsilon belongs to noise"),
        ({"noise": ["none"], "min_noise_multiplier": 1}, InvalidArgumentError, "belongs to noise"),
        ({"target_epsilon": 0.0}, InvalidArgumentError, "target_epsilon"),
        ({"target_epsilon": float("inf")}, InvalidArgumentError, "target_epsilon"),
        ({"target_epsilon": float("nan")}, InvalidArgumentError, "target_epsilon"),
        ({"target_delta": 1.0}, InvalidArgumentError, "target_delta"),
        ({"min_noise_multiplier": -1.0}, InvalidArgumentError, "min_noise_multiplier"),
        ({"metrics": ["a\nb"]}, InvalidArgumentError, "printable"),
        ({"metrics": [7]}, InvalidTypeError, "list of strings"),
        ({"min_survivors": 2}, InvalidArgumentError, "min_survivors"),
        ({"max_corrupt": True}, InvalidTypeError, "max_corrupt"),
    ],
)
def test_policies_that_are_none(policy, error, says):
    with pytest.raises(error, match=says):
        NodePolicy(**OWNER | policy)


def test_what_is_not_said_is_strict():
    said = NodePolicy(**OWNER)
    assert said.private
    assert said.noise == ("distributed", "local")
    assert (said.target_epsilon, said.target_delta) == (3.0, 1e-5)
    assert said.metrics == ("num-examples",)


def test_the_documented_policy_is_one():
    """And says of what is left out what the page says."""
    page = (Path(__file__).parents[2] / "docs" / "flower.md").read_text("utf-8")
    said = tomllib.loads(page[page.index("client_id = 7") :].partition("```")[0])["policy"]
    assert said.pop("min_noise_multiplier") == 0.5
    assert said.pop("metrics") == ["accuracy"]
    required = {name: said[name] for name in ("max_corrupt", "min_survivors")}
    assert NodePolicy(**said) == NodePolicy(**required)


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"noise": ["none"], "metrics": []},
        {"noise": ["central"], "target_epsilon": 8, "target_delta": 1e-9, "min_noise_multiplier": 0.25},
        {"metrics": ["Genauigkeit, gemessen", 'a "quoted" \\ name', "精度", "🙂"]},
    ],
)
def test_a_policy_that_was_written_is_read_back(study, policy):
    nodes = study(**policy)
    assert nodes.load().policy == NodePolicy(**OWNER | policy)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[policy]", "[policies]"),
        ("max_corrupt = 0", "most_corrupt = 0"),
        ("max_corrupt = 0", "max_corrupt = 0\nnoise_multiplier = 1.0"),
        ("target_epsilon = 3.0", 'target_epsilon = "3.0"'),
    ],
)
def test_a_table_that_is_none(study, old, new):
    nodes = study()
    path = nodes.folder / "node.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(IdentityError, match=r"node\.toml"):
        nodes.load()


def test_messages_before_the_upload_do_without_torch(study):
    """A fresh process may answer each, and torch takes longer to come than most of them to answer."""
    folder = study().folder
    program = (
        "import sys; from fedsec.integrations.node import Node; "
        f"Node.load({str(folder)!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
