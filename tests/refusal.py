"""How a test says that bad input is refused with a certain sentence."""

import re

import pytest


def refused(sentence: str, kind: type[Exception] = ValueError):
    """The block raises an error of this kind whose text holds the sentence."""
    return pytest.raises(kind, match=re.escape(sentence))
