"""Imports inside amc_lib go downwards only, and none leaves it for the study or a plotting library."""

from __future__ import annotations

import ast

import pytest

from amc_lib.files import ROOT

LAYERS = (  # at the top of a file, each may import from itself and from those before it
    "files config",
    "presets parameters tokens regions",
    "model",
    "gradcam losses",
    "data step distributed",
    "evaluate",
    "official checkpoints",
    "train",
    "datasets",
    "phrases pictures",
    "overlay grounding grounder",
    "score",
    "__init__ __main__",
    "page",
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "amc_lib").rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_down(module):
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    part = module.parts[1].removesuffix(".py")
    barred = {"amc_study", "matplotlib", "seaborn"} | (set() if part == "datasets" else {"pandas"})
    assert not barred & {name.partition(".")[0] for name in imported(ast.walk(tree))}
    own = [name.split(".")[1] for name in imported(tree.body) if name.startswith("amc_lib.")]
    assert not [name for name in own if LEVEL.get(name, 0) > LEVEL[part]]


def imported(nodes) -> list[str]:
    nodes = list(nodes)
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + [f"{node.module}.{a.name}" for node in nodes if isinstance(node, ast.ImportFrom) for a in node.names]
