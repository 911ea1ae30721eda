"""The user's own mistakes, told in one message and never as a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend. The message names the key, the value and what is allowed; exit code 2."""


def bad_value(key: str, value: object, allowed: str) -> UserError:
    """The one form of such a message."""
    return UserError(f"{key}={value}: {allowed}")


class DiskFull(UserError):
    """No room for a file; what was there before is untouched."""
