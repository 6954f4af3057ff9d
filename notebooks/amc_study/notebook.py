"""What every notebook does first: take its parameters, refuse wrong ones, say which versions run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import torch
import transformers

import amc_lib
from amc_lib.parameters import notebook_parameters
from amc_lib.presets import preset


def start(namespace: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """The parameters that a notebook's first cell set (`namespace` is its `globals()`), `known` their names.

    Raises ValueError with one sentence for a name that is not known or a tier that is not there.
    """
    parameters = notebook_parameters(namespace, " ".join(known).split())
    if "tier" in parameters:
        preset(parameters["tier"])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    print(
        f"amc_lib {amc_lib.__version__}, torch {torch.__version__}, transformers {transformers.__version__}, {device}"
    )
    return parameters


def launch_hint(parameters: Mapping[str, Any]) -> str:
    """How to start what 03 does on several devices: the same code with the same parameters, without the notebook."""
    given = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in parameters.items() if value is not None)
    return f"On several GPUs or machines: accelerate launch -m amc_lib.train {given}"
