"""A client's own budget against servers that lie, replay and fall silent, and against its own crashes.

Each attack is played on a real session by a server that holds everything a server can hold; what the client's
ledger and reservations say afterwards is compared with what was really revealed.
"""

import os
import shutil
import threading
from contextlib import suppress

import numpy as np
import pytest
from protocol.secagg_loop import SAVING_KEY, Loop, complete, config_of, identity_of, policy_of

import fedsec
from fedsec import distributed
from fedsec.accounting import NeighboringRelation
from fedsec.errors import (
    AggregationAborted,
    BudgetExceededError,
    InvalidArgumentError,
    InvalidTypeError,
    LedgerError,
    ProtocolError,
)
from fedsec.secagg import Client, Phase, SessionStore
from fedsec.secagg.messages import Kind, encode_set

VICTIM = 10
PARAMETERS = complete(5, corrupt=1, lost=1)
PLAN = distributed.plan_clients(
    distributed.Cohort(5, PARAMETERS.min_survivors, PARAMETERS.max_corrupt),
    dimension=3,
    l2_clip_norm=1.0,
    noise_multiplier=1.0,
)
ROTATION = bytes(32)


def epsilon_of(*events):
    accountant = fedsec.RDPAccountant(neighboring_relation=NeighboringRelation.REPLACE_SPECIAL)
    return accountant.compose(fedsec.Composed(list(events))).epsilon(1e-5)


@pytest.fixture
def ledger(tmp_path):
    """Pays for two rounds in the worst case, and not for three."""
    target = 0.2 * epsilon_of(*[PLAN.event()] * 2) + 0.8 * epsilon_of(*[PLAN.event()] * 3)
    return fedsec.Ledger(
        tmp_path / "victim.ledger",
        target_epsilon=target,
        target_delta=1e-5,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
        schedule=PLAN.event(),
    )


@pytest.fixture
def budget(ledger):
    return distributed.ClientBudget(PLAN, ledger)


def session(budget, number=1, store=None, **settings):
    """A session in which the victim has a budget, and everybody adds noise."""
    loop = Loop(
        parameters=PARAMETERS,
        d=PLAN.encoding.length,
        seeded=False,
        modulus_bits=PLAN.modulus_bits,
        session=b"%d" % number,
        round_id=number,
        store=store,
        **settings,
    )
    loop.budget = budget
    loop.clients[VICTIM] = with_budget(loop, budget)
    for client in loop.ids:
        one = np.eye(1, PLAN.encoding.dimension, dtype=np.float32)[0]
        loop.vectors[client] = PLAN.share_residues(one, ROTATION)
    return loop


def with_budget(loop, budget):
    config = loop.config
    return Client(
        config,
        VICTIM,
        identity_of(VICTIM) if config.authenticated else None,
        policy=policy_of(config),
        store=loop.store,
        budget=budget,
    )


def restored(loop, budget):
    """What another process makes of the victim's saved session."""
    return Client.from_bytes(
        loop.clients[VICTIM].to_bytes(SAVING_KEY),
        SAVING_KEY,
        identity_of(VICTIM),
        policy=policy_of(loop.config),
        store=loop.store,
        budget=budget,
    )


def charged(ledger):
    return [entry.event for entry in ledger.entries()]


# ---- an honest server


@pytest.mark.parametrize("profile", ["authenticated", "semi_honest"])
@pytest.mark.parametrize(
    ("silent", "survivors"), [({}, 5), ({20: "upload"}, 4), ({20: "share"}, 4), ({20: "unmask"}, 5)]
)
def test_a_round_costs_what_its_signed_survivors_make_of_it(budget, ledger, profile, silent, survivors):
    loop = session(budget, silent=silent, profile=profile).until("upload")
    assert not budget.reserved()
    loop.play("upload")
    assert list(budget.reserved().values()) == [PLAN.event()]
    assert charged(ledger) == []
    total = loop.finish()
    assert charged(ledger) == [PLAN.event(survivors)]
    assert not budget.reserved()
    assert loop.clients[VICTIM].phase is Phase.DONE
    decoded = PLAN.decode(total, ROTATION)
    assert abs(decoded[0] - survivors) < 10 * PLAN.stddev * np.sqrt(5 / 3)


