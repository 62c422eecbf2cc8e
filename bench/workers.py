"""Worker processes beside none: python bench/workers.py [--clients 60] [--milliseconds 40].

One federation without masks or noise, whose clients train the CNN with 26,010 parameters for so long; a round
with no worker, with one, and with as many as there are cores, in turns. Wall-clock seconds: only a machine
with nothing else to do says anything, so the load is printed, too. Starting the processes is left out.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import time

import torch

import fedsec
from fedsec.federated import simulate
from fedsec.measure import training


class Trains:
    """Some steps of SGD on one batch of noise."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.batch = torch.randn(16, 1, 28, 28), torch.randint(10, (16,))

    def __call__(self, rnd, client):
        local = rnd.model()
        self.train(local)
        rnd.submit(client, local)

    def train(self, local):
        optimizer = torch.optim.SGD(local.parameters(), lr=0.01)
        for _ in range(self.steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(local(self.batch[0]), self.batch[1]).backward()
            optimizer.step()


def steps_for(model, milliseconds):
    """How many steps take so long, on an idle core."""
    trains, taken = Trains(5), []
    for _ in range(5):
        started = time.process_time()
        trains.train(copy.deepcopy(model))
        taken.append((time.process_time() - started) / trains.steps)
    return max(1, math.ceil(1e-3 * milliseconds / min(taken)))


def seconds(model, steps, clients, rounds, workers):
    """Of a round, the median; the first round, in which processes start, is left out."""
    federation = fedsec.Federation(
        copy.deepcopy(model), num_clients=clients, num_rounds=rounds + 1, secure_aggregation=False
    )
    done = simulate(federation, Trains(steps), workers=workers)
    return statistics.median(one.seconds for one in done.history[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--milliseconds", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = training.MODELS["small CNN 26k, 256"][0]()
    steps = steps_for(model, given.milliseconds)
    load = os.getloadavg()[0]
    taken = {
        workers: seconds(model, steps, given.clients, given.rounds, workers)
        for workers in dict.fromkeys((0, 1, os.cpu_count() or 1))
    }
    print(
        json.dumps(
            {
                "clients": given.clients,
                "steps": steps,
                "load_before": load,
                "seconds_a_round": taken,
                "times_as_fast_as_without": {workers: taken[0] / one for workers, one in taken.items()},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
