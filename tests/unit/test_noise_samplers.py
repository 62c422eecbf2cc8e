"""The samplers: bits against the twins, exactness at the filter's edge, where keys come from, refusals."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from reference import bell_reference, masks_reference, normal_reference

from fedsec import _bell, _kernels, noise
from fedsec.errors import InvalidArgumentError, InvalidTypeError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "noise_discrete_gaussian.json").read_text())


def key_of(text):
    return sha256(str(text).encode()).digest()


# ---- known answers


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["stddev"])
def test_known_answers(vector):
    key, stddev, samples = bytes.fromhex(vector["key"]), float.fromhex(vector["stddev"]), vector["samples"]
    assert bell_reference.variates(_bell.discrete_gaussian(stddev), key, len(samples)) == samples
    assert noise.discrete_gaussian(len(samples), stddev, insecure_key=key).tolist() == samples


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["why"])
def test_known_refusals(case):
    with pytest.raises(InvalidArgumentError, match="stddev"):
        noise.discrete_gaussian(1, float.fromhex(case["stddev"]), dtype=case["dtype"])


@pytest.mark.parametrize("backend", _kernels.backends(), ids=lambda backend: backend.name)
@pytest.mark.parametrize(
    ("dtype", "group", "pair"),
    [(np.float32, 1024, normal_reference.pair32), (np.float64, 512, normal_reference.pair64)],
    ids=["float32", "float64"],
)
def test_gaussian_equals_box_muller_in_high_precision(dtype, group, pair, backend):
    """Within four units in the last place: groups of words in two halves; an end within a group."""
    key, size = key_of("box-muller"), group + group // 2 + 40
    data = masks_reference.noise_stream(key, (0, 0, 0), 0, 2 * group * np.dtype(dtype).itemsize)
    words = np.frombuffer(data, f"<u{np.dtype(dtype).itemsize}").reshape(2, 2, group // 2).tolist()
    expected = []
    for first, second in words:
        pairs = [pair(*both) for both in zip(first, second, strict=True)]
        expected += [cosine for cosine, _ in pairs] + [sine for _, sine in pairs]
    out = np.empty(size, dtype)
    _kernels.gaussian(out, 1.0, key, backend=backend)
    expected = np.array([float(value) for value in expected[:size]])
    assert np.all(np.abs(out - expected) <= 4 * np.spacing(np.abs(expected).astype(dtype)))


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1023, 1024, 1025, 70_000])
def test_every_backend_gives_the_same_gaussian_bytes(size):
    for dtype in (np.float32, np.float64):
        found = []
        for backend in _kernels.backends():
            out = np.empty(size, dtype)
            _kernels.gaussian(out, 0.3, key_of(size), backend=backend)
            found.append(out.tobytes())
        assert len(set(found)) == 1


# ---- where the key comes from


def draw(stddev=2.0**40):
    return noise.discrete_gaussian(64, stddev)


def test_calls_do_not_repeat_and_seeds_have_no_influence():
    draws = []
    for _ in range(4):
        np.random.seed(7)
        draws.append((draw().tobytes(), noise.gaussian(64).tobytes()))
    assert len(set(draws)) == 4
    assert len({pair[1] for pair in draws}) == 4


def test_drawing_leaves_numpys_generator_alone():
    np.random.seed(7)
    expected = np.random.normal(size=3)
    np.random.seed(7)
    draw()
    assert np.array_equal(np.random.normal(size=3), expected)


def test_torch_seeds_have_no_influence():
    torch = pytest.importorskip("torch")
    torch.manual_seed(7)
    first = draw()
    torch.manual_seed(7)
    assert not np.array_equal(first, draw())


def test_threads_do_not_repeat():
    with ThreadPoolExecutor(8) as pool:
        draws = list(pool.map(lambda _: draw().tobytes(), range(64)))
    assert len(set(draws)) == 64


FORK = """
import os, numpy as np
from fedsec import noise
noise.discrete_gaussian(10, 2.0**40)
np.random.seed(7)
read, write = os.pipe()
child = os.fork()
drawn = np.concatenate([noise.discrete_gaussian(64, 2.0**40), np.random.randint(2**60, size=64)])
if child == 0:
    os.write(write, drawn.tobytes())
    os._exit(0)
