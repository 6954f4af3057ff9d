"""Two processes with parts of a batch are one process with the whole: losses, gradients, queues."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_processes import SIZES, step, whole_batch

from amc_lib.distributed import gather_rows, mean_weights

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, torch.Tensor]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(SIZES)}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    done = subprocess.run(
        [*command, str(HERE / "two_processes.py"), str(folder)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(len(SIZES))]


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    return step(*whole_batch())


@pytest.mark.parametrize("name", ["mlm", "itc", "itm", "amc"])
def test_losses_average_to_those_of_one_process(ranks, alone, name):
    values = [found[name].item() for found in ranks]
    assert values[0] != pytest.approx(values[1], abs=1e-3)  # the parts differ, or nothing would be shown
    assert sum(values) / len(values) == pytest.approx(alone[name].item(), abs=1e-9)


def test_gradients_are_those_of_one_process(ranks, alone):
    names = [name for name in alone if name.startswith("grad/")]
    assert len(names) > 50
    for name in names:
        for found in ranks:
            torch.testing.assert_close(found[name], alone[name], rtol=1e-7, atol=1e-9, msg=name)


def test_queues_hold_the_features_of_all(ranks, alone):
    for found in ranks:
        torch.testing.assert_close(found["queue"], alone["queue"])
        assert found["pointer"].item() == alone["pointer"].item() == sum(SIZES)


def test_one_process_is_left_as_it_is():
    rows = torch.randn(3, 2, requires_grad=True)
    gathered, first = gather_rows(rows)
    assert gathered.equal(rows) and not gathered.requires_grad and first == 0
    assert mean_weights(torch.tensor([0, 5])) == [1, 1]
