"""Inputs for decoders: valid ones that were changed, and any at all; and what a decoder may do with them.

Changes of bytes are what a broken or hostile wire makes: bits flipped, parts cut out, doubled, put in,
swapped with those of another valid input, and numbers of any width written over, great ones among them, for
there are lengths where one does not look. Changes of values (JSON, rows, states) put any value in any place.
"""

import tracemalloc

from hypothesis import strategies as st

from fedsec.errors import FedsecError

GREAT = (0, 1, 2**16, 2**31, 2**40, 2**60, 2**63, 2**64 - 1)
# What a decoder may hold beyond a multiple of its input: caches, messages of errors.
_ROOM = 1 << 20
_EDIT_BYTES = 6


def _number(value):
    width, order = 1 << value % 4, "big" if value & 4 else "little"
    return (GREAT[value >> 3 & 7] % 256**width).to_bytes(width, order)


def _edited(data, edit, other):
    """One change: two bytes say which, the next three where, and all of them with what."""
    kind, detail = edit[0], edit[1]
    at = int.from_bytes(edit[2:5], "little") % (len(data) + 1)
    rest = data[at + 1 + detail % 64 :]
    written = _number(detail)
    return (
        data[:at] + bytes([data[at] ^ 1 << detail % 8]) + data[at + 1 :] if at < len(data) else data,
        data[:at] + rest,
        data[:at],
        data[:at] + edit[: 1 + detail % 6] + data[at:],
        data[: len(data) - len(rest)] + data[at:],
        data[:at] + written + data[at + len(written) :],
        data[:at] + other[(at + detail - 128) % (len(other) + 1) :],
    )[kind % 7]


def _changed(samples, program):
    """What a program of edits makes of one of the samples; one that begins with 255 is itself the input."""
    if program[0] == 255:
        return program[1:]
    first, second, program = program[0], program[1], program[2:]
    data, other = samples[first % len(samples)], samples[second % len(samples)]
    for start in range(0, len(program) - _EDIT_BYTES + 1, _EDIT_BYTES):
        data = _edited(data, program[start : start + _EDIT_BYTES], other)
    return data


def changed_bytes(samples, most=4):
    """One of the samples with one to so many changes, or a few random bytes.

    The changes are one draw, a program, for a draw for each of their numbers takes ten times as long.
    """
    programs = st.binary(min_size=2 + _EDIT_BYTES, max_size=2 + most * _EDIT_BYTES)
    return programs.map(lambda program: _changed(samples, program))


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([*GREAT, 10**400, -1]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["0" * 64, "Gaussian", "NaN", "é"]),
)
VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.just("type"), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def changed_value(draw, samples, values=VALUES, most=3):
    """One of the samples, nested dictionaries and lists, with other values in a few places."""
    value = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(1, most))):
        value = _with_change(draw, value, values)
    return value


def _with_change(draw, value, values):
    if isinstance(value, (dict, list, tuple)) and value and draw(st.integers(0, 5)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, items = draw(st.sampled_from(keys)), dict(zip(keys, _items(value), strict=True))
        what = draw(st.integers(0, 7))
        if what == 0:
            del items[key]
        elif what == 1 and isinstance(value, dict):
            items[draw(st.text(max_size=8))] = items.pop(key)
        else:
            items[key] = _with_change(draw, items[key], values)
        return items if isinstance(value, dict) else type(value)(items.values())
    return draw(values)


def _items(value):
    return value.values() if isinstance(value, dict) else value


def outcome(decode, given, *, errors=FedsecError):
    """What a decoder makes of an input: ("value", what), or ("refused", the error); other errors are raised.

    It must not take memory in proportion to a number in the input rather than to its length.
    """
    size = len(given) if isinstance(given, (bytes, str)) else 0
    tracemalloc.start()
    try:
        found = "value", decode(given)
    except errors as error:
        found = "refused", error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= 64 * size + _ROOM, f"{peak} bytes for an input of {size}"
    return found