def test_more_survivors_leave_more_of_the_budget(budget, ledger):
    """Two rounds at worst would have been all; what was charged in the end leaves room for a third."""
    for number in (1, 2):
        session(budget, number).finish()
    assert charged(ledger) == [PLAN.event(5)] * 2
    session(budget, 3).until("agree")
    assert len(budget.reserved()) == 1


def test_an_upload_in_chunks_is_reserved_too(budget):
    loop = session(budget).until("upload")
    client = loop.clients[VICTIM]
    client.receive(loop.inbox[VICTIM])
    chunks = client.upload(loop.vectors[VICTIM])
    assert not budget.reserved()
    next(chunks)
    assert len(budget.reserved()) == 1


# ---- an exhausted budget


def test_nothing_leaves_once_the_budget_is_spent(budget, ledger):
    loop = session(budget, 1).until("upload")
    ledger.charge(PLAN.event(), 2, purpose="spent elsewhere")
    client = loop.clients[VICTIM]
    client.submit(loop.vectors[VICTIM])
    with pytest.raises(BudgetExceededError, match="nothing leaves"):
        client.receive(loop.inbox[VICTIM])
    assert client.phase is Phase.ABORTED
    assert not budget.reserved()


def test_no_chunk_leaves_either(budget, ledger):
    loop = session(budget, 1).until("upload")
    ledger.charge(PLAN.event(), 2)
    client = loop.clients[VICTIM]
    client.receive(loop.inbox[VICTIM])
    with pytest.raises(BudgetExceededError, match="nothing leaves"):
        next(client.upload(loop.vectors[VICTIM]))
    assert client.phase is Phase.ABORTED


def test_no_share_leaves_if_the_ledger_was_emptied_meanwhile(budget, ledger):
    """By charges that saw no reservation. The others may open the sum; this client does not help."""
    loop = session(budget).until("unmask")
    ledger.charge(fedsec.Composed([PLAN.event(), PLAN.event(), PLAN.event(5)]))
    with pytest.raises(BudgetExceededError):
        loop.clients[VICTIM].receive(loop.inbox[VICTIM])
    assert loop.clients[VICTIM].phase is Phase.ABORTED
    assert len(budget.reserved()) == 1  # and it still counts


# ---- the server falls silent towards the victim


def silent_rounds(budget, rounds):
    """The server tells the victim nothing after its upload, and opens the sum with the others' shares."""
    revealed = 0
    for number in range(1, rounds + 1):
        loop = session(budget, number).until("upload")
        try:
            loop.server.receive(VICTIM, loop.answer(VICTIM))
        except BudgetExceededError:
            continue
        loop.silent[VICTIM] = "agree"
        loop.play_others([VICTIM])
        loop.finish()
        revealed += VICTIM in loop.server.survivors
    return revealed


def test_a_server_that_falls_silent_gets_no_more_than_was_paid_for(budget, ledger):
    assert silent_rounds(budget, 4) == 2
    assert charged(ledger) == []
    assert list(budget.reserved().values()) == [PLAN.event()] * 2
    budget.write_off()
    assert charged(ledger) == [PLAN.event()] * 2
    assert not budget.reserved()


def test_control_a_budget_that_charges_at_the_unmasking_alone_pays_for_nothing(ledger):
    class Late(distributed.ClientBudget):
        def reserve(self, session):
            """Not before the upload."""

    assert silent_rounds(Late(PLAN, ledger), 4) == 4
    assert charged(ledger) == []


# ---- lies


def test_a_set_below_the_least_survivors_is_neither_charged_nor_opened(budget, ledger):
    loop = session(budget).until("agree")
    few = encode_set(loop.config, loop.ids[: PARAMETERS.min_survivors - 1])
    with pytest.raises(AggregationAborted):
        loop.clients[VICTIM].receive(loop.forge(Kind.SURVIVORS, VICTIM, few))
    assert charged(ledger) == []
    assert list(budget.reserved().values()) == [PLAN.event()]


