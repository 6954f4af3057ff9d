"""Two processes with parts of a batch are one process with the whole: losses, gradients, queues."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from reference_cases import TINY_AMC, TINY_OBJECTIVE, tiny_batch, tiny_model
from resumable import fork_server, join_all
from torch.nn.parallel import DistributedDataParallel

from amc_lib.config import Settings, TrainingSettings
from amc_lib.distributed import gather_rows, mean_weights
from amc_lib.presets import preset
from amc_lib.step import Batch
from amc_lib.train.loop import TrainingStep

SIZES = (3, 2)  # phrases of each rank: not equal, so that every mean must be weighted
ALPHA = 0.3


def settings(model) -> Settings:
    training = TrainingSettings(batch_size=5)
    return replace(
        preset("paper"), model=model, objective=TINY_OBJECTIVE, amc=TINY_AMC, pretraining=training, finetuning=training
    )


def whole_batch() -> tuple[Batch, tuple[torch.Tensor, torch.Tensor]]:
    """Five phrases, one of them with no box and one with two labels, and negatives inside each rank's part."""
    batch = tiny_batch(sum(SIZES))
    batch.has_box[1] = False
    batch.mlm_labels[0, 2] = batch.input_ids[0, 2]
    return batch, (torch.tensor([1, 2, 0, 4, 3]), torch.tensor([2, 0, 1, 4, 3]))


def part(batch: Batch, rank: int) -> Batch:
    first = sum(SIZES[:rank])
    rows = slice(first, first + SIZES[rank])
    taken = {name: tensor[rows] if tensor.ndim else tensor for name, tensor in vars(batch).items()}
    return Batch(**taken | {"image_rows": torch.arange(SIZES[rank])})


def step(batch: Batch, negatives, wrap=lambda module: module) -> dict[str, torch.Tensor]:
    """Losses, gradients and what the step leaves in the queues."""
    model = tiny_model()
    module = wrap(TrainingStep(model, settings(model.settings)))
    losses = module(batch, alpha=ALPHA, negatives=negatives)
    losses.total.backward()
    gradients = {f"grad/{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    values = {name: loss.detach() for name, loss in vars(losses).items()}
    return values | gradients | {"queue": model.image_queue, "pointer": model.queue_ptr_txt}


def on_one(folder: Path, rank: int) -> None:
    """What each process runs: the step on its part, whose results it leaves in `folder`."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=len(SIZES))
    batch, negatives = whole_batch()
    first = sum(SIZES[:rank])
    own = tuple(rows[first : first + SIZES[rank]] - first for rows in negatives)
    outcome = step(part(batch, rank), own, lambda m: DistributedDataParallel(m, find_unused_parameters=True))
    torch.save(outcome, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, torch.Tensor]]:
    """The results of each of two processes."""
    folder, server = tmp_path_factory.mktemp("ranks"), fork_server()
    processes = [server.Process(target=on_one, args=(folder, rank)) for rank in range(len(SIZES))]
    for process in processes:
        process.start()
    join_all(processes)
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
