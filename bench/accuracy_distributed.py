"""Accuracy with noise inside the sum beside a trusted server's: python bench/accuracy_distributed.py.

Ten silos hold the training records of handwritten digits; each round every silo draws a Poisson sample, and
one silo is lost before its upload. Three kinds of noise, the same runs otherwise:

    distributed            shares for the fewest honest survivors; epsilon is for those
    trusted, same variance a server that adds as much noise as the nine survivors' shares made
    trusted, same epsilon  a server that adds what the same epsilon asks of it

A softmax regression on the pixels. Masks come from one key of the process: this is about accuracy alone.
"""

import argparse
import json
import math
import statistics

import numpy as np
import torch
from torch.utils.data import TensorDataset

import fedsec
from fedsec.demo.data import load
from fedsec.federated.partition import dirichlet

CLIENTS, LOST, CLIP = 10, 1, 0.5
SAMPLING = 0.2


def train(data, noise, noise_multiplier, rounds, seed):
    """Test accuracy of the last model, and the federation."""
    torch.manual_seed(seed)
    size = int(np.prod(data.train_inputs.shape[1:]))
    model = torch.nn.Linear(size, data.num_classes)
    torch.nn.init.zeros_(model.weight)
    federation = fedsec.Federation(
        model,
        num_clients=CLIENTS,
        num_rounds=rounds,
        unit="record",
        l2_clip_norm=CLIP,
        noise_multiplier=noise_multiplier,
        target_delta=1e-5,
        noise=noise,
        sampling_probability=SAMPLING,
        num_records=len(data.train_targets),
        secure_aggregation="insecure_session_key",
        strategy=fedsec.FedAvg(learning_rate=4.0),
    )
    inputs = torch.from_numpy(data.train_inputs).flatten(1)
    targets = torch.from_numpy(data.train_targets)
    shards = [TensorDataset(inputs[p], targets[p]) for p in dirichlet(data.train_targets, CLIENTS, 1.0, seed)]
    lost = np.random.default_rng(seed)
    for current in federation.rounds():
        absent = set(lost.choice(CLIENTS, LOST, replace=False))
        for client in current.cohort:
            if client not in absent:
                current.submit_records(client, shards[client], loss)
        current.finish()
    with torch.no_grad():
        test = torch.from_numpy(data.test_inputs).flatten(1)
        right = (model(test).argmax(dim=1) == torch.from_numpy(data.test_targets)).double().mean()
    return float(right), federation


def loss(output, target):
    return torch.nn.functional.cross_entropy(output, target, reduction="none")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--noise-multiplier", type=float, default=3.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data, z = load(given.data), given.noise_multiplier
    accuracies = {"distributed": [], "trusted, same variance": [], "trusted, same epsilon": []}
    for seed in range(given.runs):
        accuracy, federation = train(data, "distributed", z, given.rounds, seed)
        accuracies["distributed"].append(accuracy)
        plan = federation.plan.distributed
        made = math.sqrt((CLIENTS - LOST) * plan.shares.variance) * plan.encoding.granularity / CLIP
        for name, multiplier in (("trusted, same variance", made), ("trusted, same epsilon", z)):
            accuracies[name].append(train(data, "central", multiplier, given.rounds, seed)[0])
    print(
        json.dumps(
            {
                "runs": given.runs,
                "rounds": given.rounds,
                "epsilon": federation.spent().epsilon,
                "noise_multiplier": z,
                "noise_multiplier_made": made,
                "accuracy": {name: statistics.mean(values) for name, values in accuracies.items()},
                "standard_error": {
                    name: statistics.stdev(values) / math.sqrt(len(values))
                    for name, values in accuracies.items()
                    if len(values) > 1
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
