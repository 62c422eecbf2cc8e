"""The demo's data: what is read comes out right, and what is wrong or hostile is refused, unexecuted."""

import gzip
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsec.demo import data, formats, unpickle
from fedsec.demo.data import load
from fedsec.errors import DataFormatError, InvalidTypeError, MissingExtraError

# --- the bundled digits ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    return load("digits")


def test_digits_layout(digits):
    assert digits.name == "digits"
    assert digits.num_classes == 10
    assert digits.train_inputs.shape == (1442, 1, 8, 8)
    assert digits.test_inputs.shape == (355, 1, 8, 8)
    for part in ("train", "test"):
        inputs, targets = getattr(digits, f"{part}_inputs"), getattr(digits, f"{part}_targets")
        assert inputs.dtype == np.float32
        assert targets.dtype == np.int64
        assert (inputs.min(), inputs.max()) == (-1.0, 1.0)
        assert len(inputs) == len(targets)


def test_digits_split_is_whole_disjoint_and_stratified(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    position, used = [0] * 10, {"train": 0, "test": 0}
    for image, label in zip(bunch.images, bunch.target, strict=True):
        position[label] += 1
        part = "test" if position[label] % 5 == 0 else "train"
        assert getattr(digits, f"{part}_targets")[used[part]] == label
        np.testing.assert_array_equal((getattr(digits, f"{part}_inputs")[used[part], 0] + 1) * 8, image)
        used[part] += 1
    assert used == {"train": 1442, "test": 355}
    assert np.bincount(digits.test_targets).tolist() == [n // 5 for n in position]


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"fedsec\[demo\]"):
        load("digits")


# --- files of the user ----------------------------------------------------------------------------


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def labels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 10, count, dtype=np.uint8)


ARRAYS = {"x_train": images(12, 1), "y_train": labels(12, 2), "x_test": images(5, 3), "y_test": labels(5, 4)}


def pairs(convert=np.ascontiguousarray):
    """The classic three pairs: floats in [0, 1], flat; 8 for training, 4 for validation, 5 for testing."""
    x = (ARRAYS["x_train"].reshape(-1, 784) / np.float32(255)).astype(np.float32)
    y = ARRAYS["y_train"].astype(np.int64)
    test = (ARRAYS["x_test"].reshape(-1, 784).astype(np.float64) / 255, ARRAYS["y_test"].astype(np.int32))
    return tuple(tuple(map(convert, pair)) for pair in ((x[:8], y[:8]), (x[8:], y[8:]), test))


def big_endian(array):
    return array.astype(array.dtype.newbyteorder(">"))


def write_npz(path, arrays=ARRAYS, save=np.savez_compressed):
    save(path, **arrays)
    return path