def test_a_quorum_that_nobody_signed_is_not_charged(budget, ledger):
    loop = session(budget).until("unmask")
    with pytest.raises((ProtocolError, AggregationAborted)):
        loop.clients[VICTIM].receive(loop.forge(Kind.QUORUM, VICTIM, bytes(4)))
    assert charged(ledger) == []
    assert list(budget.reserved().values()) == [PLAN.event()]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"d": PLAN.encoding.length + 1}, "vector_length"),
        ({"modulus_bits": PLAN.modulus_bits + 1}, "modulus_bits"),
        ({"parameters": complete(6, corrupt=1, lost=1)}, "num_clients"),
        ({"parameters": complete(5, corrupt=0, lost=1)}, "max_corrupt"),
        ({"parameters": complete(5, corrupt=0, lost=2)}, "min_survivors"),
    ],
)
def test_a_session_that_the_plan_was_not_made_for_gets_no_upload(budget, changes, says):
    settings = {"parameters": PARAMETERS, "d": PLAN.encoding.length, "modulus_bits": PLAN.modulus_bits}
    settings |= changes
    config = config_of(settings["parameters"], settings["d"], modulus_bits=settings["modulus_bits"])
    with pytest.raises(ProtocolError, match=says):
        budget.reserve(config)
    assert not budget.reserved()


def test_an_abort_before_the_upload_costs_nothing(budget, ledger):
    loop = session(budget).until("upload")
    loop.clients[VICTIM].abort()
    assert charged(ledger) == []
    assert not budget.reserved()


def test_an_abort_after_the_upload_is_paid_for(budget, ledger):
    loop = session(budget).until("agree")
    loop.clients[VICTIM].abort()
    assert charged(ledger) == []
    assert list(budget.reserved().values()) == [PLAN.event()]


# ---- replays


def test_a_request_that_is_repeated_is_charged_once(budget, ledger):
    loop = session(budget).until("unmask")
    request = loop.inbox[VICTIM]
    assert loop.clients[VICTIM].receive(request)
    with pytest.raises(ProtocolError):
        loop.clients[VICTIM].receive(request)
    assert charged(ledger) == [PLAN.event(5)]


def test_of_two_copies_one_is_charged(budget, ledger):
    loop = session(budget).until("unmask")
    copies = [restored(loop, budget), restored(loop, budget)]
    answers = 0
    for copy in copies:
        with suppress(ProtocolError):
            answers += copy.receive(loop.inbox[VICTIM]) is not None
    assert answers == 1
    assert charged(ledger) == [PLAN.event(5)]


def test_of_two_copies_one_is_reserved(budget):
    loop = session(budget).until("upload")
    copies = [restored(loop, budget), restored(loop, budget)]
    uploads = 0
    for copy in copies:
        copy.submit(loop.vectors[VICTIM])
        with suppress(ProtocolError):
            uploads += copy.receive(loop.inbox[VICTIM]) is not None
    assert uploads == 1
    assert len(budget.reserved()) == 1


def test_a_session_with_a_budget_does_not_go_on_without(budget):
    loop = session(budget).until("upload")
    with pytest.raises(InvalidTypeError, match="budget"):
        restored(loop, None)


def test_a_session_id_is_reserved_and_settled_once(budget):
    config = config_of(PARAMETERS, PLAN.encoding.length, modulus_bits=PLAN.modulus_bits)
    with pytest.raises(ProtocolError, match="no reservation"):
        budget.settle(config, config.ids)
    budget.reserve(config)
    with pytest.raises(ProtocolError, match="already"):
        budget.reserve(config)
    budget.settle(config, config.ids)
    with pytest.raises(ProtocolError, match="no reservation"):
        budget.settle(config, config.ids)


