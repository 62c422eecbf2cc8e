"""Every algorithm on the same clients: python bench/algorithms.py --data PATH (MNIST), or on the digits.

A hundred clients (ten on the digits) with two shards of labels each [MMR+17, sec. 3]; each round a tenth of
them (all of them) trains one epoch, and whoever is drawn weighs by its records. Without privacy, under the
masks of a rehearsal. The model is the demo's network. Prints the accuracy on the test records, over rounds
and runs, and what a client sends.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics

import torch
from torch.nn.functional import cross_entropy

import fedsec
from fedsec.demo.data import load
from fedsec.demo.models import small_cnn
from fedsec.demo.run import accuracy
from fedsec.federated import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, partition, proximal_term, simulate

# The server's step, and mu of FedProx: of usual size, not tuned.
ALGORITHMS = {
    "fedavg": (FedAvg(), 0.0),
    "fedprox": (FedAvg(), 0.01),
    "fedavgm": (FedAvgM(learning_rate=0.3, momentum=0.7), 0.0),
    "fedadagrad": (FedAdagrad(learning_rate=0.03, tau=1e-3), 0.0),
    "fedadam": (FedAdam(learning_rate=0.01, tau=1e-3), 0.0),
    "fedyogi": (FedYogi(learning_rate=0.01, tau=1e-3), 0.0),
}


def run(data, name, given, seed):
    """A whole run: the accuracies that were asked for, and the bytes a client sent in a round."""
    strategy, mu = ALGORITHMS[name]
    inputs, targets = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_targets)
    parts = partition.shards(data.train_targets, given.clients, 2, seed)
    torch.manual_seed(seed)
    federation = fedsec.Federation(
        small_cnn(data.train_inputs.shape[1:], data.num_classes),
        num_clients=given.clients,
        cohort_size=given.cohort,
        num_rounds=given.rounds,
        secure_aggregation="insecure_session_key",
        strategy=strategy,
    )

    def contribute(rnd, client):
        start, rows = rnd.model(), torch.from_numpy(parts[client])
        local = copy.deepcopy(start)
        optimizer = torch.optim.SGD(local.parameters(), lr=given.learning_rate)
        for batch in rows[torch.randperm(len(rows))].split(given.batch):
            optimizer.zero_grad()
            loss = cross_entropy(local(inputs[batch]), targets[batch])
            if mu:
                loss = loss + proximal_term(local, start, mu)
            loss.backward()
            optimizer.step()
        rnd.submit(client, local, weight=len(rows))

    reached = {}

    def look(metrics):
        if metrics.round_id * 4 % given.rounds < 4:
            reached[metrics.round_id] = accuracy(federation.model, data)

    done = simulate(federation, contribute, on_round=look)
    return reached, done.bytes_per_client / given.rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--algorithms", nargs="*", default=list(ALGORITHMS), choices=list(ALGORITHMS))
    parser.add_argument("--clients", type=int)
    parser.add_argument("--cohort", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    given = parser.parse_args()
    usual = (
        {"clients": 10, "cohort": 10, "rounds": 60, "batch": 10, "learning_rate": 0.1}
        if given.data == "digits"
        else {"clients": 100, "cohort": 10, "rounds": 100, "batch": 50, "learning_rate": 0.1}
    )
    for key, value in usual.items():
        if getattr(given, key) is None:
            setattr(given, key, value)
    torch.set_num_threads(1)
    data = load(given.data)
    for name in given.algorithms:
        runs = [run(data, name, given, given.seed + number) for number in range(given.runs)]
        last = [reached[given.rounds] for reached, _ in runs]
        print(
            json.dumps(
                {
                    "algorithm": name,
                    "rounds": given.rounds,
                    "accuracy": statistics.mean(last),
                    "spread": statistics.stdev(last) if len(last) > 1 else None,
                    "over_rounds": {
                        at: statistics.mean(one[at] for one, _ in runs) for at in sorted(runs[0][0])
                    },
                    "runs": last,
                    "bytes_a_round": runs[0][1],
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
