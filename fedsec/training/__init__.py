"""Record-level differential privacy for the training loop that is already there (torch).

`attach` ties sampler, clipping, noise and accounting into one frozen plan around the user's own model,
optimizer and data set; see docs/training.md.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError:
    from fedsec.errors import MissingExtraError

    raise MissingExtraError("private training needs torch: pip install 'fedsec[torch]'") from None

from fedsec.training.arguments import attach
from fedsec.training.batches import DeclaredLoader
from fedsec.training.plan import TrainingPlan, TrainingSpent
from fedsec.training.privacy import Privacy

__all__ = ["DeclaredLoader", "Privacy", "TrainingPlan", "TrainingSpent", "attach"]
