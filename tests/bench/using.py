"""What using it takes: memory and time of answers, the start of the program, and the steps of `make study`."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from amc_lib.datasets.image_files import read_image
from amc_lib.files import ROOT
from amc_lib.grounder import Grounder
from amc_lib.model.trunk import FrozenTrunk, pixels
from amc_lib.presets import preset
from amc_study.plans import HOMES
from tests.bench.measure import Row, alone, alternating, forget_peak, peak_memory, row
from tests.bench.pointing import PHRASES

COUNTS, PICTURES, SIDES = (1, 10, 100), (1, 10, 50), (250, 1000, 4000)  # of phrases, of pictures; pixels
SIDE = SIDES[0]  # where the side is not what grows
FURTHER = 20  # phrases that are asked beside the first


def grounding_memory(phrases: int, pictures: int, side: int) -> float:
    """MiB that a process holds at most while the default checkpoint answers so many phrases in each of the pictures.

    Model, pictures (square, of noise) and all answers are among it; to be called in a process of its own.
    """
    grounder, random = Grounder.load(device="cpu"), np.random.default_rng(0)
    noise = [random.integers(0, 256, (side, side, 3), np.uint8) for _ in range(pictures)]
    forget_peak()
    kept = grounder.ground(noise, [f"dog number {phrase}" for phrase in range(phrases)])
    assert [len(answers) for answers in kept] == [phrases] * pictures
    return peak_memory() / 2**20


def memory_rows() -> list[Row]:
    """Peak memory while phrases, pictures or the pictures' side grow and the two others stay at their least."""
    asked = {f"phrases_{n}": (n, 1, SIDE) for n in COUNTS}
    asked |= {f"pictures_{n}": (1, n, SIDE) for n in PICTURES} | {f"side_{n}": (1, 1, n) for n in SIDES}
    return [row(f"grounding_memory_{name}", alone(grounding_memory, *of), "MiB") for name, of in asked.items()]


def photographs_rows(rounds: int) -> list[Row]:
    """Photographs a second whose features are computed (each mirrored as well), and phrases a second in new ones."""
    paths = sorted((ROOT / "data" / "photographs").glob("*.jpg"))
    vision, grounder = preset("photos").model.vision, Grounder.load(device="cpu")
    trunk = FrozenTrunk(vision.trunk).to(memory_format=torch.channels_last)

    def features() -> None:
        inputs = torch.stack([pixels(read_image(path), vision.image_size) for path in paths])  # [n, 3, S, S]
        for picture in (inputs, inputs.flip(-1)):
            trunk(picture)

    seconds = alternating({"read": features, "answer": partial(grounder.ground, paths, PHRASES)}, rounds)
    return [
        row("photographs_read_per_second", [len(paths) / s for s in seconds["read"]], "photographs/s"),
        row("photographs_phrases_per_second", [len(paths) * len(PHRASES) / s for s in seconds["answer"]], "phrases/s"),
    ]


def command_rows(rounds: int) -> list[Row]:
    """Seconds from the start of `python -m amc_lib` to its end, imports included, and of each further phrase."""
    picture, phrases = ROOT / "data" / "photographs" / "officer.jpg", [f"dog number {n}" for n in range(FURTHER)]
    command = [sys.executable, "-m", "amc_lib", str(picture), "her glasses"]
    program = partial(subprocess.run, command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    grounder = Grounder.load(device="cpu")
    one = partial(grounder.ground, picture, ["her glasses"])
    many = partial(grounder.ground, picture, ["her glasses", *phrases])
    seconds = alternating({"program": program, "one": one, "many": many}, rounds)
    further = [(many - one) / FURTHER for one, many in zip(seconds["one"], seconds["many"], strict=True)]
    return [row("command_seconds", seconds["program"], "s"), row("command_further_phrase_seconds", further, "s")]


def study_rows(home: Path = HOMES["scenes"]) -> list[Row]:
    """Seconds of each step of the last `make study`; none where it was not run."""
    stamps = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(home.glob("steps/*.json"))}
    return [row(f"study_seconds_{name}", stamp["seconds"], "s") for name, stamp in stamps.items() if "seconds" in stamp]
