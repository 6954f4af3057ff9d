"""Settings of the study: typed, frozen, validated, with unit and source at every field.

`presets.py` holds the values of the two tiers, `parameters.py` applies the flat names that notebooks and command lines
use (`lambda1`, `epochs`, ...). "PROTOCOL" stands for the collected facts of the paper tier; equations are those of
Yang et al., CVPR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from amc_lib.config_checks import not_negative, positive, require
from amc_lib.config_data import BoxSettings, PhotoSettings, SceneSettings
from amc_lib.wording import shown

Tier = Literal["scenes", "paper"]
Explanation = Literal["gradcam", "attention"]  # the heatmap: attention times its gradient, or attention alone

LARGEST_SEED = 2**32 - 1  # of numpy
LARGEST_QUEUE = 2**28  # numbers in one queue, a GiB; the paper's has 2**24
LARGEST_SIDE = 16384  # pixels of a square input or map


@dataclass(frozen=True)
class VisionSettings:
    """Image tower: a vision transformer over pixel patches, or over the features of a frozen trunk."""

    image_size: int = 256  # side of the square input, pixels (PROTOCOL, Model)
    trunk: Literal["none", "lite0", "regions"] = "none"  # below the transformer: nothing, a frozen network, a detector
    region_width: int = 0  # of a proposal's features, with the detector
    patch_size: int = 16  # pixels for one token side; with a trunk, its coarsest kept stride
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    drop_path: float = 0.0  # stochastic depth of the last block

    def __post_init__(self) -> None:
        positive(self, "image_size", "patch_size", "width", "depth", "heads", "mlp_ratio")
        not_negative(self, "region_width", "drop_path")
        require(self.image_size <= LARGEST_SIDE, f"image_size must not exceed {LARGEST_SIDE}")
        require(self.drop_path < 1, f"drop_path must lie in [0, 1), got {self.drop_path}")
        require(
            self.image_size % self.patch_size == 0,
            f"image_size {self.image_size} is no multiple of patch_size {shown(self.patch_size)}",
        )
        require(self.width % self.heads == 0, f"vision width {self.width} is no multiple of its {self.heads} heads")

    @property
    def grid(self) -> int:
        """Side G of the token grid; the tower gives G*G + 1 tokens."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class TextSettings:
    """Text layers (self-attention) and, above them, fusion layers (self- and cross-attention); sizes of BERT."""

    vocab_size: int = 30522
    width: int = 768
    layers: int = 12
    fusion_from: int = 6  # index of the first fusion layer (PROTOCOL: 0-5 text, 6-11 fusion)
    heads: int = 12
    ffn_width: int = 3072
    positions: int = 512
    dropout: float = 0.1  # of BERT-base, hidden states and attention
    max_tokens: int = 25  # [CLS] and [SEP] included (PROTOCOL, Finetuning)

    def __post_init__(self) -> None:
        positive(self, "vocab_size", "width", "layers", "heads", "ffn_width", "positions")
        require(0 <= self.dropout < 1, f"dropout must lie in [0, 1), got {self.dropout}")
        require(self.max_tokens > 2, f"max_tokens must be more than [CLS] and [SEP], got {self.max_tokens}")
        require(self.width % self.heads == 0, f"text width {self.width} is no multiple of its {self.heads} heads")
        require(
            0 < self.fusion_from < self.layers,
            f"fusion_from {self.fusion_from} must lie inside the {self.layers} text encoder layers",
        )
        require(self.max_tokens <= self.positions, f"max_tokens {self.max_tokens} exceeds positions {self.positions}")


@dataclass(frozen=True)
class ModelSettings:
    """ALBEF: two towers, fusion, contrastive space, momentum copy and queues (Li et al., NeurIPS 2021)."""

    vision: VisionSettings = field(default_factory=VisionSettings)
    text: TextSettings = field(default_factory=TextSettings)
    embed_dim: int = 256  # width of the contrastive space
    queue_size: int = 65536  # features kept per modality; 0: contrast inside the batch alone
    momentum: float = 0.995  # of the exponential moving average
    temperature: float = 0.07  # initial; learnt
    temperature_range: tuple[float, float] = (0.001, 0.5)

    def __post_init__(self) -> None:
        require(
            self.vision.width == self.text.width,
            f"vision width {self.vision.width} and text width {self.text.width} must be equal: image tokens are the "
            "keys and values of the fusion layers",
        )
        low, high = self.temperature_range
        positive(self, "embed_dim", "temperature")
        not_negative(self, "queue_size")
        require(0 <= self.momentum <= 1, f"momentum must lie in [0, 1], got {self.momentum}")
        require(0 < low <= high, f"temperature_range must be positive and in order, got {low} to {high}")
        require(
            self.queue_size * self.embed_dim <= LARGEST_QUEUE,
            f"queue_size {shown(self.queue_size)} times embed_dim {shown(self.embed_dim)} exceeds {LARGEST_QUEUE}",
        )


