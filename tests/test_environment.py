"""environment.yml (conda) must install exactly what pyproject.toml pins, and every pin must be what runs here."""

import re
import tomllib
from importlib import metadata

import pytest
import yaml

from amc_lib.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
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
