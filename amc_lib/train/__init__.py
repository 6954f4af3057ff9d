"""Training: `train` runs one stage of it, on one device or several, and goes on from the snapshots of a killed run."""

from amc_lib.train.log import History
from amc_lib.train.loop import DivergedError, learning_rate, loss_options, parameter_groups, train
from amc_lib.train.snapshots import Snapshots

__all__ = ["DivergedError", "History", "Snapshots", "learning_rate", "loss_options", "parameter_groups", "train"]
