"""Text as a shell and Hydra's grammar read it."""

from __future__ import annotations

import re
import shlex

NAME = r"(?!(?i:null|true|false|nan|inf)$)[A-Za-z_][A-Za-z0-9_.:-]*"
PLAIN = re.compile(rf"{NAME}|[A-Za-z0-9_.~-]*/[A-Za-z0-9_./~-]*")
"""A name or a path that neither of the two takes for anything else: a number, null."""


def hydra_value(text: str) -> str:
    """A value for `key=value`, quoted where Hydra's grammar would read something else into it."""
    if PLAIN.fullmatch(text):
        return text
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)  # a backslash is itself but before a quote
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f'"{escaped}"'


def override(key: str, value: object) -> str:
    """`key=value` to be pasted into a shell."""
    return shlex.quote(f"{key}={hydra_value(str(value))}")