def idx_bytes(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


IDX_FILES = {
    "train-images-idx3-ubyte": "x_train",
    "train-labels-idx1-ubyte": "y_train",
    "t10k-images-idx3-ubyte": "x_test",
    "t10k-labels-idx1-ubyte": "y_test",
}


def write_idx(directory, gzipped=False, dotted=False):
    directory.mkdir(exist_ok=True)
    for name, key in IDX_FILES.items():
        contents = idx_bytes(ARRAYS[key])
        target = name.replace("-idx", ".idx") if dotted else name
        (directory / (target + ".gz" * gzipped)).write_bytes(gzip.compress(contents) if gzipped else contents)
    return directory


def write_gzip(path, contents):
    path.write_bytes(gzip.compress(contents, compresslevel=1))
    return path


def assert_is_the_data(loaded, name):
    assert loaded.name == name
    assert loaded.num_classes == 10
    for part in ("train", "test"):
        inputs, targets = getattr(loaded, f"{part}_inputs"), getattr(loaded, f"{part}_targets")
        assert inputs.dtype == np.float32
        assert targets.dtype == np.int64
        expected = ARRAYS[f"x_{part}"][:, np.newaxis].astype(np.float64) * 2 / 255 - 1
        np.testing.assert_allclose(inputs, expected, atol=1e-6)
        np.testing.assert_array_equal(targets, ARRAYS[f"y_{part}"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    assert_is_the_data(load(str(write_npz(tmp_path / "mnist.npz", save=save))), "mnist.npz")


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_idx(tmp_path, gzipped, dotted):
    assert_is_the_data(load(write_idx(tmp_path / "mnist", gzipped, dotted)), "mnist")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("convert", [np.ascontiguousarray, np.asfortranarray, big_endian])
def test_pickle_of_python_3(tmp_path, protocol, convert):
    path = write_gzip(tmp_path / "mnist.pkl.gz", pickle.dumps(pairs(convert), protocol))
    assert_is_the_data(load(path), "mnist.pkl.gz")


@pytest.mark.parametrize("protocol", range(6))
def test_pickle_of_the_other_numpy(tmp_path, protocol):
    """numpy 1 and 2 write different module names: whichever is installed, the other is read as well."""
    contents = pickle.dumps(pairs(), protocol)
    old, new = (b"numpy.core.", b"numpy._core.")
    if new not in contents:
        old, new = new, old
    for module in (b"multiarray", b"numeric"):
        # From protocol 4 on, names carry their length in the byte before them.
        contents = contents.replace(
            b"\x8c" + bytes([len(new + module)]) + new + module,
            b"\x8c" + bytes([len(old + module)]) + old + module,
        )
        contents = contents.replace(b"c" + new + module, b"c" + old + module)
    assert new not in contents
    assert_is_the_data(load(write_gzip(tmp_path / "p.gz", unframed(contents))), "p.gz")


def unframed(contents: bytes) -> bytes:
    """Without FRAME, whose lengths a change of names would falsify."""
    return b"\x80\x04" + contents[11:] if contents[2:3] == b"\x95" else contents


def python_2_array(array, protocol):
    """The instructions that Python 2's pickle writes for an array, without the memo."""
    order, code = array.dtype.str[:1].encode(), array.dtype.str[1:].encode()

    def number(n):
        return b"I%d\n" % n if protocol == 0 else b"J" + struct.pack("<i", n)

    def text(s):
        if protocol == 0:
            return b"S'" + b"".join(b"\\x%02x" % c for c in s) + b"'\n"
        return b"T" + struct.pack("<I", len(s)) + s

    empty = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR"
    )
    dtype = b"cnumpy\ndtype\n(" + text(code) + number(0) + number(1) + b"tR"
    dtype += b"(" + number(3) + text(order) + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = b"(" + b"".join(map(number, array.shape)) + b"t"
    return empty + b"(" + number(1) + shape + dtype + b"I00\n" + text(array.tobytes()) + b"tb"


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_pickle_of_python_2(tmp_path, protocol):
    contents = b"\x80\x02" if protocol == 2 else b""
    contents += b"(" + b"".join(
        b"(" + python_2_array(x, protocol) + python_2_array(y, protocol) + b"t" for x, y in pairs()
    )
    contents += b"t."
    expected = pickle.loads(contents, encoding="latin1")
    np.testing.assert_array_equal(expected[0][0], pairs()[0][0])  # the twin is a real pickle
    assert_is_the_data(load(write_gzip(tmp_path / "mnist.pkl.gz", contents)), "mnist.pkl.gz")


def test_lists_of_lists_are_read_as_well(tmp_path):
    contents = pickle.dumps([list(pair) for pair in pairs()])
    assert_is_the_data(load(write_gzip(tmp_path / "p.gz", contents)), "p.gz")


# --- wrong contents -------------------------------------------------------------------------------


def refused(path, match):
    with pytest.raises(DataFormatError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"x_train": images(0, 1), "y_train": labels(0, 1)}, r"n > 0, got \(0, 28, 28\)"),
        ({"x_train": images(12, 1)[:, :27]}, r"training images must have shape .* got \(12, 27, 28\)"),
        ({"x_test": np.zeros(5, np.uint8)}, r"test images must have shape"),
        ({"x_test": np.zeros((), np.uint8)}, r"test images must have shape"),
        ({"x_test": images(4, 3)}, r"test labels must have shape \(4,\), one an image, got \(5,\)"),
        ({"y_train": labels(12, 2)[:, np.newaxis]}, r"training labels must have shape"),
        ({"y_train": np.full(12, 10, np.uint8)}, r"in \[0, 9\], got \[10, 10\]"),
        ({"y_train": np.full(12, -1)}, r"in \[0, 9\], got \[-1, -1\]"),
        ({"y_test": np.zeros(5)}, "must be whole numbers, got float64"),
        ({"y_test": np.zeros(5, bool)}, "must be whole numbers, got bool"),
        ({"x_train": np.full((12, 28, 28), np.nan)}, r"within \[0, 1\], got \[nan, nan\]"),
        ({"x_train": np.full((12, 28, 28), np.inf)}, r"within \[0, 1\], got \[inf, inf\]"),
        ({"x_train": np.full((12, 28, 28), 255.0)}, r"within \[0, 1\], got \[255.0, 255.0\]"),
        ({"x_train": np.full((12, 28, 28), -0.5)}, r"within \[0, 1\], got \[-0.5, -0.5\]"),
        ({"x_train": np.zeros((12, 28, 28), np.int64)}, "uint8 or floating-point, got int64"),
        ({"x_train": np.zeros((12, 28, 28), complex)}, "uint8 or floating-point, got complex128"),
        ({"x_train": np.empty((12, 28, 28), object)}, "cannot be read: .*pickle"),
    ],
)
def test_wrong_arrays(tmp_path, changed, match):
    refused(write_npz(tmp_path / "wrong.npz", ARRAYS | changed, np.savez), match)


