"""Reads numpy arrays out of a pickle without executing anything in it.

A pickle is a program for a stack machine whose instructions can import and call whatever they name
[PEP307, "Security issues"]. This is such a machine that can do nothing else than build tuples, lists,
numbers, strings, bytes and numpy arrays of plain numeric dtypes: there is no import and no call in it,
only a table of the few names that numpy writes, each with what it means here. An instruction or a name
outside the tables ends the reading.

Every protocol is read, 0 to 5, as written by Python 2 or 3 and by numpy 1 or 2. Work and memory are
bounded: by the number of instructions, and by the bytes that are copied besides the file's own. A tuple can
hold one object twice and so be exponentially large when it is written out, compared or hashed: nothing
looks into a tuple further than it knows its elements.

References
----------
[PEP307] van Rossum, Peters. Extensions to the pickle protocol. 2003.
[PT] pickletools, Python's description of every instruction, whose readers of arguments are used here.
"""

from __future__ import annotations

import codecs
import io
import math
import pickletools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fedsec.errors import DataFormatError

Array = npt.NDArray[Any]

# Six arrays take about 200 instructions; each can grow the memory by some hundred bytes at most.
_MAX_INSTRUCTIONS = 10_000
# Text that stands for bytes (protocols 0 to 2) is copied once; MNIST in float64 takes 0.41 GiB.
_MAX_COPIED_BYTES = 2**30
_MAX_SHOWN = 80

_ITEM_SIZES = ("1", "2", "4", "8", "16")
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


