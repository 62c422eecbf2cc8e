"""The samplers: bits against the twins, exactness at the filter's edge, where keys come from, refusals."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from reference import discrete_gaussian_reference as reference
from reference import masks_reference, normal_reference

from fedsec import _kernels, noise
from fedsec.errors import FedsecError, InvalidArgumentError, InvalidTypeError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "noise_discrete_gaussian.json").read_text())
STDDEVS = [0.1, 0.5, 1.0, 3.7, 1e3, 2.0**20 + 0.3, 2.0**40]


def key_of(text):
    return sha256(str(text).encode()).digest()


# ---- known answers


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["stddev"])
def test_known_answers(vector):
    key, stddev = bytes.fromhex(vector["key"]), float.fromhex(vector["stddev"])
    assert reference.discrete_gaussian(key, stddev, len(vector["samples"])) == vector["samples"]
    samples = noise.discrete_gaussian(len(vector["samples"]), stddev, insecure_key=key)
    assert samples.tolist() == vector["samples"]


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["why"])
def test_known_refusals(case):
    with pytest.raises(InvalidArgumentError, match="stddev"):
        noise.discrete_gaussian(1, float.fromhex(case["stddev"]), dtype=case["dtype"])


@pytest.mark.parametrize("stddev", STDDEVS)
def test_discrete_gaussian_equals_the_twin(stddev):
    samples = noise.discrete_gaussian(400, stddev, insecure_key=key_of(stddev))
    assert samples.tolist() == reference.discrete_gaussian(key_of(stddev), stddev, 400)


def test_discrete_gaussian_equals_the_twin_on_random_deviations():
    rng = np.random.default_rng(1)
    for stddev in np.exp(rng.uniform(np.log(0.1), np.log(2.0**40), 60)):
        key = rng.bytes(32)
        samples = noise.discrete_gaussian(20, stddev, insecure_key=key)
        assert samples.tolist() == reference.discrete_gaussian(key, float(stddev), 20)


def test_the_stddev_is_the_exact_double():
    """Neighbouring doubles are different laws: somewhere in a long run a decision must differ."""
    stddev = 2.0**40
    below = noise.discrete_gaussian(3, np.nextafter(stddev, 0), insecure_key=bytes(32))
    assert below.tolist() == reference.discrete_gaussian(bytes(32), float(np.nextafter(stddev, 0)), 3)


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


# ---- exactness


@pytest.mark.parametrize("stddev", [*STDDEVS, 0.11, 0.99, 1.01, 2.0, 7.3, 15.999, 64.0, 1e5, 3e9, 2.0**39.5])
def test_the_filter_changes_no_bit(stddev):
    filtered, exact = np.empty(5000, np.int64), np.empty(5000, np.int64)
    _kernels.discrete_gaussian(filtered, stddev, key_of(stddev))
    _kernels.discrete_gaussian(exact, stddev, key_of(stddev), exact_only=True)
    assert np.array_equal(filtered, exact)


@pytest.mark.parametrize("stddev", [0.5, 3.7, 2.0**20])
def test_int32_and_int64_agree(stddev):
    wide = noise.discrete_gaussian(2000, stddev, np.int64, insecure_key=bytes(32))
    narrow = noise.discrete_gaussian(2000, stddev, np.int32, insecure_key=bytes(32))
    assert narrow.dtype == np.int32
    assert np.array_equal(wide, narrow)


@pytest.mark.parametrize("exact_only", [False, True])
@pytest.mark.parametrize("exponent", [-120, -100, -80, -65, -64, -63, -60, -54, -53, -50, -49, -48, -47, -30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_bernoulli_right_at_the_drawn_word(exact_only, exponent, sign):
    """p a hair beside W's first 160 bits: filter, exact digits and further words must all decide rightly."""
    key = key_of("edge")
    words = list(islice(reference.words(key), 3))
    drawn = (words[0] << 128 | words[1] << 64 | words[2]) >> 32  # the first 160 bits of W
    numerator, denominator = drawn + sign * 2 ** (160 + exponent), 2**160
    # The same rational with an odd denominator's digits: times 3 / 3, and not reduced.
    for factor in (1, 3, 2**80 + 1):
        draw = _kernels.bernoulli(1, factor * numerator, factor * denominator, key, exact_only)
        assert draw[0] == (sign > 0)


@pytest.mark.parametrize("exact_only", [False, True])
def test_bernoulli_draws_further_words_only_when_needed(exact_only):
    key = key_of("lazy")
    words = list(islice(reference.words(key), 40))
    numerator = (words[0] << 64 | words[1]) * 2**32 + 1  # agrees with W in 128 bits: takes a third word
    draws = _kernels.bernoulli(20, numerator, 2**160, key, exact_only)
    rest = [word * 2**96 < numerator for word in words[3:22]]
    assert draws.tolist() == [words[2] == 0, *rest]


def test_bernoulli_frequencies_of_awkward_fractions():
    """Probabilities with long denominators; false alarm below 1e-6 each (4.9 standard errors)."""
    for numerator, denominator in [(1, 3), (2**200 + 1, 2**201 + 12345), (3**100, 7**60), (0, 5)]:
        p, n = numerator / denominator, 100_000
        hits = int(_kernels.bernoulli(n, numerator, denominator, key_of(numerator)).sum())
        assert abs(hits - n * p) <= 4.9 * np.sqrt(n * p * (1 - p))


def test_a_variate_that_does_not_fit_is_reported_and_nothing_is_kept():
    out = np.full(1000, 7, np.int32)
    with pytest.raises(FedsecError, match=r"does not fit int32"):
        _kernels.discrete_gaussian(out, 2.0**36, bytes(32))
    assert not out.any()


@pytest.mark.parametrize("backend", _kernels.backends(), ids=lambda backend: backend.name)
def test_all_backends_give_the_same_noise(backend):
    out = np.empty(300, np.int64)
    _kernels.discrete_gaussian(out, 3.7, key_of(3.7), backend=backend)
    assert out.tolist() == reference.discrete_gaussian(key_of(3.7), 3.7, 300)


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
def test_forks_do_not_repeat():
    """The second figure is the control: a seeded generator repeats all of its 64 draws in the child."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
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
