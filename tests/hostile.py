"""Tools of the tests with hostile input: how many inputs, how things are damaged, and what may come of them.

The law of all of them: a right result, or exactly one of the library's own errors with one sentence; nothing executed,
nothing written. `FEW` inputs for each law run in `make test`, `MANY` in the slow tests.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from amc_lib.checkpoints import CheckpointError
from amc_lib.datasets.image_files import UnreadableImageError
from amc_lib.datasets.records import FARTHEST
from amc_lib.regions import Region
from amc_lib.tokens import clean

FEW, MANY = 15, 150
RUNS = pytest.mark.parametrize(
    "inputs", [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]
)
OWN = (ValueError, CheckpointError, UnreadableImageError)
LONGEST_SENTENCE = 1500  # characters, of which a path may take some hundreds


def drive(inputs: int, law: Callable[..., None], *strategies: st.SearchStrategy) -> None:
    """Put `inputs` drawn inputs to a law; the same ones every time."""
    profile = settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    profile(given(*strategies)(law))()


# ------------------------------------------------------------------------------------------------------------ outcomes


def outcome(call: Callable[[], Any], *names: object) -> tuple[Any, str]:
    """What a call returns and "", or None and the sentence of its error, which names one of `names`."""
    try:
        return call(), ""
    except OWN as error:
        assert type(error) in OWN, f"{type(error).__name__} from the depth: {error}"
        text = str(error)
    assert 0 < len(text) <= LONGEST_SENTENCE and text.isprintable(), text
    assert not names or any(str(name) in text for name in names), text
    return None, text


def check_region(region: Region, root: Path, boxed: bool = True) -> None:
    """A region as training and evaluation rely on."""
    assert region.boxes or not boxed
    for x1, y1, x2, y2 in region.boxes:
        assert x1 < x2 and y1 < y2
        assert all(type(edge) is float and math.isfinite(edge) and abs(edge) <= 2 * FARTHEST for edge in (x1, y1, x2))
    assert clean(region.phrase).encode() and region.id.encode() and region.image_id.encode()
    assert Path(os.path.normpath(region.image.path)).is_relative_to(root)


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Nothing below `folder` is written, changed or removed in the block."""
    before = _tree(folder)
    yield
    assert _tree(folder) == before


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    stats = {str(path): path.lstat() for path in folder.rglob("*")}
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


# -------------------------------------------------------------------------------------------------------------- damage

NASTY_TEXT = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "..",
        "../../../etc/passwd",
        "/etc/passwd",
        "C:\\x",
        "a/../b",
        "\ud800",
        "é",
        "\u200b",
        "x" * 20_000,
        *["a\nb", "\x1b[31m", "%s", "{}", "' OR 1", "NaN", "-", "1e400", "٣", "[/EN#1/other x]", "<a>&b;</a>"],
    ]
)
NOT_FINITE = (math.nan, math.inf, -math.inf)
NASTY_NUMBERS = st.sampled_from(
    [0, -1, 1, 2**31, 2**63, 2**64, 10**18, 10**400, -(10**400), 0.5, -0.0, 1e-320, 1e39, 1e308, -1e308, *NOT_FINITE]
)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    NASTY_NUMBERS,
    NASTY_TEXT,
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.lists(NASTY_NUMBERS, min_size=4, max_size=4),
    st.integers(1, 60).map(lambda depth: _nested(depth)),
)


def _nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """Bytes cut, flipped, moved about, overwritten, or in another encoding."""
    place = st.integers(0, max(len(data) - 1, 0))
    start, end = sorted((draw(place), draw(place)))
    junk = draw(st.binary(max_size=12))
    match draw(st.sampled_from(["cut", "flip", "drop", "double", "insert", "overwrite", "recode", "junk"])):
        case "cut":
            return data[:start]
        case "flip":
            other = bytearray(data)
            for at in draw(st.lists(place, min_size=1, max_size=4)):
                other[at] ^= 1 << draw(st.integers(0, 7))
            return bytes(other)
        case "drop":
            return data[:start] + data[end:]
        case "double":
            return data[:end] + data[start:]
        case "insert":
            return data[:start] + junk + data[start:]
        case "overwrite":
            return data[:start] + junk + data[start + len(junk) :]
        case "recode":
            text = data.decode("latin-1")
            return draw(
                st.sampled_from(
                    [
                        text.encode("utf-16"),
                        text.encode("utf-16-le"),
                        b"\xef\xbb\xbf" + data,
                        data.replace(b"a", b"\xe9"),
                        data.replace(b"a", b"\0"),
                        data.replace(b"1", "٣".encode()),
                    ]
                )
            )
    return junk


@st.composite
def mutated(draw, value: Any, junk: st.SearchStrategy = JUNK) -> Any:
    """A copy of nested lists and dictionaries with one to three places replaced, removed, renamed or repeated."""
    whole = [copy.deepcopy(value)]
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(st.sampled_from(list(_places(whole))))
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "repeat"])):
            case "remove" if parent is not whole:
                del parent[key]
            case "rename" if isinstance(parent, dict):
                parent[draw(NASTY_TEXT)] = parent.pop(key)
            case "repeat" if isinstance(parent, list) and parent is not whole:
                parent.insert(key, copy.deepcopy(parent[key]))
            case _:
                parent[key] = draw(junk)
    return whole[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield value, key
        if isinstance(item, list | dict):
            yield from _places(item)
