"""Runs of the detector: trained once into a folder of its own, opened afterwards, loaded by name or folder.

A run folder holds weights.safetensors (without the frozen trunk), detector.json (settings, what it can name, hash of
the weights), history.csv (losses over steps) and metrics.json (numbers on the validation split, provenance).
"""

from __future__ import annotations

import hashlib
import json
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
from safetensors.torch import load, save
from torch import Tensor

from amc_lib.checkpoints import SHIPPED, WEIGHTS, CheckpointError
from amc_lib.config import SceneSettings
from amc_lib.files import ROOT, plain, write_bytes, write_csv, write_json
from amc_lib.parameters import from_mapping
from amc_lib.train import set_seed
from amc_study.provenance import provenance, settings_hash
from amc_study.rival.detector import Detector, SceneDetector, Vocabulary
from amc_study.rival.detector_training import evaluate, named_rightly, scene_vocabulary, train
from amc_study.rival.objects import open_objects
from amc_study.rival.settings import DetectorSettings

RUNS = ROOT / "runs"
DESCRIPTION = "detector.json"
UNREADABLE = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError, safetensors.SafetensorError)
TRAINED = "detector-scenes"  # the run that the repository ships


@dataclass(frozen=True)
class DetectorRun:
    folder: Path
    history: pd.DataFrame  # columns step, seconds and the losses
    metrics: dict[str, Any]  # "validation": numbers of `evaluate` and `named_rightly`

    def detector(self) -> SceneDetector:
        return load_detector(self.folder)


def train_detector(
    settings: DetectorSettings | None = None, output: str | Path | None = None, scenes: SceneSettings | None = None
) -> DetectorRun:
    """Train a detector on the `train` split of the scenes and measure it on `val`, or open the run that did.

    Without an `output`, the run that the repository ships is opened if it is of these settings.
    """
    settings, scenes = settings or DetectorSettings(), scenes or SceneSettings()
    identity = _identity(settings, scenes)
    folder = Path(output) if output else _usual_folder(settings, identity)
    if is_finished(folder):
        run = open_detector_run(folder)
        if _its_identity(run) != identity:
            raise ValueError(f"{folder}: holds a detector of other settings; name another output or delete it")
        print(f"detector: up to date in {plain(folder)}")
        return run
    print(f"detector: seed {settings.seed}, into {plain(folder)}")
    _train_into(folder, settings, scenes)
    return open_detector_run(folder)


def measure(detector: Detector, scenes: SceneSettings) -> dict[str, float]:
    """All numbers of a detector on the `val` split, which it has not seen, each in [0, 1]."""
    validation = open_objects(scenes, detector.settings.image_size, "val")
    return evaluate(detector, validation) | named_rightly(detector, validation)


def load_detector(source: str | Path = TRAINED) -> SceneDetector:
    """Load the detector of a run's folder, or one that the repository ships by its name.

    Raises CheckpointError with one sentence if it is missing, damaged, or does not fit its own settings.
    """
    folder = _find(source)
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        data = (folder / WEIGHTS).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != about["sha256"]:
            raise ValueError(f"the hash of {WEIGHTS} is not the one in {DESCRIPTION}")
        vocabulary = Vocabulary(**{name: tuple(words) for name, words in about["vocabulary"].items()})
        detector = Detector(from_mapping(DetectorSettings, about["settings"]), vocabulary)
        weights = load(data)
        if names := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
            raise ValueError(f"has weights that are not finite: {', '.join(names[:5])}")
        detector.load_state_dict(weights)
    except UNREADABLE as error:
        raise CheckpointError(f"{folder}: is damaged or no detector: {textwrap.shorten(str(error), 200)}") from error
    return SceneDetector(detector, folder, digest)


def save_detector(folder: str | Path, detector: Detector, about: Mapping[str, Any]) -> None:
    """Write a detector to `folder`; both files are atomic, the description last."""
    folder = Path(folder)
    weights = save({name: _plain_tensor(tensor) for name, tensor in detector.state_dict().items()})
    write_bytes(folder / WEIGHTS, weights)
    content = {
        "settings": plain(detector.settings),
        "vocabulary": plain(detector.vocabulary),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "about": plain(about),
    }
    write_json(folder / DESCRIPTION, content)


def open_detector_run(folder: str | Path) -> DetectorRun:
    """A finished run. Raises ValueError if the folder holds none."""
    folder = Path(folder)
    if not is_finished(folder):
        raise ValueError(f"{folder}: no finished run of a detector")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return DetectorRun(folder, pd.read_csv(folder / "history.csv"), metrics)


def is_finished(folder: Path) -> bool:
    return (folder / "metrics.json").is_file() and (folder / DESCRIPTION).is_file()


def _identity(settings: DetectorSettings, scenes: SceneSettings) -> str:
    """What tells a run from others: the detector's settings, and those of the scenes that it reads."""
    unread = {"pretrain", "phrases", "referring_a", "referring_b"}
    read = {name: value for name, value in plain(scenes).items() if name not in unread}
    return settings_hash({"detector": plain(settings), "scenes": read})


def _its_identity(run: DetectorRun) -> str:
    """Of a finished run; settings that it does not name, being younger, count as their defaults."""
    stored = run.metrics["provenance"]["settings"]
    return _identity(from_mapping(DetectorSettings, stored["detector"]), from_mapping(SceneSettings, stored["scenes"]))


def _usual_folder(settings: DetectorSettings, identity: str) -> Path:
    """That of the shipped run if it is of these settings; else one of its own."""
    shipped = SHIPPED / TRAINED
    if is_finished(shipped) and _its_identity(open_detector_run(shipped)) == identity:
        return shipped
    return RUNS / f"detector-seed{settings.seed}-{identity}"


def _train_into(folder: Path, settings: DetectorSettings, scenes: SceneSettings) -> None:
    """Train, measure and write; metrics.json, whose presence says that the run is finished, comes last."""
    bank = open_objects(scenes, settings.image_size, "train")
    set_seed(settings.seed)
    detector = Detector(settings, scene_vocabulary())
    begin = time.perf_counter()
    history = train(detector, bank)
    seconds = time.perf_counter() - begin
    numbers = measure(detector, scenes)
    record = provenance({"detector": settings, "scenes": scenes}, seed=settings.seed, seconds=seconds)
    write_csv(folder / "history.csv", pd.DataFrame(history))
    save_detector(folder, detector, record)
    write_json(folder / "metrics.json", {"validation": numbers, "final": history[-1], "provenance": record})


def _find(source: str | Path) -> Path:
    for folder in (Path(source), SHIPPED / str(source)):
        if (folder / DESCRIPTION).is_file():
            return folder
    shipped = sorted(path.parent.name for path in SHIPPED.glob(f"*/{DESCRIPTION}"))
    raise CheckpointError(f"no detector at {str(source)!r}; shipped ones: {', '.join(shipped) or 'none'}")


def _plain_tensor(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
