"""`fedsec directory`: the clients' trust store, as its authority keeps it and as a client checks it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from fedsec.cli import keys
from fedsec.cli.output import print_json, print_table
from fedsec.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fedsec.secagg.identity.directory import Directory, Entry
    from fedsec.secagg.identity.identities import Identity

_PATH = click.argument("path", type=click.Path())
_MIN_SERIAL = click.option(
    "--min-serial", type=click.IntRange(0), help="The highest serial number that you have seen."
)


@click.group(no_args_is_help=False)
def directory() -> None:
    """Keep or check a directory of clients: new, add, revoke, verify, show."""


@directory.command(epilog="Example: fedsec directory new clients.directory --key authority.pem")
@_PATH
@keys.signing
@keys.JSON
def new(path: str, key: str, ask: bool, as_json: bool) -> None:
    """Make a directory without clients, signed by the authority."""
    from fedsec.secagg.identity.directory import Directory

    if os.path.lexists(path):
        raise InvalidArgumentError(f"{path} is there already, and nothing is overwritten")
    authority = keys.load(key, ask)
    made = Directory.new(authority.public_key)
    made.save(path, authority)
    _report(path, made, as_json)


@directory.command(epilog="Example: fedsec directory add clients.directory alice.request --key authority.pem")
@_PATH
@click.argument("request", type=click.Path(), required=False)
@click.option("--rotation", type=click.Path(), help="A client's statement that it has a new key.")
@keys.signing
@keys.JSON
def add(path: str, request: str | None, rotation: str | None, key: str, ask: bool, as_json: bool) -> None:
    """Enrol the client of a request, or give a client its new key.

    A request proves that whoever wrote it holds the key. That it is who it says, find out before, by another
    way: have the key read out, or handed over.
    """
    from fedsec.secagg.identity.enrolment import Enrolment, Rotation

    if (request is None) == (rotation is None):
        raise click.UsageError("Give either a request or --rotation.")
    authority, before = _open(path, key, ask)
    statement = Enrolment.load(request) if request is not None else Rotation.load(str(rotation))
    after = before.add(statement) if isinstance(statement, Enrolment) else before.rotate(statement)
    after.save(path, authority)
    _report(path, after, as_json, after.entry(statement.client_id))


@directory.command(
    epilog="Example: fedsec directory revoke clients.directory 3 --reason 'key stolen' --key authority.pem"
)
@_PATH
@click.argument("client_id", type=keys.CLIENT_ID)
@click.option("--reason", required=True, help="Why, for people; it stands in the directory.")
@keys.signing
@keys.JSON
def revoke(path: str, client_id: int, reason: str, key: str, ask: bool, as_json: bool) -> None:
    """Take a client out, for good: neither its id nor its keys come back."""
    authority, before = _open(path, key, ask)
    after = before.revoke(client_id, reason)
    after.save(path, authority)
    _report(path, after, as_json, after.entry(client_id))


@directory.command(
    epilog="Example: fedsec directory verify clients.directory --authority 4c67... --min-serial 12"
)
@_PATH
@keys.authority("Whom you trust to vouch for clients")
@_MIN_SERIAL
@keys.JSON
def verify(path: str, authority: bytes, min_serial: int | None, as_json: bool) -> None:
    """Check that a directory is the authority's, unchanged, and not older than one you have seen."""
    from fedsec.secagg.identity.directory import Directory

    checked = Directory.load(path, authority, min_serial or 0)
    if as_json:
        print_json(_figures(checked) | {"verified": True})
        return
    click.echo(f"{path}: signed by its authority, serial {checked.serial}, {len(checked)} active clients")
    if min_serial is None:
        click.echo("Without --min-serial, an old file that was put in the place of a newer one is not seen.")


@directory.command(epilog="Example: fedsec directory show clients.directory --authority 4c67...")
@_PATH
@keys.authority("Whom you trust to vouch for clients")
@_MIN_SERIAL
@keys.JSON
def show(path: str, authority: bytes, min_serial: int | None, as_json: bool) -> None:
    """Print who is in a directory, once it has been checked."""
    from fedsec.secagg.identity.directory import Directory

    shown = Directory.load(path, authority, min_serial or 0)
    if as_json:
        print_json(_figures(shown) | {"clients": [_client(entry) for entry in shown.entries]})
        return
    title = f"Directory {path}, serial {shown.serial}, {len(shown)} active clients"
    print_table(title, {f"{entry.client_id}  {entry.name}": _line(entry) for entry in shown.entries})


def _open(path: str, key: str, ask: bool) -> tuple[Identity, Directory]:
    """The authority, and its directory as it is."""
    from fedsec.secagg.identity.directory import Directory

    authority = keys.load(key, ask)
    return authority, Directory.load(path, authority.public_key)


def _report(path: str, after: Directory, as_json: bool, entry: Entry | None = None) -> None:
    """What a change has led to."""
    if as_json:
        print_json(_figures(after) | ({} if entry is None else {"client": _client(entry)}))
        return
    click.echo(f"{path}: serial {after.serial}, {len(after)} active clients")
    if entry is not None:
        click.echo(f"client {entry.client_id}, {entry.name}: {_line(entry)}")
        click.echo(f"public key {entry.public_key.hex()}")


def _figures(of: Directory) -> dict[str, object]:
    return {"authority": of.authority.hex(), "serial": of.serial, "active": len(of)}


def _client(entry: Entry) -> dict[str, object]:
    return {
        "client_id": entry.client_id,
        "name": entry.name,
        "public_key": entry.public_key.hex(),
        "enrolled": entry.enrolled,
        "former_keys": [key.hex() for key in entry.former_keys],
        "revoked": entry.revoked,
        "reason": entry.reason,
    }


def _line(entry: Entry) -> str:
    """A client's state in one line."""
    from fedsec.secagg.identity.identities import fingerprint

    state = f"revoked, {entry.reason}" if entry.revoked else "active"
    return f"{fingerprint(entry.public_key)}, key no. {len(entry.keys)}, since {entry.enrolled}, {state}"