@dataclass(frozen=True)
class ObjectiveSettings:
    """ALBEF's own objectives."""

    alpha: float = 0.4  # weight of the momentum teacher's soft targets (PROTOCOL, Model)
    alpha_ramp_epochs: int = 1  # epochs over which alpha grows linearly from 0
    mlm_probability: float = 0.15  # share of tokens corrupted
    mlm_distillation: Literal["vocabulary", "official"] = "vocabulary"  # axis of the student's log-softmax
    region_softness: float = 0.07  # detector-based: how softly an image's best proposal is taken, in cosine; 0: hard

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, f"alpha must lie in [0, 1], got {self.alpha}")
        require(0 < self.mlm_probability < 1, f"mlm_probability must lie in (0, 1), got {self.mlm_probability}")
        not_negative(self, "alpha_ramp_epochs", "region_softness")


@dataclass(frozen=True)
class AmcSettings:
    """Attention Map Consistency, equations 1-3; all lambdas 0 switch it off (ALBEF's objectives alone)."""

    lambda1: float = 0.2  # weight of L_mean in equation 3
    lambda2: float = 0.8  # weight of L_max in equation 3
    delta1: float = 0.1  # margin of equation 1, in units of the normalised heatmap [0, 1]
    delta2: float = 0.5  # margin of equation 2, likewise
    layer: int = 8  # text encoder layer whose cross-attention gives the heatmap, counted from 0
    mean_form: Literal["paper", "official"] = "paper"  # one hinge a sample, or one over the pooled batch
    explanation: Explanation = "gradcam"  # what the loss asks to lie inside the box, and evaluation reads
    map_size: int = 256  # side to which heatmap and box mask are brought, pixels (PROTOCOL, Finetuning)

    def __post_init__(self) -> None:
        not_negative(self, "lambda1", "lambda2", "delta1", "delta2")
        require(0 < self.map_size <= LARGEST_SIDE, f"map_size must lie in 1 to {LARGEST_SIDE}")

    @property
    def active(self) -> bool:
        return self.lambda1 > 0 or self.lambda2 > 0


@dataclass(frozen=True)
class TrainingSettings:
    """One run of the training loop: AdamW, linear warm-up by step, then cosine (PROTOCOL, Finetuning)."""

    epochs: int = 30
    batch_size: int = 64  # images on each device
    phrases_per_image: int = 1  # at most, in a batch
    learning_rate: float = 1e-5
    min_learning_rate: float = 1e-6  # end of the cosine
    cosine_by: Literal["epoch", "step"] = "epoch"  # how often the cosine moves
    warmup_learning_rate: float = 1e-6
    warmup_steps: int = 2000
    weight_decay: float = 0.02  # none on biases, norms and one-dimensional parameters
    max_grad_norm: float = 0.0  # 0: gradients are not clipped
    short_captions_until: int = 0  # epoch until which an image is paired with captions of one thing only
    fuse_from: int = 0  # epoch from which the fusion layers take part; before it ITC alone aligns the two towers
    hard_negatives_from: int = 0  # epoch from which ITM negatives are drawn by similarity; uniform before
    seed: int = 0
    accumulation: int = 1  # batches whose gradients make one update; contrast and negatives stay inside a batch
    precision: Literal["float32", "bf16"] = "float32"  # of the passes (autocast); weights stay float32
    checkpointing: bool = False  # recompute layers in the backward pass: less memory, the same numbers
    workers: int = 0  # processes that read images, for each device; 0 reads in the training process
    snapshot_every: int = 1000  # updates between two snapshots, and one after every epoch; 0: none is written

    def __post_init__(self) -> None:
        positive(self, "epochs", "batch_size", "phrases_per_image", "learning_rate", "accumulation")
        not_negative(self, "min_learning_rate", "warmup_learning_rate", "warmup_steps", "weight_decay")
        not_negative(self, "max_grad_norm", "short_captions_until", "fuse_from", "hard_negatives_from")
        not_negative(self, "seed", "workers", "snapshot_every")
        require(self.seed <= LARGEST_SEED, f"seed must not exceed {LARGEST_SEED}, got {shown(self.seed)}")


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


@dataclass(frozen=True)
class Settings:
    """Everything that determines a result of one tier."""

    tier: Tier
    model: ModelSettings
    objective: ObjectiveSettings
    amc: AmcSettings
    pretraining: TrainingSettings
    finetuning: TrainingSettings
    scenes: SceneSettings = field(default_factory=SceneSettings)
    photos: PhotoSettings = field(default_factory=PhotoSettings)
    boxes: BoxSettings = field(default_factory=BoxSettings)

    def __post_init__(self) -> None:
        text = self.model.text
        require(
            text.fusion_from <= self.amc.layer < text.layers,
            f"layer {self.amc.layer} has no cross-attention; fusion layers are {text.fusion_from}-{text.layers - 1}",
        )
        largest = max(stage.batch_size * stage.phrases_per_image for stage in (self.pretraining, self.finetuning))
        require(
            self.model.queue_size == 0 or largest <= self.model.queue_size,
            f"a batch of {largest} phrases exceeds queue_size {self.model.queue_size}",
        )
