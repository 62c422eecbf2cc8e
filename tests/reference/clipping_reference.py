"""Per-record clipping as one would say it: one record, one backward, one division, in a loop."""

import copy
import math

import torch


def record_gradients(model, inputs, targets, loss):
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        replica = copy.deepcopy(model)
        replica.zero_grad()
        loss(replica(x.unsqueeze(0)), y.unsqueeze(0)).sum().backward()
        rows.append(torch.cat([p.grad.flatten() for p in replica.parameters() if p.requires_grad]))
    return rows


def rounded_sum(model, inputs, targets, loss, l2_clip_norm, granularity):
    """The integer sum, and the largest distance of a scaled coordinate from a rounding boundary."""
    total, closest = 0, 0.5
    for gradient in record_gradients(model, inputs, targets, loss):
        norm = math.sqrt(float((gradient.double() ** 2).sum()))
        scaled = gradient.double() * (min(1.0, l2_clip_norm / norm) if norm else 1.0) / granularity
        total = total + scaled.round().long()
        closest = min(closest, float((scaled - scaled.floor() - 0.5).abs().min()))
    return total, closest
