"""From a fresh clone to the first figure: seconds of cloning, and of starting Python and drawing a heatmap."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from amc_lib.files import ROOT
from amc_study.benchmarks.plan import Plan
from amc_study.benchmarks.rows import Row, row

FIRST_FIGURE = """
import sys
from amc_lib import Grounder
from amc_study.scenes import scene as scenes
from amc_lib.presets import preset

scene = scenes.draw(preset("scenes").scenes, "phrases", 0)
Grounder.load().ground(scene.image, scene.regions[0].phrase).overlay().save(sys.argv[1])
"""  # one phrase asked of one scene by the shipped checkpoint: the heatmap over the picture


def first_figure_rows(plan: Plan) -> list[Row]:
    """Both times; the environment is installed already. None where git cannot clone, or without own processes."""
    if not plan.own_processes:
        return []
    with tempfile.TemporaryDirectory() as folder:
        clone, figure = Path(folder) / "clone", Path(folder) / "first.png"
        command = ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)]
        try:
            cloning = _seconds(command, ROOT)
        except (OSError, subprocess.CalledProcessError):
            print("this is no git clone: the seconds to the first figure are not measured")
            return []
        drawing = _seconds([sys.executable, "-c", FIRST_FIGURE, str(figure)], clone)
        if not figure.is_file():
            raise RuntimeError("the clone drew no figure")
    return [
        row("clone_seconds", cloning, "s"),
        row("clone_to_first_figure_seconds", cloning + drawing, "s, without installation"),
    ]


def _seconds(command: list[str], folder: Path) -> float:
    begin = time.perf_counter()
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, check=True, capture_output=True)
    return time.perf_counter() - begin
