"""Per-record clipping as one would say it: one record, one backward, one division, in a loop."""

import copy

import torch


def record_gradients(model, inputs, targets, loss):
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        replica = copy.deepcopy(model)
        replica.zero_grad()
        loss(replica(x.unsqueeze(0)), y.unsqueeze(0)).sum().backward()
        rows.append(torch.cat([p.grad.flatten() for p in replica.parameters() if p.requires_grad]))
    return rows
