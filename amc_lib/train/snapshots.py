"""Snapshots: the states that a run leaves as it goes, so that it can be killed at any moment and goes on unharmed.

A snapshot is a folder `step-0000150` of safetensors files ("parts": the model, the optimizer, and the random states of
each process), run.json (where the run stands, and which run it is) and manifest.json, which is written last and holds
the hash of every other file. Without it, or with another hash, a folder is passed over for the snapshot before it. The
last `KEPT` are kept; all of them go when the run is finished. Nothing in them is executed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from safetensors.torch import load_file, save
from torch import Tensor

from amc_lib.distributed import process_state
from amc_lib.files import json_bytes, plain, sha256_of, write_bytes
from amc_lib.model import ALBEF
from amc_lib.official import FROZEN, untied_state
from amc_lib.train.log import Log

RUN, MANIFEST = "run.json", "manifest.json"
KEPT = 2
Parts = Mapping[str, Mapping[str, Tensor]]  # tensors by name, by the name of their part


@dataclass(frozen=True)
class Snapshot:
    folder: Path
    progress: dict[str, Any]  # where the run stood, as given to `Snapshots.write`
    continued_at: list[int]  # updates at which the run had been taken up again

    def part(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")


@dataclass
class TrainingState:
    """All that changes from one update to the next, on one process, as the parts of a snapshot and back.

    The place in the schedule and among the batches follows from the number of updates, the phrases of an image from
    (seed, epoch, row).
    """

    model: ALBEF
    optimizer: torch.optim.Optimizer
    generator: torch.Generator  # of the negatives
    log: Log
    process: int

    def keep(self, snapshots: Snapshots | None) -> None:
        """Leave a snapshot: tensors on the CPU; the first process has those that are the same on all of them."""
        if snapshots is None:
            return
        states = {"random": torch.get_rng_state(), "generator": self.generator.get_state()}  # random: dropout
        if self.generator.device.type != "cpu":
            states["device_random"] = torch.get_device_module(self.generator.device).get_rng_state()
        parts = {f"process-{self.process}": states | self.log.tensors()}
        if self.process == 0:
            moments = self.optimizer.state_dict()["state"].items()  # of AdamW; the rate is set anew at every update
            parts["model"] = untied_state(self.model, *FROZEN)
            parts["optimizer"] = {f"{i}.{name}": t for i, tensors in moments for name, t in tensors.items()}
        on_cpu = {
            part: {n: t.detach().cpu().contiguous() for n, t in tensors.items()} for part, tensors in parts.items()
        }
        snapshots.write(self.log.progress(), on_cpu)

    def restore(self, snapshot: Snapshot) -> None:
        """Take the snapshot's values. Raises ValueError if it does not fit the model."""
        states, weights = snapshot.part(f"process-{self.process}"), snapshot.part("model")
        ours = untied_state(self.model, *FROZEN)
        if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in ours.items()}:
            raise ValueError(f"{snapshot.folder}: does not fit the model as it is built now; delete it to start over")
        self.model.load_state_dict(weights, strict=False)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in snapshot.part("optimizer").items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.log.restore(snapshot.progress, states)
        torch.set_rng_state(states["random"])
        self.generator.set_state(states["generator"])
        if "device_random" in states:
            torch.get_device_module(self.generator.device).set_rng_state(states["device_random"])


class Snapshots:
    """The snapshots of one run, in a folder that all its processes see. `identity` tells the run from others."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, plain(identity)
        self.continued_at: list[int] = []  # updates at which the run was taken up again
        self.earlier_seconds = 0.0  # of training, before this process took it up

    def newest(self, **more_identity: Any) -> Snapshot | None:
        """The newest whole snapshot, the same on every process, or None; the first process says what is damaged.

        Raises ValueError if it is of a run with another identity, and then changes nothing.
        """
        self.identity |= plain(more_identity)
        (snapshot,) = broadcast_object_list([self._choose() if process_state().is_main_process else None])
        if isinstance(snapshot, ValueError):
            raise snapshot
        if snapshot is not None:
            self.continued_at = [*snapshot.continued_at, snapshot.progress["step"]]
            self.earlier_seconds = snapshot.progress["seconds"]
        return snapshot

    def write(self, progress: Mapping[str, Any], parts: Parts) -> None:
        """Write the parts of this process; when all processes have, the first makes it a snapshot.

        `progress` is JSON-ready, with `step` and `seconds`. A full disk or a folder that is not writable is reported,
        and the older snapshots stay.
        """
        folder, main = self.folder / f"step-{progress['step']:07d}", process_state().is_main_process
        contents = {f"{name}.safetensors": save(dict(tensors)) for name, tensors in parts.items()}
        if main:
            run = {"identity": self.identity, "progress": progress, "continued_at": self.continued_at}
            contents[RUN] = json_bytes(plain(run))
        written = gather_object([_write(folder, contents)])
        if not main:
            return
        try:
            if problems := [result for result in written if isinstance(result, OSError)]:
                raise problems[0]
            hashes = {name: digest for files in written for name, digest in files.items()}
            write_bytes(folder / MANIFEST, json_bytes(hashes))
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            print(f"{folder}: the snapshot was not written ({error}); training goes on without it", flush=True)
        for old in [old for old in self._folders() if (old / MANIFEST).is_file()][KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def remove(self) -> None:
        """Delete all snapshots, and the files that name batches: the run is finished."""
        if process_state().is_main_process:
            shutil.rmtree(self.folder, ignore_errors=True)
            for path in self.folder.parent.glob("diverged-*.json"):
                path.unlink(missing_ok=True)

    def _choose(self) -> Snapshot | ValueError | None:
        """The newest whole snapshot; damaged and unfinished ones above it are named and deleted."""
        damaged, chosen = [], None
        for folder in self._folders():
            if problem := _damage(folder):
                print(f"{problem}; the snapshot before it is used, if there is one", flush=True)
                damaged.append(folder)
                continue
            run = json.loads((folder / RUN).read_text(encoding="utf-8"))
            if other := [name for name in self.identity if run["identity"].get(name) != self.identity[name]]:
                what = f"is of an unfinished run with other settings ({', '.join(other)})"
                return ValueError(f"{folder}: {what}; name another output or delete it")
            chosen = Snapshot(folder, run["progress"], run["continued_at"])
            break
        for folder in damaged:
            shutil.rmtree(folder, ignore_errors=True)
        return chosen

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def _write(folder: Path, contents: Mapping[str, bytes]) -> dict[str, str] | OSError:
    """The hashes of the written files by name, or the reason why they could not be written."""
    try:
        for name, data in contents.items():
            write_bytes(folder / name, data)
    except OSError as error:
        return error
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def _damage(folder: Path) -> str | None:
    """A sentence about what is wrong with a snapshot's files, None if they have the manifest's hashes."""
    if not (folder / MANIFEST).is_file():
        return f"{folder}: was not written to its end"
    try:
        for name, digest in json.loads((folder / MANIFEST).read_text(encoding="utf-8")).items():
            if sha256_of(folder / name) != digest:
                return f"{folder / name}: is damaged (its hash is not the one in {MANIFEST})"
    except (AttributeError, OSError, ValueError) as error:
        return f"{folder}: is damaged ({error})"
    return None
