"""The first cell of every notebook: its parameters checked, the versions that run, and the folder for its results."""

from __future__ import annotations

import ast
import shlex
import types
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from traceback import extract_tb
from typing import Any

from IPython import get_ipython

import amc_lib
from amc_lib.files import ROOT
from amc_lib.parameters import unknown_name
from amc_lib.presets import preset

NAMES = ("albef", "amc", "vmrm", "blip", "init", "output", "runs", "figures", "csv", "images", "beside", "proposals")
NAMES += ("only",)  # texts, all of them
COUNTS = ("seeds", "pictures", "scenes")
LIBRARIES = tuple(str(ROOT / folder) for folder in ("amc_lib", "notebooks/amc_study"))


def start(namespace: dict[str, Any], *known: str) -> dict[str, Any]:
    """The parameters set by the cell above; `namespace` is the notebook's `globals()`, `known` holds their names.

    papermill turns `-p output 2024` into a number: names of folders and files become text again, also in `namespace`
    (what it read as another number, as 007 or 1e3, stays that).
    Raises ValueError with one sentence for a name that papermill added and the notebook does not know, an unknown tier
    or a wrong type. From here on such sentences of the library are shown without its frames.
    """
    known = " ".join(known).split()
    if (shell := get_ipython()) is not None:
        shell.set_custom_exc((ValueError, RuntimeError), _without_library_frames)
    cells = namespace.get("In", [])
    for name in _assigned(next((cell for cell in reversed(cells) if cell.startswith("# Parameters")), "")):
        if name not in known:
            raise ValueError(unknown_name(name, known))
    defaults = _assigned(next((cell for cell in reversed(cells) if cell.startswith("tier =")), ""))
    for name in known:
        if name not in namespace:
            raise ValueError(f"{name} is not set: the first cell must give it a value")
        namespace[name] = _checked(name, namespace[name], defaults.get(name))
    print(f"amc_lib {amc_lib.__version__}, torch {version('torch')}, tokenizers {version('tokenizers')}")
    return {name: namespace[name] for name in known}


def figures_folder(figures: str | None, tier: str) -> Path:
    """The folder for tables and pictures: `figures` (relative to the repository) or, by default, runs/figures.

    What is published stands in figures/, which `make study-full` alone writes. Other tiers than scenes have a folder
    of their own in it.
    """
    folder = ROOT / Path(figures or "runs/figures").expanduser()
    return folder if tier == "scenes" else folder / tier


def pictures_folder(results: Path, tier: str) -> Path:
    """The folder below `results` for what shows pictures: that itself, or `local`, which git ignores.

    The photographs of the other tiers than scenes belong to their makers: nothing drawn from one is published.
    """
    return results if tier == "scenes" else results / "local"


def launch_hint(parameters: Mapping[str, Any]) -> str:
    """How to start what 03 does on several devices: the same code with the same parameters, without the notebook."""
    given = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in parameters.items() if value is not None)
    return f"On several GPUs or machines: accelerate launch -m amc_study.finetune {given}"


def _assigned(cell: str) -> dict[str, Any]:
    """Names that a cell of IPython's history assigns, papermill's or the notebook's own, and the values if constant."""
    assigned = {}
    for node in ast.parse(cell).body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Name):
                assigned[target.id] = node.value.value if isinstance(node.value, ast.Constant) else None
    return assigned


def _checked(name: str, value: Any, default: Any) -> Any:
    """The value, text where it names something. default: the notebook's own, None where that is not known."""
    if name == "tier":
        preset(value)
    if value is None and default is not None:
        raise ValueError(f"{name} must have a value (the notebook's own is {default!r})")
    if isinstance(default, bool) and not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r:.80}")
    if name in NAMES and value is not None:
        if not isinstance(value, str | int | float | Path):
            raise ValueError(f"{name} must be a name or a path, got {value!r:.80}")
        return str(value)
    if name in COUNTS and value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r:.80}")
    return value


def _without_library_frames(shell: Any, kind: type, error: Exception, frames: types.TracebackType, **_: Any) -> None:
    """Show an error that this library has raised with the cell's line alone, and any other in full."""
    cell, deepest = frames.tb_next or frames, extract_tb(frames)[-1]
    if deepest.filename.startswith(LIBRARIES) and deepest.line.startswith("raise"):
        error.__cause__, error.__suppress_context__ = None, True
        frames = types.TracebackType(None, cell.tb_frame, cell.tb_lasti, cell.tb_lineno)
    shell.showtraceback((kind, error, frames), tb_offset=0)
