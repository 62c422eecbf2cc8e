"""The command line: a consumer of the public face, nothing else.

One module holds one family of commands; each command imports what it needs in its body, so that
`fedsec --help` loads nothing heavy. Commands raise; `main` is the one place where an error becomes a
sentence on standard error and an exit status: 2 for bad input, 130 when interrupted. With `--json` a command
prints one JSON object on standard output and nothing else there. `NO_COLOR` is respected.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from fedsec import __version__
from fedsec.cli.bench import bench
from fedsec.cli.budget import calibrate, epsilon
from fedsec.cli.curve import curve
from fedsec.cli.demo import demo
from fedsec.cli.directory import directory
from fedsec.cli.doctor import doctor
from fedsec.cli.identity import identity
from fedsec.cli.ledger import ledger
from fedsec.cli.simulate import simulate
from fedsec.errors import FedsecError


@click.group(no_args_is_help=False)
@click.version_option(__version__, prog_name="fedsec")
def commands() -> None:
    """The privacy layer for federated learning."""


for command in (epsilon, calibrate, curve, ledger, identity, directory, demo, simulate, bench, doctor):
    commands.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `fedsec` on the arguments (by default this process's) and return its exit status."""
    try:
        status = commands.main(args=arguments, prog_name="fedsec", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except (FedsecError, OSError) as error:
        return _fail(str(error), 2)
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    click.echo(f"fedsec: {' '.join(message.split())}", err=True)
    return status
