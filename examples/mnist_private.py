"""MNIST, privately, record by record: a small CNN at epsilon 3 with `fedsec.attach`.

    python examples/mnist_private.py PATH

PATH is an `.npz` in Keras' layout or a directory with the four IDX files; nothing is downloaded. How the
defaults were found, and what five runs gave: docs/training.md.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import fedsec
from fedsec.demo.data import load
from fedsec.demo.models import small_cnn

_HELD_OUT = 10_000  # of the training images, with --validate


def read(path: str, *, validate: bool) -> tuple[TensorDataset, TensorDataset]:
    """Records to train on, and records to test on: with `validate` some of the training images."""
    data = load(path)
    train = TensorDataset(torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_targets))
    if not validate:
        test = TensorDataset(torch.from_numpy(data.test_inputs), torch.from_numpy(data.test_targets))
        return train, test
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return TensorDataset(*train[order[_HELD_OUT:]]), TensorDataset(*train[order[:_HELD_OUT]])


@torch.no_grad()
def accuracy(model: torch.nn.Module, test: TensorDataset) -> float:
    """The fraction of records whose label the model finds."""
    x, y = test.tensors
    found = torch.cat([model(part).argmax(dim=1) for part in x.split(1000)])
    return float((found == y).float().mean())


def train(options: argparse.Namespace) -> None:
    """One training: a line an epoch, and at its end what it cost."""
    torch.manual_seed(options.seed)  # of the initial weights: noise and draws come from the operating system
    records, test = read(options.path, validate=options.validate)
    model = small_cnn((1, 28, 28), num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.learning_rate, momentum=options.momentum)
    privacy = fedsec.attach(
        model,
        optimizer,
        records,
        batch_size=options.batch_size,
        epochs=options.epochs,
        l2_clip_norm=options.clip,
        target_epsilon=options.epsilon,
        target_delta=1e-5,
    )
    began = time.perf_counter()
    for epoch in range(options.epochs):
        for x, y in privacy.loader(max_physical_batch_size=256):
            privacy.backward(cross_entropy(model(x), y, reduction="none"))
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: accuracy {accuracy(model, test):.4f}", flush=True)
    print(f"{time.perf_counter() - began:.0f} s")
    print(privacy.spent())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights")
    parser.add_argument("--epsilon", type=float, default=3.0, help="at delta 1e-5")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--clip", type=float, default=0.1, help="L2 norm of one record's gradient")
    parser.add_argument("--learning-rate", type=float, default=30.0)
    parser.add_argument("--momentum", type=float, default=0.5)
    parser.add_argument("--validate", action="store_true", help="train on 50,000 images, test on the others")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
