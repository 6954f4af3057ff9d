"""environment.yml (conda) must install what pyproject.toml pins, every pin be what runs here, a wheel be whole."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml

from amc_lib.files import ROOT
from amc_lib.grounder import Grounder

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
PINS = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


def conda_dependencies() -> tuple[list[str], list[str]]:
    """The conda packages and the pip requirements of environment.yml."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    conda = [entry for entry in entries if isinstance(entry, str)]
    (pip_section,) = (entry["pip"] for entry in entries if isinstance(entry, dict))
    return conda, pip_section


def test_conda_environment_repeats_the_pins():
    _, pip_section = conda_dependencies()
    assert pip_section[-1] == "--editable ."
    assert sorted(pip_section[:-1]) == sorted(PINS)


def test_conda_python_is_one_the_project_accepts():
    conda, _ = conda_dependencies()
    assert PROJECT["requires-python"] == ">=3.11"
    assert "python=3.11" in conda and "pip" in conda


@pytest.mark.parametrize("pin", PINS)
def test_pin_is_exact_and_installed(pin):
    name, version = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", pin).groups()
    assert metadata.version(name).partition("+")[0] == version


def test_wheel_holds_every_package():
    homes = {"amc_lib": ROOT / "amc_lib", "amc_study": ROOT / "notebooks" / "amc_study"}
    found = {
        ".".join((name, *path.parent.relative_to(home).parts))
        for name, home in homes.items()
        for path in home.rglob("*.py")
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found | {"amc_lib.shipped"}


def test_installed_wheel_answers_in_any_folder(tmp_path):
    """Without this repository: what `pip install` leaves brings its weights along."""
    source, installed = tmp_path / "source", tmp_path / "installed"
    for folder in ("amc_lib", "notebooks/amc_study", "data/checkpoints", "data/photographs"):
        shutil.copytree(ROOT / folder, source / folder)
    for file in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(installed), str(source)], check=True, timeout=300)
    shutil.rmtree(source)
    asked = [sys.executable, "-m", "amc_lib", str(ROOT / "data" / "photographs" / "officer.jpg"), "her glasses"]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert "'her glasses' is at x " in done.stdout, done.stderr
    x, y = map(int, re.search(r"at x (\d+), y (\d+)", done.stdout).groups())
    assert (x, y) == Grounder.load().ground(ROOT / "data" / "photographs" / "officer.jpg", "her glasses").point
