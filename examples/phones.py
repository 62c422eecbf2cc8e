"""Phones: 1,000 devices with one or two handwritten digits each, and a model that knows none of their owners.

    python examples/phones.py [--rounds 40] [--seed 0] [--epsilon 8] [--report phones.html]

Each round draws 100 of the devices, loses 20 of them at all phases, and releases one noisy sum. The unit is
the device, with all that it holds. Needs scikit-learn: `pip install 'fedsec[demo]'`. Picture and figures:
docs/scenarios.md.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import fedsec
from fedsec.demo.data import load
from fedsec.federated import Round, RoundMetrics, partition, simulate
from fedsec.report import PrivacyReport

PHASES = ("advertise", "share", "upload", "unmask")  # whose message a lost device never sends


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of who holds which images, and of who is lost")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--dropout", type=float, default=0.2, help="the share of each cohort that is lost")
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--report", help="a .html, .md or .json file")
    return parser.parse_args()


def federation(options: argparse.Namespace, *, private: bool) -> fedsec.Federation:
    """A linear model of 650 numbers; without privacy the same, summed in the clear."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    asked = {"num_clients": options.devices, "cohort_size": options.cohort, "num_rounds": options.rounds}
    if not private:
        return fedsec.Federation(model, **asked, secure_aggregation=False)
    return fedsec.Federation(
        model,
        **asked,
        unit="client",
        l2_clip_norm=1.0,
        clipping="adaptive",  # from here the bound follows the median norm, by a count that is noisy, too
        target_epsilon=options.epsilon,
        target_delta=1e-5,
        noise="distributed",  # the count is one more coordinate of the sum, and shares of noise cover it
        dropout_fraction=options.dropout,
        strategy=fedsec.FedAvg(learning_rate=2.0),  # clipped updates are short: one image moves little
    )


def main() -> None:
    """Both runs, and what they gave."""
    options = arguments()
    data = load("digits")
    images, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_targets)
    test, truth = torch.from_numpy(data.test_inputs), torch.from_numpy(data.test_targets)
    held = partition.iid(len(labels), options.devices, options.seed)

    def contribute(rnd: Round, device: int) -> None:
        local, own = rnd.model(), held[device]
        optimizer = torch.optim.SGD(local.parameters(), lr=0.2)
        for _ in range(2):
            optimizer.zero_grad()
            cross_entropy(local(images[own]), labels[own]).backward()
            optimizer.step()
        rnd.submit(device, local)

    def lose(round_id: int, cohort: tuple[int, ...]) -> dict[int, str]:
        rng = np.random.default_rng((options.seed, round_id))
        gone = rng.choice(cohort, int(options.dropout * len(cohort)), replace=False)
        return {int(device): PHASES[place % len(PHASES)] for place, device in enumerate(gone)}

    @torch.no_grad()
    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        return {"accuracy": float((model(test).argmax(dim=1) == truth).float().mean())}

    def show(one: RoundMetrics) -> None:
        if one.round_id % max(1, options.rounds // 6) == 0:
            print(
                f"round {one.round_id:3}  accuracy {one.metrics['accuracy']:.3f}  epsilon {one.epsilon:.2f}"
            )

    private = federation(options, private=True)
    print(f"secure aggregation: {private.plan.secagg_parameters}")
    run = simulate(private, contribute, losses=lose, evaluate=evaluate, on_round=show)
    plain = simulate(federation(options, private=False), contribute, losses=lose, evaluate=evaluate)
    results = {
        "accuracy": run.history[-1].metrics["accuracy"],
        "accuracy without privacy": plain.history[-1].metrics["accuracy"],
        "rounds aborted": run.aborted,
        "clip norm at the end": private.plan.rule.l2_clip_norm,
    }
    report = PrivacyReport.of(private, title="Phones: what a device gives away", results=results)
    print(report.sentence)
    for name, value in results.items():
        print(f"{name}: {value:.4g}")
    print(f"a device sent at most {run.bytes_per_client / options.rounds:,.0f} bytes a round")
    print(f"{run.seconds:.0f} s")
    if options.report:
        print(f"wrote {report.write(options.report)}")


if __name__ == "__main__":
    main()