def test_two_sums_of_one_round_are_not_to_be_had_by_restarting_it(budget, ledger):
    store = SessionStore.in_memory()
    session(budget, 1, store).until("agree")
    again = Loop(
        parameters=PARAMETERS,
        d=PLAN.encoding.length,
        seeded=False,
        modulus_bits=PLAN.modulus_bits,
        session=b"again",
        round_id=1,
        store=store,
    )
    again.clients[VICTIM] = with_budget(again, budget)
    again.until("upload")
    again.clients[VICTIM].submit(again.vectors[VICTIM])
    with pytest.raises(ProtocolError, match="was let out before"):
        again.clients[VICTIM].receive(again.inbox[VICTIM])
    assert len(budget.reserved()) == 1


# ---- crashes


def test_reservations_outlive_the_process(budget, ledger):
    loop = session(budget).until("agree")
    again = distributed.ClientBudget(PLAN, fedsec.Ledger.open(ledger.path))
    assert again.reserved() == {loop.config.session_id: PLAN.event()}
    loop.clients[VICTIM] = restored(loop, again)
    loop.finish()
    assert charged(ledger) == [PLAN.event(5)]


def test_a_crash_between_charge_and_settlement_counts_both(budget, ledger, monkeypatch):
    loop = session(budget).until("unmask")
    charge = fedsec.Ledger.charge

    def charge_and_die(self, *arguments, **named):
        charge(self, *arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(fedsec.Ledger, "charge", charge_and_die)
    with pytest.raises(KeyboardInterrupt):
        loop.clients[VICTIM].receive(loop.inbox[VICTIM])
    monkeypatch.undo()
    assert charged(ledger) == [PLAN.event(5)]
    assert len(budget.reserved()) == 1
    two = [
        config_of(PARAMETERS, PLAN.encoding.length, modulus_bits=PLAN.modulus_bits, session=name)
        for name in (b"n", b"o")  # both would fit beside the charge alone
    ]
    budget.reserve(two[0])
    with pytest.raises(BudgetExceededError):
        budget.reserve(two[1])


def test_threads_never_reserve_more_than_there_is(budget):
    """Two rounds fit; eight threads ask at once, each for a session of its own."""
    granted, start = [], threading.Barrier(8)

    def ask(number):
        config = config_of(
            PARAMETERS, PLAN.encoding.length, modulus_bits=PLAN.modulus_bits, session=b"%d" % number
        )
        start.wait()
        try:
            budget.reserve(config)
        except BudgetExceededError:
            return
        granted.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 2
    assert len(budget.reserved()) == 2


def test_processes_never_reserve_more_than_there_is(budget):
    children = []
    for number in range(4):
        if (child := os.fork()) == 0:
            config = config_of(
                PARAMETERS, PLAN.encoding.length, modulus_bits=PLAN.modulus_bits, session=b"%d" % number
            )
            try:
                budget.reserve(config)
            except BudgetExceededError:
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0, 0, 1, 1]


# ---- files that are gone, or were put back


def test_a_ledger_put_back_is_noticed(budget, ledger, tmp_path):
    """Forgetting what was charged would pay for it twice."""
    shutil.copy(ledger.path, tmp_path / "before")
    session(budget, 1).finish()
    shutil.copy(tmp_path / "before", ledger.path)
    again = fedsec.Ledger.open(ledger.path)
    with pytest.raises(LedgerError, match="1 entries and are 0"):
        distributed.ClientBudget(PLAN, again)
    loop = session(budget, 2).until("upload")  # one that was there already sees it, too
    loop.clients[VICTIM].submit(loop.vectors[VICTIM])
    with pytest.raises(LedgerError):
        loop.clients[VICTIM].receive(loop.inbox[VICTIM])
    assert loop.clients[VICTIM].phase is Phase.ABORTED


@pytest.mark.parametrize("charges", [0, 1])
def test_another_ledger_in_its_place_is_noticed(budget, ledger, charges):
    for number in range(1, charges + 1):
        session(budget, number).finish()
    terms = ledger.terms
    ledger.path.unlink()
    fresh = fedsec.Ledger(
        ledger.path,
        target_epsilon=terms.target_epsilon,
        target_delta=terms.target_delta,
        neighboring_relation=terms.neighboring_relation,
        schedule=terms.schedule,
    )
    with pytest.raises(LedgerError, match="not the ledger that was charged before"):
        distributed.ClientBudget(PLAN, fresh)


