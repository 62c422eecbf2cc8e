"""Other accountants, as they are installed by `fedsec[bench]`: each asked in the way its own pages show.

A peer that is not installed is left out of the measurements. Times are for a fresh object each call.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Case(NamedTuple):
    """Training with Poisson-sampled Gaussian noise: `steps` steps, delta as the target."""

    name: str
    noise_multiplier: float
    sampling_probability: float
    steps: int
    delta: float


Interval = tuple[float, float]  # bounds on epsilon; 0 below where a peer gives none


def pld_peers() -> dict[str, Callable[[Case], Interval]]:
    """Numerical accountants, with the settings that they have by default."""
    known = {
        "dp_accounting": ("dp-accounting PLD", dp_accounting),
        "prv_accountant": ("prv-accountant", prv_accountant),
        "opacus": ("Opacus PRV", opacus),
        "opake": ("opake-accounting", opake),
    }
    return {name: call for module, (name, call) in known.items() if find_spec(module)}


def rdp_peers() -> dict[str, Callable[[Case], Interval]]:
    """Accountants by Rényi divergence."""
    known = {
        "dp_accounting": ("dp-accounting RDP", dp_accounting_rdp),
        "opacus": ("Opacus RDP", opacus_rdp),
        "autodp": ("autodp", autodp),
    }
    return {name: call for module, (name, call) in known.items() if find_spec(module)}


def calibrators() -> dict[str, Callable[[Case, float], float]]:
    """Noise multipliers for a target epsilon, by the numerical accountants that offer it."""
    known = {
        "dp_accounting": ("dp-accounting PLD", calibrate_dp_accounting),
        "prv_accountant": ("prv-accountant", calibrate_prv_accountant),
        "opacus": ("Opacus PRV", calibrate_opacus),
    }
    return {name: call for module, (name, call) in known.items() if find_spec(module)}


def dp_accounting(case: Case) -> Interval:
    """`PLDAccountant` on its grid of 1e-4; the upper bound only."""
    from dp_accounting.pld import PLDAccountant

    return 0.0, float(PLDAccountant().compose(_dp_event(case)).get_epsilon(case.delta))


def dp_accounting_interval(case: Case, grid: float = 1e-4) -> Interval:
    """Optimistic and pessimistic privacy buckets; 1e-4 is its default grid."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    def bound(pessimistic: bool) -> float:
        law = pld.from_gaussian_mechanism(
            case.noise_multiplier,
            sampling_prob=case.sampling_probability,
            pessimistic_estimate=pessimistic,
            value_discretization_interval=grid,
            use_connect_dots=False,
        )
        return float(law.self_compose(case.steps).get_epsilon_for_delta(case.delta))

    return bound(False), bound(True)


def dp_accounting_rdp(case: Case) -> Interval:
    """`RdpAccountant` with its default orders."""
    from dp_accounting.rdp import RdpAccountant

    with _quiet():
        return 0.0, float(RdpAccountant().compose(_dp_event(case)).get_epsilon(case.delta))


def dp_accounting_orders() -> list[float]:
    """The orders of `RdpAccountant`."""
    from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS

    return list(DEFAULT_RDP_ORDERS)


def dp_accounting_divergences(case: Case) -> object:
    """Its Rényi divergences at all its orders."""
    from dp_accounting.rdp import RdpAccountant

    return RdpAccountant().compose(_dp_event(case))


def calibrate_dp_accounting(case: Case, target_epsilon: float) -> float:
    """`calibrate_dp_mechanism` from 0.3 to 10 times the case's noise, to its default tolerance of 1e-6."""
    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant

    z = case.noise_multiplier
    return float(
        dp.calibrate_dp_mechanism(
            PLDAccountant,
            lambda noise: _dp_event(case._replace(noise_multiplier=noise)),
            target_epsilon,
            case.delta,
            dp.ExplicitBracketInterval(0.3 * z, 10.0 * z),
        )
    )


