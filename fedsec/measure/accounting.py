"""Accountants beside their peers in the same run, and random settings far beyond what training needs.

`accountant` is what `fedsec bench accounting` shows. Peers take part where `fedsec[bench]` is installed.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from fedsec.accounting import (
    Gaussian,
    PLDAccountant,
    PoissonSampled,
    RDPAccountant,
    calibrate_noise_multiplier,
)
from fedsec.measure import peers
from fedsec.measure.peers import Case
from fedsec.measure.timing import medians

CASES = (
    Case("digits, batches of 256", 1.1, 256 / 60_000, 3510, 1e-5),
    Case("digits, less noise", 0.7, 256 / 60_000, 10_500, 1e-5),
    Case("digits, large batches", 2.0, 4096 / 60_000, 600, 1e-5),
    Case("small photographs, batches of 4096", 3.0, 4096 / 50_000, 2500, 1e-5),
    Case("a million photographs", 2.5, 16_384 / 1_281_167, 70_000, 8e-7),
    Case("table of 30,000 people", 0.55, 256 / 29_305, 2061, 1e-5),
    Case("film reviews", 0.56, 512 / 25_000, 439, 1e-5),
    Case("ratings, batches of 10,000", 0.6, 10_000 / 800_167, 1600, 1e-6),
    Case("language model, fine tuning", 0.8, 1024 / 42_000, 410, 1e-5),
    Case("clients, cohorts of 100", 1.0, 100 / 10_000, 1000, 1e-6),
    Case("clients, cohorts of 5000", 1.0, 5000 / 763_430, 4120, 1e-9),
    Case("q = 0.01, z = 1, delta 1e-12", 1.0, 0.01, 1000, 1e-12),
    Case("q = 1e-5, z = 1, a million steps", 1.0, 1e-5, 1_000_000, 1e-9),
)
_TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
_DEFAULT = 1e-3


def accountant(repeats: int = 5, cases: Sequence[Case] = CASES) -> dict[str, Any]:
    """Time and tightness over DP-SGD-like cases, calibration, and divergences at many orders."""
    return {
        "what": f"{len(cases)} cases of Poisson-sampled Gaussian noise",
        "cases": {case.name: beside_peers(case, repeats) for case in cases},
        "calibration to epsilon 3": calibration(cases[0], repeats),
        "divergences": divergences(cases[0], repeats),
    }


def beside_peers(case: Case, repeats: int = 5) -> dict[str, Any]:
    """Median milliseconds of one epsilon for fedsec and each peer, taking turns, and the bounds found.

    `peer_over_as_tight` compares with fedsec at the loosest tolerance of a few whose upper bound is not above
    the peer's, and whose lower bound is not below it; None if there is none.
    """
    known = peers.pld_peers()
    bounds = {name: _answer(partial(call, case)) for name, call in known.items()}
    ours = {_named(tolerance): partial(_interval, case, tolerance) for tolerance in _TOLERANCES}
    found = {name: call() for name, call in ours.items()}
    answering = {name: partial(known[name], case) for name, bound in bounds.items() if bound is not None}
    seconds = medians({**ours, "fedsec RDP": partial(_renyi, case), **answering}, repeats)
    return {
        "setting": case._asdict(),
        "epsilon": {**found, **bounds},
        "milliseconds": {name: 1e3 * value for name, value in seconds.items()},
        "peer_over_default": {name: seconds[name] / seconds[_named(_DEFAULT)] for name in answering},
        "peer_over_as_tight": {
            name: _over_as_tight(bounds[name], found, seconds, seconds[name]) for name in answering
        },
    }


def _named(tolerance: float) -> str:
    return f"fedsec, tolerance {tolerance:g}"


def _over_as_tight(
    bound: peers.Interval,
    found: dict[str, peers.Interval],
    seconds: dict[str, float],
    peer: float,
) -> float | None:
    """The peer's time over that of the loosest of our answers that is no looser than the peer's."""
    tight = (name for name, (low, high) in found.items() if low >= bound[0] and high <= bound[1])
    name = next(tight, None)
    return None if name is None else peer / seconds[name]


def calibration(case: Case = CASES[0], repeats: int = 5, target_epsilon: float = 3.0) -> dict[str, Any]:
    """Noise multipliers for a target, and seconds: a median for fedsec, one run of each peer."""
    ours = {
        kind.__name__: partial(_calibrated, case, kind, target_epsilon)
        for kind in (PLDAccountant, RDPAccountant)
    }
    answers: dict[str, float | None] = {name: call() for name, call in ours.items()}
    seconds = medians(ours, repeats)
    for name, call in peers.calibrators().items():
        started = time.perf_counter()
        answers[name] = _answer(partial(call, case, target_epsilon))
        seconds[name] = time.perf_counter() - started
    return {"setting": case._asdict(), "noise_multiplier": answers, "seconds": seconds}


def divergences(case: Case = CASES[0], repeats: int = 5) -> dict[str, Any]:
    """Milliseconds for Rényi divergences at all of dp-accounting's orders, and for one epsilon by RDP."""
    found = peers.rdp_peers()
    orders = _ORDERS if "dp-accounting RDP" not in found else peers.dp_accounting_orders()
    calls: dict[str, Callable[[], object]] = {"fedsec, all orders": partial(_divergences, case, orders)}
    if "dp-accounting RDP" in found:
        calls["dp-accounting, all orders"] = partial(peers.dp_accounting_divergences, case)
    calls["fedsec, epsilon"] = partial(_renyi, case)
    calls |= {f"{name}, epsilon": partial(call, case) for name, call in found.items()}
    seconds = medians(calls, repeats)
    return {"orders": len(orders), "milliseconds": {name: 1e3 * value for name, value in seconds.items()}}


