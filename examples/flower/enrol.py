"""Identities, a signed directory and node folders for a try on one machine: `python enrol.py nodes 10`.

Prints what goes into --run-config. In a real study each client makes its own key (docs/identities.md), and
its owner writes what it insists on.
"""

import sys
from pathlib import Path

from fedsec.integrations.node import enrol

root, num_nodes = Path(sys.argv[1]).resolve(), int(sys.argv[2])
authority = enrol(
    root,
    num_nodes,
    max_corrupt=1,
    min_survivors=3,
    noise=["distributed"],  # not the server's: that would have to be believed
    target_epsilon=100.0,  # of all that ever leaves a node: what the app plans for one run
    target_delta=1e-5,
    metrics=["accuracy"],
)
said = {"authority": authority.hex(), "directory": root / "clients.directory", "fedsec-nodes": root}
print(" ".join(f"{name}='{value}'" for name, value in said.items()))
