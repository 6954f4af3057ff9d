"""Runs of the detector: trained once into a folder, opened afterwards, loaded by folder, name or hash.

A run folder holds weights.safetensors (without the frozen trunk), detector.json (settings, what it can name, hash of
the weights), history.csv (losses over steps) and metrics.json (numbers on the validation split, provenance).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load, save

from amc_lib.checkpoints import SHIPPED, WEIGHTS, CheckpointError, of_seed
from amc_lib.config import PhotoSettings, SceneSettings
from amc_lib.files import ROOT, plain, write_bytes, write_csv, write_json
from amc_lib.model.trunk import FrozenTrunk, pixels
from amc_lib.parameters import from_mapping
from amc_study.photos import album, features
from amc_study.provenance import provenance
from amc_study.rival.detection import measure
from amc_study.rival.detector import Detector, Proposals, Vocabulary
from amc_study.rival.detector_training import train, vocabulary_of
from amc_study.rival.objects import CODE, open_objects, trunk_levels
from amc_study.rival.settings import DetectorSettings
from amc_study.scenes.cache import DRAWING, fingerprint

RUNS = ROOT / "runs"
DESCRIPTION, METRICS = "detector.json", "metrics.json"
TRAINED = "detector-scenes"  # the run on scenes that the repository ships; on photographs, "detector-photos"
CODE_OF = {"scenes": DRAWING, "photos": (*album.CODE, *features.CODE)}  # by tier
PARTS = ("detector", "detector_parts", "detector_training")
TRAINING = (*CODE, *(f"notebooks/amc_study/rival/{name}.py" for name in PARTS))


class TrainedDetector:
    """A trained detector with its trunk: pictures -> proposals. `sha256` is the hash of the weights in `folder`."""

    def __init__(self, detector: Detector, folder: Path, sha256: str) -> None:
        self.detector, self.folder, self.sha256 = detector.eval(), folder, sha256
        self.settings, self.classes = detector.settings, detector.vocabulary.classes

    @cached_property
    def trunk(self) -> FrozenTrunk:
        return FrozenTrunk(self.settings.trunk).to(memory_format=torch.channels_last)

    def propose(self, images: Sequence[Image.Image]) -> list[Proposals]:
        """At most `settings.boxes` proposals for each picture, in its own pixels."""
        features = self.trunk(torch.stack([pixels(image, self.settings.image_size) for image in images]))
        found = self.detector.propose(trunk_levels(features, self.settings.trunk))
        return [proposals.resized(image.size[::-1]) for proposals, image in zip(found, images, strict=True)]

    @property
    def metrics(self) -> dict[str, Any]:
        """What its training left: "validation", the numbers of `measure`; "final", the last losses; "provenance"."""
        return _json(self.folder / METRICS)


def train_detector(
    settings: DetectorSettings | None = None,
    output: str | Path | None = None,
    data: SceneSettings | PhotoSettings | None = None,
) -> TrainedDetector:
    """Train a detector on the `train` split of scenes or photographs and measure it on `val`, or open the run that did.

    Without an `output`, the run that the repository ships is opened if it is of these settings. Raises ValueError for
    an `output` that holds a run of other settings or code.
    """
    settings, data = settings or DetectorSettings(), data or SceneSettings()
    tier = "photos" if isinstance(data, PhotoSettings) else "scenes"
    used = {"detector": settings, tier: data}
    read, shipped = _read(plain(used)), SHIPPED / of_seed(f"detector-{tier}", settings.seed) / METRICS
    if output is None and shipped.is_file() and _read(_json(shipped)["provenance"]["settings"]) == read:
        print(f"detector: shipped in {plain(shipped.parent)}")
        return load_detector(shipped.parent)
    identity = fingerprint(read, (*CODE_OF[tier], *TRAINING))
    folder = Path(output) if output else RUNS / f"detector-seed{settings.seed}-{identity}"
    if not (folder / METRICS).is_file():
        print(f"detector: seed {settings.seed}, into {plain(folder)}")
        _train_into(folder, settings, data, used, identity)
        return load_detector(folder)
    detector = load_detector(folder)
    if detector.metrics.get("identity") != identity:
        raise ValueError(f"{folder}: holds a detector of other settings or code; name another output or delete it")
    print(f"detector: up to date in {plain(folder)}")
    return detector


def load_detector(source: str | Path = TRAINED) -> TrainedDetector:
    """Load the detector of a run's folder, or a known one by its shipped name or the hash of its weights.

    Raises CheckpointError with one sentence if it is missing, damaged, or does not fit its own settings.
    """
    folder = _find(source)
    try:
        about, data = _json(folder / DESCRIPTION), (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(data).hexdigest() != about["sha256"]:
            raise ValueError(f"the hash of {WEIGHTS} is not the one in {DESCRIPTION}")
        vocabulary = Vocabulary(**{name: tuple(words) for name, words in about["vocabulary"].items()})
        detector = Detector(from_mapping(DetectorSettings, about["settings"]), vocabulary)
        weights = load(data)
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise ValueError("has weights that are not finite")
        detector.load_state_dict(weights)
    except Exception as error:  # what a description and a safetensors header can be is not bounded
        raise CheckpointError(f"{folder}: is damaged or no detector: {' '.join(str(error).split()):.200}") from error
    return TrainedDetector(detector, folder, about["sha256"])


def save_detector(folder: str | Path, detector: Detector, about: Mapping[str, Any]) -> None:
    """Write a detector to `folder`; both files are atomic, the description last."""
    folder = Path(folder)
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()})
    content = {
        "settings": plain(detector.settings),
        "vocabulary": plain(detector.vocabulary),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "about": plain(about),
    }
    write_bytes(folder / WEIGHTS, weights)
    write_json(folder / DESCRIPTION, content)


def _train_into(
    folder: Path,
    settings: DetectorSettings,
    data: SceneSettings | PhotoSettings,
    used: Mapping[str, Any],
    identity: str,
) -> None:
    """Train, measure and write; metrics.json, whose presence says that the run is finished, comes last."""
    objects = open_objects(data, settings, "train")
    torch.manual_seed(settings.seed)
    detector = Detector(settings, vocabulary_of(data))
    begin = time.perf_counter()
    history = train(detector, objects)
    seconds = time.perf_counter() - begin
    numbers = measure(detector, open_objects(data, settings, "val"))
    record = provenance(used, seed=settings.seed, seconds=seconds)
    write_csv(folder / "history.csv", pd.DataFrame(history))
    save_detector(folder, detector, record)
    metrics = {"identity": identity, "validation": numbers, "final": history[-1], "provenance": record}
    write_json(folder / METRICS, metrics)


def _read(settings: dict[str, Any]) -> dict[str, Any]:
    """Of the plain settings of a detector and its data, those that training and measuring read.

    Runs that are older than a setting of the detector did what its default says.
    """
    read = {"detector": plain(DetectorSettings()) | settings["detector"]}
    if "photos" in settings:
        return read | {"photos": {"never_boxed": settings["photos"]["never_boxed"]}}
    unread = {"pretrain", "phrases", "referring_a", "referring_b"}
    return read | {"scenes": {name: value for name, value in settings["scenes"].items() if name not in unread}}


def _find(source: str | Path) -> Path:
    for folder in (Path(source), SHIPPED / str(source)):
        if (folder / DESCRIPTION).is_file():
            return folder
    known = [*SHIPPED.glob(f"*/{DESCRIPTION}"), *RUNS.rglob(DESCRIPTION)]
    for path in known:
        if _json(path).get("sha256") == source:
            return path.parent
    raise CheckpointError(f"no detector at {str(source)!r}; known: {', '.join(str(p.parent) for p in known) or 'none'}")


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
