"""Settings of the detector-based system: its detector, and what its model changes in the tier's preset."""

from __future__ import annotations

from dataclasses import dataclass, replace

from amc_lib.config import Settings, require


@dataclass(frozen=True)
class DetectorSettings:
    """The detector of the detector-based system on drawn scenes: Faster R-CNN above the frozen Lite0 trunk."""

    image_size: int = 256  # side of the square input, pixels; a multiple of the coarsest stride, 32
    channels: int = 64  # of the feature pyramid network
    anchors: tuple[float, float, float] = (0.12, 0.19, 0.27)  # sides at strides 8, 16 and 32, shares of the input's
    ratios: tuple[float, float, float] = (0.6, 1.0, 1.7)  # of height to width, for every anchor
    width: int = 256  # of what the box head makes of a box
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
        require(0 < self.boxes <= self.candidates, f"boxes {self.boxes} must lie in 1 to candidates {self.candidates}")
        require(0 < self.overlap <= 1, f"overlap must lie in (0, 1], got {self.overlap}")
        require(0 <= self.warmup_steps < self.steps, f"warmup_steps {self.warmup_steps} must be below {self.steps}")


def detector_based(settings: Settings) -> Settings:
    """The same model and schedules on scenes for the detector-based system: proposals in place of patches.

    A phrase is matched with one region, so captions of several things stay in their parts throughout. Depth of the
    tower and rate of pretraining are those that did best among the trials (notebook 09). Raises ValueError for
    another tier, which has no detector.
    """
    if settings.tier != "scenes":
        raise ValueError("the detector-based system is trained on drawn scenes alone: tier must be scenes")
    vision = replace(settings.model.vision, trunk="regions", region_width=DetectorSettings.width, depth=1)
    pretraining = replace(settings.pretraining, learning_rate=8e-4, short_captions_until=settings.pretraining.epochs)
    return replace(settings, model=replace(settings.model, vision=vision), pretraining=pretraining)
