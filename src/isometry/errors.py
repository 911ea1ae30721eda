"""The user's own mistakes, told in one message and never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

INTERRUPTED = 130
"""The exit code that shells give Ctrl-C; Lightning would say 1."""


class UserError(Exception):
    """Something the user can mend. The message names the key, the value and what is allowed; exit
    code 2.
    """


def bad_value(key: str, value: object, allowed: str) -> UserError:
    """The one form of such a message."""
    return UserError(f"{key}={value}: {allowed}")


class Damaged(UserError):
    """A file of a run that is not what it should be; the message names it."""


class DiskFull(UserError):
    """No room for a file; what was there before is untouched."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for a word close to a known one, else the empty string."""
    names = list(known)
    match = [name for name in names if name.lower() == word.lower() and name != word]
    match = match or difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""
