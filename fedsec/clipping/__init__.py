"""Bounding what one unit can contribute: a client's whole update, or each record's gradient.

A clipper carries the sensitivity that it guarantees, so that noise is scaled by what was done and not by
a second argument. Needs torch.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError:
    from fedsec.errors import MissingExtraError

    raise MissingExtraError(
        "clipping and federated averaging need torch: pip install 'fedsec[torch]'"
    ) from None

from fedsec.clipping.bookkeeping import BookKeeper, clipped_sum
from fedsec.clipping.bounds import (
    AdaptiveClipping,
    AutomaticClipping,
    ClippingRule,
    FlatClipping,
    PerLayerClipping,
)
from fedsec.clipping.gradients import RecordGradients
from fedsec.clipping.layers import fix
from fedsec.clipping.updates import ClippedUpdate, UpdateClipper, clip_update

__all__ = [
    "AdaptiveClipping",
    "AutomaticClipping",
    "BookKeeper",
    "ClippedUpdate",
    "ClippingRule",
    "FlatClipping",
    "PerLayerClipping",
    "RecordGradients",
    "UpdateClipper",
    "clip_update",
    "clipped_sum",
    "fix",
]