other = np.frombuffer(os.read(read, 1024), np.int64)
os.waitpid(child, 0)
print((drawn[:64] == other[:64]).sum(), (drawn[64:] == other[64:]).sum())
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_forks_do_not_repeat(tmp_path):
    """The second figure is the control: a seeded generator repeats all of its 64 draws in the child."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    # Elsewhere, so that it is the installed package and not what lies in this folder.
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.split() == ["0", "64"]


def test_the_key_of_a_call_is_wiped():
    with _kernels.key_of_call(None) as key:
        assert any(bytes(key))
    assert bytes(key) == bytes(32)


# ---- shapes and refusals


@pytest.mark.parametrize("size", [0, 1, 7, (0, 3), (2, 3), (), np.int64(4)])
def test_shapes(size):
    shape = size if isinstance(size, tuple) else (int(size),)
    for array in (noise.gaussian(size), noise.discrete_gaussian(size, 3.0)):
        assert array.shape == shape
    assert noise.gaussian(size).dtype == np.float32
    assert noise.discrete_gaussian(size, 3.0).dtype == np.int64


SAMPLERS = [noise.gaussian, noise.discrete_gaussian]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("size", [-1, (2, -1), 2**60, (2**30, 2**30)])
def test_sizes_out_of_range(sampler, size):
    with pytest.raises(InvalidArgumentError, match="size"):
        sampler(size, 1.0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("size", [1.0, "3", None, True, [2, 3], (2, 1.5)])
def test_sizes_of_the_wrong_type(sampler, size):
    with pytest.raises(InvalidTypeError, match="size"):
        sampler(size, 1.0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("stddev", [0.0, -1.0, float("nan"), float("inf"), 1e300 * 1e8])
def test_deviations_out_of_range(sampler, stddev):
    with pytest.raises(InvalidArgumentError, match="stddev"):
        sampler(1, stddev)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("stddev", ["1", None, True, 1j, b"1"])
def test_deviations_of_the_wrong_type(sampler, stddev):
    with pytest.raises(InvalidTypeError, match="stddev"):
        sampler(1, stddev)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.int64, "nonsense", None, object])
def test_gaussian_dtypes(dtype):
    with pytest.raises(InvalidTypeError, match="float32 or float64"):
        noise.gaussian(1, 1.0, dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.uint64, np.float64, ">i8", None])
def test_discrete_gaussian_dtypes(dtype):
    with pytest.raises(InvalidTypeError, match="int64 or int32"):
        noise.discrete_gaussian(1, 1.0, dtype)


def test_gaussian_refuses_what_would_overflow():
    with pytest.raises(InvalidArgumentError, match="float32"):
        noise.gaussian(1, 1e38, np.float32)
    with pytest.raises(InvalidArgumentError, match="float32"):
        noise.gaussian(1, 1e-38, np.float32)
    assert np.isfinite(noise.gaussian(1000, 3.4e37, np.float32)).all()
    assert np.isfinite(noise.gaussian(1000, 1e38, np.float64)).all()


@pytest.mark.parametrize("key", [bytes(31), bytes(33), bytearray(32), "0" * 32, 7])
def test_keys_that_are_none(key):
    with pytest.raises(InvalidTypeError, match="32 bytes"):
        noise.discrete_gaussian(1, 1.0, insecure_key=key)


# ---- Poisson and Skellam


@pytest.mark.parametrize("size", [0, 1, 7, (0, 3), (2, 3), (), np.int64(4)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_shapes_of_integers(size, dtype):
    shape = size if isinstance(size, tuple) else (int(size),)
    for array in (noise.skellam(size, 100.0, dtype), noise.poisson(size, 1e6, dtype)):
        assert array.shape == shape
        assert array.dtype == dtype


def test_calls_of_skellam_do_not_repeat():
    assert len({noise.skellam(64, 2.0**40).tobytes() for _ in range(4)}) == 4


@pytest.mark.parametrize(
    ("sampler", "dtype", "value"),
    [
        *((noise.skellam, np.int64, value) for value in (0.0, -1.0, 2.0**-11, 2.0**42, np.nan, np.inf)),
        (noise.poisson, np.int64, 2.0**41),
        (noise.poisson, np.int32, 2.0**31),
    ],
)
def test_means_and_variances_out_of_range(sampler, dtype, value):
    with pytest.raises(InvalidArgumentError, match=r"mean|variance"):
        sampler(1, value, dtype)


@pytest.mark.parametrize("sampler", [noise.skellam, noise.poisson])
def test_means_and_variances_of_the_wrong_type(sampler):
    for value in ("1", None, True, 1j):
        with pytest.raises(InvalidTypeError, match=r"mean|variance"):
            sampler(1, value)
    for dtype in (np.int16, np.uint32, np.float64, ">i8", None):
        with pytest.raises(InvalidTypeError, match="int64 or int32"):
            sampler(1, 1.0, dtype)
    with pytest.raises(InvalidTypeError, match="32 bytes"):
        sampler(1, 1.0, insecure_key=bytes(31))


def test_mean_and_variance_may_be_as_large_as_they_can():
    assert abs(noise.poisson(3, 2.0**40) - 2.0**40).max() < 14 * 2.0**20
    assert noise.poisson(3, 2.0**30, np.int32).min() > 2**29
    assert np.abs(noise.skellam(3, 2.0**41, np.int32)).max() < 2**26
    assert not noise.poisson(50, 2.0**-10, insecure_key=bytes(32)).any()
    assert noise.skellam(3, 2.0**-10, insecure_key=bytes(32)).tolist() == [0, 0, 0]