def test_one_bad_pixel_or_label_is_found(tmp_path):
    x = ARRAYS["x_train"] / 255
    x[7, 3, 3] = np.nan
    refused(write_npz(tmp_path / "x.npz", ARRAYS | {"x_train": x}), r"within \[0, 1\]")
    y = ARRAYS["y_train"].copy()
    y[11] = 10
    refused(write_npz(tmp_path / "y.npz", ARRAYS | {"y_train": y}), r"in \[0, 9\]")


def test_npz_without_an_array(tmp_path):
    path = write_npz(tmp_path / "a.npz", {"x_train": ARRAYS["x_train"]})
    refused(path, "no array named y_train, x_test, y_test")


def test_npz_with_something_else_under_the_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ARRAYS:
            archive.writestr(f"{name}.npy", b"not an array")
    refused(tmp_path / "a.npz", "no array named x_train|cannot be read")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99])
def test_truncated_files(tmp_path, share):
    npz = write_npz(tmp_path / "a.npz")
    pickled = write_gzip(tmp_path / "a.pkl.gz", pickle.dumps(pairs()))
    for path in (npz, pickled):
        contents = path.read_bytes()
        path.write_bytes(contents[: int(share * len(contents))])
        refused(path, "cannot be read|damaged|has no array")
    for gzipped in (False, True):
        path = write_idx(tmp_path / "idx", gzipped) / ("t10k-images-idx3-ubyte" + ".gz" * gzipped)
        contents = path.read_bytes()
        path.write_bytes(contents[: int(share * len(contents))])
        with pytest.raises(DataFormatError, match=r"t10k-images|cannot be read"):
            load(tmp_path / "idx")
        path.unlink()


def test_corrupted_gzip_is_refused(tmp_path):
    path = write_gzip(tmp_path / "a.pkl.gz", pickle.dumps(pairs()))
    contents = bytearray(path.read_bytes())
    contents[-6] ^= 1  # within the checksum
    path.write_bytes(contents)
    refused(path, "CRC")


def test_unknown_files(tmp_path):
    refused(tmp_path / "missing.npz", "no such file")
    for contents in (b"", b"P", b"hello", pickle.dumps(pairs()), idx_bytes(ARRAYS["x_train"])):
        (tmp_path / "other").write_bytes(contents)
        refused(tmp_path / "other", "unknown format; expected MNIST as .npz")


