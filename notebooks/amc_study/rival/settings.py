"""Settings of the detector-based system: its detector, and what its model changes in the tier's preset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from amc_lib.config import Settings, VisionSettings, require
from amc_lib.model.trunk import NETWORKS


@dataclass(frozen=True)
class DetectorSettings:
    """The detector of the detector-based system: Faster R-CNN above a frozen trunk. Defaults are those of scenes."""

    image_size: int = 160  # side of the square input, pixels: that of ALBEF, and a multiple of the coarsest stride, 32
    trunk: Literal["lite0", "lite2"] = "lite0"
    channels: int = 64  # of the feature pyramid network
    anchors: tuple[float, float, float] = (0.12, 0.19, 0.27)  # sides at strides 8, 16 and 32, shares of the input's
    anchor_growth: float = 1.0  # of a second anchor at each stride, so many times larger; 1: there is none
    ratios: tuple[float, float, float] = (0.6, 1.0, 1.7)  # of height to width, for every anchor
    grids: tuple[int, int, int] = (5, 2, 0)  # sides of the grids to which a box is pooled at each stride; 0: it is not
    width: int = 256  # of what the box head makes of a box
    trunk_features: bool = False  # whether a proposal's features hold the trunk's own too, averaged over its box
    candidates: int = 200  # boxes a picture that the proposal network hands on
    boxes: int = 30  # boxes a picture that are kept as proposals
    overlap: float = 0.5  # largest intersection over union of two kept boxes, whatever their labels
    steps: int = 1500
    batch_size: int = 16  # pictures
    learning_rate: float = 6e-3  # of AdamW, after a linear warm-up and before a cosine down to 0
    warmup_steps: int = 100
    weight_decay: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.image_size % 32 == 0, f"image_size {self.image_size} is no multiple of the coarsest stride, 32")
        require(self.anchor_growth >= 1, f"anchor_growth must be at least 1, got {self.anchor_growth}")
        require(0 < self.boxes <= self.candidates, f"boxes {self.boxes} must lie in 1 to candidates {self.candidates}")
        require(0 < self.overlap <= 1, f"overlap must lie in (0, 1], got {self.overlap}")
        require(0 <= self.warmup_steps < self.steps, f"warmup_steps {self.warmup_steps} must be below {self.steps}")

    @property
    def feature_width(self) -> int:
        """F, of a proposal's features."""
        return self.width + (sum(NETWORKS[self.trunk].channels) if self.trunk_features else 0)

    @property
    def vision(self) -> VisionSettings:
        """Of an image tower that would read the same features of the trunk."""
        return VisionSettings(image_size=self.image_size, trunk=self.trunk)


# On 2 cores, reckoned from single steps: 20 minutes for this detector and 4 for its proposals in all photographs; then
# 18 for pretraining (118 steps an epoch, 0.4 s of the contrast alone, 1.8 s with fusion) and 7 for finetuning.
_PHOTOS = DetectorSettings(
    image_size=256,
    trunk="lite2",
    anchors=(0.06, 0.17, 0.47),  # of train's boxes 91 in 100 overlap some anchor, well placed, by 0.6 or more
    anchor_growth=1.65,
    ratios=(0.4, 1.0, 2.5),
    grids=(5, 2, 1),
    trunk_features=True,  # eight entity types say less of a thing than the trunk does
    steps=6000,  # each photograph and its mirror image six times
    learning_rate=3e-3,
    warmup_steps=200,
)


def detector_preset(tier: str, seed: int = 0) -> DetectorSettings:
    """The detector's settings in a tier; every seed has its own."""
    return replace(DetectorSettings() if tier == "scenes" else _PHOTOS, seed=seed)


def detector_based(settings: Settings, region_width: int = 0) -> Settings:
    """The same model and schedules for the detector-based system: proposals in place of patches.

    The seed of finetuning is that of pretraining too. On scenes captions of several things stay in their parts
    throughout, since a phrase is matched with one region. Depth of the tower and rate of pretraining are those that did
    best among the trials there (notebook 09). On photographs most epochs of pretraining are of the contrast alone,
    which finds the pairs and costs a sixth of what fusion does. `region_width` is that of a file's features; without
    one it is the preset's detector's. Raises ValueError for the paper tier, which has no detector, without it.
    """
    if settings.tier == "paper" and not region_width:
        raise ValueError("the detector-based system has no detector for the paper tier: give it a file of proposals")
    region_width = region_width or detector_preset(settings.tier).feature_width
    vision = replace(settings.model.vision, trunk="regions", region_width=region_width, depth=1)
    pretraining = replace(settings.pretraining, seed=settings.finetuning.seed)
    if settings.tier != "paper":
        pretraining = replace(pretraining, learning_rate=8e-4, short_captions_until=pretraining.epochs)
    if settings.tier == "photos":
        schedule = {"epochs": 12, "fuse_from": 9, "hard_negatives_from": 10, "short_captions_until": 0}
        pretraining = replace(pretraining, **schedule)
    model = replace(settings.model, vision=vision, queue_size=0)
    return replace(settings, model=model, pretraining=pretraining)
