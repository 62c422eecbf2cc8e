"""The figures that secure aggregation is to reach, each beside its goal and, where there is one, its peer.

Goals are for the sizes of `FULL`; `QUICK` has the same measurements at sizes that take seconds. A ratio is
one of medians in one run of one process, its sides taking turns. Rows whose peer is not installed are left
out, and named.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fedsec import _kernels, secagg
from fedsec.measure import flower, rounds
from fedsec.measure.rounds import BITS, PRG, Round
from fedsec.measure.timing import timed

CORRUPT = LOST = 0.05
MEGABYTE = 1e6


class Sizes(NamedTuple):
    """What is measured."""

    length: int  # of vectors beside a peer's
    neighbors: tuple[int, ...]  # of a client that uploads
    cohort: int  # of a server that unmasks, on a ring
    shares: int  # of a secret there, one's own counted as the peer does
    share_neighbors: int
    round_clients: int
    round_length: int
    growth: tuple[int, ...]
    memory_length: int
    repeats: int


FULL = Sizes(10**6, (10, 50), 100, 51, 100, 1000, 10**5, (100, 300, 1000, 3000), 10**8, 10)
QUICK = Sizes(10**5, (10,), 40, 21, 20, 40, 10**4, (20, 60), 10**6, 3)


@dataclass
class Row:
    """One figure. `goal` is the least it should be, or the most if `at_most`; None where there is none."""

    what: str
    figure: float
    unit: str
    goal: float | None = None
    at_most: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    table: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached."""
        if self.goal is None:
            return None
        return self.figure <= self.goal if self.at_most else self.figure >= self.goal


