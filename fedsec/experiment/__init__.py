"""A federation described in a file: read, built, run, and written down. Needs torch.

`read` and `parse` give a `Config`, in which every key is known and of its type; an `Experiment` builds data,
clients, model and federation from it and runs them; a `Sweep` is one file with some keys over several values.
`fedsec simulate` is this on the command line (docs/simulator.md).
"""

from fedsec.experiment.config import Config, parse, read
from fedsec.experiment.run import Experiment
from fedsec.experiment.sweep import Sweep

__all__ = ["Config", "Experiment", "Sweep", "parse", "read"]
