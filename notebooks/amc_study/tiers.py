"""The three tiers by the same names: what training visits, what validates it, and what evaluation asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

import pandas as pd
from torch import Tensor

from amc_lib.checkpoints import paper_tokenizer
from amc_lib.config import Settings
from amc_lib.data import FixedPairs, PairDataset
from amc_lib.datasets import flickr30k
from amc_lib.datasets.check import PHOTOS, check
from amc_lib.files import data_root, photos_root, proposals_file
from amc_lib.model import ALBEF, minilm
from amc_lib.regions import Region
from amc_lib.step import training_losses
from amc_lib.tokens import clean, word_vocabulary
from amc_study.photos import album
from amc_study.photos.album import AlbumPairs, AlbumSplit, open_album
from amc_study.photos.pairs import album_pairs, training_pairs
from amc_study.photos.splits import ATTRIBUTION, PhotoSplit, evaluation_splits, validation_split
from amc_study.rival.detector_runs import TRAINED, TrainedDetector, load_detector
from amc_study.rival.file_splits import FilePairs, file_album, file_split
from amc_study.rival.proposal_file import ProposalFile, is_proposal_file, open_proposal_file
from amc_study.rival.proposals import PhotoProposalSplit, SceneProposalSplit, open_proposals
from amc_study.rival.vmrm import pair_losses
from amc_study.scenes import language, pictograms
from amc_study.scenes.scene import SPLITS
from amc_study.scenes.splits import SceneSplit, open_scenes

EVALUATED_SCENES = ("phrases", "referring_a", "referring_b")


class Split(Protocol):
    """A split that is asked of models: scenes (`SceneSplit`) or photographs (`PhotoSplit`)."""

    title: str
    skipped: list[str]  # a sentence for each record that was left out as malformed

    def all_regions(self) -> list[Region]: ...

    def load(self, region: Region) -> tuple[Tensor, tuple[int, int]]:
        """The model's input and the picture's (height, width)."""
        ...

    def size(self, region: Region) -> tuple[int, int]:
        """(height, width) of the picture."""
        ...

    def fit(self, model: ALBEF) -> AbstractContextManager:
        """The model as these inputs need it, inside the block."""
        ...


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes, read as pictures."""

    settings: Settings
    attribution = pictograms.ATTRIBUTION
    official = False  # whether training starts from the authors' ALBEF.pth
    layer_is_chosen = True  # on the validation split; else it is the one that the authors publish
    unread = "photos"  # settings of another tier
    shipped: ClassVar[dict[str, str]] = {"pretraining": "albef-scenes"}  # runs that the repository ships, by stage
    code = ("notebooks/amc_study/scenes/*.py", "notebooks/amc_study/scenes/*.csv")  # training depends on it
    losses = staticmethod(training_losses)
    detector = None

    def vocabulary(self) -> Sequence[str]:
        """The words of the model's tokenizer."""
        return word_vocabulary(language.vocabulary())

    def split(self, name: str) -> SceneSplit:
        return open_scenes(self.settings.scenes, self.settings.model.vision, name)

    def training_pairs(self, stage: str) -> PairDataset:
        """Captions alone for pretraining, region phrases with boxes for finetuning."""
        training = getattr(self.settings, stage)
        split = self.split("pretrain" if stage == "pretraining" else "train")
        phrases = split.caption_phrases() if stage == "pretraining" else split.region_phrases()
        return FixedPairs(split.inputs, phrases, training.seed, training.phrases_per_image)

    def validation_split(self) -> Split:
        """The split on which settings are chosen: never one that the table reports."""
        return self.split("val")

    def evaluation_splits(self) -> dict[str, Split]:
        """The splits of table 1 by name."""
        return {name: self.split(name) for name in EVALUATED_SCENES}

    def shown_splits(self) -> dict[str, Split]:
        return {name: self.split(name) for name in SPLITS if name != "pretrain"}

    def check_data(self) -> str:
        return "Scenes are drawn: there is nothing to download."


class ReadByDetector:
    """What a tier is that is read as the boxes that a detector proposes in its pictures: what VMRM sees."""

    trained_by = tuple(f"notebooks/amc_study/rival/{name}.py" for name in ("proposals", "region_tower", "vmrm"))
    losses = staticmethod(pair_losses)

    @cached_property  # a file of proposals is hashed at each opening
    def detector(self) -> TrainedDetector | ProposalFile:
        return open_proposal_file(self.source) if is_proposal_file(self.source) else load_detector(self.source)


@dataclass(frozen=True)
class Proposals(ReadByDetector, Scenes):
    """The same scenes as VMRM sees them."""

    source: str | Path = TRAINED  # of the detector: its run's folder, a shipped name, or the hash of its weights
    shipped: ClassVar[dict[str, str]] = {"pretraining": "vmrm-pretrained-scenes", "finetuning": "vmrm-scenes"}
    code = (*Scenes.code, *ReadByDetector.trained_by)

    def split(self, name: str) -> SceneProposalSplit:
        return open_proposals(super().split(name), self.detector)