def figures(quick: bool = False, progress: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """All rows; `progress` hears of each measurement before it starts, as some take minutes."""
    sizes = QUICK if quick else FULL
    rows: list[Row] = []
    skipped: list[str] = []
    for name, measure, needs_peer in _MEASUREMENTS:
        if needs_peer and not flower.is_installed():
            skipped.append(f"{name}: flwr is not installed")
            continue
        progress(name)
        rows.extend(_without_goals(measure(sizes)) if quick else measure(sizes))
    return {
        "what": f"secure aggregation, {BITS} bits, {PRG}",
        "backend": _kernels.best_backend.name,
        "peer": f"flwr {flower.version()}" if flower.is_installed() else None,
        "rows": [{**asdict(row), "is_met": row.is_met} for row in rows],
        "skipped": skipped,
    }


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    lines = [f"{result['what']} ({result['backend']}), beside {result['peer'] or 'no peer'}"]
    for row in result["rows"]:
        lines += _described(row)
    return lines + [f"  left out: {name}" for name in result["skipped"]]


def upload_step(sizes: Sizes) -> Iterator[Row]:
    """From the delivery of shares and a vector to the bytes of the upload.

    Ours takes integers; the peer rounds floats to integers in the same step. So there are three ratios: to
    the peer's whole step, to that without the rounding, and with the quantisers of both.
    """
    for neighbors in sizes.neighbors:
        yield from _upload_step(neighbors, sizes)


def _upload_step(neighbors: int, sizes: Sizes) -> Iterator[Row]:
    ours, from_floats = (Round(_complete(neighbors + 1), sizes.length).until("upload") for _ in range(2))
    floats = np.random.default_rng(0).normal(size=sizes.length).astype(np.float32)
    grid = secagg.Quantizer(granularity=2.0**-18, max_abs=8.0, num_clients=neighbors + 1)
    from_floats.make_vector = lambda: grid.quantize(floats)
    step = _peer_upload(neighbors + 1, sizes.length)
    taken: dict[str, list[float]] = {"fedsec": [], "from floats": [], "flwr": [], "flwr, integers": []}
    for client in list(ours.inbox)[: sizes.repeats + 1]:
        taken["fedsec"].append(ours.answer(client)[1])
        taken["flwr"].append(step())
        taken["from floats"].append(from_floats.answer(client)[1])
        with flower.quantised_before(sizes.length):
            taken["flwr, integers"].append(step())
    seconds = _medians(taken)
    what = f"client upload step, {neighbors} neighbours, {sizes.length} words"
    yield _ratio(what, seconds, "flwr", goal=20)
    yield _ratio(what, seconds, "flwr, integers")
    yield _ratio(f"{what}, from floats", {**seconds, "fedsec": seconds["from floats"]}, "flwr")


def _peer_upload(n: int, length: int) -> Callable[[], float]:
    theirs = flower.Cohort(n, length, num_shares=n, threshold=2)
    for stage in flower.STAGES[:2]:
        theirs.stage(stage)
    return theirs.client_step(flower.STAGES[2], client=0)


def share_phase(sizes: Sizes) -> Iterator[Row]:
    """From the roster to the sealed shares, every signature checked anew."""
    n = sizes.share_neighbors + 1
    ours = Round(_complete(n), 1).until("share")
    theirs = flower.Cohort(n, 1, num_shares=n, threshold=ours.config.parameters.threshold)
    theirs.stage(flower.STAGES[0])
    step = theirs.client_step(flower.STAGES[1], client=0)
    taken: dict[str, list[float]] = {"fedsec": [], "flwr": []}
    for client in list(ours.inbox)[: sizes.repeats + 1]:
        taken["fedsec"].append(ours.answer(client, cold=True)[1])
        taken["flwr"].append(step())
    what = f"client share phase, {sizes.share_neighbors} neighbours"
    yield _ratio(what, _medians(taken), "flwr", goal=50)


def unmasking(sizes: Sizes) -> Iterator[Row]:
    """The server, from the clients' last messages to the sum; beside a plain sum of as many vectors."""
    ours = [_unmasked(sizes) for _ in range(3)]
    stacked = np.random.default_rng(0).integers(0, 2**32, (sizes.cohort, sizes.length), np.uint32)
    total = np.zeros(sizes.length, np.uint32)
    plain = [timed(lambda: [np.add(total, row, out=total) for row in stacked])[1] for _ in range(3)]
    seconds = {"fedsec": statistics.median(ours), "numpy's plain sum": statistics.median(plain)}
    yield Row(_unmasking(sizes), seconds["fedsec"] / min(plain), "times numpy's plain sum", 10, True, seconds)


def unmasking_beside_peer(sizes: Sizes) -> Iterator[Row]:
    """The same beside the peer's, which is taken once: it takes its time."""
    theirs = flower.Cohort(sizes.cohort, sizes.length, sizes.shares, _ring(sizes).threshold)
    for stage in flower.STAGES[:2]:
        theirs.stage(stage)
    theirs.stage(flower.STAGES[2], _lost(sizes.cohort))
    before = [_unmasked(sizes)]
    seconds = {"flwr": theirs.stage(flower.STAGES[3], _lost(sizes.cohort))}
    seconds["fedsec"] = statistics.median(before + [_unmasked(sizes) for _ in range(2)])
    yield _ratio(_unmasking(sizes), seconds, "flwr", goal=200)


def whole_round(sizes: Sizes) -> Iterator[Row]:
    """All parties in one process of its own, and the most memory that it held."""
    spent = _alone("round", sizes.round_clients, sizes.round_length)
    what = f"whole round, {sizes.round_clients} clients, {sizes.round_length} words, 5 % lost"
    yield Row(what, spent["seconds"], "seconds", 120, True, table=spent["table"])
    yield Row(f"{what}, memory", spent["bytes"] / 1e9, "gigabytes", 3, True)


def growth(sizes: Sizes) -> Iterator[Row]:
    """How CPU seconds and bytes grow with the cohort: exponents of n, over all sizes and over the last two.

    Vectors are short, so that the sum is nothing beside the rest. Seconds of the processor, not of the clock,
    as the largest sizes take a while, in which others may be at work.
    """
    table = {n: _of_size(n) for n in sizes.growth}
    for chosen in dict.fromkeys((sizes.growth, sizes.growth[-2:])):
        span = f"{chosen[0]} to {chosen[-1]} clients"
        logs = {"log n": [math.log(n) for n in chosen], "n log n": [n * math.log(n) for n in chosen]}
        measured = {what: [table[n][what] for n in chosen] for what in table[chosen[0]]}
        exponents = {what: _exponent(chosen, values) for what, values in {**logs, **measured}.items()}
        for what in ("client", "server"):
            yield Row(f"growth, {span}, {what}", exponents[what], "as an exponent of n")
        yield Row(
            f"growth, {span}", exponents["n log n"], "for n log n itself", table={"exponent": exponents}
        )
    yield Row("growth", float(len(table)), "sizes", table={str(n): row for n, row in table.items()})


def memory(sizes: Sizes) -> Iterator[Row]:
    """The most that a client of its own process holds in an upload in chunks, beyond its vector."""
    spent = _alone("upload", sizes.memory_length)
    what = f"client memory beyond its vector, upload of {sizes.memory_length} words in chunks"
    yield Row(what, spent["bytes"] / MEGABYTE, "megabytes", 64, True, {"fedsec": spent["seconds"]})


_MEASUREMENTS: tuple[tuple[str, Callable[[Sizes], Iterator[Row]], bool], ...] = (
    ("client upload step", upload_step, True),
    ("client share phase", share_phase, True),
    ("server unmasking", unmasking, False),
    ("server unmasking beside the peer", unmasking_beside_peer, True),
    ("whole round", whole_round, False),
    ("growth with the cohort", growth, False),
    ("client memory", memory, False),
)


# --- one measurement of ours ---


def _unmasked(sizes: Sizes) -> float:
    lost = _lost(sizes.cohort)
    session = Round(_ring(sizes), sizes.length).until("unmask", lost)
    messages = {client: session.answer(client)[0] for client in session.inbox}

    def unmask() -> None:
        for sent in messages.items():
            session.server.receive(*sent)
        session.server.close_phase()

    seconds = timed(unmask)[1]
    session.require_right(sizes.cohort - len(lost))
    return seconds


def _of_size(n: int) -> dict[str, float]:
    """One client, and the server, with and without the agreement."""
    parameters = secagg.recommend(num_clients=n, corrupt_fraction=CORRUPT, dropout_fraction=LOST)
    session = Round(parameters, 1000, cold=7, clock=time.process_time).until("done", _lost(n))
    spent = session.spent
    agreed = ("agree", "unmask")
    return {
        "neighbors": parameters.num_neighbors,
        "client": sum(spent[phase].client for phase in ("advertise", "share", "upload")),
        "server": sum(spent[phase].server for phase in spent if phase != "agree"),
        "agreement, client": sum(spent[phase].client for phase in agreed),
        "agreement, server": spent["agree"].server,
        "of all participants, client": rounds.common(session.config, time.process_time),
        "bytes_up": sum(statistics.median(spent[phase].bytes_up) for phase in spent if phase != "upload"),
        "bytes_down": sum(
            statistics.median(spent[phase].bytes_down)
            for phase in spent
            if phase != "agree" and spent[phase].bytes_down
        ),
        "agreement, bytes_down": statistics.median(spent["agree"].bytes_down),
    }


def _exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of log(value) over log(n)."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


# --- processes of their own, for their memory ---


def _alone(name: str, *arguments: int) -> dict[str, Any]:
    code = f"from fedsec.measure import figures; figures.report({name!r}, {arguments!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    return dict(json.loads(run.stdout))


def report(name: str, arguments: tuple[int, ...]) -> None:
    """What such a process runs: prints one JSON object."""
    print(json.dumps(_ALONE[name](*arguments)))


def _round_alone(num_clients: int, length: int) -> dict[str, Any]:
    parameters = secagg.recommend(num_clients=num_clients, corrupt_fraction=CORRUPT, dropout_fraction=LOST)
    lost = _lost(num_clients)
    session, seconds = timed(lambda: Round(parameters, length).until("done", lost))
    session.require_right(num_clients - len(lost))
    table = {phase: spent.plain() for phase, spent in session.spent.items()}
    return {"seconds": seconds, "bytes": held_bytes("VmHWM"), "table": table}


def _upload_alone(length: int) -> dict[str, Any]:
    session = Round(_complete(11), length)
    client = session.clients[0]
    session.until("upload")
    client.receive(session.inbox[0])
    before = held_bytes("VmRSS")
    vector = np.ones(length, np.int32)
    _, seconds = timed(lambda: sum(len(chunk) for chunk in client.upload(vector)))
    return {"seconds": seconds, "bytes": held_bytes("VmHWM") - before - vector.nbytes}


_ALONE: dict[str, Callable[..., dict[str, Any]]] = {"round": _round_alone, "upload": _upload_alone}


def held_bytes(entry: str) -> int:
    """The memory that this process holds ("VmRSS"), or the most that it has held at once ("VmHWM")."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith(entry))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- parameters, ratios, lines ---


def _complete(n: int) -> secagg.Parameters:
    """Everybody is everybody's neighbour, one in twenty corrupt and one in twenty lost."""
    few = math.ceil(n * CORRUPT)
    return secagg.Parameters(n, few, few, n - 1, n // 2 + 1, n - few)


def _ring(sizes: Sizes) -> secagg.Parameters:
    """As many shares as the peer deals; the most of them needed that survive the losses."""
    n, k = sizes.cohort, sizes.shares - 1
    few = math.ceil(n * CORRUPT)
    return secagg.Parameters(n, few, few, k, k - few, n - few)


def _lost(n: int) -> range:
    return range(0, n, round(1 / LOST))


def _medians(taken: dict[str, list[float]]) -> dict[str, float]:
    """But for the first turn, which warms up."""
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def _ratio(what: str, seconds: dict[str, float], peer: str, goal: float | None = None) -> Row:
    both = {name: seconds[name] for name in ("fedsec", peer)}
    return Row(what, seconds[peer] / seconds["fedsec"], f"times the speed of {peer}", goal, seconds=both)


def _unmasking(sizes: Sizes) -> str:
    return f"server unmasking, {sizes.cohort} clients, 5 % lost, {sizes.shares} shares, {sizes.length} words"


def _without_goals(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        row.goal = None
        yield row


def _described(row: dict[str, Any]) -> list[str]:
    verdict = {True: ", met", False: ", MISSED", None: ""}[row["is_met"]]
    goal = (
        "" if row["goal"] is None else f" (goal {'<=' if row['at_most'] else '>='} {row['goal']:g}{verdict})"
    )
    sides = ", ".join(f"{name} {1e3 * taken:.2f} ms" for name, taken in row["seconds"].items())
    lines = [f"  {row['what']}: {row['figure']:.3g} {row['unit']}{goal}" + (f"; {sides}" if sides else "")]
    for name, cells in row["table"].items():
        lines.append(f"    {name:10} " + "  ".join(f"{head} {_short(cell)}" for head, cell in cells.items()))
    return lines


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 or float(value).is_integer() else f"{value:.4g}"
