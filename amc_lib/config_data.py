"""Settings of what is shown to the models: drawn scenes, photographs, and how much of the annotated boxes."""

from __future__ import annotations

from dataclasses import dataclass

from amc_lib.config_checks import positive, require


@dataclass(frozen=True)
class SceneSettings:
    """Drawn scenes of the scenes tier (amc_study.scenes.scene)."""

    seed: int = 0
    size: int = 320  # side of the square picture, pixels
    objects: tuple[int, int] = (6, 9)  # named things in a scene, both ends included
    train_objects: tuple[int, int] = (1, 9)  # the same in pretrain and train: some show one thing, as photographs do
    object_width: tuple[float, float] = (0.13, 0.28)  # share of the picture's side
    rotation_degrees: float = 25.0  # largest turn either way
    max_occlusion: float = 0.5  # largest hidden share of a named thing
    distractors: tuple[int, int] = (1, 3)  # pictograms that nothing names
    pretrain: int = 24000  # scenes in each split; with captions alone, never a box
    train: int = 6000
    val: int = 300
    phrases: int = 800
    referring_a: int = 600
    referring_b: int = 600

    def count(self, split: str) -> int:
        """Number of scenes of a split; ValueError for a name that is none."""
        splits = ("pretrain", "train", "val", "phrases", "referring_a", "referring_b")
        require(split in splits, f"unknown scenes split {split!r}; known: {', '.join(splits)}")
        return getattr(self, split)


@dataclass(frozen=True)
class PhotoSettings:
    """Photographs of the paper tier: how finetuning augments them and evaluation reads them (PROTOCOL)."""

    flip: float = 0.5  # probability of a horizontal flip; left and right change places in the phrase
    gray: float = 0.2  # probability of losing all colour
    jitter: float = 0.4  # largest relative change of brightness, contrast and saturation; hue stays
    jitter_probability: float = 0.5
    one_box: bool = True  # one box, drawn at random, of a record with several; else all of them
    refer_max_words: int = 30  # of a phrase on RefCOCO+ and RefCLEF; elsewhere phrases.MAX_WORDS
    refer_image_size: int = 384  # side of the input on RefCOCO+ and RefCLEF, pixels; elsewhere the model's own

    def __post_init__(self) -> None:
        for name in ("flip", "gray", "jitter", "jitter_probability"):
            require(0 <= getattr(self, name) <= 1, f"{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True)
class BoxSettings:
    """What finetuning gets to see of the annotated boxes: all of them, exactly, unless an ablation says otherwise."""

    box_share: float = 1.0  # of the pictures whose phrases keep their boxes; the others are read without
    box_shift: float = 0.0  # largest displacement of a box along each axis, in its own width and height
    box_scale: float = 1.0  # factor on a box's width and height, about its centre

    def __post_init__(self) -> None:
        positive(self, "box_scale")
        require(0 <= self.box_share <= 1, f"box_share must lie in [0, 1], got {self.box_share}")
        require(0 <= self.box_shift < 1, f"box_shift must lie in [0, 1), got {self.box_shift}")

    @property
    def exact(self) -> bool:
        return self == BoxSettings()
