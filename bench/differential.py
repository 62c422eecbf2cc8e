"""Random compositions against independent references, and against the two-sided bounds of peers.

    python bench/differential.py --draws 2000 --seed 1
    python bench/differential.py --peers 300

Prints one JSON object; exits with status 1 if any interval excludes a truth.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from reference import event_truth
from reference.pld_truth import NotConvergedError

from fedsec import PLDAccountant
from fedsec.errors import UnsupportedError


def against_references(draws: int, seed: int) -> dict[str, object]:
    """How many of `draws` random compositions were judged, and what was wrong with which."""
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    wrong, widths, slowest = [], [], 0.0
    for _ in range(draws):
        steps, relation, delta = event_truth.draw(rng)
        accountant = PLDAccountant(neighboring_relation=relation)
        try:
            for event, count in steps:
                accountant.compose(event, count)
        except UnsupportedError:
            outcomes["refused"] += 1
            continue
        started = time.perf_counter()
        try:
            interval = accountant.epsilon_interval(delta)
            slowest = max(slowest, time.perf_counter() - started)
            fault = event_truth.judge(steps, relation, delta, interval)
        except NotConvergedError:
            outcomes["unknown"] += 1
            continue
        except Exception as error:  # an answer was due
            interval, fault = (0.0, math.inf), repr(error)
        outcomes["wrong" if fault else "right"] += 1
        widths.append(1.0 - interval[0] / interval[1] if interval[0] < interval[1] else 0.0)
        if fault:
            wrong.append({"steps": repr(steps), "relation": relation.name, "delta": delta, "fault": fault})
            print(json.dumps(wrong[-1]), file=sys.stderr, flush=True)
    return {
        "draws": draws,
        "seed": seed,
        **outcomes,
        "faults": wrong,
        "relative_width": dict(
            zip(("median", "90%", "max"), np.quantile(widths, (0.5, 0.9, 1.0)), strict=True)
        ),
        "slowest_seconds": slowest,
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    result = against_references(arguments.draws, arguments.seed)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["faults"] else 0)


if __name__ == "__main__":
    main()
