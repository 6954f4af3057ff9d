"""Settings: typed, frozen, validated, with unit and source at every field.

"PROTOCOL" is data/PROTOCOL.md, the facts of the paper tier with their sources; equations: Yang et al., CVPR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Tier = Literal["scenes", "photos", "paper"]
MINILM_WORDS = 30522  # WordPiece tokens of BERT, which MiniLM reads
Explanation = Literal["gradcam", "attention", "layers"]  # what a heatmap is made of; see amc_lib.gradcam.heatmap


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def check(settings: object, positive: str = "", not_negative: str = "", share: str = "", below_one: str = "") -> None:
    """Raise ValueError naming the first field (names with blanks between) outside its range."""
    for name, value in vars(settings).items():
        require(name not in positive.split() or value > 0, f"{name} must be positive, got {value!r:.80}")
        require(name not in not_negative.split() or value >= 0, f"{name} must not be negative, got {value!r:.80}")
        require(name not in share.split() or 0 <= value <= 1, f"{name} must lie in [0, 1], got {value!r:.80}")
        require(name not in below_one.split() or 0 <= value < 1, f"{name} must lie in [0, 1), got {value!r:.80}")


@dataclass(frozen=True)
class VisionSettings:
    """Image tower: a vision transformer over pixel patches, or over the features of a frozen trunk."""

    image_size: int = 256  # side of the square input, pixels (PROTOCOL, Model)
    trunk: Literal["none", "lite0", "lite2", "regions"] = "none"  # below it: nothing, a frozen network, a detector
    region_width: int = 0  # of a proposal's features, with the detector
    patch_size: int = 16  # pixels for one token side; with a trunk, its coarsest kept stride
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    drop_path: float = 0.0  # stochastic depth of the last block

    def __post_init__(self) -> None:
        check(self, positive="image_size patch_size width depth heads mlp_ratio")
        check(self, not_negative="region_width", below_one="drop_path")
        size, patch = self.image_size, self.patch_size
        require(size % patch == 0, f"image_size {size} is no multiple of patch_size {patch}")
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
    trunk: Literal["none", "minilm"] = "none"  # below the layers: word embeddings that train, a frozen network

    def __post_init__(self) -> None:
        check(self, positive="vocab_size width layers heads ffn_width positions", below_one="dropout")
        require(self.width % self.heads == 0, f"text width {self.width} is no multiple of its {self.heads} heads")
        inside = 0 <= self.fusion_from < self.layers
        require(inside, f"fusion_from {self.fusion_from} must lie inside the {self.layers} text encoder layers")
        read = self.trunk == "none" or self.vocab_size == MINILM_WORDS
        require(read, f"vocab_size must be MiniLM's {MINILM_WORDS}, got {self.vocab_size}")
        fits = 2 < self.max_tokens <= self.positions  # more than [CLS] and [SEP]
        require(fits, f"max_tokens must lie in 3 to {self.positions} (positions), got {self.max_tokens}")


@dataclass(frozen=True)
class ModelSettings:
    """ALBEF: two towers, fusion, contrastive space, momentum copy and queues (Li et al., NeurIPS 2021).

    BLIP has the same sizes; momentum and queue are not used there.
    """

    vision: VisionSettings = field(default_factory=VisionSettings)
    text: TextSettings = field(default_factory=TextSettings)
    embed_dim: int = 256  # width of the contrastive space
    queue_size: int = 65536  # features kept per modality; 0: contrast inside the batch alone
    momentum: float = 0.995  # of the exponential moving average
    temperature: float = 0.07  # initial; learnt
    temperature_range: tuple[float, float] = (0.001, 0.5)
    stored: Literal["float32", "float16"] = "float32"  # of the weights in a checkpoint; half the size
    backbone: Literal["albef", "blip"] = "albef"

    def __post_init__(self) -> None:
        check(self, positive="embed_dim temperature", not_negative="queue_size", share="momentum")
        low, high = self.temperature_range
        require(0 < low <= high, f"temperature_range must be positive and in order, got {low} to {high}")


@dataclass(frozen=True)
class ObjectiveSettings:
    """ALBEF's own objectives."""

    alpha: float = 0.4  # weight of the momentum teacher's soft targets (PROTOCOL, Model)
    alpha_ramp_epochs: int = 1  # epochs over which alpha grows linearly from 0
    mlm_probability: float = 0.15  # share of tokens corrupted
    mlm_distillation: Literal["vocabulary", "official"] = "vocabulary"  # axis of the student's log-softmax
    region_softness: float = 0.07  # detector-based: how softly an image's best proposal is taken, in cosine; 0: hard

    def __post_init__(self) -> None:
        check(self, not_negative="alpha_ramp_epochs region_softness", share="alpha")
        require(0 < self.mlm_probability < 1, f"mlm_probability must lie in (0, 1), got {self.mlm_probability}")


