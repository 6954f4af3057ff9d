"""Training: `train` runs one stage."""

from amc_lib.train.log import History
from amc_lib.train.loop import set_seed, train
from amc_lib.train.schedule import alpha_at, learning_rate, parameter_groups
from amc_lib.train.snapshots import Snapshots
from amc_lib.train.watch import DivergedError

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
