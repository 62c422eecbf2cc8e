"""`fedsec doctor`: what this installation is, and whether it works."""

from __future__ import annotations

import click

from fedsec.cli.output import print_json, print_table


@click.command(epilog="Example: fedsec doctor --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> int:
    """Look over this installation: versions, CPU, entropy, known answers. Exit status 1 if a check fails."""
    from fedsec.measure import health

    facts = health.machine()
    results = list(health.checks())
    if as_json:
        print_json({"machine": facts, "checks": [result._asdict() for result in results]})
    else:
        print_table("This machine", facts)
        marks = {result.name: f"{'ok' if result.passed else 'FAILED'}: {result.found}" for result in results}
        print_table("Checks", marks)
    return 0 if all(result.passed for result in results) else 1
