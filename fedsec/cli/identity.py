"""`fedsec identity`: a key pair in a file, and what its owner sends to a directory's authority."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fedsec.cli import keys
from fedsec.cli.output import print_json
from fedsec.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fedsec.secagg.identity.enrolment import Enrolment, Rotation
    from fedsec.secagg.identity.identities import Identity

_Command = TypeVar("_Command", bound=Callable[..., Any])
_KEY_FILE = click.argument("key_file", type=click.Path())


@click.group(no_args_is_help=False)
def identity() -> None:
    """Keep an identity: new, show, request, rotate."""


def _enrolling(required: bool) -> Callable[[_Command], _Command]:
    """The options that say who asks, and whom."""

    def decorate(command: _Command) -> _Command:
        for option in (
            click.option(
                "--request", type=click.Path(), help="Write the request there instead of printing it."
            ),
            keys.authority("Whose directory is meant", required=required),
            click.option("--name", required=required, help="Who this is, for people."),
            click.option(
                "--client-id", type=keys.CLIENT_ID, required=required, help="The id to be known by."
            ),
        ):
            command = option(command)
        return command

    return decorate


@identity.command(
    epilog="Example: fedsec identity new key.pem --client-id 3 --name Alice --authority 4c67... > request"
)
@_KEY_FILE
@_enrolling(required=False)
@keys.PASSPHRASE
@keys.JSON
def new(
    key_file: str,
    client_id: int | None,
    name: str | None,
    authority: bytes | None,
    request: str | None,
    ask: bool,
    as_json: bool,
) -> None:
    """Make a key pair in a new file, and the request to be enrolled with it (not for an authority)."""
    from fedsec.secagg.identity.enrolment import Enrolment
    from fedsec.secagg.identity.identities import Identity

    made = Identity.new()
    enrolment = None
    if client_id is not None and name is not None and authority is not None:
        enrolment = Enrolment.new(made, client_id, name, authority)
    elif (client_id, name, authority, request) != (None,) * 4:
        raise click.UsageError(
            "A request needs --client-id, --name and --authority; a key alone none of them."
        )
    _require_free(request)
    made.save(key_file, keys.passphrase(ask, f"Passphrase for {key_file}", new=True))
    if enrolment is not None:
        _hand_out(made, enrolment, request, as_json, key_file)
    else:
        _describe(made, key_file, as_json)


@identity.command(epilog="Example: fedsec identity show alice.pem")
@_KEY_FILE
@click.option("--public-key", "alone", is_flag=True, help="Print the public key and nothing else.")
@keys.PASSPHRASE
@keys.JSON
def show(key_file: str, alone: bool, ask: bool, as_json: bool) -> None:
    """Print the public key of an identity, which is no secret."""
    shown = keys.load(key_file, ask)
    if alone:
        click.echo(shown.public_key.hex())
    else:
        _describe(shown, key_file, as_json)


@identity.command(
    epilog="Example: fedsec identity request alice.pem --client-id 3 --name Alice --authority 4c67..."
)
@_KEY_FILE
@_enrolling(required=True)
@keys.PASSPHRASE
@keys.JSON
def request(
    key_file: str, client_id: int, name: str, authority: bytes, request: str | None, ask: bool, as_json: bool
) -> None:
    """Ask to be enrolled with a key that is there, in one more directory, say."""
    from fedsec.secagg.identity.enrolment import Enrolment

    own = keys.load(key_file, ask)
    _hand_out(own, Enrolment.new(own, client_id, name, authority), request, as_json, key_file)


@identity.command(
    epilog="Example: fedsec identity rotate old.pem new.pem --client-id 3 --authority 4c67... > rotation"
)
@click.argument("old_key_file", type=click.Path())
@click.argument("new_key_file", type=click.Path())
@click.option("--client-id", type=keys.CLIENT_ID, required=True, help="The id that you are known by.")
@keys.authority("Whose directory is meant")
@click.option("--statement", type=click.Path(), help="Write the statement there instead of printing it.")
@keys.PASSPHRASE
@keys.JSON
def rotate(
    old_key_file: str,
    new_key_file: str,
    client_id: int,
    authority: bytes,
    statement: str | None,
    ask: bool,
    as_json: bool,
) -> None:
    """Make a new key pair, and the statement by the old one that it takes its place.

    A passphrase is for both files. A key that somebody else may have is not rotated but revoked.
    """
    from fedsec.secagg.identity.enrolment import Rotation
    from fedsec.secagg.identity.identities import Identity

    old, made = keys.load(old_key_file, ask), Identity.new()
    rotation = Rotation.new(old, made, client_id, authority)
    _require_free(statement)
    made.save(new_key_file, keys.passphrase(ask, f"Passphrase for {new_key_file}", new=True))
    _hand_out(made, rotation, statement, as_json, new_key_file)


def _require_free(path: str | None) -> None:
    """Before the key file is made: with half of its output a command would be of no use."""
    if path is not None and os.path.lexists(path):
        raise InvalidArgumentError(f"{path} is there already, and nothing is overwritten")


def _hand_out(
    own: Identity, statement: Enrolment | Rotation, path: str | None, as_json: bool, key_file: str
) -> None:
    if path is not None:
        statement.save(path)
        _describe(own, key_file, as_json, statement_file=path)
    elif as_json:
        _describe(own, key_file, as_json, statement=statement.to_bytes().decode())
    else:
        click.echo(statement.to_bytes(), nl=False)


def _describe(own: Identity, key_file: str, as_json: bool, **more: str) -> None:
    values = {
        "public_key": own.public_key.hex(),
        "fingerprint": own.fingerprint,
        "key_file": key_file,
        **more,
    }
    if as_json:
        print_json(values)
    else:
        for name, value in values.items():
            click.echo(f"{name.replace('_', ' '):16}{value}")