@dataclass(frozen=True)
class AmcSettings:
    """Attention Map Consistency, equations 1-3; all lambdas 0 switch it off (ALBEF's objectives alone)."""

    lambda1: float = 0.2  # weight of L_mean in equation 3
    lambda2: float = 0.8  # weight of L_max in equation 3
    lambda_other: float = 0.0  # weight of L_other beside L_amc, this study's own variant (losses.other_loss); 0: off
    delta1: float = 0.1  # margin of equation 1, in units of the normalised heatmap [0, 1]
    delta2: float = 0.5  # margin of equation 2, likewise
    delta_other: float = 0.1  # margin of L_other, likewise
    layer: int = 8  # text encoder layer whose cross-attention gives the heatmap, counted from 0
    mean_form: Literal["paper", "official"] = "paper"  # one hinge a sample, or one over the pooled batch
    explanation: Explanation = "gradcam"  # what the loss asks to lie inside the box, and evaluation reads
    map_size: int = 256  # side to which heatmap and box mask are brought, pixels (PROTOCOL, Finetuning)
    mean_over: Literal["boxed", "batch"] = "boxed"  # L_amc is a mean over samples with boxes, or its sum over all

    def __post_init__(self) -> None:
        check(self, not_negative="lambda1 lambda2 lambda_other delta1 delta2 delta_other", positive="map_size")

    @property
    def active(self) -> bool:
        return self.lambda1 > 0 or self.lambda2 > 0 or self.lambda_other > 0


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
    trained_layers: int = (
        0  # fusion layers from the top that train, with the match head, all else frozen; 0: everything
    )
    workers: int = 0  # processes that read images, for each device; 0 reads in the training process
    snapshot_every: int = 1000  # updates between two snapshots, and one after every epoch; 0: none is written

    def __post_init__(self) -> None:
        check(self, positive="epochs batch_size phrases_per_image learning_rate accumulation")
        check(self, not_negative="min_learning_rate warmup_learning_rate warmup_steps weight_decay max_grad_norm")
        check(self, not_negative="short_captions_until fuse_from hard_negatives_from seed workers snapshot_every")
        check(self, not_negative="trained_layers")


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

    def __post_init__(self) -> None:
        check(self, not_negative="seed", below_one="max_occlusion")
        require(self.size >= 64, f"size {self.size} is below 64 pixels, where pictograms cannot be told apart")
        for name, least in (("objects", 2), ("train_objects", 1), ("distractors", 0)):
            low, high = getattr(self, name)
            require(least <= low <= high, f"{name} {low} to {high} must be a range from at least {least}")
        narrowest, widest = self.object_width
        require(0 < narrowest <= widest < 1, f"object_width {self.object_width} must be a range inside (0, 1)")
        require(0 <= self.rotation_degrees <= 180, f"rotation_degrees {self.rotation_degrees} is outside [0, 180]")

    def count(self, split: str) -> int:
        """Number of scenes in a split. Raises ValueError for an unknown split."""
        splits = ("pretrain", "train", "val", "phrases", "referring_a", "referring_b")
        require(split in splits, f"unknown scenes split {split!r}; known: {', '.join(splits)}")
        return getattr(self, split)


@dataclass(frozen=True)
class PhotoSettings:
    """Photographs: how finetuning augments them and evaluation reads them (PROTOCOL).

    The photos tier, whose features are computed once, knows `flip` of the augmentations.
    """

    flip: float = 0.5  # probability of a horizontal flip; left and right change places in the phrase
    gray: float = 0.2  # probability of losing all colour
    jitter: float = 0.4  # largest relative change of brightness, contrast and saturation; hue stays
    jitter_probability: float = 0.5
    one_box: bool = True  # one box, drawn at random, of a record with several; else all of them
    refer_max_words: int = 30  # of a phrase on RefCOCO+ and RefCLEF; elsewhere tokens.MAX_WORDS
    refer_image_size: int = 384  # side of the input on RefCOCO+ and RefCLEF, pixels; elsewhere the model's own
    never_boxed: float = 0.2  # photos tier: share of train's head nouns, by lot, whose phrases give no box
    least_seen: int = 4  # photos tier, words learnt from nothing: how often train's captions must hold a word

    def __post_init__(self) -> None:
        check(self, share="flip gray jitter jitter_probability never_boxed", positive="least_seen")


@dataclass(frozen=True)
class BoxSettings:
    """What finetuning gets to see of the annotated boxes: all of them, exactly, unless an ablation says otherwise."""

    box_share: float = 1.0  # of the pictures whose phrases keep their boxes; the others are read without
    box_shift: float = 0.0  # largest displacement of a box along each axis, in its own width and height
    box_scale: float = 1.0  # factor on a box's width and height, about its centre
    box_of: Literal["own", "other", "anywhere"] = "own"  # control: of another phrase of the picture, or moved by lot

    def __post_init__(self) -> None:
        check(self, positive="box_scale", share="box_share", below_one="box_shift")


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
        fused, layers = text.fusion_from <= self.amc.layer < text.layers, f"{text.fusion_from}-{text.layers - 1}"
        require(fused, f"layer {self.amc.layer} has no cross-attention; fusion layers are {layers}")
        largest = max(stage.batch_size * stage.phrases_per_image for stage in (self.pretraining, self.finetuning))
        queue = self.model.queue_size
        require(queue == 0 or largest <= queue, f"a batch of {largest} phrases exceeds queue_size {queue}")
