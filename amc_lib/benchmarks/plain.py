"""The straightforward forms that speed is held against; the tests keep them."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from amc_lib.provenance import ROOT


def plain_form(name: str) -> ModuleType:
    """The module tests/NAME.py of the repository. Raises ValueError where the library stands without its tests."""
    if name in sys.modules:
        return sys.modules[name]
    path = ROOT / "tests" / f"{name}.py"
    if not path.is_file():
        raise ValueError(f"{path}: missing; benchmarks compare with it and need a clone of the repository")
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
