"""Identities, a signed directory and node folders for a try on one machine: `python enrol.py nodes 10`.

Prints what goes into --run-config. In a real study each client makes its own key (docs/identities.md).
"""

import sys
from pathlib import Path

from fedsec.integrations.node import enrol

root, num_nodes = Path(sys.argv[1]).resolve(), int(sys.argv[2])
authority = enrol(root, num_nodes, max_corrupt=1, min_survivors=3)
said = {"authority": authority.hex(), "directory": root / "clients.directory", "fedsec-nodes": root}
print(" ".join(f"{name}='{value}'" for name, value in said.items()))
