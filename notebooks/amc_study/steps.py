"""A step of the study: one execution of a notebook or a module, and the key of all that its result depends on."""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amc_lib.files import ROOT
from amc_study.scenes.cache import fingerprint


@dataclass(frozen=True)
class Step:
    """One execution of a notebook or a module; `after` names the steps whose results it reads."""

    name: str
    what: str  # "03_train.ipynb" or "amc_study.report"
    parameters: dict[str, Any] = field(default_factory=dict)  # of a notebook: -p name value; of a module: --name value
    after: tuple[str, ...] = ()
    on_all_devices: bool = False
    sources: tuple[str, ...] = ()  # further arguments of a module

    def key(self, keys: dict[str, str]) -> str:
        """Hash of all that the result depends on; `keys` are those of the steps before."""
        source = f"import {self.what}"
        if self.what.endswith(".ipynb"):
            cells = json.loads((ROOT / "notebooks" / self.what).read_text(encoding="utf-8"))["cells"]
            source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        before = [keys[name] for name in self.after]
        code = sorted(path.relative_to(ROOT).as_posix() for path in imported_files(source))
        return fingerprint([self.parameters, self.sources, before, source], code)

    def command(self, home: Path) -> list[str]:
        dash = "-p {}" if self.what.endswith(".ipynb") else "--{}"
        options = [part for name, value in self.parameters.items() for part in (*dash.format(name).split(), str(value))]
        if self.what.endswith(".ipynb"):
            quiet = ["--no-progress-bar", "--log-level", "ERROR", "--stdout-file", "-"]  # what cells print, and no more
            files = [str(ROOT / "notebooks" / self.what), str(home / "notebooks" / f"{self.name}.ipynb")]
            return [sys.executable, "-m", "papermill", *quiet, *files, "--cwd", str(ROOT), *options]
        launch = ["-m", "accelerate.commands.launch"] if self.on_all_devices else []
        return [sys.executable, *launch, "-m", self.what, *options, *self.sources]


def imported_files(source: str) -> set[Path]:
    """This repository's modules that Python source imports, what they import in turn, and tables beside them."""
    found: set[Path] = set()
    waiting = [source]
    while waiting:
        names: set[str] = set()
        for node in ast.walk(ast.parse(waiting.pop())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        places = [base / name.replace(".", "/") for name in names for base in (ROOT, ROOT / "notebooks")]
        files = [path for at in places for path in (at.with_suffix(".py"), at / "__init__.py", at / "__main__.py")]
        for path in {path for path in files if path.is_file()} - found:
            found |= {path, *path.parent.glob("*.csv"), *path.parent.glob("*.j2")}
            waiting.append(path.read_text(encoding="utf-8"))
    return found