def test_charges_of_others_are_no_sign_of_that(budget, ledger):
    session(budget, 1).finish()
    ledger.charge(fedsec.Gaussian(100.0), purpose="elsewhere")
    again = distributed.ClientBudget(PLAN, fedsec.Ledger.open(ledger.path))
    again.require(config_of(PARAMETERS, PLAN.encoding.length, modulus_bits=PLAN.modulus_bits))


# ---- a plan that comes with the upload


def test_without_a_plan_nothing_is_reserved_and_sessions_are_settled(budget, ledger):
    loop = session(budget).until("unmask")
    later = distributed.ClientBudget(None, fedsec.Ledger.open(ledger.path))
    with pytest.raises(ProtocolError, match="adopt"):
        later.reserve(config_of(PARAMETERS, PLAN.encoding.length, modulus_bits=PLAN.modulus_bits))
    loop.clients[VICTIM] = restored(loop, later)
    loop.play("unmask")
    assert charged(ledger) == [PLAN.event(5)]
    assert not later.reserved()


def test_a_cost_that_no_survivor_changes(ledger):
    cost = distributed.FixedCost(fedsec.Gaussian(2.0), NeighboringRelation.REPLACE_SPECIAL)
    budget = distributed.ClientBudget(cost, ledger)
    session(budget, 1, silent={20: "upload"}).finish()
    assert charged(ledger) == [fedsec.Gaussian(2.0)]
    other = distributed.FixedCost(fedsec.Gaussian(2.0), NeighboringRelation.ADD_OR_REMOVE_ONE)
    with pytest.raises(InvalidArgumentError, match="ADD_OR_REMOVE_ONE"):
        budget.adopt(other)


def test_what_would_be_refused_is_known_before_work_is_done(budget, ledger):
    one = config_of(PARAMETERS, PLAN.encoding.length, modulus_bits=PLAN.modulus_bits)
    budget.require(one)
    assert not budget.reserved()
    ledger.charge(PLAN.event(), 2)
    with pytest.raises(BudgetExceededError):
        budget.require(one)


def test_fewer_survivors_than_the_session_allows_are_not_settled(budget, ledger):
    one = config_of(PARAMETERS, PLAN.encoding.length, modulus_bits=PLAN.modulus_bits)
    budget.reserve(one)
    with pytest.raises(InvalidArgumentError, match="at least 4, got 3"):
        budget.settle(one, one.ids[:3])
    assert charged(ledger) == []


# ---- what is refused when it is made


def test_another_ledger_is_refused(tmp_path, ledger):
    other = fedsec.Ledger(tmp_path / "other", target_epsilon=1.0, target_delta=1e-5)
    with pytest.raises(InvalidArgumentError, match="REPLACE_SPECIAL"):
        distributed.ClientBudget(PLAN, other)
    fixed = fedsec.Ledger(
        tmp_path / "fixed",
        target_epsilon=20.0,
        target_delta=1e-5,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
        accountant="pld",
        schedule=fedsec.Repeated(PLAN.event(), 2),
    )
    with pytest.raises(InvalidArgumentError, match="rdp"):
        distributed.ClientBudget(PLAN, fixed)
    for arguments in (("plan", ledger), (PLAN, None)):
        with pytest.raises(InvalidTypeError):
            distributed.ClientBudget(*arguments)


@pytest.mark.parametrize("damaged", ["{}", "[]", "[{}]", "[7]", "7", "", b"[]"])
def test_damaged_reservations_refuse_everything(budget, ledger, damaged):
    config = config_of(PARAMETERS, PLAN.encoding.length, modulus_bits=PLAN.modulus_bits)
    budget.reserve(config)
    with budget._file.writing() as rows:
        rows.execute("UPDATE reservations SET events = ?", (damaged,))
    other = config_of(PARAMETERS, PLAN.encoding.length, modulus_bits=PLAN.modulus_bits, session=b"n")
    with pytest.raises(LedgerError, match="damaged"):
        budget.reserve(other)
