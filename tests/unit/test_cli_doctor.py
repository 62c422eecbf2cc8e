"""`fedsec doctor`: a sound installation passes, and each check can fail."""

import json

import numpy as np
import pytest

from fedsec import _kernels, cli, noise
from fedsec.measure import health


def doctored(capsys, *options):
    status = cli.main(["doctor", *options])
    printed = capsys.readouterr()
    assert printed.err == ""
    return status, printed.out


def test_a_sound_installation_passes(capsys):
    status, out = doctored(capsys, "--json")
    found = json.loads(out)
    assert status == 0
    assert all(check["passed"] for check in found["checks"])
    assert found["machine"]["backend"] == _kernels.best_backend.name


def test_tables_name_the_backend_and_every_check(capsys):
    status, out = doctored(capsys)
    assert status == 0
    assert _kernels.best_backend.name in out
    for check in health.checks():
        assert check.name in out


def biased(size, stddev):
    return np.full(size, 7)


@pytest.mark.parametrize(
    ("failing", "where", "name", "instead"),
    [
        ("known answers", health, "_KNOWN", {"chacha20": "00" * 16}),
        ("entropy", health.os, "urandom", bytes),
        ("exact noise", noise, "discrete_gaussian", biased),
    ],
)
def test_what_is_wrong_is_found(failing, where, name, instead, monkeypatch, capsys):
    monkeypatch.setattr(where, name, instead)
    status, out = doctored(capsys, "--json")
    failed = [check["name"] for check in json.loads(out)["checks"] if not check["passed"]]
    assert failing in failed
    assert status == 1
