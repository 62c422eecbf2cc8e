"""Events as text, such as `PoissonSampled(Gaussian(1.1), 256 / 60000) * 3510`.

A small language with Python's grammar and none of its powers: the names of events, numbers, names that
stand for numbers, lists, and `*` and `/`. Nothing else is ever evaluated.
"""

from __future__ import annotations

import ast
import inspect
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fedsec.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fedsec.accounting import Event

_LONGEST = 2_000  # characters
_DEEPEST = 64  # brackets within brackets, and factors after one another
_OPERATIONS = {ast.Mult: operator.mul, ast.Div: operator.truediv}


def parse(text: str, numbers: Mapping[str, float]) -> Event:
    """Return the event that an expression describes.

    Parameters
    ----------
    text : str
        At most 2,000 characters, nested at most 64 deep.
    numbers : mapping
        What names in the text stand for.

    Raises
    ------
    InvalidArgumentError, InvalidTypeError
        Not such an expression, or one of its events refuses its arguments.
    """
    from fedsec.accounting import Event

    event = _value(_tree(text), numbers, _DEEPEST)
    if not isinstance(event, Event):
        raise InvalidArgumentError(
            f"--event must be an event such as 'Gaussian(1.1) * 10', got {_shown(text)}"
        )
    return event


def names_in(text: str) -> set[str]:
    """The names in an expression that are neither called nor known to Python."""
    tree = _tree(text)
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in called}


def _tree(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise InvalidArgumentError(f"--event must have at most {_LONGEST} characters, got {len(text)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Python thinks of the text
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InvalidArgumentError(
            f"--event must be an expression such as 'Gaussian(1.1) * 10', got {_shown(text)}"
        ) from None


def _value(node: ast.expr, numbers: Mapping[str, float], depth: int) -> Any:
    """The number, event or list that a part of the text stands for."""
    if depth == 0:
        raise InvalidArgumentError(f"--event must not be nested more than {_DEEPEST} deep")

    def part(inner: ast.expr) -> Any:
        return _value(inner, numbers, depth - 1)

    if isinstance(node, ast.Constant) and (node.value is None or type(node.value) in (int, float)):
        return node.value
    if isinstance(node, ast.Name):
        return _named(node.id, numbers)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [part(element) for element in node.elts]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _computed(_OPERATIONS[type(node.op)], part(node.left), part(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _computed(operator.mul, -1, part(node.operand))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        given = {keyword.arg or "**": part(keyword.value) for keyword in node.keywords}
        return _built(node.func.id, [part(argument) for argument in node.args], given)
    raise InvalidArgumentError(
        "--event may hold events, numbers, lists, * and /; it holds something else at character "
        f"{node.col_offset + 1}"
    )


def _named(name: str, numbers: Mapping[str, float]) -> float:
    if name not in numbers:
        raise InvalidArgumentError(f"--event must not hold {_shown(name)}, which stands for nothing here")
    return numbers[name]


def _number(value: object) -> float:
    if not isinstance(value, (int, float)):
        raise InvalidArgumentError(f"--event must have a number where it has {_shown(repr(value))}")
    return value


def _computed(operation: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """A product or quotient of numbers; or an event so many times, with the count on either side of `*`."""
    from fedsec.accounting import Event, Repeated

    for event, count in ((left, right), (right, left)):
        if isinstance(event, Event) and operation is operator.mul:
            return Repeated(event, count)
    try:
        return operation(_number(left), _number(right))
    except (OverflowError, ZeroDivisionError) as error:
        raise InvalidArgumentError(f"--event has no value: {error}") from None


def _built(name: str, arguments: list[Any], keywords: dict[str, Any]) -> Event:
    """An event by its name, through its own constructor."""
    kinds = _kinds()
    if name not in kinds:
        raise InvalidArgumentError(f"--event knows no {_shown(name)}; there are {', '.join(kinds)}")
    signature = inspect.signature(kinds[name])
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "nothing"
        raise InvalidArgumentError(f"--event: {name} takes {takes}: {error}") from None
    return kinds[name](*arguments, **keywords)


def _kinds() -> dict[str, type[Event]]:
    """All events of the public face, by name."""
    from fedsec import accounting

    public = {name: getattr(accounting, name) for name in accounting.__all__ if name != "Event"}
    return {
        name: kind
        for name, kind in public.items()
        if isinstance(kind, type) and issubclass(kind, accounting.Event)
    }


def _shown(text: str) -> str:
    """A text, shortened, as one line of printable characters."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
