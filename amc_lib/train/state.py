"""All that changes from one update to the next, as the parts of a snapshot and back.

The place in the schedule and among the batches follows from the number of updates alone, and a visit to an image from
(seed, epoch, row); Python's and numpy's global random states are not used in training.
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
        """The first process has what is the same on all of them."""
        own = {f"process-{self.process}": random_states(self.generator) | self.log.tensors()}
        if self.process:
            return own
        return {"model": model_tensors(self.model), "optimizer": moments(self.optimizer)} | own

    def restore(self, snapshot: Snapshot) -> None:
        """Become what the snapshot holds. Raises ValueError if it does not fit the model."""
        own, weights = snapshot.part(f"process-{self.process}"), snapshot.part("model")
        if shapes(weights) != shapes(model_tensors(self.model)):
            raise ValueError(f"{snapshot.folder}: does not fit the model as it is built now; delete it to start over")
        self.model.load_state_dict(weights, strict=False)
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in snapshot.part("optimizer").items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.log.restore(snapshot.progress, own)
        restore_random_states(self.generator, own)


def model_tensors(model: ALBEF) -> dict[str, Tensor]:
    """Of both models, with queues and pointers; neither the frozen trunk nor tensors tied to others."""
    state = model.state_dict()
    return {name: t for name, t in state.items() if not name.startswith("trunk.") and not name.endswith(tuple(TWINS))}


def shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state as "index of the parameter.name of the tensor"; the rate is set anew at every update."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, tensors in state.items() for name, tensor in tensors.items()}


def random_states(generator: torch.Generator) -> dict[str, Tensor]:
    """torch's global states (dropout), on an accelerator also its own, and the loop's generator; uint8."""
    device = generator.device
    of_device = {} if device.type == "cpu" else {"device_random": torch.get_device_module(device).get_rng_state()}
    return {"random": torch.get_rng_state(), "generator": generator.get_state()} | of_device


def restore_random_states(generator: torch.Generator, states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["random"])
    generator.set_state(states["generator"])
    if "device_random" in states:
        torch.get_device_module(generator.device).set_rng_state(states["device_random"])
