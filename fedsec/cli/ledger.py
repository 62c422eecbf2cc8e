"""`fedsec ledger`: what was charged, whether it is as it was recorded, and a copy to keep elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedsec.cli.output import print_json, print_table, upwards
from fedsec.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fedsec.accounting.chain import Entry

_SHOWN = 20  # entries, for people
_PATH = click.argument("path", type=click.Path(exists=True, dir_okay=False))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(no_args_is_help=False)
def ledger() -> None:
    """Read a budget ledger: show, verify, export."""


@ledger.command(epilog="Example: fedsec ledger show study.ledger")
@_PATH
@_JSON
def show(path: str, as_json: bool) -> None:
    """Print the terms of a ledger, what was charged, and its head."""
    from fedsec.accounting import Ledger

    book = Ledger.open(path)
    entries, terms = book.entries(), book.terms
    head = entries[-1].hash if entries else terms.hash
    if as_json:
        values = {"terms": terms.encode(), "entries": [entry.encode() for entry in entries]}
        print_json({**values, "epsilon_so_far": book.epsilon(), "head": head})
        return
    print_table(
        f"Ledger {path}",
        {
            "budget": f"epsilon {terms.target_epsilon} at delta {terms.target_delta}",
            "relation": terms.neighboring_relation.value,
            "judged by": terms.accountant.upper(),
            "schedule": terms.schedule or "open",
            "created": terms.created,
            "entries": len(entries),
            "epsilon so far": upwards(book.epsilon()),
            "head": head,
        },
        "The guarantee is the budget; epsilon so far is their cost had all charges been fixed beforehand.",
    )
    if entries:
        last = {f"{entry.number}  {entry.time}": _line(entry) for entry in entries[-_SHOWN:]}
        print_table(f"The last {len(last)} entries", last)


@ledger.command(epilog="Example: fedsec ledger verify study.ledger --head 5f70...")
@_PATH
@click.option("--head", help="A head that was kept: it must still be in the chain.")
@click.option("--length", type=click.IntRange(0), help="How many entries there were at the time.")
@_JSON
def verify(path: str, head: str | None, length: int | None, as_json: bool) -> None:
    """Check every hash of a ledger, or of an exported one (.json), and that a head is still there."""
    from fedsec.accounting.ledger import Ledger, verify_export

    if Path(path).suffix == ".json":
        number = verify_export(_read_export(path), head, length)
    else:
        number = Ledger.open(path).verify(head, length)
    if as_json:
        print_json({"entries": number, "verified": True})
    else:
        click.echo(f"{path}: {number} entries, as they were recorded")
        if head is None:
            click.echo("Without a head that was kept elsewhere, entries missing at the end are not seen.")


@ledger.command(epilog="Example: fedsec ledger export study.ledger > copy.json")
@_PATH
@click.option("--json", is_flag=True, expose_value=False, help="As always: one JSON object.")
def export(path: str) -> None:
    """Print a ledger as one JSON object that can be verified on its own."""
    from fedsec.accounting import Ledger

    print_json(Ledger.open(path).export())


def _line(entry: Entry) -> str:
    """A charge in one line."""
    purpose = f", {entry.purpose}" if entry.purpose else ""
    return f"{entry.count} x {entry.event!r}{purpose}"


def _read_export(path: str) -> dict[str, object]:
    """The object in an exported ledger."""
    from fedsec.accounting import codec

    try:
        contents = codec.parse(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise InvalidArgumentError(f"{path}: {error}") from None
    if not isinstance(contents, dict):
        raise InvalidArgumentError(f"{path} must hold one JSON object, got {type(contents).__name__}")
    return contents