def read_array_pairs(contents: bytes, count: int) -> list[tuple[Array, Array]]:
    """The arrays of a pickle that holds exactly `count` pairs of arrays, in tuples or lists.

    The arrays are read-only views of the file's bytes where the protocol allows.

    Raises
    ------
    DataFormatError
        Anything else than plain arrays in the pickle, named; or a pickle that is damaged, that holds
        something else, or that asks for too much. Nothing in it has been executed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # as Python gives for an unknown escape in a text
            top = _Machine().run(contents)
    except DataFormatError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, Warning) as error:
        raise DataFormatError(f"damaged pickle: {str(error)[:_MAX_SHOWN]}") from error
    return [_pair(item) for item in _sequence(top, count)]


def _pair(item: object) -> tuple[Array, Array]:
    first, second = (_finished(element) for element in _sequence(item, 2))
    return first, second


def _sequence(item: object, length: int) -> list[object] | tuple[object, ...]:
    if not isinstance(item, (list, tuple)) or len(item) != length:
        raise DataFormatError(f"the pickle must hold {length} things in a tuple here, got {_kind(item)}")
    return item


def _finished(item: object) -> Array:
    if not isinstance(item, _Array) or item.values is None:
        raise DataFormatError(f"the pickle must hold an array here, got {_kind(item)}")
    return item.values


def _kind(item: object) -> str:
    return f"{len(item)} things" if isinstance(item, (list, tuple)) else type(item).__name__.strip("_")


def _shown(foreign: object) -> str:
    """A text or number out of the file, short and harmless enough for a message."""
    return repr(str(foreign)[:_MAX_SHOWN])


def _fields(state: object) -> tuple[Any, ...]:
    """The state of an object; a long text would come apart into its characters."""
    if not isinstance(state, tuple):
        raise DataFormatError(f"refused state {_kind(state)}: only tuples are read")
    return state


@dataclass
class _Dtype:
    """A plain numeric dtype; its byte order comes with a later instruction."""

    code: str
    order: str = "="

    def build(self, machine: _Machine, state: Any) -> None:
        _version, self.order, *_unused = _fields(state)
        self.numpy()

    def numpy(self) -> np.dtype[Any]:
        kind, size = self.code[:1], self.code[1:]
        if kind not in tuple("biuf") or size not in _ITEM_SIZES or self.order not in tuple("<>|="):
            raise DataFormatError(f"refused dtype {_shown(self.code)}: only plain numbers are read")
        return np.dtype(self.order + self.code)


@dataclass(eq=False)
class _Array:
    """An array; its values come with a later instruction."""

    values: Array | None = None

    def build(self, machine: _Machine, state: Any) -> None:
        _version, shape, dtype, is_fortran, raw = _fields(state)
        self.values = _view(machine.as_bytes(raw), dtype, shape, "F" if is_fortran else "C")


def _view(raw: bytes, dtype: Any, shape: Any, order: str) -> Array:
    if not isinstance(dtype, _Dtype):
        raise DataFormatError(f"refused dtype {_kind(dtype)}: only plain numbers are read")
    plain = dtype.numpy()
    if not isinstance(shape, tuple) or not all(_is_length(n) for n in shape):
        raise DataFormatError(f"refused shape {_kind(shape)}: only tuples of whole numbers are read")
    if math.prod(shape) * plain.itemsize != len(raw):
        raise DataFormatError(f"an array of {len(raw)} bytes does not have shape {_shown(shape)} of {plain}")
    return np.frombuffer(raw, plain).reshape(shape, order="F" if order == "F" else "C")


def _is_length(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**48


@dataclass(frozen=True)
class _Name:
    """A name of the table below: what a call of it means here."""

    call: Callable[..., object]


def _not_called(machine: _Machine, *arguments: object) -> NoReturn:
    raise DataFormatError("refused: numpy.ndarray is called")


def _reconstruct(machine: _Machine, kind: Any, shape: Any, code: Any) -> _Array:
    """An empty array of the plain kind; what shape and dtype it will have comes later."""
    if kind is not _NDARRAY:
        raise DataFormatError(f"refused array type {_kind(kind)}")
    return _Array()


def _from_buffer(machine: _Machine, raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_view(machine.as_bytes(raw), dtype, shape, order))


def _dtype(machine: _Machine, code: Any, align: Any, copy: Any) -> _Dtype:
    if not isinstance(code, str):
        raise DataFormatError(f"refused dtype {_kind(code)}: only plain numbers are read")
    return _Dtype(code)


def _encode(machine: _Machine, text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes in the protocols of Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise DataFormatError("refused: _codecs.encode of something else than latin1 text")
    return machine.as_bytes(text)


_NDARRAY = _Name(_not_called)
_NAMES = {
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _Name(_dtype),
    "numpy.core.multiarray _reconstruct": _Name(_reconstruct),
    "numpy._core.multiarray _reconstruct": _Name(_reconstruct),
    "numpy.core.numeric _frombuffer": _Name(_from_buffer),
    "numpy._core.numeric _frombuffer": _Name(_from_buffer),
    "_codecs encode": _Name(_encode),
}


class _Machine:
    """The stack, the memo, and what each allowed instruction does to them."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self, contents: bytes) -> object:
        """The object that the pickle describes; arrays and dtypes as stand-ins."""
        for name, argument in _instructions(contents):
            if name == "STOP":
                return self._stack.pop()
            if name not in _ACTIONS:
                raise DataFormatError(f"refused instruction {name} {_shown(argument)}: not plain data")
            _ACTIONS[name](self, argument)
        raise DataFormatError("damaged pickle: it does not end")

    def as_bytes(self, raw: Any) -> bytes:
        """Bytes as they are; text of Python 2's strings, copied and counted, as the bytes it stands for."""
        if isinstance(raw, bytes):
            return raw
        if not isinstance(raw, (str, bytearray)):
            raise DataFormatError(f"refused array contents {_kind(raw)}: only plain numbers are read")
        self._copied += len(raw)
        if self._copied > _MAX_COPIED_BYTES:
            raise DataFormatError(f"the pickle expands to more than {_MAX_COPIED_BYTES} bytes")
        return raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)

    def push(self, item: object) -> None:
        self._stack.append(item)

    def pop(self, _argument: object = None) -> Any:
        return self._stack.pop()

    def mark(self, _argument: object) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def top_of(self, count: int) -> tuple[Any, ...]:
        if len(self._stack) < count:
            raise IndexError("the stack is empty")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        return items

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise DataFormatError(f"refused: appends to {_kind(target)}")
        target.extend(items)

    def put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def get(self, index: int) -> None:
        self.push(self._memo[index])

    def name(self, full_name: str) -> None:
        if full_name not in _NAMES:
            raise DataFormatError(f"refused name {_shown(full_name.replace(' ', '.'))}: not plain data")
        self.push(_NAMES[full_name])

    def stack_name(self, _argument: object) -> None:
        module, name = self.top_of(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise DataFormatError(f"refused name of {_kind(module)} and {_kind(name)}: not plain data")
        self.name(f"{module[:_MAX_SHOWN]} {name[:_MAX_SHOWN]}")

    def reduce(self, _argument: object) -> None:
        function, arguments = self.top_of(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise DataFormatError(f"refused: calls {_kind(function)}")
        self.push(function.call(self, *arguments))

    def build(self, _argument: object) -> None:
        target, state = self.top_of(2)
        if not isinstance(target, (_Array, _Dtype)):
            raise DataFormatError(f"refused: sets the state of {_kind(target)}")
        target.build(self, state)
        self.push(target)


_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
_TEXTS = (
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)

_ACTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(_NUMBERS + _TEXTS, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, argument: None),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(machine.top_of(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.top_of(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.top_of(3)),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


def _instructions(contents: bytes) -> Iterator[tuple[str, Any]]:
    """Each instruction's name and argument, as far as they are asked for."""
    stream = io.BytesIO(contents)
    for _ in range(_MAX_INSTRUCTIONS):
        code = stream.read(1)
        if code not in _OPCODES:
            raise DataFormatError(f"damaged pickle: no instruction {code!r} at byte {stream.tell()}")
        opcode = _OPCODES[code]
        # Of what will be refused, no more is read than can be shown.
        readable = stream if opcode.name in _ACTIONS else io.BytesIO(stream.read(_MAX_SHOWN))
        yield opcode.name, _argument(opcode, readable)
    raise DataFormatError(f"the pickle has more than {_MAX_INSTRUCTIONS} instructions: not plain arrays")


def _argument(opcode: Any, stream: io.BytesIO) -> Any:
    if opcode.arg is None:
        return None
    if opcode.name == "STRING":  # pickletools takes Python 2's strings for ASCII, and quotes them in errors
        quoted = pickletools.read_stringnl(stream, decode=False, stripquotes=False)
        if len(quoted) < 2 or quoted[:1] not in (b"'", b'"') or quoted[-1:] != quoted[:1]:
            raise DataFormatError("damaged pickle: a text without quotes")
        return codecs.escape_decode(quoted[1:-1])[0].decode("latin-1")
    return opcode.arg.reader(stream)
