"""What commands print: one JSON object for machines, tables for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any

import click


class Whole(click.IntRange):
    """A whole number of at least 1; refusals say so."""

    name = "whole number of at least 1"


def print_json(values: Mapping[str, object]) -> None:
    """Print one JSON object on standard output; what is infinite becomes null, for JSON has no infinity."""
    click.echo(json.dumps(_finite(values), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def print_table(title: str, rows: Mapping[str, object], note: str = "") -> None:
    """Print names and values as a table on standard output, with a line of plain words under it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left", min_width=min(len(title), 80))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, str(value))
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table)
    if note:
        console.print(note)


def upwards(value: float) -> float:
    """Six significant digits of a value, rounded up: neither a bound nor noise may shrink in print."""
    return float(Context(prec=6, rounding=ROUND_CEILING).create_decimal(value))


def downwards(value: float) -> float:
    """Six significant digits of a value, rounded down."""
    return float(Context(prec=6, rounding=ROUND_FLOOR).create_decimal(value))