_ORDERS = [*np.arange(1.1, 11.0, 0.1), *range(11, 64), 128, 256, 512, 1024]


def draws(number: int = 500, seed: int = 0, *, extreme: bool = False) -> dict[str, Any]:
    """Epsilon for random settings, each parameter log-uniform: how often, how narrow, how fast.

    Noise 1e-2..1e3, q 1e-7..1, count 1..1e8 and delta 1e-15..1e-3; if `extreme` noise 1e-3..1e4,
    q 1e-9..1, count 1..1e9 and delta 1e-300..1e-3.
    """
    rng = np.random.default_rng(seed)
    low, high = _EXTREME if extreme else _WIDE
    seconds, widths, failures = [], [], []
    worst: list[tuple[float, Case]] = []
    for exponents in rng.uniform(low, high, (number, 4)):
        z, q, count, delta = (float(value) for value in 10.0**exponents)
        case = Case("draw", z, q, max(1, round(count)), delta)
        started = time.perf_counter()
        try:
            interval = _interval(case)
        except Exception as error:  # a refusal or a defect: either is a failure here
            failures.append({"setting": case._asdict(), "failure": repr(error)})
            continue
        seconds.append(time.perf_counter() - started)
        if not 0.0 <= interval[0] <= interval[1] < math.inf:
            failures.append({"setting": case._asdict(), "failure": repr(interval)})
            continue
        widths.append(1.0 - interval[0] / interval[1] if interval[1] > 0.0 else 0.0)
        worst.append((widths[-1], case))
    worst.sort(key=lambda pair: -pair[0])
    return {
        "what": f"{number} {'extreme' if extreme else 'wide'} draws, seed {seed}",
        "failures": failures,
        "share_within_1e-2": sum(width <= 1e-2 for width in widths) / number,
        "share_within_1e-3": sum(width <= 1e-3 for width in widths) / number,
        "median_milliseconds": 1e3 * statistics.median(seconds),
        "max_seconds": max(seconds),
        "widest": [{"width": width, **case._asdict()} for width, case in worst[:10]],
    }


_WIDE = (-2.0, -7.0, 0.0, -15.0), (3.0, 0.0, 8.0, -3.0)  # logarithms of noise, q, count, delta
_EXTREME = (-3.0, -9.0, 0.0, -300.0), (4.0, 0.0, 9.0, -3.0)


