"""One configuration with some of its keys over several values: all combinations, one after the other."""

from __future__ import annotations

import copy
import itertools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsec.errors import InvalidArgumentError, MissingExtraError
from fedsec.experiment.config import Config, parse
from fedsec.experiment.folder import table
from fedsec.experiment.records import Records, load
from fedsec.experiment.run import Experiment
from fedsec.report import finite, plots, write_all

_SHOWN = ("accuracy", "loss", "epsilon", "delta", "rounds", "rounds_aborted", "seconds")
_SEED = "seed"


class Sweep:
    """All runs of a sweep, built beforehand, so that none is refused after others have run.

    Parameters
    ----------
    document : mapping
        What the file holds.
    values : {key: values}
        Keys with their tables, such as ``privacy.target_epsilon``.
    base : Path
        Where the file's paths begin.

    Raises
    ------
    FedsecError
        No values; whatever a configuration or an `Experiment` refuses.
    """

    def __init__(self, document: Mapping[str, Any], values: Mapping[str, Sequence[Any]], base: Path) -> None:
        for key, given in values.items():
            if not given:
                raise InvalidArgumentError(f"{key} must have at least one value to sweep over")
        combinations = itertools.product(*values.values())
        self.settings = [dict(zip(values, combination, strict=True)) for combination in combinations]
        configs = [parse(_with(document, setting), base) for setting in self.settings]
        self._folder = None if configs[0].output.folder is None else configs[0].path(configs[0].output.folder)
        loaded: dict[object, Records] = {}
        self.experiments = [
            _experiment(config, setting, loaded)
            for config, setting in zip(configs, self.settings, strict=True)
        ]

    def run(
        self,
        *,
        workers: int = 0,
        progress: bool = False,
        resume: bool = False,
        before: Callable[[int, Mapping[str, Any]], object] = lambda _number, _setting: None,
    ) -> list[dict[str, Any]]:
        """Runs them, and writes the table and the picture of all; `before` hears of each run.

        Returns
        -------
        One mapping a run: the swept values, and what came of it.
        """
        for one in self.experiments:
            one.folder(resume=resume)
        rows = []
        for number, (setting, one) in enumerate(zip(self.settings, self.experiments, strict=True), start=1):
            before(number, setting)
            result = one.run(workers=workers, progress=progress, resume=resume)
            rows.append({**setting, **{name: result[name] for name in _SHOWN if name in result}})
        if self._folder is not None:
            self._write(self._folder, rows)
        return rows

    def _write(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        text = json.dumps(finite(rows), indent=2, allow_nan=False) + "\n"
        files = {folder / "sweep.json": text.encode(), folder / "sweep.csv": table(rows)}
        try:
            if points := accuracy_by_epsilon(self.settings, rows):
                files[folder / "accuracy_against_epsilon.png"] = plots.accuracy_against_epsilon(points)
        except MissingExtraError:
            pass
        write_all(files)


def accuracy_by_epsilon(
    settings: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> dict[str, list[tuple[float, float, float]]]:
    """Lines for a picture: {name: (epsilon, mean accuracy, standard deviation over seeds)}.

    One line for each combination of what is neither the seed nor of `privacy`, one point on it for each of
    `privacy`, at the largest epsilon of its seeds; empty without accuracies.
    """
    lines: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for setting, row in zip(settings, rows, strict=True):
        if "accuracy" not in row:
            return {}
        private = {k: v for k, v in setting.items() if k.startswith("privacy.")}
        others = {k: v for k, v in setting.items() if k != _SEED and k not in private}
        name = ", ".join(f"{key} {value}" for key, value in others.items())
        lines.setdefault(name, {}).setdefault(repr(private), []).append(row)
    return {name: sorted(map(_point, points.values())) for name, points in lines.items()}


def _point(runs: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    accuracies = [run["accuracy"] for run in runs]
    spread = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
    return max(run["epsilon"] for run in runs), statistics.mean(accuracies), spread


def _with(document: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
    """The document with some keys set."""
    changed = copy.deepcopy(dict(document))
    for key, value in setting.items():
        *tables, name = key.split(".")
        place: Any = changed
        for part in tables:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise InvalidArgumentError(f"{key!r} is no key: {part} is no table")
        place[name] = value
    return changed


def _experiment(config: Config, setting: Mapping[str, Any], loaded: dict[object, Records]) -> Experiment:
    """An experiment in a folder of its own; records are loaded once for all that have the same."""
    if config.output.folder is not None:
        name = ",".join(f"{key}={value}" for key, value in setting.items()).replace("/", "_")
        output = replace(config.output, folder=str(Path(config.output.folder) / name))
        config = replace(config, output=output)
    key = (config.data, config.seed)
    if key not in loaded:
        loaded[key] = load(config)
    return Experiment(config, loaded[key])
