"""`fedsec demo`: the main job on real digits."""

from __future__ import annotations

from typing import Any

import click

from fedsec.cli.output import Whole
from fedsec.errors import MissingExtraError


@click.command(epilog="Example: fedsec demo --clients 20 --target-epsilon 2 --report run.html")
@click.option(
    "--data", default="digits", show_default=True, help="digits, or a path: MNIST as .npz, IDX, .pkl.gz."
)
@click.option("--clients", type=int, default=10, show_default=True)
@click.option("--rounds", type=int, default=100, show_default=True)
@click.option("--dropout", type=float, default=0.1, show_default=True, help="Share of clients lost a round.")
@click.option("--target-epsilon", type=float, default=3.0, show_default=True)
@click.option("--delta", type=float, default=1e-5, show_default=True)
@click.option(
    "--noise",
    default="central",
    show_default=True,
    help="central; distributed: shares of the clients', inside the sum; or local: trusting nobody.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of model, partition and lost clients.")
@click.option("--threads", type=Whole(1), default=1, show_default=True, help="Of torch.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--report",
    "path",
    help="Write a privacy report (.html), or the run (.md, .json) and a picture.",
)
@click.option(
    "--include-operator-data", is_flag=True, help="In a .html report: who took part, norms, clipped share."
)
def demo(
    data: str,
    threads: int,
    quiet: bool,
    as_json: bool,
    path: str | None,
    include_operator_data: bool,
    **choices: Any,
) -> None:
    """Train privately on real handwritten digits, securely aggregated, in this process."""
    from fedsec.report import require_target

    target = None if path is None else require_target(path)
    torch = _torch()
    from rich.console import Console

    from fedsec.demo import run, show
    from fedsec.demo.data import load

    torch.set_num_threads(threads)
    options = run.Options(target_delta=choices.pop("delta"), **choices)
    dataset = load(data)
    with show.progress_bar(Console(stderr=True, quiet=quiet), options.rounds) as on_round:
        result = run.run(dataset, options, on_round)
    report = show.report(result)
    if target is not None:
        drawn = show.save(report, result, target, include_operator_data)
        beside = "" if target.suffix == ".html" else " and its .png"
        beside = beside if drawn else "; a picture needs matplotlib: pip install 'fedsec[plot]'"
        click.echo(f"wrote {target}{beside}", err=True)
    if as_json:
        click.echo(report.json(), nl=False)
    else:
        show.print_tables(Console(highlight=False), report)


def _torch() -> Any:
    """The torch module, or the error that names the extra."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("fedsec demo needs torch: pip install 'fedsec[demo]'") from None
    return torch
