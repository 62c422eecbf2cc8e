"""What the simulator writes for TensorBoard, read back with TensorBoard's own reader."""

import math
import sys

import pytest
import torch

import fedsec
from fedsec.errors import MissingExtraError
from fedsec.federated import TensorBoard, simulate


def events_of(directory):
    """The scalars by name, {name: {step: value}}, and the times that events carry."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (file,) = directory.iterdir()
    scalars, times = {}, set()
    for event in loader.EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            scalars.setdefault(value.tag, {})[event.step] = value.tensor.float_val[0]
            times.add(event.wall_time)
    return scalars, times


def run(directory, **arguments):
    federation = fedsec.Federation(
        torch.nn.Linear(2, 1), num_clients=6, num_rounds=3, l2_clip_norm=1.0, noise_multiplier=2.0,
        target_delta=1e-5,
    )  # fmt: skip
    with TensorBoard(directory, **arguments) as board:
        return simulate(
            federation,
            lambda rnd, client: rnd.submit(client, rnd.model()),
            losses={2: dict.fromkeys(range(6), "upload")},
            evaluate=lambda _model: {"accuracy": 0.5},
            on_round=board,
        )


def test_scalars_are_those_of_the_log_and_carry_no_time_of_their_own(tmp_path):
    pytest.importorskip("tensorboard")
    done = run(tmp_path / "run")
    scalars, times = events_of(tmp_path / "run")
    rows = [one.record() for one in done.history]
    assert scalars.keys() == rows[0].keys() - {"round"}
    for name, steps in scalars.items():
        assert list(steps) == [1, 2, 3]
        assert all(math.isclose(steps[row["round"]], float(row[name]), rel_tol=1e-6) for row in rows)
    assert scalars["aborted"] == {1: 0.0, 2: 1.0, 3: 0.0}
    assert len(times) == 1


def test_what_no_guarantee_covers_is_written_when_asked_for(tmp_path):
    pytest.importorskip("tensorboard")
    done = run(tmp_path / "run", include_operator_data=True)
    scalars, times = events_of(tmp_path / "run")
    assert scalars.keys() == done.history[0].record(include_operator_data=True).keys() - {"round"}
    assert scalars["survivors"] == {1: 6.0, 2: 0.0, 3: 6.0}
    assert list(scalars["clipped_fraction"]) == [1, 3]  # an aborted round has none
    assert len(times) == 3


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(MissingExtraError, match=r"fedsec\[tensorboard\]"):
        TensorBoard(tmp_path / "run")
    assert not (tmp_path / "run").exists()
