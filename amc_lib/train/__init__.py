"""Training: `train` runs one stage of it, on one device or several, and goes on from the snapshots of a killed run."""

from amc_lib.train.log import History
from amc_lib.train.loop import DivergedError, train
from amc_lib.train.schedule import alpha_at, learning_rate, parameter_groups
from amc_lib.train.snapshots import Snapshots

__all__ = ["DivergedError", "History", "Snapshots", "alpha_at", "learning_rate", "parameter_groups", "train"]
