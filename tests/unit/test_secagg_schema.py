"""Schemas: models as flat vectors and back, numpy's and torch's; what does not fit is refused by name."""

import dataclasses
import hashlib
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError
from fedsec.secagg.encoding.schema import MAX_SIZE, Entry, Schema, model_digest


def model():
    return {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bias": np.array([0.5, -0.5], np.float32),
        "scale": np.array(7.0, np.float16),
        "none": np.zeros((0, 4), np.float32),
    }


def counted():
    return model() | {"steps": np.array(3, np.int64), "mask": np.array([True, False])}


class TestSchema:
    def test_names_are_in_order_whatever_the_dictionary(self):
        schema = Schema.of(model())
        assert [entry.name for entry in schema.entries] == ["bias", "none", "scale", "weight"]
        assert schema == Schema.of(dict(reversed(model().items())))
        assert hash(schema) == hash(Schema.of(model()))
        assert pickle.loads(pickle.dumps(schema)) == schema
        assert schema.entries[3] == Entry("weight", (2, 3), "float32")
        assert schema.size == 9
        assert schema.dtype == np.float32
        with pytest.raises(dataclasses.FrozenInstanceError):
            schema.entries = ()

    def test_integers_are_refused_by_name_or_left_out(self):
        with pytest.raises(InvalidTypeError, match=r'mask is bool .*integers="leave_out"'):
            Schema.of(counted())
        schema = Schema.of(counted(), integers="leave_out")
        assert schema.size == 9
        assert {entry.name for entry in schema.entries if not entry.takes_part} == {"steps", "mask"}
        for rule in ("average", None, True):
            with pytest.raises(InvalidArgumentError, match="integers must be"):
                Schema.of(counted(), integers=rule)

    @pytest.mark.parametrize(
        "value",
        [
            np.zeros(3, np.complex64),
            np.zeros(3, np.longdouble),
            np.zeros(3, object),
            np.zeros(3, "U4"),
            np.zeros(3, "datetime64[s]"),
            np.zeros(3, [("a", "f4")]),
            np.ma.masked_array(np.zeros(3), mask=[True, False, False]),
            np.float32(3),
            [1.0, 2.0],
            3.0,
            None,
        ],
        ids=lambda value: type(value).__name__ + str(getattr(value, "dtype", "")),
    )
    def test_what_is_no_array_of_a_known_dtype(self, value):
        with pytest.raises(InvalidTypeError, match="odd must"):
            Schema.of(model() | {"odd": value})

    @pytest.mark.parametrize("name", [3, None, b"bytes", "\ud800", "x" * 1025, "é" * 513])
    def test_names(self, name):
        with pytest.raises((InvalidTypeError, InvalidArgumentError), match="names"):
            Schema.of({name: np.zeros(3)})
        assert Schema.of({"": np.zeros(3), "é" * 512: np.zeros(2)}).size == 5

    @pytest.mark.parametrize("arrays", [[], None, np.zeros(3), [("a", np.zeros(3))]])
    def test_a_model_is_a_mapping(self, arrays):
        with pytest.raises(InvalidTypeError, match="a model must be a mapping"):
            Schema.of(arrays)

    @pytest.mark.parametrize("arrays", [{}, {"a": np.zeros(0)}, {"a": np.zeros(3, int)}])
    def test_there_must_be_something_to_add_up(self, arrays):
        with pytest.raises(InvalidArgumentError, match="number of floating-point elements must be in"):
            Schema.of(arrays, integers="leave_out")

    def test_entries_by_hand(self):
        with pytest.raises(InvalidArgumentError, match="names must be distinct, got a twice"):
            Schema([Entry("a", (3,), "float32"), Entry("a", (), "float64")])
        for shape in ((-1,), (1.5,), (2**60,), (1,) * 33):
            with pytest.raises((InvalidArgumentError, InvalidTypeError), match="dimension"):
                Entry("a", shape, "float32")
        with pytest.raises(InvalidTypeError, match="a must have one of"):
            Entry("a", (), "float8")
        with pytest.raises(InvalidArgumentError, match="floating-point elements"):
            Schema([Entry("a", (MAX_SIZE, 2), "float32")])


