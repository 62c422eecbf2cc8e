"""Hospitals: one classifier of breast-cancer samples over six unequal sites whose records never leave them.

    python examples/hospitals.py [--rounds 40] [--seed 0] [--epsilon 2] [--report hospitals.html]

The hospitals enrol keys in a signed directory and count their records together under masks. Then they train:
each record is bounded, each hospital adds its share of the noise, and one is lost in mid-round. The report is
what a data-protection officer would file. Needs scikit-learn: `pip install 'fedsec[demo]'`. See
docs/scenarios.md.
"""

import argparse
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch.nn.functional import binary_cross_entropy_with_logits as loss
from torch.utils.data import TensorDataset

import fedsec
from fedsec import secagg
from fedsec.federated import partition, simulate
from fedsec.report import PrivacyReport

HOSPITALS = ("Aare", "Birs", "Drau", "Enns", "Fulda", "Glatt")
A_SIXTH = 1 / len(HOSPITALS)  # of the hospitals may be corrupt, and as many may be lost


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of which hospital holds which records")
    parser.add_argument("--epsilon", type=float, default=2.0)
    parser.add_argument("--report", help="a .html, .md or .json file")
    parser.add_argument("--operator", action="store_true", help="with figures for the server alone")
    return parser.parse_args()


def records() -> tuple[TensorDataset, TensorDataset]:
    """To train on, and every fifth to test on; scaled by the ranges that the data's description publishes."""
    bunch = load_breast_cancer()
    ranges = re.findall(r"\((?:mean|standard error|worst)\): +([\d.]+) +([\d.]+)", bunch.DESCR)
    low, high = np.array(ranges, dtype=float).T
    inputs = torch.tensor(2 * (bunch.data - low) / (high - low) - 1, dtype=torch.float32)
    targets = torch.tensor(bunch.target, dtype=torch.float32)[:, None]
    test = torch.arange(len(targets)) % 5 == 4
    return TensorDataset(inputs[~test], targets[~test]), TensorDataset(inputs[test], targets[test])


def enrolled(path: Path) -> tuple[secagg.Directory, list[secagg.Identity]]:
    """The directory as each hospital reads it, checked against the authority's key; and their own keys."""
    authority, own = secagg.Identity.new(), [secagg.Identity.new() for _ in HOSPITALS]
    office, directory = authority.public_key, secagg.Directory.new(authority.public_key)
    for i, name in enumerate(HOSPITALS):
        directory = directory.add(secagg.Enrolment.new(own[i], client_id=i, name=name, authority=office))
    directory.save(path, authority)
    return secagg.Directory.load(path, authority=office, min_serial=1), own


def counted(directory: secagg.Directory, own: list[secagg.Identity], counts: list[int]) -> int:
    """How many records there are in all: a session of the protocol, signed with the directory's keys."""
    config = secagg.Config(
        session_id=os.urandom(32),
        round_id=0,
        participants=directory,
        vector_length=1,
        modulus_bits=32,
        parameters=secagg.recommend(num_clients=6, corrupt_fraction=A_SIXTH, dropout_fraction=A_SIXTH),
        model_digest=bytes(32),
    )
    terms, memory = secagg.Policy(max_corrupt=1, min_survivors=5), secagg.SessionStore.in_memory
    clients = {i: secagg.Client(config, i, own[i], policy=terms, store=memory()) for i in config.ids}
    server, outbox = secagg.Server(config), {i: client.start() for i, client in clients.items()}
    for i, client in clients.items():
        client.submit(np.array([counts[i]]))
    while server.phase not in ("done", "aborted"):
        for i, message in outbox.items():
            server.receive(i, message)
        outbox = {i: clients[i].receive(answer) for i, answer in server.close_phase().items()}
    return int(server.result()[0])


def trained(options: argparse.Namespace, folder: Path) -> PrivacyReport:
    """A linear classifier of 31 numbers; the largest hospital is lost halfway, before its upload."""
    train, test = records()
    parts = partition.quantity(len(train), len(HOSPITALS), 2.0, options.seed)
    silos = [TensorDataset(*train[part]) for part in parts]
    total = counted(*enrolled(folder / "hospitals.directory"), [len(silo) for silo in silos])
    # A ledger that takes any charge is stricter than the plan's own sum, and is given room for that.
    ledger = fedsec.Ledger(folder / "ledger", target_epsilon=1.5 * options.epsilon, target_delta=1e-4)
    federation = fedsec.Federation(
        torch.nn.Linear(30, 1),
        num_clients=len(silos),
        num_rounds=options.rounds,
        unit="record",
        sampling_probability=0.3,
        num_records=total,
        l2_clip_norm=1.0,
        target_epsilon=options.epsilon,
        target_delta=1e-4,
        noise="distributed",  # enough of it if a sixth lies about its share and a sixth is lost
        corrupt_fraction=A_SIXTH,
        dropout_fraction=A_SIXTH,
        strategy=fedsec.FedAvg(learning_rate=1.0, momentum=0.9),
        ledger=ledger,
    )
    largest, half = max(range(len(silos)), key=lambda i: len(silos[i])), (options.rounds + 1) // 2
    inputs, targets = test.tensors
    run = simulate(
        federation,
        lambda rnd, i: rnd.submit_records(i, silos[i], loss),
        losses={half: {largest: "upload"}},
        evaluate=lambda model: {"accuracy": float(((model(inputs) > 0) == (targets > 0)).float().mean())},
    )
    results = {
        "records, counted under masks": total,
        f"accuracy on {len(test)} test records": run.history[-1].metrics["accuracy"],
        f"accuracy after round {half}, which lost a hospital": run.history[half - 1].metrics["accuracy"],
        "rounds aborted": run.aborted,
    }
    title = "Privacy report: a classifier of breast-cancer samples over six hospitals"
    rounds = [one for one in run.history if not one.aborted]
    return PrivacyReport.of(federation, title=title, results=results, ledger=ledger, rounds=rounds)


def main() -> None:
    """Trains, and writes the report."""
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        report = trained(options, Path(folder))
    print(report.markdown())
    if options.report:
        print(f"wrote {report.write(options.report, include_operator_data=options.operator)}")


if __name__ == "__main__":
    main()
