"""What a value of a config may be: a test, and the words for it in messages and in `--help`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LARGEST_FLOAT = 3.4e38
"""What float32 holds."""
LARGEST_INTEGER = 2**63 - 1
LARGEST_COUNT = 10**9


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        accepts: whether a plain value (numbers, text, lists, mappings, None) is one.
        words: what is allowed, `KEY=VALUE: ` standing before it.
    """

    accepts: Callable[[Any], bool]
    words: str


def is_integer(value: Any, low: int = 0, high: int = LARGEST_COUNT) -> bool:
    """Whether this is a whole number in a range, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any, low: float = -LARGEST_FLOAT, high: float = LARGEST_FLOAT) -> bool:
    """Whether this is a finite number in a range (both ends included), and no truth value."""
    known = isinstance(value, float) or is_integer(value, -LARGEST_INTEGER, LARGEST_INTEGER)
    return known and low <= value <= high


def integer(low: int, high: int = LARGEST_COUNT) -> Kind:
    """A whole number from `low` to `high`."""
    bound = f"of at least {low}" if high == LARGEST_COUNT else f"from {low} to {high}"
    return Kind(lambda value: is_integer(value, low, high), f"must be a whole number {bound}")


def number(low: float, high: float = LARGEST_FLOAT) -> Kind:
    """A finite number from `low` to `high`, both included."""
    if high == LARGEST_FLOAT:
        return Kind(lambda v: is_number(v, low), f"must be a finite number of at least {low:g}")
    return Kind(lambda v: is_number(v, low, high), f"must lie between {low:g} and {high:g}")


def above(low: float, high: float = LARGEST_FLOAT) -> Kind:
    """A finite number above `low`, up to `high`."""
    good = lambda value: is_number(value, low, high) and value > low  # noqa: E731
    limit = "" if high == LARGEST_FLOAT else f", up to {high:g}"
    return Kind(good, f"must be a finite number above {low:g}{limit}")


def any_number() -> Kind:
    """A finite number."""
    return Kind(is_number, "must be a finite number")


def share() -> Kind:
    """A share (float up to 1) or a count (int) of batches."""
    good = lambda v: is_integer(v, 1) or (isinstance(v, float) and 0 < v <= 1)  # noqa: E731
    return Kind(good, "must be a share between 0.0 and 1.0, or a number of batches")


def flag() -> Kind:
    """true or false."""
    return Kind(lambda value: isinstance(value, bool), "allowed are true, false")


def one_of(*allowed: Any) -> Kind:
    """One of a few values."""
    words = ", ".join("null" if value is None else str(value) for value in allowed)
    good = lambda value: not isinstance(value, bool | list | dict) and value in allowed  # noqa: E731
    return Kind(good, f"allowed are {words}")


def or_null(kind: Kind) -> Kind:
    """The same, or null."""
    return Kind(lambda value: value is None or kind.accepts(value), f"{kind.words}, or null")


def or_word(word: str, kind: Kind) -> Kind:
    """The same, or a word."""
    return Kind(lambda value: value == word or kind.accepts(value), f"{kind.words}, or {word}")


def text(longest: int = 1000) -> Kind:
    """Text that is not empty."""
    good = lambda value: isinstance(value, str) and 0 < len(value) <= longest  # noqa: E731
    return Kind(good, f"must be text of up to {longest} characters")


def matching(pattern: str, words: str) -> Kind:
    """Text of a form."""
    compiled = re.compile(pattern)
    return Kind(lambda value: isinstance(value, str) and bool(compiled.fullmatch(value)), words)


def listed(kind: Kind, words: str, shortest: int = 0, longest: int = LARGEST_COUNT) -> Kind:
    """A list of values of one kind."""
    good = lambda value: (  # noqa: E731
        isinstance(value, list)
        and shortest <= len(value) <= longest
        and all(map(kind.accepts, value))
    )
    return Kind(good, words)


def each_of(allowed: Sequence[str]) -> Kind:
    """A list of some of a few words."""
    words = f"must be a list; allowed are {', '.join(allowed)}"
    return listed(one_of(*allowed), words)


def named_or_built(*allowed: str) -> Kind:
    """One of a few words, or a node from which an object is built."""
    good = lambda value: (  # noqa: E731
        one_of(*allowed).accepts(value) or (isinstance(value, Mapping) and "_target_" in value)
    )
    return Kind(good, f"allowed are {', '.join(allowed)}, or a node with a _target_")
