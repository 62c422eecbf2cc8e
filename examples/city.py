"""A city: hourly temperatures of 104 sensors; the evening's forecast by a shared GRU, and secure statistics.

    python examples/city.py [--rounds 20] [--seed 0] [--epsilon 6] [--report city.html]

Two real stations, Seattle and San Francisco in 2010 (NOAA, by the package vega_datasets: `pip install
'fedsec[examples]'`), each week of which stands for a sensor. The GRU is shared; the layer that makes degrees
of its state is each sensor's own and never leaves it. Mean, variance and histogram come from a sum under
masks, too. The unit is a sensor with all that it measured; one report covers both. See docs/scenarios.md.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import mse_loss
from vega_datasets import data

import fedsec
from fedsec import noise, secagg
from fedsec.accounting import Event
from fedsec.federated import Guarantee, Round, simulate
from fedsec.report import PrivacyReport

KNOWN, TRAINED, DELTA = 18, 5, 1e-5  # hours of a day before the forecast, days of a week to train on
LOW, HIGH, BINS = 30.0, 80.0, 10  # a public range, degrees Fahrenheit
STEPS = 2**16  # of the unit interval
STATISTICS = fedsec.Gaussian(noise_multiplier=2.0)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the model that training starts from")
    parser.add_argument("--sensors", type=int, default=104, help="the first so many")
    parser.add_argument("--epsilon", type=float, default=6.0, help="of the model; the statistics cost extra")
    parser.add_argument("--report", help="a .html, .md or .json file")
    return parser.parse_args()


class Forecaster(torch.nn.Module):
    """From 18 hours (days, 18) to the other 6 (days, 6), as a change from the last one that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.own = torch.nn.GRU(1, 6, batch_first=True), torch.nn.Linear(6, 24 - KNOWN)
        torch.nn.init.zeros_(self.own.weight)
        torch.nn.init.zeros_(self.own.bias)

    def forward(self, hours: torch.Tensor) -> torch.Tensor:
        """Both in units of 10 degrees."""
        return hours[:, -1:] + self.own(self.shared(hours[..., None])[0][:, -1])


class Study:
    """The statistics and the model together, for a report: what each sensor has spent."""

    def __init__(self, federation: fedsec.Federation) -> None:
        self.federation = federation

    def charged(self) -> tuple[Event, int]:
        """One charge for all that was released."""
        return fedsec.Composed([STATISTICS, fedsec.Repeated(*self.federation.charged())]), 1

    def spent(self) -> Guarantee:
        """The federation's guarantee at the price of both."""
        accountant = fedsec.PLDAccountant(neighboring_relation=fedsec.NeighboringRelation.REPLACE_SPECIAL)
        lower, upper = accountant.compose(*self.charged()).epsilon_interval(DELTA)
        seen = "the server sees the exact sum of the statistics before it adds noise"
        priced = {"epsilon": upper, "epsilon_lower": lower, "planned_epsilon": upper}
        return replace(self.federation.spent(), **priced, warnings=(seen,))


def weeks() -> torch.Tensor:
    """(104, 7, 24): temperatures, cut to the public range."""
    hours = [table["temp"].to_numpy().clip(LOW, HIGH) for table in (data.seattle_temps(), data.sf_temps())]
    return torch.tensor(np.concatenate([one[: 52 * 7 * 24].reshape(52, 7, 24) for one in hours]))


def statistics(sensors: torch.Tensor) -> np.ndarray:
    """Mean, mean square and histogram over sensors' weekly means, (2 + bins,), with noise.

    A sensor adds a number and its square, both in [-1, 1], and a one: a vector of norm sqrt(3) at most.
    """
    means = (2.0 * (sensors.mean(dim=(1, 2)) - LOW) / (HIGH - LOW) - 1.0).numpy()
    bins = np.minimum(((means + 1.0) / 2.0 * BINS).astype(int), BINS - 1)
    rows = np.concatenate([np.stack([means, means**2], axis=1), np.eye(BINS)[bins]], axis=1)
    vectors = dict(enumerate((rows * STEPS).astype(np.int64)))  # towards zero: the norm does not grow
    total = secagg.centre(secagg.aggregate(vectors, dropped={3: "unmask"}).sum, 32) / STEPS
    return noise.release(total, 3**0.5, STATISTICS.noise_multiplier) / len(sensors)


def main() -> None:
    """Statistics, the model, and what both cost together."""
    options = arguments()
    torch.manual_seed(options.seed)
    sensors = weeks()[: options.sensors]
    mean, square, *histogram = statistics(sensors)
    half, exact = (HIGH - LOW) / 2.0, sensors.mean(dim=(1, 2))
    deviation = half * max(0.0, square - mean**2) ** 0.5
    print(f"mean {LOW + half * (1.0 + mean):.1f} F, exactly {float(exact.mean()):.1f}")
    print(f"standard deviation {deviation:.1f} F, exactly {float(exact.std(correction=0)):.1f}")
    for low, share in zip(np.arange(LOW, HIGH, (HIGH - LOW) / BINS), histogram, strict=True):
        print(f"  from {low:.0f} F {share:6.3f} {'#' * round(60 * max(0.0, share))}")

    scaled = (sensors.float() - 55.0) / 10.0
    model = Forecaster()
    heads = [model.own.state_dict() for _ in sensors]  # each sensor's own, kept from round to round
    federation = fedsec.Federation(
        model,
        num_clients=len(sensors),
        num_rounds=options.rounds,
        parameters="shared.*",
        l2_clip_norm=0.3,
        target_epsilon=options.epsilon,
        target_delta=DELTA,
        noise="distributed",
    )

    def contribute(rnd: Round, sensor: int) -> None:
        local, days = rnd.model(), scaled[sensor, :TRAINED]
        local.own.load_state_dict(heads[sensor])
        optimizer = torch.optim.SGD(local.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            mse_loss(local(days[:, :KNOWN]), days[:, KNOWN:]).backward()
            optimizer.step()
        heads[sensor] = {name: tensor.clone() for name, tensor in local.own.state_dict().items()}
        rnd.submit(sensor, local)

    @torch.no_grad()
    def error(model: Forecaster) -> float:
        """Mean absolute error on the days that nobody trained on, degrees."""
        errors = []
        for head, days in zip(heads, scaled[:, TRAINED:], strict=True):
            model.own.load_state_dict(head)
            errors.append((model(days[:, :KNOWN]) - days[:, KNOWN:]).abs().mean())
        return 10.0 * float(torch.stack(errors).mean())

    unchanged = error(model)
    run = simulate(federation, contribute)
    evenings = 10.0 * scaled[:, TRAINED - 1 :, KNOWN:]
    results = {
        "error, F": error(model),
        "error of 'as it is now', F": unchanged,
        "error of 'as yesterday', F": float((evenings[:, 1:] - evenings[:, :-1]).abs().mean()),
        "rounds aborted": run.aborted,
    }
    report = PrivacyReport.of(Study(federation), title="City: statistics and a forecast", results=results)
    print(report.sentence)
    for name, value in results.items():
        print(f"{name}: {value:.3g}")
    print(f"epsilon of the model alone: {federation.spent().epsilon:.4f}; {run.seconds:.0f} s")
    if options.report:
        print(f"wrote {report.write(options.report)}")


if __name__ == "__main__":
    main()
