"""Training: `train` runs one stage; `python -m amc_lib.training` finetunes without a notebook."""

from amc_lib.training.loop import DivergedError, History, set_seed, train
from amc_lib.training.schedule import alpha_at, learning_rate, parameter_groups

__all__ = ["DivergedError", "History", "alpha_at", "learning_rate", "parameter_groups", "set_seed", "train"]
