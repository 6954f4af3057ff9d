"""Values out of files and calls as they stand in error sentences: short and on one line, whatever they are."""

from __future__ import annotations

import reprlib
from typing import Any

LONGEST = 120  # characters of a value or a name
LONGEST_REASON = 300  # characters of what a library said
MOST_DIGITS = 40  # of a whole number; Python itself refuses to write more than 4,300


class _Short(reprlib.Repr):
    """Nested values to a small depth, since lists that share their parts can be written out for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, LONGEST, LONGEST

    def repr_int(self, value: int, level: int) -> str:
        long = abs(value) >= 10**MOST_DIGITS
        return f"<whole number of more than {MOST_DIGITS} digits>" if long else repr(value)


_short = _Short()


def shown(value: Any) -> str:
    """`value` as Python writes it."""
    return line(_short.repr(value), 2 * LONGEST)


def named(text: str) -> str:
    """A name or an id without quotation marks, unless it is long or holds what cannot be printed."""
    return text if text.isprintable() and len(text) <= LONGEST else shown(text)


def reason(error: BaseException) -> str:
    """What an exception says, or else what it is."""
    return line(" ".join(str(error)[: 2 * LONGEST_REASON].split())) or type(error).__name__


def line(text: str, longest: int = LONGEST_REASON) -> str:
    """A sentence on one line, cut where it is too long."""
    start = "".join(c if c.isprintable() else " " for c in text[: longest + 1])
    return start if len(start) <= longest else f"{start[:longest]}..."
