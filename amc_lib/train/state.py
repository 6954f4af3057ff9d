"""The state of training: all that changes from one update to the next, as the parts of a snapshot and back.

The place in the schedule and among the batches follows from the number of updates alone, and the phrases of an image
from (seed, epoch, row); Python's and numpy's global random states are not used in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amc_lib.model import ALBEF
from amc_lib.official import TWINS
from amc_lib.train.log import Log
from amc_lib.train.snapshots import Parts, Snapshot


@dataclass
class TrainingState:
    """Weights (online and momentum) with queues, optimizer, random states and history of one process of a run."""

    model: ALBEF
    optimizer: torch.optim.Optimizer
    generator: torch.Generator  # of the negatives
    log: Log
    process: int

    def parts(self) -> Parts:
        """Tensors on the CPU by part; the first process has those that are the same on all of them."""
        states = {"random": torch.get_rng_state(), "generator": self.generator.get_state()}  # random: dropout
        if self.generator.device.type != "cpu":
            states["device_random"] = torch.get_device_module(self.generator.device).get_rng_state()
        parts = {f"process-{self.process}": states | self.log.tensors()}
        if self.process == 0:
            moments = self.optimizer.state_dict()["state"].items()  # of AdamW; the rate is set anew at every update
            parts["model"] = self._weights()
            parts["optimizer"] = {f"{i}.{name}": t for i, tensors in moments for name, t in tensors.items()}
        return {
            part: {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            for part, tensors in parts.items()
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Take the snapshot's values. Raises ValueError if it does not fit the model."""
        states, weights = snapshot.part(f"process-{self.process}"), snapshot.part("model")
        if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in self._weights().items()}:
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

    def _weights(self) -> dict[str, Tensor]:
        """Both models, with queues and pointers; neither the frozen trunk nor tensors tied to others."""
        state = self.model.state_dict().items()
        return {name: t for name, t in state if not name.startswith("trunk.") and not name.endswith(tuple(TWINS))}
