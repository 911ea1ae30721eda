"""Bytes as disks, networks and strangers leave them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np


def variants(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """So many damaged copies of a file: bits flipped, cut, filled, doubled, shuffled, replaced."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        yield DAMAGES[index % len(DAMAGES)](bytearray(content), rng)


def _place(content: bytearray, rng: np.random.Generator) -> tuple[int, int]:
    low, high = sorted(rng.integers(0, len(content) + 1, 2))
    return int(low), int(min(high, low + 1 + len(content) // 20))


def _flip(content: bytearray, rng: np.random.Generator) -> bytes:
    for place in rng.integers(0, len(content), 1 + len(content) // 2000):
        content[place] ^= 1 << int(rng.integers(8))
    return bytes(content)


def _cut(content: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(content[: rng.integers(0, len(content))])


def _cut_out(content: bytearray, rng: np.random.Generator) -> bytes:
    low, high = _place(content, rng)
    del content[low:high]
    return bytes(content)


def _zero(content: bytearray, rng: np.random.Generator) -> bytes:
    low, high = _place(content, rng)
    content[low:high] = bytes(high - low)
    return bytes(content)


def _double(content: bytearray, rng: np.random.Generator) -> bytes:
    low, high = _place(content, rng)
    content[low:low] = content[low:high]
    return bytes(content)


def _noise(content: bytearray, rng: np.random.Generator) -> bytes:
    low, high = _place(content, rng)
    content[low:high] = rng.bytes(high - low)
    return bytes(content)


def _digits(content: bytearray, rng: np.random.Generator) -> bytes:
    """Numbers and punctuation become others: what a text format still takes for its own."""
    known = b"0123456789-.,:{}[]\"'ntfe \n"
    for place in rng.integers(0, len(content), 1 + len(content) // 500):
        content[place] = known[int(rng.integers(len(known)))]
    return bytes(content)


DAMAGES: tuple[Callable[[bytearray, np.random.Generator], bytes], ...] = (
    _flip,
    _cut,
    _cut_out,
    _zero,
    _double,
    _noise,
    _digits,
)