class TestVectors:
    def test_flatten_by_hand(self):
        vector = Schema.of(model()).flatten(model())
        assert vector.dtype == np.float32
        assert vector.tolist() == [0.5, -0.5, 7.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]

    def test_float64_if_any_is(self):
        arrays = model() | {"wide": np.array([1.0 + 2.0**-52])}
        vector = Schema.of(arrays).flatten(arrays)
        assert vector.dtype == np.float64
        assert vector[9] == 1.0 + 2.0**-52

    def test_odd_layouts_are_the_same_values(self):
        arrays = model()
        odd = arrays | {
            "weight": np.asfortranarray(arrays["weight"]),
            "bias": np.array([0.5, 9.0, -0.5], ">f4")[::2],
        }
        schema = Schema.of(arrays)
        assert Schema.of(odd) == schema
        assert schema.flatten(odd).tolist() == schema.flatten(arrays).tolist()
        assert model_digest(odd) == model_digest(arrays)
        schema.unflatten(np.arange(9.0), odd)
        assert odd["weight"].tolist() == [[3, 4, 5], [6, 7, 8]]
        assert odd["bias"].tolist() == [0, 1]

    def test_what_is_not_finite_goes_through(self):
        """It is the quantiser that refuses it, with its position."""
        arrays = model() | {"bias": np.array([np.nan, np.inf], np.float32)}
        assert np.isnan(Schema.of(arrays).flatten(arrays)[0])

    def test_flatten_into_a_buffer(self):
        schema = Schema.of(model())
        for dtype in (np.float32, np.float64):
            out = np.full(9, 3.0, dtype)
            assert schema.flatten(model(), out=out) is out
            assert out.tolist() == schema.flatten(model()).tolist()

    def test_buffers_that_do_not_fit(self):
        schema = Schema.of(model())
        read_only = np.zeros(9)
        read_only.flags.writeable = False
        for out, words in (
            (np.zeros(9, np.float16), "must be an array of float32 or float64, got float16"),
            (np.zeros(9, ">f4"), "must be an array of float32"),
            ([0.0] * 9, "got list"),
            (np.zeros(10), r"shape \(9,\), got \(10,\)"),
            (np.zeros((3, 3)), r"shape \(9,\), got \(3, 3\)"),
            (np.zeros(18)[::2], "contiguous and writable"),
            (read_only, "contiguous and writable"),
        ):
            with pytest.raises((InvalidTypeError, InvalidArgumentError), match=words):
                schema.flatten(model(), out=out)
        wide = model() | {"bias": np.zeros(2)}
        with pytest.raises(InvalidTypeError, match="out must be an array of float64"):
            Schema.of(wide).flatten(wide, out=np.zeros(9, np.float32))

    def test_unflatten_makes_arrays(self):
        arrays = model()
        schema = Schema.of(counted(), integers="leave_out")
        again = schema.unflatten(schema.flatten(counted()))
        assert again.keys() == arrays.keys()
        for name, array in arrays.items():
            assert again[name].dtype == array.dtype
            assert np.array_equal(again[name], array)
        vector = np.arange(9.0)
        vector.flags.writeable = False
        schema.unflatten(vector)["bias"][0] = 99.0
        assert vector[0] == 0.0

    def test_unflatten_in_place(self):
        arrays = counted()
        before = dict(arrays)
        schema = Schema.of(arrays, integers="leave_out")
        assert schema.unflatten(np.arange(9.0), arrays) is arrays
        assert all(arrays[name] is before[name] for name in arrays)
        assert arrays["weight"].tolist() == [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]
        assert (arrays["scale"], arrays["steps"]) == (2.0, 3)
        assert arrays["mask"].tolist() == [True, False]

    def test_values_are_rounded_to_the_dtype(self):
        arrays = model()
        Schema.of(arrays).unflatten(np.full(9, 1.0 + 2.0**-13 + 2.0**-40), arrays)
        assert arrays["weight"][0, 0] == np.float32(1.0 + 2.0**-13)
        assert arrays["scale"] == 1.0

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65505.0, -1e5])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_values_that_do_not_fit_are_refused_before_anything_is_written(self, value, dtype):
        arrays, vector = model(), np.zeros(9, dtype)
        vector[2] = value
        for into in (None, arrays):
            with pytest.raises(NonFiniteError, match=r"scale must stay within \+-6.55e\+04, got"):
                Schema.of(arrays).unflatten(vector, into)
        assert all(np.array_equal(arrays[name], array) for name, array in model().items())

    def test_the_largest_values_fit(self):
        arrays = {"half": np.zeros(1, np.float16), "single": np.zeros(1, np.float32), "wide": np.zeros(1)}
        largest = [float(np.finfo(dtype).max) for dtype in (np.float16, np.float32, np.float64)]
        Schema.of(arrays).unflatten(np.array(largest), arrays)
        assert [float(array[0]) for array in arrays.values()] == largest

    @pytest.mark.parametrize(
        "vector",
        [
            np.zeros(8),
            np.zeros(10),
            np.zeros((9, 1)),
            np.zeros(9, int),
            np.zeros(9, np.float16),
            [0.0] * 9,
            None,
        ],
        ids=str,
    )
    def test_vectors_that_do_not_fit(self, vector):
        with pytest.raises((InvalidTypeError, InvalidArgumentError), match="vector must"):
            Schema.of(model()).unflatten(vector)

    def test_read_only_arrays_are_refused_before_anything_is_written(self):
        arrays = model()
        arrays["weight"].flags.writeable = False
        with pytest.raises(InvalidTypeError, match="weight must be writable"):
            Schema.of(arrays).unflatten(np.ones(9), arrays)
        assert arrays["bias"].tolist() == [0.5, -0.5]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"bias": np.zeros(3, np.float32)}, r"bias must have shape \(2,\), got \(3,\)"),
            ({"bias": np.zeros((2, 1), np.float32)}, r"bias must have shape \(2,\), got \(2, 1\)"),
            ({"bias": np.zeros(2)}, "bias must have dtype float32, got float64"),
            ({"steps": np.array(3, np.int32)}, "steps must have dtype int64, got int32"),
            ({"more": np.zeros(2)}, r"got \['more'\] beyond it, \[\] missing"),
            ({"bias": None}, "bias must be a numpy array or a tensor, got NoneType"),
        ],
    )
    def test_models_that_do_not_fit(self, change, words):
        schema, vector = Schema.of(counted(), integers="leave_out"), np.ones(9)
        changed = counted() | change
        for call in (schema.require, schema.flatten, lambda arrays: schema.unflatten(vector, arrays)):
            with pytest.raises((InvalidTypeError, InvalidArgumentError), match=words):
                call(changed)
        assert changed["weight"].tolist() == model()["weight"].tolist()

    def test_a_model_that_lacks_something(self):
        schema = Schema.of(counted(), integers="leave_out")
        for name in counted():
            arrays = counted()
            del arrays[name]
            with pytest.raises(InvalidArgumentError, match=rf"got \[\] beyond it, \['{name}'\] missing"):
                schema.flatten(arrays)