@dataclass(frozen=True)
class Photos:
    """Flickr8k's photographs with the phrases and boxes of Flickr30k Entities, on a laptop."""

    settings: Settings
    attribution = "Pictures: Flickr30k; for research only"
    official = False
    layer_is_chosen = True
    unread = "scenes"
    shipped: ClassVar[dict[str, str]] = {"pretraining": "albef-photos"}
    code = album.CODE
    losses = staticmethod(training_losses)
    detector = None

    def split(self, name: str) -> AlbumSplit | PhotoSplit:
        vision = self.settings.model.vision
        if self.settings.model.backbone == "blip":
            return PhotoSplit(album.title(name), album.read_regions(self.settings.photos, name), vision.image_size)
        return open_album(self.settings.photos, vision, name)

    def vocabulary(self) -> Sequence[str]:
        """BERT's, or else the words that train's captions hold often enough."""
        if self.settings.model.text.trunk == "minilm":
            return minilm.vocabulary()
        captions = (caption for captions in self.split("train").captions for caption in captions)
        counts = Counter(word for caption in captions for word in clean(caption).split())
        return word_vocabulary(w for w, count in counts.items() if count >= self.settings.photos.least_seen)

    def training_pairs(self, stage: str) -> PairDataset:
        """Captions alone for pretraining, boxed phrases for finetuning; a BLIP reads pixels."""
        if self.settings.model.backbone == "blip":
            return album_pairs(self.settings)
        training, split = getattr(self.settings, stage), self.split("train")
        phrases = split.caption_phrases() if stage == "pretraining" else split.region_phrases()
        return AlbumPairs(split, phrases, training.seed, training.phrases_per_image, self.settings.photos.flip)

    def validation_split(self) -> Split:
        return self.split("val")

    def evaluation_splits(self) -> dict[str, Split]:
        return {"test": self.split("test")}

    def shown_splits(self) -> dict[str, Split]:
        return {name: self.split(name) for name in flickr30k.SPLITS}

    def check_data(self) -> pd.DataFrame:
        return check(photos_root(), parts=PHOTOS)


@dataclass(frozen=True)
class PhotoProposals(ReadByDetector, Photos):
    """The same photographs as VMRM sees them."""

    source: str | Path = "detector-photos"
    shipped: ClassVar[dict[str, str]] = {"pretraining": "vmrm-pretrained-photos", "finetuning": "vmrm-photos"}
    code = (*Photos.code, *ReadByDetector.trained_by)

    def split(self, name: str) -> PhotoProposalSplit:
        detector, photos = self.detector, self.settings.photos
        if isinstance(detector, ProposalFile):
            return file_album(open_album(photos, None, name), detector)
        return open_proposals(open_album(photos, detector.settings.vision, name), detector)


@dataclass(frozen=True)
class Photographs:
    """Visual Genome to train on, Flickr30k Entities and RefCOCO+ to evaluate, as in the paper."""

    settings: Settings
    attribution = ATTRIBUTION
    official = True
    layer_is_chosen = False
    unread = "scenes"
    shipped: ClassVar[dict[str, str]] = {}
    code = ("amc_lib/datasets/*.py", "notebooks/amc_study/photos/*.py")
    losses = staticmethod(training_losses)
    detector = None

    def training_pairs(self, stage: str) -> PairDataset:
        return training_pairs(self.settings)

    def validation_split(self) -> Split:
        return validation_split(self.settings)

    def evaluation_splits(self) -> dict[str, Split]:
        return evaluation_splits(self.settings)

    def shown_splits(self) -> dict[str, Split]:
        """All but those for training, whose millions stay on disk."""
        return {"validation": self.validation_split()} | self.evaluation_splits()

    def check_data(self) -> pd.DataFrame:
        return check(data_root())


@dataclass(frozen=True)
class PaperProposals(ReadByDetector, Photographs):
    """The paper's photographs as VMRM sees them, through a file of proposals; it learns from random weights."""

    source: str | Path | None = None  # of the file; None: `proposals_file()`
    official = False
    code = (*Photographs.code, *ReadByDetector.trained_by)

    @cached_property  # a file of proposals is hashed at each opening
    def detector(self) -> ProposalFile:
        return open_proposal_file(self.source or proposals_file())

    def vocabulary(self) -> Sequence[str]:
        return paper_tokenizer(self.settings).vocabulary

    def training_pairs(self, stage: str) -> PairDataset:
        """The same phrases in both stages: VMRM sees no box of a phrase in either."""
        training = getattr(self.settings, stage)
        table = super().training_pairs(stage).table
        return FilePairs(table, self.detector, training.seed, training.phrases_per_image)

    def validation_split(self) -> Split:
        return file_split(super().validation_split(), self.detector)

    def evaluation_splits(self) -> dict[str, Split]:
        return {name: file_split(split, self.detector) for name, split in super().evaluation_splits().items()}


def tier_of(settings: Settings, detector: str | Path | None = None) -> Scenes | Photos | Photographs:
    """Where data of these settings come from.

    `detector`: the run, or the file, whose proposals VMRM reads; None: the shipped one.
    """
    tiers = {"scenes": (Scenes, Proposals), "photos": (Photos, PhotoProposals), "paper": (Photographs, PaperProposals)}
    pictures, proposals = tiers[settings.tier]
    if settings.model.vision.trunk != "regions":
        return pictures(settings)
    return proposals(settings, detector) if detector else proposals(settings)
