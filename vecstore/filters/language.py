"""The filter language: MongoDB's operators on payloads, compiled to a predicate.

    {"lang": "en"}                                   equal
    {"year": {"$gte": 2020, "$lt": 2024}}            all operators of one field must hold
    {"author.name": {"$in": ["Ada", "Alan"]}}        a nested field by its dotted path
    {"$or": [{"a": 1}, {"b": {"$exists": False}}]}   $and, $or, $not over whole filters

As in MongoDB: a field that holds a list matches where the list or any element of it does; `None` equals a missing
field; `$ne`, `$nin` and `$not` are the exact opposites, and so hold for a missing field; order is only defined
between two numbers or two strings, and a bool is no number.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Any, Final

from vecstore.errors import InvalidArgumentError
from vecstore.types import Filter, Payload

Predicate = Callable[[Payload], bool]
Test = Callable[[Any], bool]

_MISSING: Final = object()
_ORDER: Final = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
_FIELD_OPERATORS: Final = ("$eq", "$ne", *_ORDER, "$in", "$nin", "$exists", "$not")
_TOP_OPERATORS: Final = ("$and", "$or", "$not")


def compile_filter(filter: Filter) -> Predicate:
    """Compile a filter; `{}` holds for every row. Raises InvalidArgumentError, naming what is wrong."""
    if not isinstance(filter, dict):
        raise InvalidArgumentError(f"filter: expected a dict, got {filter!r}")
    parts = [_clause(name, condition) for name, condition in filter.items()]
    return parts[0] if len(parts) == 1 else _all(parts)


def _all(parts: list[Predicate]) -> Predicate:
    return lambda payload: all(part(payload) for part in parts)


def _clause(name: Any, condition: Any) -> Predicate:
    if not isinstance(name, str):
        raise InvalidArgumentError(f"filter: field names are str, got {name!r}")
    if not name.startswith("$"):
        return _field(name, condition)
    if name == "$not":
        inner = compile_filter(condition)
        return lambda payload: not inner(payload)
    if name in ("$and", "$or"):
        if not isinstance(condition, list | tuple) or not condition:
            raise InvalidArgumentError(f"filter: {name} takes a non-empty list of filters, got {condition!r}")
        parts = [compile_filter(part) for part in condition]
        return _all(parts) if name == "$and" else lambda payload: any(part(payload) for part in parts)
    raise _unknown(name, _TOP_OPERATORS, "over whole filters" if name in _FIELD_OPERATORS else "")


def _field(path: str, condition: Any) -> Predicate:
    names = path.split(".")
    if "" in names:
        raise InvalidArgumentError(f"filter: {path!r} is not a path of field names with dots between")
    test = _condition(path, condition)
    if len(names) == 1:  # the ordinary case, without the walk
        return lambda payload: test([payload.get(path, _MISSING)])
    return lambda payload: test(list(_walk(payload, names, 0)))


def _walk(value: Any, names: list[str], depth: int) -> Iterator[Any]:
    """Every value that a dotted path leads to: lists on the way are entered by element, or by index."""
    if depth == len(names):
        yield value
    elif isinstance(value, dict):
        yield from _walk(value[names[depth]], names, depth + 1) if names[depth] in value else (_MISSING,)
    elif isinstance(value, list):
        if names[depth].isdigit() and int(names[depth]) < len(value):
            yield from _walk(value[int(names[depth])], names, depth + 1)
        found = [inner for item in value if isinstance(item, dict) for inner in _walk(item, names, depth)]
        yield from found or (_MISSING,)
    else:
        yield _MISSING


def _condition(path: str, condition: Any) -> Test:
    """A test over all values that the path of a field leads to in one payload."""
    if not isinstance(condition, dict) or not any(str(name).startswith("$") for name in condition):
        return _any(_equals(condition))
    tests = [_operator(path, name, operand) for name, operand in condition.items()]
    return tests[0] if len(tests) == 1 else lambda values: all(test(values) for test in tests)


def _operator(path: str, name: str, operand: Any) -> Test:
    if name == "$eq":
        return _any(_equals(operand))
    if name == "$ne":
        return _none(_any(_equals(operand)))
    if name in ("$in", "$nin"):
        if not isinstance(operand, list | tuple | set | frozenset):
            raise InvalidArgumentError(f"filter: {path}: {name} takes a list, got {operand!r}")
        among = _any(_among(list(operand)))
        return among if name == "$in" else _none(among)
    if name in _ORDER:
        if _kind(operand) not in ("number", "str"):
            raise InvalidArgumentError(f"filter: {path}: {name} takes a number or a str, got {operand!r}")
        return _any(_compares(_ORDER[name], operand))
    if name == "$exists":
        if not isinstance(operand, bool):
            raise InvalidArgumentError(f"filter: {path}: $exists takes True or False, got {operand!r}")
        return lambda values: any(value is not _MISSING for value in values) is operand
    if name == "$not":
        if not isinstance(operand, dict) or not operand or not all(str(key).startswith("$") for key in operand):
            raise InvalidArgumentError(f"filter: {path}: $not takes operators, got {operand!r}; for a value use $ne")
        return _none(_condition(path, operand))
    raise _unknown(name, _FIELD_OPERATORS, f"at {path}")


def _any(test: Test) -> Test:
    def over(values: list[Any]) -> bool:
        return any(test(value) or (isinstance(value, list) and any(map(test, value))) for value in values)

    return over


def _none(test: Test) -> Test:
    return lambda values: not test(values)


def _equals(operand: Any) -> Test:
    operand = _plain(operand)
    _refuse_odd(operand)
    if operand is None:
        return lambda value: value is None or value is _MISSING
    if isinstance(operand, str):
        return lambda value: value == operand
    return lambda value: value is not _MISSING and _same(value, operand)


def _refuse_odd(operand: Any) -> None:
    """What no payload can hold would never match: better said than kept silent about."""
    if isinstance(operand, list | tuple | dict):
        for inner in operand.values() if isinstance(operand, dict) else operand:
            _refuse_odd(inner)
    elif not isinstance(_plain(operand), NoneType | bool | int | float | str | bytes):
        raise InvalidArgumentError(
            f"filter: cannot compare with {operand!r}, a {type(operand).__name__}: a payload holds None, bool, int, "
            "float, str, bytes, and lists and dicts of them"
        )
    elif isinstance(operand, int) and not -(2**63) <= operand < 2**64:
        raise InvalidArgumentError(f"filter: cannot compare with {operand}: an int of a payload has 64 bits")


def _among(operands: list[Any]) -> Test:
    tests = [_equals(operand) for operand in operands]
    strings = frozenset(operand for operand in operands if isinstance(operand, str))
    if len(strings) == len(set(map(str, operands))) == len(operands):
        return lambda value: isinstance(value, str) and value in strings
    return lambda value: any(test(value) for test in tests)


def _compares(compare: Callable[[Any, Any], bool], operand: Any) -> Test:
    operand = _plain(operand)
    kind = _kind(operand)
    return lambda value: _kind(value) == kind and compare(value, operand)


def _kind(value: Any) -> str:
    value = _plain(value)
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__


def _plain(value: Any) -> Any:
    """NumPy's scalars are Python's; a tuple is a list, as it would be in a payload."""
    if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def _same(a: Any, b: Any) -> bool:
    """Equality that tells True from 1, inside lists and dicts too."""
    a, b = _plain(a), _plain(b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return _kind(a) == _kind(b) and bool(a == b)


def _unknown(name: str, known: tuple[str, ...], where: str) -> InvalidArgumentError:
    guess = difflib.get_close_matches(name, known, 1, cutoff=0.7)
    where = f"{where}; did you mean {guess[0]}?" if guess else f"{where};"
    return InvalidArgumentError(f"filter: no operator {name} {where} there are {', '.join(known)}".replace(" ;", ";"))
