"""Short files that ask for much memory or time: refused in a sentence, within a GiB and half a minute each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hostile_bombs
import pytest

TESTS = Path(__file__).parent
SECONDS = 30  # for one; each takes below three on a quiet machine
OWN = {"ValueError", "CheckpointError", "UnreadableImageError"}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict]:
    root = tmp_path_factory.mktemp("bombs")
    done = subprocess.run(
        [sys.executable, str(TESTS / "hostile_bombs.py"), str(root)],
        cwd=TESTS.parent,
        env={"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {lines[-1:]}: {done.stderr[-1000:]}"
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", hostile_bombs.bombs(Path("x")))
def test_bomb_is_defused(results, name):
    result = results[name]
    assert result["error"] in OWN, result
    assert result["sentence"].isprintable() and 0 < len(result["sentence"]) < 1500
    assert "memory" not in result["sentence"] and "alloc" not in result["sentence"]
    assert result["seconds"] < SECONDS
