"""One client's folder: who it is, whom it trusts, what it insists on, and the session under way.

    node.toml           client_id, authority (hex), min_serial, and a table [policy] (`NodePolicy`)
    identity.pem        its key (`fedsec identity new`); encrypted if FEDSEC_PASSPHRASE is set
    clients.directory   whose key is whose, signed by the authority (`fedsec directory`)
    state/              of `secagg.Participant`, and the ledger; never to be put back to an earlier state

None of it comes from the server, and none of it leaves the machine but by what the protocol lets out.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsec.distributed import ClientBudget
from fedsec.errors import BudgetExceededError, FedsecError, IdentityError, LedgerError, ProtocolError
from fedsec.integrations.policy import NodePolicy
from fedsec.secagg import Config, Directory, Enrolment, Identity, Participant, Phase, SessionStore
from fedsec.secagg.identity.identities import require_public_key, verify

if TYPE_CHECKING:
    from fedsec.integrations.task import Arrays, Task
    from fedsec.integrations.terms import Terms

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_DAY = 24 * 60 * 60 * 10**9
_CHALLENGE_BYTES = 32
_ANOTHER = "another budget takes another folder, whose ledger knows nothing of this one's"


@dataclass(frozen=True)
class Node:
    """A client at rest, loaded from its folder.

    Attributes
    ----------
    client_id : int
    directory : Directory
    participant : Participant
    identity : Identity
    policy : NodePolicy
    budget : ClientBudget or None
        None where the policy gives exact sums.
    """

    client_id: int
    directory: Directory = field(repr=False)
    participant: Participant = field(repr=False)
    identity: Identity = field(repr=False)
    policy: NodePolicy
    budget: ClientBudget | None = field(repr=False)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Node:
        """From its folder.

        Raises
        ------
        IdentityError
            Names what is missing or not as it should be.
        LedgerError
            The ledger is gone, was put back, does not count all that has left this node, or has other targets
            than the policy.
        """
        place = Path(folder)
        said = _read(place / "node.toml")
        directory = Directory.load(
            place / "clients.directory", said["authority"], min_serial=said["min_serial"]
        )
        passphrase = os.environ.get("FEDSEC_PASSPHRASE")
        identity = Identity.load(place / "identity.pem", passphrase.encode() if passphrase else None)
        client_id, policy = said["client_id"], said["policy"]
        budget = _budget(place / "state", policy)
        participant = Participant(place / "state", client_id, identity, policy=policy.session, budget=budget)
        return cls(client_id, directory, participant, identity, policy, budget)

    def introduce(self, challenge: bytes) -> bytes:
        """A signature over 32 random bytes of the server's: that this client is the one it says."""
        return self.identity.sign(_introduction(self.client_id, challenge))

    def accept(self, data: bytes) -> Config:
        """A configuration that the server proposes, with the keys of this client's own directory.

        Its round must be a time in nanoseconds within a day of this machine's clock: a round far ahead would
        lock the client out of all later ones.
        """
        config = Config.from_bytes(data, participants=self.directory)
        if not config.authenticated:
            raise ProtocolError("a node takes authenticated configurations, got semi_honest")
        if abs(config.round_id - time.time_ns()) > _DAY:
            raise ProtocolError(f"a round must be within a day of this clock, got {config.round_id}")
        return config

    def undertake(self, config: Config, data: bytes, task: str, arrays: Arrays) -> tuple[Terms, Task]:
        """What this client is to add to a session's sum: to be asked before its app works.

        Parameters
        ----------
        config : Config
            Of the session, as it was accepted.
        data : bytes
            `Terms`, from the server.
        task : "train" or "evaluate"
        arrays : by name
            The model, from the server.

        Raises
        ------
        ProtocolError
            Model, terms or task are not what the session is bound to.
        PolicyError
            The session is below this node's policy.
        BudgetExceededError
            It costs more than this node has left.
        """
        # A fresh process may answer each message, and only this one needs torch.
        from fedsec.integrations.terms import Terms

        terms = Terms.from_bytes(data)
        if config.model_digest != terms.digest(task, arrays):
            raise ProtocolError("the model, the terms, or what is asked for are not those of the session")
        asked = terms.task(task, arrays)
        if (config.vector_length, config.modulus_bits) != asked.ring:
            raise ProtocolError(
                f"the session must have vector_length and modulus_bits {asked.ring}, "
                f"got {config.vector_length} and {config.modulus_bits}"
            )
        if not asked.allows(config.parameters):
            raise ProtocolError(
                f"noise in shares needs {asked.plan.secagg_parameters}, got {config.parameters}"
            )
        cost = self.policy.cost(terms, asked, config)
        if self.budget is not None and cost is not None:
            self.budget.adopt(cost)
            self._require_budget(self.budget, config)
        return terms, asked

    def _require_budget(self, budget: ClientBudget, config: Config) -> None:
        try:
            budget.require(config)
        except BudgetExceededError as error:
            raise BudgetExceededError(
                f"target_epsilon {self.policy.target_epsilon:g} has no room for what this session costs "
                f"({_ANOTHER}): {error}"
            ) from None