def _dp_event(case: Case) -> Any:
    import dp_accounting as dp

    step = dp.PoissonSampledDpEvent(case.sampling_probability, dp.GaussianDpEvent(case.noise_multiplier))
    return dp.SelfComposedDpEvent(step, case.steps)


def prv_accountant(case: Case) -> Interval:
    """`DPSGDAccountant` at its default error of 0.1 in epsilon, and a thousandth of delta."""
    from prv_accountant.dpsgd import DPSGDAccountant

    with _quiet():
        accountant = DPSGDAccountant(
            case.noise_multiplier, case.sampling_probability, case.steps, delta_error=case.delta / 1000
        )
        low, _, high = accountant.compute_epsilon(case.delta, case.steps)
    return float(low), float(high)


def calibrate_prv_accountant(case: Case, target_epsilon: float) -> float:
    """`find_noise_multiplier` at its default error of 0.1 in epsilon."""
    from prv_accountant.dpsgd import find_noise_multiplier

    with _quiet():
        return float(find_noise_multiplier(case.sampling_probability, case.steps, target_epsilon, case.delta))


def opacus(case: Case) -> Interval:
    """`PRVAccountant` at its default error of 0.01 in epsilon; the upper bound only."""
    from opacus.accountants import PRVAccountant

    return 0.0, _opacus(PRVAccountant(), case)


def opacus_rdp(case: Case) -> Interval:
    """`RDPAccountant` with its default orders."""
    from opacus.accountants import RDPAccountant

    return 0.0, _opacus(RDPAccountant(), case)


def _opacus(accountant: Any, case: Case) -> float:
    accountant.history = [(case.noise_multiplier, case.sampling_probability, case.steps)]
    with _quiet():
        return float(accountant.get_epsilon(case.delta))


def calibrate_opacus(case: Case, target_epsilon: float) -> float:
    """`get_noise_multiplier` by PRV, to its default tolerance of 0.01 in epsilon."""
    from opacus.accountants.utils import get_noise_multiplier

    with _quiet():
        return float(
            get_noise_multiplier(
                target_epsilon=target_epsilon,
                target_delta=case.delta,
                sample_rate=case.sampling_probability,
                steps=case.steps,
                accountant="prv",
            )
        )


def opake(case: Case) -> Interval:
    """Its compiled engine on its grid of 1e-4: its Python layer does not load on every Python 3.11."""
    native = _opake_native()
    law = native.gaussian_pld(case.noise_multiplier, native.DiscretizationConfig())
    law = native.poisson_pld(law, case.sampling_probability)
    return 0.0, float(law.self_compose(case.steps).epsilon_at(case.delta))


def _opake_native() -> Any:
    if not _OPAKE:
        spec = find_spec("opake")
        roots = [] if spec is None else spec.submodule_search_locations or []
        path = next(Path(roots[0]).glob("api/accounting/core/opake_accounting*.so"))
        found = importlib.util.spec_from_file_location("opake_accounting", path)
        if found is None or found.loader is None:
            raise ImportError(f"{path} is no module")
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        _OPAKE.append(module)
    return _OPAKE[0]


_OPAKE: list[ModuleType] = []


def autodp(case: Case) -> Interval:
    """Its composition of Poisson-sampled Gaussian mechanisms by Rényi divergence."""
    from autodp.mechanism_zoo import GaussianMechanism
    from autodp.transformer_zoo import AmplificationBySampling, Composition

    with _quiet():
        noise = GaussianMechanism(sigma=case.noise_multiplier)
        noise.neighboring = "add_remove"
        step = AmplificationBySampling(PoissonSampling=True)(
            noise, case.sampling_probability, improved_bound_flag=True
        )
        return 0.0, float(Composition()([step], [case.steps]).get_approxDP(case.delta))


@contextmanager
def _quiet() -> Iterator[None]:
    """Peers' warnings and log lines are not part of a measurement."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
