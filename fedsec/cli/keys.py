"""What the commands about identities and directories share: key files, passphrases, an authority's key."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fedsec.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fedsec.secagg.identity.identities import Identity

_Command = TypeVar("_Command", bound=Callable[..., Any])
_VARIABLE = "FEDSEC_PASSPHRASE"

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
PASSPHRASE = click.option(
    "--passphrase",
    "ask",
    is_flag=True,
    help=f"Ask for a passphrase; without it, {_VARIABLE} is used if it is set.",
)
CLIENT_ID = click.IntRange(0, 2**32 - 1)


def _public_key(ctx: click.Context, param: click.Parameter, value: str | None) -> bytes | None:
    from fedsec.secagg.identity.identities import require_public_key

    if value is None:
        return None
    try:
        return require_public_key("a public key", bytes.fromhex(value))
    except ValueError:
        raise click.BadParameter(
            f"must be an Ed25519 public key in 64 hexadecimal digits, got {value!r}.", ctx, param
        ) from None


def authority(help_: str, *, required: bool = True) -> Callable[[_Command], _Command]:
    """The option that names an authority by its public key."""
    return click.option(
        "--authority",
        metavar="HEX",
        callback=_public_key,
        required=required,
        help=help_ + ", its public key.",
    )


def signing(command: _Command) -> _Command:
    """The options of a command that the authority signs with."""
    key = click.option("--key", required=True, type=click.Path(), help="Key file of the authority.")
    return key(PASSPHRASE(command))


def passphrase(ask: bool, prompt: str, *, new: bool = False) -> bytes | None:
    """A passphrase from the terminal or from the environment; None for a file that is not encrypted.

    Never an argument: those are seen by all users of a machine.
    """
    if ask:
        typed: str = click.prompt(prompt, hide_input=True, confirmation_prompt=new, err=True)
        return typed.encode()
    text = os.environ.get(_VARIABLE)
    if text == "":
        # Rather than write a key in clear because a script's variable came out empty.
        raise InvalidArgumentError(f"{_VARIABLE} must not be empty; unset it for keys without a passphrase")
    return None if text is None else os.fsencode(text)


def load(path: str, ask: bool) -> Identity:
    """The identity in a key file."""
    from fedsec.secagg.identity.identities import Identity

    return Identity.load(path, passphrase(ask, f"Passphrase of {path}"))
