"""Training: `train` runs one stage; `python -m amc_lib.training` finetunes without a notebook."""

from amc_lib.training.log import History
from amc_lib.training.loop import set_seed, train
from amc_lib.training.schedule import alpha_at, learning_rate, parameter_groups
from amc_lib.training.snapshots import Snapshots
from amc_lib.training.watch import DivergedError

__all__ = [
    "DivergedError",
    "History",
    "Snapshots",
    "alpha_at",
    "learning_rate",
    "parameter_groups",
    "set_seed",
    "train",
]
