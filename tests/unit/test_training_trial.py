"""The trial before the first step: which batches it has to do with, and that it cannot be passed by."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import fedsec
from fedsec.errors import UnsupportedError
from fedsec.training import trial


def batch(rows=4):
    x = torch.arange(rows + trial.SPARE, dtype=torch.float32)
    return x.unsqueeze(1), x.long() % 3


def test_one_record_is_replaced_and_the_others_stay():
    first, *others = trial.variants(batch(), 4)
    assert first[0].flatten().tolist() == [0.0, 1.0, 2.0, 3.0]
    assert others
    for x, y in others:
        assert x[0] not in first[0]
        assert y[0] != first[1][0]
        assert torch.equal(x[1:], first[0][1:])
        assert torch.equal(y[1:], first[1][1:])


def test_lists_of_records_are_replaced_too():
    words = [f"record {i}" for i in range(4 + trial.SPARE)]
    first, second = trial.variants({"text": words, "shared": torch.zeros(3)}, 4)
    assert first["text"] == words[:4]
    assert second["text"][0] in words[4:]
    assert second["text"][1:] == words[1:4]
    assert second["shared"].shape == (3,)


def test_a_list_of_tensors_is_a_tree_of_them():
    x, y = batch(4)
    columns = [x + i for i in range(4 + trial.SPARE)]  # as many columns as records
    first, second = trial.variants([columns, y], 4)[:2]
    assert all(len(column) == 4 for column in (*first[0], *second[0]))


def test_a_record_is_replaced_by_one_that_differs():
    x = torch.zeros(4 + trial.SPARE, 2)
    x[-1] = 1.0
    first, second = trial.variants((x, torch.zeros(len(x))), 4)
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("given", [(torch.zeros(50, 4), torch.zeros(7)), ["one", "two"], 3.0])
def test_a_batch_in_which_nothing_can_be_replaced_is_refused(given):
    with pytest.raises(UnsupportedError, match="12 records holds nothing with 12 records first"):
        trial.variants(given, 4)


class Centred(nn.Module):
    """Mixes the records of a batch in a way that shows in no layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x - x.mean(dim=0))


def test_another_size_of_micro_batches_is_another_trial():
    """Of one record alone nothing can mix, so what passes there says nothing of four."""
    model = Centred()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dataset = TensorDataset(torch.randn(40, 3), torch.randint(0, 2, (40,)))
    privacy = fedsec.attach(
        model, optimizer, dataset, batch_size=10, noise_multiplier=1.0, target_delta=1e-5, epochs=2
    )

    def epoch(rows):
        for x, y in privacy.loader(max_physical_batch_size=rows):
            privacy.backward(nn.functional.cross_entropy(model(x), y, reduction="none"))
            optimizer.step()

    epoch(1)
    with pytest.raises(UnsupportedError, match="changed the gradients of others"):
        epoch(4)
    assert privacy.steps == 4
