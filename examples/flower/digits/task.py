"""The model, the data and the training: as they would be without privacy."""

import torch
from sklearn.datasets import load_digits


def model():
    """A small network, the same for all at first."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def data(partition, num_partitions):
    """One client's share of the digits; partition -1 is the test set."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels)
    is_test = torch.arange(len(y)) % 5 == 0
    if partition < 0:
        return x[is_test], y[is_test]
    return x[~is_test][partition::num_partitions], y[~is_test][partition::num_partitions]


def train(net, x, y, learning_rate, epochs):
    """Plain SGD over the client's own records."""
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(16):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()


def accuracy(net, x, y):
    """The fraction that the model gets right."""
    with torch.no_grad():
        return float((net(x).argmax(dim=1) == y).float().mean())
