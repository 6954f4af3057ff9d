"""What several test files ask: a checkpoint of random weights, written once a file, and its grounder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from amc_lib import Grounder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    from tiny_grounder import tiny_checkpoint  # here, so that tests without a model need not wait for torch

    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="module")
def grounder(tiny_folder) -> Grounder:
    from amc_lib import Grounder

    return Grounder.load(tiny_folder)