DTYPES = ("float16", "float32", "float64", "bool", "int8", "uint64")
ENTRIES = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3).map(tuple))
NAMES = st.text("az09._ /\0\né名🦔\U0010ffff", max_size=8)


@settings(max_examples=50)
@given(st.dictionaries(NAMES, ENTRIES, max_size=6))
def test_any_model_goes_there_and_back(described):
    generator = np.random.default_rng(1)
    arrays = {
        name: np.asarray(100 * generator.random(shape)).astype(dtype)
        for name, (dtype, shape) in (described | {"one": ("float32", (1,))}).items()
    }
    schema = Schema.of(arrays, integers="leave_out")
    assert Schema.from_bytes(schema.to_bytes()) == schema
    emptied = {name: np.zeros_like(array) for name, array in arrays.items()}
    schema.unflatten(schema.flatten(arrays), emptied)
    for name, array in arrays.items():
        kept = array.dtype.kind == "f"
        assert emptied[name].tobytes() == (array.tobytes() if kept else bytes(array.nbytes))
    assert len(schema.flatten(arrays)) == sum(a.size for a in arrays.values() if a.dtype.kind == "f")


class TestBytes:
    def test_by_the_description_alone(self):
        expected = b"\x01" + struct.pack("<I", 2)
        expected += struct.pack("<H", 1) + b"a" + bytes([2, 2]) + struct.pack("<QQ", 2, 3)
        expected += struct.pack("<H", 2) + "é".encode() + bytes([8, 0])
        arrays = {"é": np.array(3, np.int64), "a": np.zeros((2, 3), np.float32)}
        schema = Schema.of(arrays, integers="leave_out")
        assert schema.to_bytes() == expected
        assert schema.digest() == hashlib.sha256(b"fedsec schema 1" + expected).digest()

    def test_round_trip(self):
        schema = Schema.of(counted(), integers="leave_out")
        assert Schema.from_bytes(schema.to_bytes()) == schema
        assert Schema.from_bytes(bytearray(schema.to_bytes())).size == 9

    def test_cut_and_extended(self):
        data = Schema.of(counted(), integers="leave_out").to_bytes()
        for changed in (*(data[:length] for length in range(len(data))), data + b"\0", data * 2):
            with pytest.raises(InvalidArgumentError, match="a schema must be"):
                Schema.from_bytes(changed)

    def test_flipped_at_every_position_it_is_another_schema_or_none(self):
        schema = Schema.of(counted(), integers="leave_out")
        data = schema.to_bytes()
        for position in range(len(data)):
            for bit in range(8):
                flipped = bytearray(data)
                flipped[position] ^= 1 << bit
                try:
                    other = Schema.from_bytes(bytes(flipped))
                except InvalidArgumentError:
                    continue
                assert other != schema
                assert other.to_bytes() == flipped

    def test_what_is_not_canonical(self):
        a, b = (Schema.of({name: np.zeros(3)}).to_bytes()[5:] for name in "ab")
        head = b"\x01" + struct.pack("<I", 2)
        assert Schema.from_bytes(head + a + b).size == 6
        for changed in (head + b + a, head + a + a, b"\x02" + (head + a + b)[1:], b"\x01" + bytes(4)):
            with pytest.raises(InvalidArgumentError):
                Schema.from_bytes(changed)
        with pytest.raises(InvalidArgumentError):
            Schema.from_bytes(b"\x01\xff\xff\xff\xff" + a)
        with pytest.raises(InvalidTypeError, match="a schema must be bytes"):
            Schema.from_bytes("text")