def is_introduced(directory: Directory, client_id: int, challenge: bytes, signature: bytes) -> bool:
    """Whether whoever made this signature is that client of the directory."""
    key = directory.get(client_id)
    return key is not None and verify(key, _introduction(client_id, challenge), signature)


def _introduction(client_id: int, challenge: bytes) -> bytes:
    if len(challenge) != _CHALLENGE_BYTES:
        raise ProtocolError(f"a challenge must be {_CHALLENGE_BYTES} bytes, got {len(challenge)}")
    return b"fedsec introduction 1\0" + client_id.to_bytes(4, "little") + challenge


def _budget(state: Path, policy: NodePolicy) -> ClientBudget | None:
    """The node's own account of what has left it, made with its first session and never again.

    Ledger, reservations and session store vouch for each other: each tells whether another one is gone. A
    node keeps a budget for all of its life or for none of it, as exact sums would be in no ledger.
    """
    path, sessions = state / "ledger", state / "sessions"
    begun = _holds_anything(state / "ledger.reserved")
    uploaded = _holds_anything(sessions) and SessionStore(sessions).has_claimed(Phase.UPLOAD.value)
    if not policy.private:
        if begun:
            raise LedgerError(
                f"{path}: a node with a budget gives no exact sums; "
                + (_ANOTHER if uploaded else _begin_anew(path))
            )
        return None
    if begun and not path.exists():
        raise LedgerError(f"{path}: it is gone, and without it nothing leaves; {_ANOTHER}")
    state.mkdir(mode=0o700, exist_ok=True)
    try:
        ledger = policy.ledger(path)
    except LedgerError as error:
        if uploaded:
            raise
        raise LedgerError(f"{error}; {_begin_anew(path)}") from None
    if not begun and (uploaded or ledger.entries()):
        raise LedgerError(
            f"{path}: contributions have left this node that no ledger counts, or its reservations are gone; "
            + _ANOTHER
        )
    budget = ClientBudget(None, ledger)
    if not uploaded and (ledger.entries() or budget.reserved()):
        raise LedgerError(f"{sessions}: it has forgotten what {path} has charged, and so was put back")
    return budget


def _begin_anew(path: Path) -> str:
    return f"as nothing has left this node, delete {path.name} and {path.name}.reserved to begin anew"


def _holds_anything(path: Path) -> bool:
    # To open an empty store makes it anew, which is the participant's to allow; a budget begins with more.
    return path.exists() and path.stat().st_size > 0


def enrol(folder: str | os.PathLike[str], num_nodes: int, **policy: Any) -> bytes:
    """Folders 0, 1, ... of nodes on this machine, for simulations and tests: the authority's public key.

    A real study makes each identity on its own machine; see docs/identities.md. The directory lies beside
    the folders, in `clients.directory`, and so does the authority's key, in `authority.pem`. `policy` is what
    all of them insist on, the arguments of `NodePolicy`.
    """
    insists = NodePolicy(**policy)
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    authority = Identity.new()
    authority.save(root / "authority.pem")
    directory = Directory.new(authority.public_key)
    for number in range(num_nodes):
        identity = Identity.new()
        (root / str(number)).mkdir(mode=0o700)
        identity.save(root / str(number) / "identity.pem")
        directory = directory.add(
            Enrolment.new(identity, client_id=number, name=f"Node {number}", authority=authority.public_key)
        )
    for place in (root, *(root / str(number) for number in range(num_nodes))):
        directory.save(place / "clients.directory", authority)
    for number in range(num_nodes):
        said = {
            "client_id": number,
            "authority": f'"{authority.public_key.hex()}"',
            "min_serial": directory.serial,
        }
        text = "".join(f"{name} = {value}\n" for name, value in said.items())
        (root / str(number) / "node.toml").write_text(f"{text}\n[policy]\n{insists.to_toml()}", "utf-8")
    return authority.public_key


_MEMBERS = {"client_id": int, "authority": str, "min_serial": int, "policy": dict}


def _read(path: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IdentityError(f"{path}: {error}") from None
    if {name: type(value) for name, value in said.items()} != _MEMBERS:
        names = ", ".join(f"{name} ({kind.__name__})" for name, kind in _MEMBERS.items())
        raise IdentityError(f"{path}: it must hold {names}, and nothing else")
    try:
        authority = require_public_key("authority", bytes.fromhex(said["authority"]))
    except ValueError as error:
        raise IdentityError(f"{path}: authority must be a key in hexadecimal digits: {error}") from None
    try:
        return said | {"authority": authority, "policy": NodePolicy(**said["policy"])}
    except (FedsecError, TypeError) as error:
        raise IdentityError(f"{path}: [policy]: {error}") from None
