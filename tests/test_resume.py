"""A run that is killed (SIGKILL) at any moment and started again ends with the bits of one that was not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import resumable
from resumable import UPDATES, Harm, Processes, continued_at, outcome

KILLED, FAILED = -9, 1


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> Processes:
    return Processes(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def undisturbed(processes) -> dict:
    folder = processes.home / "undisturbed"
    assert processes.train(folder) == 0, processes.printed()[-2000:]
    return outcome(folder)


def killed_and_continued(processes: Processes, folder: Path, moments: list[Harm], **training) -> str:
    """What was printed by a run that is killed at each of `moments` and then ends."""
    processes.printed()
    for harm in moments:
        assert processes.train(folder, harm, **training) == KILLED
    assert processes.train(folder, **training) == 0
    return processes.printed()


def test_run_killed_several_times_ends_as_if_it_had_not_been(processes, undisturbed, tmp_path):
    moments = [Harm(update=2), Harm(update=6, seconds=0.03), Harm(update=12)]
    printed = killed_and_continued(processes, tmp_path / "run", moments)
    assert outcome(tmp_path / "run") == undisturbed
    places = continued_at(tmp_path / "run")
    assert places and places == sorted(places)
    for place in places:
        assert f"finetuning: continues at update {place} of {UPDATES} from {tmp_path}/run/snapshots/step-" in printed
    left = {"checkpoint.json", "history.csv", "metrics.json", "weights.safetensors"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == left


FILES = 5  # of a snapshot: process-0, model, optimizer, run.json, manifest.json; before the first the folder is probed
SNAPSHOTS = sum(step % 3 == 0 or step % 4 == 0 for step in range(1, UPDATES + 1))  # every 3, and of each epoch's end


def test_kill_inside_a_snapshot_leaves_the_one_before(processes, undisturbed, tmp_path):
    harm = Harm(write=1 + 2 * FILES)  # all of the second, at update 4, is there but its manifest
    printed = killed_and_continued(processes, tmp_path / "run", [harm])
    assert f"{tmp_path}/run/snapshots/step-0000004: was not written to its end; the snapshot before it is" in printed
    assert continued_at(tmp_path / "run") == [3] and outcome(tmp_path / "run") == undisturbed


@pytest.mark.slow
def test_kill_at_every_write_of_a_run(processes, undisturbed, tmp_path):
    """Of the probe, of the first and the second snapshot, and of the finished run."""
    last = 1 + SNAPSHOTS * FILES
    for at in (*range(1, 2 + 2 * FILES), *range(last + 1, last + 5)):
        killed_and_continued(processes, tmp_path / str(at), [Harm(write=at)])
        assert outcome(tmp_path / str(at)) == undisturbed


def test_run_that_cannot_be_written_keeps_its_snapshot(processes, undisturbed, tmp_path):
    processes.printed()
    assert processes.train(tmp_path / "run", Harm(full="/weights.safetensors")) == FAILED
    sentence = f"RunError: {tmp_path}/run: the finished run cannot be written ([Errno 28] No space left on device"
    assert sentence in processes.printed()
    assert not list((tmp_path / "run").glob(".*")) and not (tmp_path / "run" / "metrics.json").exists()
    assert processes.train(tmp_path / "run") == 0
    assert continued_at(tmp_path / "run") == [UPDATES] and outcome(tmp_path / "run") == undisturbed


def on_two(processes: Processes, folder: Path, first: Harm, second: Harm) -> list[int]:
    """Exit codes of two processes that train together; when one is killed the other is, as a launcher does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = []
    for rank, harm in enumerate((first, second)):
        environment = world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        arguments = (folder, {"batch_size": 4}, harm)
        ranks.append(processes.start(resumable.train, *arguments, environment=environment))
    resumable.join_all(ranks)
    return [process.exitcode for process in ranks]


def test_two_processes_go_on_together(processes, tmp_path):
    """Killed with one process's part of the second snapshot missing, then within the last epoch.

    Whether the other process has left its part by then is a matter of moments; the snapshot does not count either way.
    """
    assert on_two(processes, tmp_path / "undisturbed", Harm(), Harm()) == [0, 0]
    assert KILLED in on_two(processes, tmp_path / "run", Harm(), Harm(write=2))
    step = tmp_path / "run" / "snapshots" / "step-0000004"
    assert not (step / "process-1.safetensors").exists() and not (step / "manifest.json").exists()
    assert KILLED in on_two(processes, tmp_path / "run", Harm(update=11), Harm())
    processes.printed()
    assert on_two(processes, tmp_path / "run", Harm(), Harm()) == [0, 0]
    assert processes.printed().count(f"continues at update 9 of {UPDATES}") == 1
    assert continued_at(tmp_path / "run") == [3, 9]
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")
