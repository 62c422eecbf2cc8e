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
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from reference import event_truth
from reference.pld_truth import NotConvergedError

from fedsec import Gaussian, NeighboringRelation, PLDAccountant, PoissonSampled
from fedsec.errors import UnsupportedError
from fedsec.measure import peers


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


def against_peers(draws: int, seed: int) -> dict[str, object]:
    """Whether ours overlaps the two-sided bounds of dp-accounting and prv-accountant; who is wrong if not."""
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    apart = []
    known = {"dp-accounting": partial(peers.dp_accounting_interval, grid=1e-3), "prv": peers.prv_accountant}
    for exponents in rng.uniform((-0.3, -4.0, 0.0, -10.0), (1.0, -0.3, 4.0, -3.0), (draws, 4)):
        z, q, count, delta = (float(value) for value in 10.0**exponents)
        case, step = peers.Case("draw", z, q, int(count), delta), PoissonSampled(Gaussian(z), q)
        lower, upper = PLDAccountant().compose(step, case.steps).epsilon_interval(delta)
        for name, call in known.items():
            try:
                low, high = call(case)
            except Exception:  # peers fail outside their comfort zone
                outcomes[f"{name}: no answer"] += 1
                continue
            agree = lower <= high and low <= upper
            outcomes[f"{name}: {'overlap' if agree else 'apart'}"] += 1
            if not agree:
                apart.append(_adjudicated(name, case, (low, high), (lower, upper)))
    return {
        "draws": draws,
        "seed": seed,
        **outcomes,
        "apart": apart,
        "faults": [a for a in apart if a["ours"]],
    }


def _adjudicated(
    name: str, case: peers.Case, theirs: peers.Interval, ours: peers.Interval
) -> dict[str, object]:
    """What the references find wrong with either interval."""
    verdicts = {"theirs": _verdict(case, theirs), "ours": _verdict(case, ours)}
    return {"peer": name, "case": case._asdict(), "bounds": (theirs, ours), **verdicts}


def _verdict(case: peers.Case, interval: peers.Interval) -> str:
    step = PoissonSampled(Gaussian(case.noise_multiplier), case.sampling_probability)
    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    try:
        return event_truth.judge([(step, case.steps)], relation, case.delta, interval)
    except NotConvergedError:
        return "unknown"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--peers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.peers:
        result = against_peers(arguments.peers, arguments.seed)
    else:
        result = against_references(arguments.draws, arguments.seed)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["faults"] else 0)


if __name__ == "__main__":
    main()