def extreme_draws(number: int = 300, seed: int = 0) -> dict[str, Any]:
    """`draws(extreme=True)` in a process of its own, with the most memory that it ever held."""
    code = (
        "import json, resource, sys; from fedsec.measure import accounting;"
        "result = accounting.draws(int(sys.argv[1]), int(sys.argv[2]), extreme=True);"
        "result['peak_megabytes'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024;"
        "print(json.dumps(result))"
    )
    command = [sys.executable, "-c", code, str(number), str(seed)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def _event(case: Case) -> PoissonSampled:
    return PoissonSampled(Gaussian(case.noise_multiplier), case.sampling_probability)


def _interval(case: Case, tolerance: float = _DEFAULT) -> tuple[float, float]:
    composed = PLDAccountant(tolerance=tolerance).compose(_event(case), case.steps)
    return composed.epsilon_interval(case.delta)


def _renyi(case: Case) -> float:
    return RDPAccountant().compose(_event(case), case.steps).epsilon(case.delta)


def _divergences(case: Case, orders: Sequence[float]) -> object:
    return RDPAccountant().compose(_event(case), case.steps).rdp(orders)


def _calibrated(case: Case, kind: type[RDPAccountant] | type[PLDAccountant], target_epsilon: float) -> float:
    return calibrate_noise_multiplier(
        lambda z: _event(case._replace(noise_multiplier=z)),
        count=case.steps,
        target_epsilon=target_epsilon,
        target_delta=case.delta,
        accountant=kind,
    )


def _answer(call: Callable[[], Any]) -> Any:
    """What a call returns; None if it fails: peers do, outside their comfort zone."""
    try:
        return call()
    except Exception:  # whatever a peer raises
        return None


def describe(result: dict[str, Any]) -> list[str]:
    """The result of `accountant` in lines for people."""
    lines = [result["what"]]
    for name, case in result["cases"].items():
        lower, upper = case["epsilon"][_named(_DEFAULT)]
        taken = case["milliseconds"][_named(_DEFAULT)]
        lines.append(f"  {name}: epsilon {lower:.5g} to {upper:.5g} in {taken:.1f} ms")
    lines += [f"  {line}" for line in _ratios(result["cases"])]
    calibrated = result["calibration to epsilon 3"]
    for name, noise in calibrated["noise_multiplier"].items():
        answer = "no answer" if noise is None else f"{noise:.6g}"
        lines.append(f"  calibration to epsilon 3, {name}: {answer} in {calibrated['seconds'][name]:.3f} s")
    for name, taken in result["divergences"]["milliseconds"].items():
        lines.append(f"  {name}: {taken:.2f} ms")
    return lines


def _ratios(cases: dict[str, Any]) -> list[str]:
    """Medians over the cases of each peer's time over ours."""
    lines = []
    for name in dict.fromkeys(name for case in cases.values() for name in case["peer_over_default"]):
        ratios = [case["peer_over_default"].get(name) for case in cases.values()]
        tight = [case["peer_over_as_tight"].get(name) for case in cases.values()]
        known, as_tight = ([value for value in part if value is not None] for part in (ratios, tight))
        line = f"{name}: {statistics.median(known):.1f} times our time (median of {len(known)} cases)"
        if as_tight:
            line += f", {statistics.median(as_tight):.1f} times at a bound no looser ({len(as_tight)} cases)"
        lines.append(line)
    return lines or ["no peer is installed: pip install 'fedsec[bench]'"]


def describe_draws(result: dict[str, Any]) -> list[str]:
    """The result of `draws` in lines for people."""
    return [
        f"{result['what']}: {len(result['failures'])} without an answer",
        f"  width at most 1e-2 in {100 * result['share_within_1e-2']:.1f} %, "
        f"1e-3 in {100 * result['share_within_1e-3']:.1f} %",
        f"  median {result['median_milliseconds']:.1f} ms, at most {result['max_seconds']:.2f} s"
        + (f", {result['peak_megabytes']:.0f} MB" if "peak_megabytes" in result else ""),
    ]
