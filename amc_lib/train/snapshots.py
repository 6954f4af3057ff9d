"""Snapshots: what a run leaves as it goes, so that it can be killed at any moment and goes on as if it had not been.

A snapshot is a folder `step-0000150` of safetensors files ("parts": the model, the optimizer, and what each process has
of its own) and snapshot.json, which is written last and holds where the run stands, whose run it is, and the hash of
every part and of itself. Without that file, or with another hash, a folder is no snapshot and the one before it is
used. The last `KEPT` are kept; all of them go when the run is finished.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm.auto import tqdm

from amc_lib.distributed import process_state
from amc_lib.files import plain, sha256_of, write_bytes, write_json

DESCRIPTION = "snapshot.json"
KEPT = 2
Parts = Mapping[str, Mapping[str, Tensor]]  # tensors by name, by the name of their part


class DamagedError(ValueError):
    """A snapshot that is not whole; the sentence begins with the file."""


@dataclass(frozen=True)
class Snapshot:
    folder: Path
    progress: dict[str, Any]  # where the run stood, as `Snapshots.write` was told
    account: dict[str, Any]  # as `Snapshots.account` gave it

    def part(self, name: str) -> dict[str, Tensor]:
        return load_file(_file(self.folder, name))


class Snapshots:
    """The snapshots of one run, in a folder that all its processes see. `identity` tells the run from others."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, plain(identity)
        self.continued_at: list[int] = []  # updates at which the run was taken up again
        self.unwritten = 0  # snapshots that the disk did not take
        self.earlier_seconds = 0.0  # of training, before this process took it up

    def newest(self, **more_identity: Any) -> Snapshot | None:
        """The newest whole snapshot, the same on every process, or None; the first process says what is damaged.

        Raises ValueError if it is of a run with another identity, and then changes nothing.
        """
        self.identity |= plain(more_identity)
        found = [self._choose() if process_state().is_main_process else None]
        (snapshot,) = broadcast_object_list(found)
        if isinstance(snapshot, ValueError):
            raise snapshot
        if snapshot is not None:
            self.continued_at = [*snapshot.account["continued_at"], snapshot.progress["step"]]
            self.unwritten = snapshot.account["unwritten_snapshots"]
            self.earlier_seconds = snapshot.progress["seconds"]
        return snapshot

    def account(self) -> dict[str, Any]:
        """What stands in the provenance of a finished run."""
        return {"continued_at": self.continued_at, "unwritten_snapshots": self.unwritten}

    def diverged_file(self, process: int) -> Path:
        """Where the batch of a loss that is not finite is named."""
        return self.folder.with_name(f"diverged-{process}.json")

    def write(self, progress: Mapping[str, Any], parts: Parts) -> None:
        """Write what this process has; when all processes have, the first makes it a snapshot.

        `progress` is JSON-ready, with `step` and `seconds`. A full disk or a folder that is not writable is said and
        counted, and the older snapshots stay.
        """
        folder = self.folder / f"step-{progress['step']:07d}"
        written = gather_object([_write_parts(folder, parts)])
        if not process_state().is_main_process:
            return
        problem = next((result for result in written if isinstance(result, str)), None)
        problem = problem or self._complete(folder, progress, written)
        if problem:
            self.unwritten += 1
            shutil.rmtree(folder, ignore_errors=True)
            tqdm.write(f"{folder}: the snapshot was not written ({problem}); training goes on without it")

    def remove(self) -> None:
        """Delete all snapshots, and what was written about a batch that once stopped the run: it is finished."""
        if process_state().is_main_process:
            shutil.rmtree(self.folder, ignore_errors=True)
            for path in self.folder.parent.glob("diverged-*.json"):
                path.unlink(missing_ok=True)

    def _complete(self, folder: Path, progress: Mapping[str, Any], written: list[dict[str, str]]) -> str | None:
        """Write the description, delete the snapshots that are now too old; or the reason why not."""
        hashes = {name: digest for of_process in written for name, digest in of_process.items()}
        content = {"identity": self.identity, "parts": hashes, "progress": plain(progress), "account": self.account()}
        try:
            write_json(folder / DESCRIPTION, content | {"sha256": _digest(content)})
        except OSError as error:
            return str(error)
        written_to_their_end = [old for old in self._folders() if (old / DESCRIPTION).is_file()]
        for old in written_to_their_end[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        return None

    def _choose(self) -> Snapshot | ValueError | None:
        """The newest whole snapshot; damaged and unfinished ones above it are named and deleted."""
        damaged: list[Path] = []
        chosen = None
        for folder in self._folders():
            try:
                content = _read(folder)
            except DamagedError as error:
                tqdm.write(f"{error}; the snapshot before it is used, if there is one")
                damaged.append(folder)
                continue
            if content["identity"] != self.identity:
                what = ", ".join(name for name in self.identity if content["identity"].get(name) != self.identity[name])
                return ValueError(
                    f"{folder}: is of an unfinished run with other settings ({what}); name another output or delete it"
                )
            chosen = Snapshot(folder, content["progress"], content["account"])
            break
        for folder in damaged:
            shutil.rmtree(folder, ignore_errors=True)
        return chosen

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def _write_parts(folder: Path, parts: Parts) -> dict[str, str] | str:
    """The hashes of the written parts, or the reason why they could not be written."""
    hashes = {}
    try:
        for name, tensors in parts.items():
            data = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
            write_bytes(_file(folder, name), data)
            hashes[name] = hashlib.sha256(data).hexdigest()
    except OSError as error:
        return str(error)
    return hashes


def _read(folder: Path) -> dict[str, Any]:
    """The content of a snapshot's description after all hashes were compared. Raises DamagedError."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise DamagedError(f"{folder}: was not written to its end")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = content.pop("sha256") == _digest(content)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise DamagedError(f"{path}: is damaged (its content does not have the hash that it names)")
    for name, digest in content["parts"].items():
        file = _file(folder, name)
        if not file.is_file() or sha256_of(file) != digest:
            raise DamagedError(f"{file}: is damaged (its hash is not the one in {DESCRIPTION})")
    return content


def _file(folder: Path, part: str) -> Path:
    return folder / f"{part}.safetensors"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
