"""What a federation has spent and may still spend: checked before clients train, charged before a release.

With central and distributed noise everybody is charged together, and a ledger with them; with local noise
each client by itself, for what has left it. The ledger is charged for the survivors that there were, whose
shares make up distributed noise; the epsilon that is stated is for the fewest that there can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedsec._checks import mapping, whole
from fedsec.accounting import Event, Ledger
from fedsec.accounting.ledger import charged_since, require_ledger
from fedsec.errors import BudgetExceededError, InvalidArgumentError, InvalidTypeError, UnsupportedError
from fedsec.federated.plan import Guarantee, Plan

# The key under which central noise is charged: every client has spent the same.
_EVERYBODY = -1
_PURPOSE = "federated round"


class Budget:
    """Charges by client, or of everybody, against what a plan admits."""

    def __init__(self, plan: Plan, ledger: Ledger | None) -> None:
        _require_ledger(plan, ledger)
        self._plan = plan  # of the first round; all cost the same
        self._ledger = ledger
        self._charges: dict[int, int] = {}
        self.stopped_early = False

    @property
    def local(self) -> bool:
        """Whether each client is charged by itself."""
        return self._plan.noise == "local"

    def require(self, clients: Sequence[int]) -> None:
        """Refuses when one more round of these clients would pass the budget."""
        if self._plan.event is None:
            return
        for key in clients if self.local else (_EVERYBODY,):
            count = self._charges.get(key, 0) + 1
            if count > self._plan.planned_charges:
                whose = f"client {key}" if self.local else "the federation"
                raise BudgetExceededError(
                    f"another round would bring {whose} to epsilon {self._plan.epsilon(count):.6g}, "
                    f"the budget is {self._plan.settings.target_epsilon or self.spent().planned_epsilon:g}"
                )
        event = self._plan.charged_event()
        if self._ledger is not None and event is not None and self._ledger.would_exceed(event):
            raise BudgetExceededError(f"another round does not fit the ledger {self._ledger.path}")

    def charge(self, clients: Iterable[int], round_id: int, event: Event | None) -> None:
        """Records a round, in the ledger first; if this raises, release nothing."""
        if self._ledger is not None and event is not None:
            self._ledger.charge(event, purpose=f"{_PURPOSE} {round_id}")
        for key in clients if self.local else (_EVERYBODY,):
            self._charges[key] = self._charges.get(key, 0) + 1

    def spent(self) -> Guarantee:
        """Of everybody, or with local noise of the client who spent most."""
        return self._plan.guarantee(self._count(max(self._charges, key=self._charges.__getitem__, default=0)))

    def epsilon_of(self, client: int) -> float:
        """Of one client."""
        return self._plan.epsilon(self._count(client if self.local else _EVERYBODY))

    def _count(self, key: int) -> int:
        """How many charges stand against a key, planned ones included after early stopping."""
        if self.stopped_early and self._plan.private:
            return self._plan.planned_charges
        return self._charges.get(key, 0)

    def state_dict(self) -> dict[str, Any]:
        """What was charged, as plain values."""
        head = None if self._ledger is None else self._ledger.head
        return {"charges": dict(self._charges), "stopped_early": self.stopped_early, "ledger": head}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes saved charges over, and the ledger's since then; refuses such as would forget some."""
        if mapping("budget of state", state).keys() != {"charges", "stopped_early", "ledger"}:
            raise InvalidTypeError(f"budget of state must be what state_dict returned, got {state!r}")
        charges = {}
        for key, count in mapping("charges of state", state["charges"]).items():
            client = whole("a client of state", key, minimum=_EVERYBODY)
            charges[client] = whole("charges of state", count, minimum=0)
        for key, count in self._charges.items():
            if charges.get(key, 0) < count:
                raise InvalidArgumentError(
                    f"charges of state must be at least the {count} made here, got {charges.get(key, 0)}"
                )
        if not isinstance(state["stopped_early"], bool):
            raise InvalidTypeError("stopped_early of state must be True or False")
        for entry in charged_since(self._ledger, state["ledger"]):
            if entry.purpose.startswith(_PURPOSE):
                charges[_EVERYBODY] = charges.get(_EVERYBODY, 0) + entry.count
        self._charges, self.stopped_early = charges, state["stopped_early"] or self.stopped_early


def _require_ledger(plan: Plan, ledger: object) -> None:
    if ledger is None:
        return
    if not plan.private:
        raise InvalidArgumentError("a ledger belongs to privacy: give l2_clip_norm, and noise or a target")
    if plan.noise == "local":
        raise UnsupportedError("with noise='local' each client keeps a ledger of its own, not the server")
    require_ledger(ledger, plan.relation)