class TestDigest:
    def test_by_the_description_alone(self):
        arrays = {"b": np.array([1.0, -2.0], ">f4"), "a": np.array(3, np.int16)}
        schema = Schema.of(arrays, integers="leave_out").to_bytes()
        values = struct.pack("<h", 3) + struct.pack("<ff", 1.0, -2.0)
        assert model_digest(arrays) == hashlib.sha256(b"fedsec model 1" + schema + values).digest()

    def test_one_bit_more_is_another_model(self):
        digests = {model_digest(counted())}
        for name, array in counted().items():
            for position in range(array.nbytes):
                changed = counted()
                flat = np.frombuffer(bytearray(array.tobytes()), np.uint8).copy()
                flat[position] ^= 1
                changed[name] = flat.view(array.dtype).reshape(array.shape)
                digests.add(model_digest(changed))
        assert len(digests) == 1 + sum(array.nbytes for array in counted().values())

    def test_names_shapes_and_dtypes_count(self):
        array = np.arange(4, dtype=np.float32)
        models = [
            {"a": array},
            {"b": array},
            {"a": array.reshape(2, 2)},
            {"a": array.reshape(4, 1)},
            {"a": array[:2], "b": array[2:]},
            {"a": array, "b": array[:0]},
            {"a": array, "b": array.view(np.int32)[:0]},
            {"a": array.astype(np.float64)},
            {"a": array.view(np.float64)},
        ]
        assert len({model_digest(each) for each in models}) == len(models)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def normed(torch):
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten())
    return layers


