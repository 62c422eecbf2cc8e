"""Runs the rounds and writes down what came of them."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from fedsec.integrations.flower import SecureAggregation

app = ServerApp()


class Tapped:
    """The grid, and all that clients ever answered to it."""

    def __init__(self, grid):
        self._grid, self.seen = grid, []

    def __getattr__(self, name):
        return getattr(self._grid, name)

    def send_and_receive(self, messages, *, timeout=None):
        replies = list(self._grid.send_and_receive(messages, timeout=timeout))
        for reply in replies:
            content = reply.content if reply.has_content() else {}
            self.seen.append([reply.metadata.src_node_id, {k: sorted(r) for k, r in content.items()}])
        return replies


@app.main()
def main(grid, context):
    said = context.run_config
    while len(list(grid.get_node_ids())) < said["clients"]:
        time.sleep(1.0)
    strategy = SecureAggregation(
        FedAvg(min_train_nodes=said["clients"] - 1, min_available_nodes=said["clients"] - 1),
        directory=said["directory"],
        authority=said["authority"],
        max_clients=said["clients"],
        train_metrics={"number": (0.0, 10.0), "secret-loss": (0.0, 10.0)},
        evaluate_metrics={"number": (0.0, 10.0)} if said["evaluate"] else None,
        corrupt_fraction=0.1,
        dropout_fraction=0.2,
        phase_timeout=said["timeout"],
    )
    weights = {"w": np.zeros((40, 5), np.float32), "b": np.ones(3, np.float64), "steps": np.arange(2)}
    initial = ArrayRecord({name: Array(value) for name, value in weights.items()})
    tapped = Tapped(grid)
    result = strategy.start(tapped, initial, num_rounds=said["rounds"], timeout=said["timeout"])
    report = {
        "arrays": {name: array.numpy().tolist() for name, array in result.arrays.items()},
        "train_metrics": {r: dict(m) for r, m in result.train_metrics_clientapp.items()},
        "evaluate_metrics": {r: dict(m) for r, m in result.evaluate_metrics_clientapp.items()},
        "seen": tapped.seen,
    }
    Path(said["out"]).write_text(json.dumps(report))
