"""RegionGrounder: the detector-based system for any picture and phrase, as `Grounder` is for heatmaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from amc_lib.checkpoints import Checkpoint, CheckpointError
from amc_lib.datasets.image_files import read_image
from amc_lib.grounder import Grounder
from amc_lib.phrases import as_typed, checked_phrases, unknown_words
from amc_lib.regions import Box
from amc_study.rival.detector import Proposals
from amc_study.rival.detector_runs import TRAINED, TrainedDetector, load_detector
from amc_study.rival.proposal_file import is_proposal_file
from amc_study.rival.proposals import RegionInputs
from amc_study.rival.region_answers import DEFAULT_WAY
from amc_study.rival.region_tower import open_checkpoint
from amc_study.rival.vmrm import score_regions

DEFAULT_CHECKPOINT = "vmrm-scenes"


@dataclass(frozen=True)
class RegionGrounding:
    """The answer to one phrase in one image."""

    image: Image.Image
    phrase: str
    boxes: list[Box]  # every proposal, xyxy in pixels of the image, best for the phrase first
    scores: list[float]  # of the boxes, log-odds up to a constant
    unknown_words: tuple[str, ...]  # of the phrase, which the checkpoint's vocabulary does not hold

    @property
    def point(self) -> tuple[float, float]:
        """(x, y), pixels of the image: the centre of the best box."""
        x1, y1, x2, y2 = self.boxes[0]
        return (x1 + x2) / 2, (y1 + y2) / 2


class NoDetectorError(CheckpointError):
    """The checkpoint reads a file of proposals: there is no detector for a picture of one's own."""


def open_grounder(source: str | Path, read: int | str | None = None) -> Grounder | RegionGrounder:
    """Whichever of the two a checkpoint needs; `read` is the layer of its heatmap, or the way of scoring proposals."""
    checkpoint = open_checkpoint(source)
    if checkpoint.settings.model.vision.trunk != "regions":
        return Grounder(checkpoint, read)
    sha256 = checkpoint.about.get("detector_sha256") or TRAINED  # runs before November 2026: the shipped one
    if is_proposal_file(sha256):
        raise NoDetectorError("it reads a file of proposals, and no detector is there for other pictures")
    return RegionGrounder(checkpoint, load_detector(sha256), read or DEFAULT_WAY)


def open_grounders(sources: Mapping[str, tuple[str | Path, int | str | None]]) -> dict[str, Grounder | RegionGrounder]:
    """`open_grounder` for each system's (source, read); one without a detector is left out, and a line says so."""
    grounders = {}
    for system, (source, read) in sources.items():
        try:
            grounders[system] = open_grounder(source, read)
        except NoDetectorError as error:
            print(f"{system}: left out, {error}")
    return grounders


class RegionGrounder:
    """A checkpoint over proposals with the detector that makes them. `way` is one of `region_answers.WAYS`."""

    def __init__(self, checkpoint: Checkpoint, detector: TrainedDetector, way: str) -> None:
        self.checkpoint, self.detector, self.way = checkpoint, detector, way

    @classmethod
    def load(cls, source: str | Path = DEFAULT_CHECKPOINT, way: str = DEFAULT_WAY) -> RegionGrounder:
        """Load a run's folder or a shipped checkpoint by name, with the detector that it was trained with."""
        grounder = open_grounder(source)
        if not isinstance(grounder, cls):
            raise CheckpointError("this checkpoint reads pictures, not proposals: open it with Grounder.load")
        return cls(grounder.checkpoint, grounder.detector, way)

    def ground(
        self, image: Image.Image | str | Path, phrase: str | Sequence[str]
    ) -> RegionGrounding | list[RegionGrounding]:
        """Where is `phrase`? A list of phrases gives a list, with one look of the detector for all of them.

        Raises ValueError with one sentence for an image that cannot be read or a phrase without words.
        """
        phrases, picture = checked_phrases(phrase), read_image(image)
        if not phrases:
            return []
        groundings = self.match(picture, self.propose(picture), phrases)
        return groundings[0] if isinstance(phrase, str) else groundings

    def propose(self, picture: Image.Image) -> Proposals:
        """What the detector sees in an RGB picture."""
        return self.detector.propose([picture])[0]

    def match(self, picture: Image.Image, proposals: Proposals, phrases: Sequence[str]) -> list[RegionGrounding]:
        """Every proposal scored for every phrase."""
        side = self.detector.settings.image_size
        square = proposals.resized((side, side))
        inputs = RegionInputs(square.boxes[None], square.features[None], side)[0]  # [K, F + 5]
        model, tokenizer = self.checkpoint.model, self.checkpoint.tokenizer
        typed = [*map(as_typed, phrases)]
        scores = score_regions(model, tokenizer, inputs[None], typed, [0] * len(phrases), [self.way])[self.way]
        groundings = []
        for text, row in zip(phrases, scores, strict=True):
            order = torch.argsort(row, descending=True, stable=True)
            boxes = [tuple(box) for box in proposals.boxes[order].tolist()]
            unknown = unknown_words(tokenizer, as_typed(text))
            groundings.append(RegionGrounding(picture, text, boxes, row[order].tolist(), unknown))
        return groundings
