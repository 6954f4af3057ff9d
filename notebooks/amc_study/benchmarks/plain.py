"""The straightforward forms that speed is held against; the tests keep them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from amc_lib.files import ROOT

TESTS = ROOT / "tests"


def plain_form(name: str) -> ModuleType:
    """The module tests/NAME.py of the repository. Raises ValueError where the library stands without its tests."""
    if not (TESTS / f"{name}.py").is_file():
        raise ValueError(f"{TESTS / name}.py: missing; benchmarks compare with it and need a clone of the repository")
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    return importlib.import_module(name)