class TestTorch:
    def test_a_state_dict(self, torch):
        net = normed(torch)
        state = net.state_dict()
        with pytest.raises(InvalidTypeError, match=r"1\.num_batches_tracked is int64 and cannot be averaged"):
            Schema.of(state)
        schema = Schema.of(state, integers="leave_out")
        vector = schema.flatten(state)
        floats = [state[name] for name in sorted(state) if state[name].is_floating_point()]
        assert vector.tolist() == torch.cat([tensor.flatten() for tensor in floats]).tolist()
        pointers = {name: tensor.data_ptr() for name, tensor in state.items()}
        schema.unflatten(np.arange(schema.size, dtype=np.float64), net.state_dict())
        after = net.state_dict()
        assert {name: tensor.data_ptr() for name, tensor in after.items()} == pointers
        assert schema.flatten(after).tolist() == list(range(schema.size))
        assert all(parameter.requires_grad for parameter in net.parameters())

    def test_tensors_and_arrays_are_the_same_to_it(self, torch):
        tensors = {name: torch.from_numpy(array.copy()) for name, array in counted().items()}
        schema = Schema.of(counted(), integers="leave_out")
        assert Schema.of(tensors, integers="leave_out") == schema
        assert schema.flatten(tensors).tolist() == schema.flatten(counted()).tolist()
        assert model_digest(tensors) == model_digest(counted())

    def test_parameters_within_a_graph(self, torch):
        weight = torch.nn.Parameter(torch.ones(3))
        loss = (weight**2).sum()
        schema = Schema.of({"weight": weight})
        assert schema.flatten({"weight": weight}).tolist() == [1.0] * 3
        schema.unflatten(np.full(3, 2.0), {"weight": weight})
        assert weight.tolist() == [2.0] * 3
        assert weight.requires_grad
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()  # autograd knows

    def test_bfloat16_goes_through_float32(self, torch):
        tensors = {"low": torch.tensor([1.0, -3.5, 2.0**100], dtype=torch.bfloat16)}
        schema = Schema.of(tensors)
        assert schema.entries == (Entry("low", (3,), "bfloat16"),)
        assert schema.flatten(tensors).tolist() == [1.0, -3.5, 2.0**100]
        schema.unflatten(np.array([1.0 + 2.0**-9, 3.0, (2.0 - 2.0**-7) * 2.0**127]), tensors)
        assert tensors["low"].tolist() == [1.0, 3.0, (2.0 - 2.0**-7) * 2.0**127]
        assert schema.unflatten(np.ones(3))["low"].dtype == np.float32
        with pytest.raises(NonFiniteError, match="low must stay within"):
            schema.unflatten(np.array([0.0, 0.0, 3.4e38]), tensors)
        again = {"low": tensors["low"].clone()}
        assert model_digest(again) == model_digest(tensors)
        assert model_digest({"low": tensors["low"].float()}) != model_digest(tensors)

    def test_transposed_and_scalar_tensors(self, torch):
        tensors = {"t": torch.arange(6.0).reshape(2, 3).T, "s": torch.tensor(9.0)}
        schema = Schema.of(tensors)
        assert schema.flatten(tensors).tolist() == [9.0, 0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
        vector = np.arange(7.0)
        vector.flags.writeable = False
        schema.unflatten(vector, tensors)
        assert tensors["t"].tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
        assert tensors["s"].item() == 0.0

    def test_tensors_without_values_are_refused_by_name(self, torch):
        meta = {"weight": torch.zeros(3, device="meta")}
        schema = Schema.of(meta)
        for call in (schema.flatten, model_digest):
            with pytest.raises(InvalidTypeError, match="weight must be a dense tensor with values"):
                call(meta)

    @pytest.mark.parametrize("dtype", ["complex64", "float8_e4m3fn"])
    def test_dtypes_that_are_refused_by_name(self, torch, dtype):
        with pytest.raises(InvalidTypeError, match=f"odd must have one of .*, got {dtype}"):
            Schema.of({"odd": torch.zeros(3, dtype=getattr(torch, dtype))})
