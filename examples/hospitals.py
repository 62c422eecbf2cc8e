"""Hospitals: one classifier of breast-cancer samples over six unequal sites whose records never leave them.

    python examples/hospitals.py [--rounds 40] [--seed 0] [--epsilon 2] [--report hospitals.html]

The hospitals enrol keys in a signed directory and count their records together under masks. Then they train:
each record is bounded, each hospital adds its share of the noise, and one is lost in mid-round. The report is
what a data-protection officer would file. Needs scikit-learn: `pip install 'fedsec[demo]'`. See
docs/scenarios.md.
"""

import os
import re
import tempfile
from pathlib import Path

import click
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
        parameters=secagg.recommend(num_clients=6, corrupt_fraction=A_SIXTH, dropout_fraction=A_SIXTH),
        model_digest=bytes(32),
    )
    terms, memory = secagg.Policy(max_corrupt=1, min_survivors=5), secagg.SessionStore.in_memory
    clients = {i: secagg.Client(config, i, own[i], policy=terms, store=memory()) for i in config.ids}
    server = secagg.Server(config)
    for i, client in clients.items():
        client.submit(np.array([counts[i]]))
        server.receive(i, client.start())
    while server.phase != "done":
        for i, message in server.close_phase().items():
            if answer := clients[i].receive(message):
                server.receive(i, answer)
    return int(server.result()[0])


@click.command(help=__doc__)
@click.option("--rounds", default=40, show_default=True)
@click.option("--seed", default=0, help="Of which hospital holds which records.")
@click.option("--epsilon", default=2.0, show_default=True)
@click.option("--report", "file", help="A .html, .md or .json file.")
@click.option("--operator", is_flag=True, help="With figures for the server alone.")
def main(rounds: int, seed: int, epsilon: float, file: str | None, operator: bool) -> None:
    """A linear classifier of 31 numbers; the largest hospital is lost halfway, before its upload."""
    with tempfile.TemporaryDirectory() as folder:
        train, test = records()
        silos = [TensorDataset(*train[part]) for part in partition.quantity(len(train), 6, 2.0, seed)]
        total = counted(*enrolled(Path(folder) / "hospitals.directory"), [len(silo) for silo in silos])
        # A ledger that takes any charge is stricter than the plan's own sum, and is given room for that.
        ledger = fedsec.Ledger(Path(folder) / "ledger", target_epsilon=1.5 * epsilon, target_delta=1e-4)
        federation = fedsec.Federation(
            torch.nn.Linear(30, 1),
            num_clients=len(silos),
            num_rounds=rounds,
            unit="record",
            sampling_probability=0.3,
            num_records=total,
            l2_clip_norm=1.0,
            target_epsilon=epsilon,
            target_delta=1e-4,
            noise="distributed",  # enough of it if a sixth lies about its share and a sixth is lost
            corrupt_fraction=A_SIXTH,
            dropout_fraction=A_SIXTH,
            strategy=fedsec.FedAvg(learning_rate=1.0, momentum=0.9),
            ledger=ledger,
        )
        largest, half = max(range(len(silos)), key=lambda i: len(silos[i])), (rounds + 1) // 2
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
        report = PrivacyReport.of(federation, title=title, results=results, ledger=ledger, rounds=run.history)
    print(report.markdown())
    if file:
        print(f"wrote {report.write(file, include_operator_data=operator)}")


if __name__ == "__main__":
    main()
