"""A process whose children do one thing each with files, until they are done or somebody kills them."""

import hashlib
import io
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
from protocol.secagg_loop import complete, config_of, identity_of, policy_of
from protocol.workers import say, serve

from fedsec import distributed
from fedsec.accounting import Ledger, NeighboringRelation
from fedsec.errors import FedsecError
from fedsec.secagg import Participant

CLIENT = 10
FOUR = complete(4, corrupt=0, lost=1)
VECTOR = np.array([5, -7, 11])
FIVE = complete(5, corrupt=1, lost=1)
PLAN = distributed.plan_clients(
    distributed.Cohort(5, FIVE.min_survivors, FIVE.max_corrupt),
    dimension=3,
    l2_clip_norm=1.0,
    noise_multiplier=1.0,
)
SURVIVORS = (10, 20, 30, 40)


def config_of_round(number):
    return config_of(FOUR, session=number.to_bytes(8, "little"), round_id=number)


def participant(folder, number, request):
    """One message of a session, or the first one for an empty request."""
    config = config_of_round(number)
    one = Participant(folder, CLIENT, identity_of(CLIENT), policy=policy_of(config))
    try:
        if request:
            answer = one.answer(config.session_id, bytes.fromhex(request), lambda _: VECTOR)
        else:
            answer = one.join(config)
    except FedsecError as error:
        say("refused", type(error).__name__, str(error))
    else:
        say("answer", answer.hex())


def planned_session(number):
    return config_of(
        FIVE,
        PLAN.encoding.length,
        session=number.to_bytes(8, "little"),
        round_id=number,
        modulus_bits=PLAN.modulus_bits,
    )


def budget_of(path):
    relation = NeighboringRelation.REPLACE_SPECIAL
    ledger = Ledger(path, target_epsilon=1e6, target_delta=1e-5, neighboring_relation=relation)
    return distributed.ClientBudget(PLAN, ledger), ledger


def budget(path, first):
    """Reserves and settles for one session after the other, as long as it lives."""
    kept, _ = budget_of(path)
    for number in itertools.count(first):
        session = planned_session(number)
        kept.reserve(session)
        say("reserved", number)
        kept.settle(session, SURVIVORS)
        say("settled", number)


def federation_in(folder):
    """A federation that goes on from its last checkpoint, if there is one."""
    import torch

    import fedsec

    torch.manual_seed(0)
    model, path = torch.nn.Linear(3, 1), Path(folder)
    ledger = Ledger(
        path / "ledger",
        target_epsilon=1e4,
        target_delta=1e-5,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    )
    federation = fedsec.Federation(
        model,
        num_clients=4,
        num_rounds=10**4,
        l2_clip_norm=1.0,
        noise_multiplier=1.0,
        target_delta=1e-5,
        secure_aggregation=False,
        ledger=ledger,
    )
    if (path / "checkpoint").exists():
        saved = torch.load(path / "checkpoint", weights_only=True)
        model.load_state_dict(saved["model"])
        federation.load_state_dict(saved["federation"])
    return federation, ledger


def federation(folder):
    """Rounds, each saved before it is told, as long as it lives."""
    running, _ = federation_in(folder)
    say("open")
    for rnd in running.rounds():
        for client in rnd.cohort:
            rnd.submit(client, rnd.model())
        rnd.finish()
        save(folder, model=running.model, federation=running)
        weights = running.model.weight.detach().numpy()
        say("round", rnd.round_id, hashlib.sha256(weights.tobytes()).hexdigest())


def training_in(folder, sampling):
    """A private training on 200 records, all different; it goes on from its last checkpoint."""
    import torch

    import fedsec

    torch.manual_seed(0)
    model, path = torch.nn.Linear(1, 4), Path(folder)
    numbers = torch.arange(200.0).reshape(200, 1)
    ledger = Ledger(path / "ledger", target_epsilon=1e5, target_delta=1e-5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    privacy = fedsec.attach(
        model,
        optimizer,
        torch.utils.data.TensorDataset(numbers),
        batch_size=100,
        epochs=10**4,
        noise_multiplier=1.0,
        target_delta=1e-5,
        sampling=sampling,
        ledger=ledger,
    )
    if (path / "checkpoint").exists():
        saved = torch.load(path / "checkpoint", weights_only=True)
        model.load_state_dict(saved["model"])
        privacy.load_state_dict(saved["privacy"])
    return model, optimizer, privacy, ledger


def play_epoch(model, optimizer, privacy):
    """Two steps; what each drew and released is told at once."""
    for (numbers,) in privacy.loader(max_physical_batch_size=200):
        privacy.backward(model(numbers / 200).sum(dim=1))
        optimizer.step()
        if privacy.is_last_microbatch:
            gradients = [p.grad.numpy().tobytes() for p in model.parameters()]
            drawn = hashlib.sha256(repr(sorted(set(numbers.flatten().tolist()))).encode()).hexdigest()
            say("step", privacy.steps, hashlib.sha256(b"".join(gradients)).hexdigest(), drawn)


def training(folder, sampling):
    """Epochs, each saved after it was told, as long as it lives."""
    model, optimizer, privacy, _ = training_in(folder, sampling)
    save(folder, model=model, privacy=privacy)
    say("open")
    while True:
        play_epoch(model, optimizer, privacy)
        save(folder, model=model, privacy=privacy)


def save(folder, **parts):
    """All of a checkpoint or nothing."""
    import torch

    new, saved = Path(folder) / "checkpoint.new", io.BytesIO()
    torch.save({name: part.state_dict() for name, part in parts.items()}, saved)
    new.write_bytes(saved.getvalue())
    new.replace(Path(folder) / "checkpoint")


def load_torch():
    """All that children need of it, once."""
    import torch

    torch.set_num_threads(1)
    for made in (lambda folder: training_in(folder, "poisson"), federation_in):
        with tempfile.TemporaryDirectory() as folder:
            made(folder)


WORK = {"participant": participant, "budget": budget, "federation": federation, "training": training}


if __name__ == "__main__":
    if "torch" in sys.argv:
        load_torch()
    serve(WORK)