def test_zip_that_is_none(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and then nothing")
    refused(tmp_path / "a.npz", "cannot be read")


@pytest.mark.parametrize("missing", sorted(IDX_FILES))
def test_idx_directory_without_a_file(tmp_path, missing):
    (write_idx(tmp_path / "idx") / missing).unlink()
    refused(tmp_path / "idx", f"has none of {missing}, {missing}.gz, {missing.replace('-idx', '.idx')}")


@pytest.mark.parametrize(
    ("contents", "match"),
    [
        (b"", "truncated within its header, 0 bytes"),
        (idx_bytes(ARRAYS["x_test"])[:10], "truncated within its header, 10 bytes"),
        (idx_bytes(ARRAYS["x_test"])[:-1], r"says shape \(5, 28, 28\), but holds 3919 bytes"),
        (idx_bytes(ARRAYS["x_test"]) + b"\0", r"but holds 3921 bytes"),
        (idx_bytes(ARRAYS["y_test"]) + bytes(20), "rank 3, starts with 00000801"),
        (b"\0\0\x0d\x03" + idx_bytes(ARRAYS["x_test"])[4:], "starts with 00000d03"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "but holds 0 bytes"),
    ],
)
def test_wrong_idx_files(tmp_path, contents, match):
    path = write_idx(tmp_path / "idx") / "t10k-images-idx3-ubyte"
    path.write_bytes(contents)
    with pytest.raises(DataFormatError, match=match) as caught:
        load(tmp_path / "idx")
    assert str(path) in str(caught.value)


def test_source_of_a_wrong_type():
    with pytest.raises(InvalidTypeError, match="source must be 'digits' or a path, got 7"):
        load(7)


# --- bombs ----------------------------------------------------------------------------------------


def test_no_format_expands_beyond_the_cap(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_BYTES", 2**20)
    bomb = bytes(2**24)
    refused(write_gzip(tmp_path / "a.pkl.gz", bomb), "expands to more than 1048576 bytes")
    refused(
        write_npz(tmp_path / "a.npz", ARRAYS | {"bomb": np.zeros(2**24, np.uint8)}),
        r"expands to 16\d+ bytes, more than 1048576",
    )
    write_gzip(write_idx(tmp_path / "idx", gzipped=True) / "train-images-idx3-ubyte.gz", bomb)
    with pytest.raises(DataFormatError, match="expands to more than 1048576 bytes"):
        load(tmp_path / "idx")


def test_the_cap_lets_mnist_through():
    assert 70_000 * (784 + 1) * np.float64().itemsize < formats.MAX_BYTES
    assert formats.MAX_BYTES == unpickle._MAX_COPIED_BYTES


BIG = 2**62
BOMBS = {
    "declared length": b"\x80\x04\x8e" + struct.pack("<Q", BIG) + b"x.",
    "declared bytearray": b"\x80\x05\x96" + struct.pack("<Q", BIG) + b"x.",
    "declared text": b"\x80\x04\x8d" + struct.pack("<Q", BIG) + b"x.",
    "declared number": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "negative length": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"x.",
    "declared frame": b"\x80\x04\x95" + struct.pack("<Q", BIG) + b"]",
    "memo index": b"\x80\x02]r\xff\xff\xff\xff" * 1000,
    "instructions": b"]" * 10**6,
    "marks": b"(" * 10**6,
    "memo of memo": b"]q\x00" + b"".join(b"](" + b"h\x00" * 9 + b"eq\x00" for _ in range(2000)) + b".",
    "list in itself": b"]q\x00(h\x00h\x00h\x00e.",
    "digits": b"I" + b"9" * 10**6 + b"\n.",
}


@pytest.mark.parametrize("contents", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_refused_in_little_memory(contents):
    tracemalloc.start()
    with pytest.raises(DataFormatError):
        unpickle.read_array_pairs(contents, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


# A pair of pairs of pairs, 60 levels deep, whose halves are the same object: 308 bytes, 2**60 as text.
NEST = b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"q\x010"
DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4I0\nI1\ntR"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
FROM_BUFFER = b"cnumpy.core.numeric\n_frombuffer\n"
SHARED = {
    "module": NEST + b"h\x01U\x01x\x93.",
    "name": NEST + b"U\x01xh\x01\x93.",
    "both": NEST + b"h\x01h\x01\x93.",
    "function": NEST + b"h\x01)R.",
    "arguments": NEST + b"cnumpy\ndtype\nh\x01R.",
    "dtype code": NEST + b"cnumpy\ndtype\n(h\x01h\x01h\x01tR.",
    "dtype order": NEST + b"((" + ARRAY + b"(I1\n(I0\nt" + DTYPE + b"(I3\nh\x01tbI00\nU\x00tb.",
    "state": NEST + ARRAY + b"h\x01b.",
    "shape": NEST + ARRAY + b"(I1\nh\x01" + DTYPE + b"I00\nU\x00tb.",
    "length": NEST + ARRAY + b"(I1\n(h\x01t" + DTYPE + b"I00\nU\x00tb.",
    "contents": NEST + ARRAY + b"(I1\n(I0\nt" + DTYPE + b"I00\nh\x01tb.",
    "dtype of an array": NEST + ARRAY + b"(I1\n(I0\nth\x01I00\nU\x00tb.",
    "order": NEST + b"((" + FROM_BUFFER + b"(U\x00" + DTYPE + b"(I0\nth\x01tR.",
    "array type": NEST + b"cnumpy.core.multiarray\n_reconstruct\n(h\x01h\x01h\x01tR.",
    "text": NEST + b"c_codecs\nencode\n(h\x01U\x06latin1tR.",
    "encoding": NEST + b"c_codecs\nencode\n(U\x01xh\x01tR.",
    "appended to": NEST + b"h\x01Na.",
    "the whole": NEST + b"h\x01.",
    "a pair of it": NEST + b"(h\x01h\x01h\x01t.",
}
LIMITED = """
import json, resource, sys
from fedsec.demo import unpickle
from fedsec.errors import DataFormatError

resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
for name, contents in json.load(sys.stdin).items():
    try:
        unpickle.read_array_pairs(bytes.fromhex(contents), 3)
    except DataFormatError as error:
        assert len(str(error)) < 200
        print(name, flush=True)
"""


def test_what_is_shared_is_not_written_out():
    """In a process of its own with little time and memory: whatever walks the whole of it is killed."""
    given_ = json.dumps({name: contents.hex() for name, contents in SHARED.items()})
    command = [sys.executable, "-c", LIMITED]
    run = subprocess.run(command, input=given_, capture_output=True, text=True, check=False)
    assert run.stdout.splitlines() == list(SHARED), run.stderr[-300:]


LONG = b"9" * 10**6
LONG_TEXT = b"X" + struct.pack("<I", len(LONG)) + LONG
LONG_ITEMS = {
    "float": b"F" + LONG + b"x\n.",
    "whole number": b"I" + LONG + b"x\n.",
    "persistent id": b"P" + LONG + b"\n.",
    "text without quotes": b"S" + LONG + b"\n.",
    "text with one quote": b"S'" + LONG + b"\n.",
    "text that is one quote": b"S'\n.",
    "module": b"\x80\x04" + LONG_TEXT + b"U\x01x\x93.",
    "dtype code": b"(("
    + ARRAY
    + b"(I1\n(I0\ntcnumpy\ndtype\n(X"
    + struct.pack("<I", 1 + len(LONG))
    + b"f"
    + LONG
    + b"I0\nI1\ntRI00\nU\x00tb.",
    "dtype state": DTYPE + LONG_TEXT + b"b.",
    "array state": ARRAY + LONG_TEXT + b"b.",
    "shape": ARRAY + b"(I1\n(" + b"J\xff\xff\xff\x7f" * 5000 + b"t" + DTYPE + b"I00\nU\x00tb.",
}


@pytest.mark.parametrize("contents", LONG_ITEMS.values(), ids=LONG_ITEMS.keys())
def test_what_is_long_is_neither_multiplied_nor_quoted_in_full(contents):
    tracemalloc.start()
    with pytest.raises(DataFormatError) as caught:
        unpickle.read_array_pairs(contents, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * len(contents) + 2**20
    for error in (caught.value, caught.value.__cause__):
        assert len(str(error)) < 400


def test_joining_does_not_widen(tmp_path):
    """One float64 beside a million bytes would make eight millions of them."""
    (inputs, labels), (more, _), test = pairs()
    train = (inputs.astype(np.uint8), labels)
    contents = pickle.dumps((train, (more.astype(np.float64), labels), test))
    refused(write_gzip(tmp_path / "a.pkl.gz", contents), "uint8 and float64")


def test_copies_are_counted(monkeypatch):
    """One text in the memo, made into bytes again and again, does not multiply the memory."""
    monkeypatch.setattr(unpickle, "_MAX_COPIED_BYTES", 10_000)
    encode = b"c_codecs\nencode\n"
    text = b"X" + struct.pack("<I", 4000) + b"x" * 4000 + b"q\x00" + b"0"
    once = encode + b"(h\x00X\x06\x00\x00\x00latin1tR0"
    with pytest.raises(DataFormatError, match="must hold 3 things"):
        unpickle.read_array_pairs(text + 2 * once + b"N.", 3)
    with pytest.raises(DataFormatError, match="expands to more than 10000 bytes"):
        unpickle.read_array_pairs(text + 3 * once + b"N.", 3)


def test_the_memo_is_read_by_the_index_it_was_written_at():
    """As in the classic file, whose first index is 1."""
    first = array_pickle(raw=bytes(8)) + b"q\x05"
    second = array_pickle(raw=np.ones(2, "<f4").tobytes()) + b"q\x02"
    ((a, b),) = unpickle.read_array_pairs(first + second + b"00((h\x05h\x02tt.", 1)
    assert (a.tolist(), b.tolist()) == ([0.0, 0.0], [1.0, 1.0])


def test_warnings_count_as_damage_whatever_the_filters():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataFormatError, match=r"damaged pickle: .*escape"):
            unpickle.read_array_pairs(b"S'\\y'\n.", 1)


def test_honest_files_stay_far_from_the_limit_of_instructions():
    for protocol in range(6):
        count = sum(1 for _ in pickletools.genops(pickle.dumps(pairs(), protocol)))
        assert count < unpickle._MAX_INSTRUCTIONS / 20


# --- attacks --------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


# Each leaves a file behind when it is made.
CALLS = {
    "os.system": lambda target: Calls(os.system, f"touch {target}"),
    "eval": lambda target: Calls(eval, f"__import__('pathlib').Path({str(target)!r}).touch()"),
    "exec": lambda target: Calls(exec, f"import pathlib; pathlib.Path({str(target)!r}).touch()"),
    "os.mkdir": lambda target: Calls(os.mkdir, str(target)),
    "numpy.save": lambda target: Calls(np.save, str(target), 1),
    "numpy.memmap": lambda target: Calls(np.memmap, str(target), "uint8", "w+", 0, 1),
    "runstring": lambda target: Calls(np.testing.runstring, f"open({str(target)!r}, 'w').close()", {}),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("attack", CALLS)
def test_calls_are_refused_and_not_made(tmp_path, attack, protocol):
    target = tmp_path / "made.npy"
    contents = pickle.dumps((CALLS[attack](target), *pairs()[1:]), protocol)
    refused(write_gzip(tmp_path / "a.pkl.gz", contents), "refused")
    assert not target.exists()


@pytest.mark.parametrize("attack", CALLS)
def test_the_attacks_are_real(tmp_path, attack):
    """The control: Python's own reader makes the calls."""
    target = tmp_path / "made.npy"
    pickle.loads(pickle.dumps(CALLS[attack](target)))
    assert target.exists()


HOSTILE = {
    "the name is in the message": (b"cos\nsystem\n(S'true'\ntR.", "refused name 'os.system'"),
    "dotted name": (
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "refused name 'numpy.ndarray.tofile'",
    ),
    "dotted global": (b"\x80\x04cnumpy.core.multiarray\n_reconstruct.__globals__\n.", "refused name"),
    "name of no text": (b"\x80\x04K\x01)\x93.", "refused name of int and 0 things"),
    "long name": (b"c" + b"x" * 10**6 + b"\ny\n.", "refused name 'x{80}'"),
    "control characters": (b"c\x1b[2J\nx\n.", r"refused name '\\x1b\[2J.x'"),
    "INST": (b"(S'true'\nios\nsystem\n.", "refused instruction INST 'os system'"),
    "OBJ": (b"(cnumpy\nndarray\nI3\no.", "refused instruction OBJ"),
    "NEWOBJ": (b"\x80\x02cnumpy\nndarray\nK\x03\x85\x81.", "refused instruction NEWOBJ"),
    "NEWOBJ_EX": (b"\x80\x04cnumpy\nndarray\n)}\x92.", "refused instruction EMPTY_DICT"),
    "EXT1": (b"\x80\x02\x82\x01.", "refused instruction EXT1 '1'"),
    "PERSID": (b"Psomething\n.", "refused instruction PERSID 'something'"),
    "BINPERSID": (b"K\x01Q.", "refused instruction BINPERSID"),
    "out-of-band buffer": (b"\x80\x05\x97.", "refused instruction NEXT_BUFFER"),
    "floats": (b"G" + bytes(8) + b".", "refused instruction BINFLOAT"),
    "numpy.load": (b"cnumpy\nload\n.", "refused name 'numpy.load'"),
    "numpy.fromfile": (b"cnumpy\nfromfile\n.", "refused name 'numpy.fromfile'"),
    "getattr": (b"cbuiltins\ngetattr\n.", "refused name 'builtins.getattr'"),
    "memory": (b"cbuiltins\nbytearray\n(I1000000000\ntR.", "refused name 'builtins.bytearray'"),
    "calls a number": (b"K\x01)R.", "refused: calls int"),
    "calls a text": (b"S'os.system'\n)R.", "refused: calls str"),
    "calls an array": (b"cnumpy\nndarray\n)R.", "refused: numpy.ndarray is called"),
    "arguments in a list": (b"cnumpy\ndtype\n]R.", "refused: calls"),
    "state of a list": (b"]}b.", "refused instruction EMPTY_DICT"),
    "state of a tuple": (b")Nb.", "refused: sets the state of 0 things"),
    "state of a name": (b"cnumpy\nndarray\nNb.", "refused: sets the state of Name"),
    "appends to a tuple": (b")K\x01a.", "refused: appends to 0 things"),
    "encoding": (b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.", "something else than latin1"),
    "array subtype": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        "refused array type Name",
    ),
    "no instruction": (b"\xff", "no instruction b'\\\\xff' at byte 1"),
    "empty": (b"", "no instruction b'' at byte 0"),
    "empty stack": (b".", "damaged pickle"),
    "no such memo": (b"h\x07.", "damaged pickle"),
    "no mark": (b"t.", "damaged pickle"),
    "too few arguments": (b"cnumpy\ndtype\n)R.", "damaged pickle"),
    "not text": (b"X\x02\x00\x00\x00\xff\xff.", "damaged pickle"),
    "an array that never got values": (
        b"((" + 2 * b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR" + b"tNNt.",
        "must hold an array here, got Array",
    ),
}


@pytest.mark.parametrize(("contents", "match"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_pickles(tmp_path, contents, match):
    refused(write_gzip(tmp_path / "a.pkl.gz", contents), match)


def array_pickle(dtype=b"f4", order=b"<", shape=(2,), raw=bytes(8)):
    """A pickled array with any of its parts falsified."""
    dims = b"(" + b"".join(b"L%dL\n" % n for n in shape) + b"t"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
        + dims
        + b"cnumpy\ndtype\n(S'"
        + dtype
        + b"'\nI0\nI1\ntR(I3\nS'"
        + order
        + b"'\nNNNI-1\nI-1\nI0\ntbI00\n"
        + b"C"
        + bytes([len(raw)])
        + raw
        + b"tb"
    )


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"dtype": b"O8"}, "refused dtype 'O8'"),
        ({"dtype": b"O"}, "refused dtype 'O'"),
        ({"dtype": b"V8"}, "refused dtype 'V8'"),
        ({"dtype": b"U2"}, "refused dtype 'U2'"),
        ({"dtype": b"M8[ns]"}, r"refused dtype 'M8\[ns\]'"),
        ({"dtype": b"f4,O"}, "refused dtype 'f4,O'"),
        ({"dtype": b"f3"}, "refused dtype 'f3'"),
        ({"order": b"O"}, "refused dtype 'f4'"),
        ({"shape": (3,)}, r"8 bytes does not have shape '\(3,\)' of float32"),
        ({"shape": (-2, -1)}, "refused shape"),
        ({"shape": (2**62, 2**62)}, "refused shape"),
        ({"shape": (2,) + (1,) * 100}, "damaged pickle"),
    ],
)
def test_falsified_arrays(parts, match):
    good = unpickle.read_array_pairs(b"((" + 2 * array_pickle() + b"tt.", 1)
    assert good[0][0].tolist() == [0.0, 0.0]
    with pytest.raises(DataFormatError, match=match):
        unpickle.read_array_pairs(b"((" + 2 * array_pickle(**parts) + b"tt.", 1)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [np.array([Calls(os.system, "true"), None]), np.array(["text"]), np.zeros(2, "f4,i4"), np.ma.zeros(2)],
    ids=["objects", "text", "records", "subclass"],
)
def test_arrays_of_other_than_numbers(tmp_path, array, protocol):
    contents = pickle.dumps(((array, array), *pairs()[1:]), protocol)
    refused(write_gzip(tmp_path / "a.pkl.gz", contents), "refused")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (pairs()[:2], "3 things in a tuple here, got 2 things"),
        ((*pairs(), pairs()[0]), "got 4 things"),
        ({"train": 1}, "refused instruction EMPTY_DICT"),
        ((pairs()[0], pairs()[1], np.zeros(3)), "2 things in a tuple here, got Array"),
        ((pairs()[0], pairs()[1], "ab"), "2 things in a tuple here, got str"),
        ((pairs()[0], pairs()[1], ([1], [2])), "an array here, got 1 things"),
        ((pairs()[0], (pairs()[1][0][:, :10], pairs()[1][1]), pairs()[2]), "dimension"),
    ],
)
def test_pickles_of_something_else(tmp_path, content, match):
    refused(write_gzip(tmp_path / "a.pkl.gz", pickle.dumps(content)), match)


