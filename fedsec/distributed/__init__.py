"""Noise inside the sum: each client adds a share of integer noise before its contribution is masked.

Only the noisy sum is ever revealed, so the server need not be trusted with the noise either. `plan_clients`
and `plan_records` say what a client does with its contribution and what a round costs, from the honest shares
that are sure to be in the sum; a `ClientBudget` is a client's own account of it, which no server can talk it
out of. docs/distributed_noise.md has the threat model, the proofs and the figures. Without torch.

References
----------
[AKL21] Agarwal, Kairouz, Liu. The Skellam Mechanism for Differentially Private Federated Learning. NeurIPS
        2021 (arXiv 2110.04995).
[KLS21] Kairouz, Liu, Steinke. The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
        Aggregation. ICML 2021 (arXiv 2102.06387).
"""

from fedsec.distributed.budget import ClientBudget, FixedCost
from fedsec.distributed.encoding import ClientEncoding, RecordEncoding
from fedsec.distributed.plan import Cohort, Plan, plan_clients, plan_records
from fedsec.distributed.shares import DiscreteGaussianShares, SkellamShares
from fedsec.distributed.wraparound import most_drawn

__all__ = [
    "ClientBudget",
    "ClientEncoding",
    "Cohort",
    "DiscreteGaussianShares",
    "FixedCost",
    "Plan",
    "RecordEncoding",
    "SkellamShares",
    "most_drawn",
    "plan_clients",
    "plan_records",
]