SMALL = [
    pickle.dumps(((np.arange(3.0), np.arange(3)), (np.zeros((2, 2), "f4"), np.ones(2, "u1"))), protocol)
    for protocol in range(6)
]


@pytest.mark.parametrize("contents", SMALL, ids=range(6))
def test_every_truncation_is_refused(contents):
    assert len(unpickle.read_array_pairs(contents, 2)) == 2
    for length in range(len(contents)):
        with pytest.raises(DataFormatError):
            unpickle.read_array_pairs(contents[:length], 2)


EDIT = st.tuples(st.integers(0, 600), st.integers(0, 3), st.binary(min_size=1, max_size=3))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SMALL), st.lists(EDIT, max_size=6))
def test_mutated_pickles_give_arrays_or_the_error(contents, edits):
    for position, removed, inserted in edits:
        start = position % len(contents)
        contents = contents[:start] + inserted + contents[start + removed :]
    try:
        result = unpickle.read_array_pairs(contents, 2)
    except DataFormatError:
        return
    assert all(array.dtype.kind in "biuf" for pair in result for array in pair)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_give_the_error(contents):
    with pytest.raises(DataFormatError):
        unpickle.read_array_pairs(contents, 2)


def test_the_data_module_loads_no_torch():
    code = "import fedsec.demo.data, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert data.__name__ in sys.modules
