"""What is varied: each ablation changes one thing of AMC's defaults, and names the setting that it is compared with.

All but `schedule` train for a third of the tier's epochs; `schedule` shows that this ranks settings as all of them do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from amc_lib.config import Settings
from amc_lib.presets import preset

Read = Literal["gradcam", "attention"]  # the heatmap whose peak is the point
MANY, FEW = 5, 3  # seeds
SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)  # of the pictures, with boxes
SIDES = (0.25, 0.5, 1, 2)  # of the map, times the preset's


@dataclass(frozen=True)
class Variant:
    """A setting: its name, what it changes (flat names of 03), how its answers are read, and its schedule."""

    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    read: Read = "gradcam"
    light: bool = True


@dataclass(frozen=True)
class Ablation:
    name: str  # of its files: figures/ablation_NAME.*
    question: str
    variants: tuple[Variant, ...]
    against: str  # the label that the others are compared with
    seeds: int = FEW


NO_BOXES = Variant("no boxes", {"lambda1": 0.0, "lambda2": 0.0})
MEAN, MAX = {"lambda1": 1.0, "lambda2": 0.0}, {"lambda1": 0.0, "lambda2": 1.0}


def ablations(tier: str) -> tuple[Ablation, ...]:
    """The grid of a tier; its layers and map sizes are those of the tier's model."""
    settings = preset(tier)
    return (*_of_the_loss(), *_of_the_heatmap(settings), *_of_the_boxes(), *_of_training())


def _of_the_loss() -> tuple[Ablation, ...]:
    return (
        Ablation(
            "terms",
            "Which of the two terms does it?",
            (NO_BOXES, Variant("L_mean", MEAN), Variant("L_max", MAX), Variant("both")),
            "both",
            MANY,
        ),
        Ablation(
            "lambdas",
            "How are the two terms weighted?",
            (
                Variant("λ 1 : 0", MEAN),
                Variant("λ 0.8 : 0.2", {"lambda1": 0.8, "lambda2": 0.2}),
                Variant("λ 0.5 : 0.5", {"lambda1": 0.5, "lambda2": 0.5}),
                Variant("λ 0.2 : 0.8"),
                Variant("λ 0 : 1", MAX),
                Variant("a quarter of both", {"lambda1": 0.05, "lambda2": 0.2}),
                Variant("four times both", {"lambda1": 0.8, "lambda2": 3.2}),
            ),
            "λ 0.2 : 0.8",
            MANY,
        ),
        Ablation(
            "margins",
            "How large must the margins be?",
            (
                Variant("Δ₁ 0", {"delta1": 0.0}),
                Variant("Δ₁ 0.1, Δ₂ 0.5"),
                Variant("Δ₁ 0.3", {"delta1": 0.3}),
                Variant("Δ₂ 0", {"delta2": 0.0}),
                Variant("Δ₂ 0.25", {"delta2": 0.25}),
                Variant("Δ₂ 1", {"delta2": 1.0}),
            ),
            "Δ₁ 0.1, Δ₂ 0.5",
            MANY,
        ),
        Ablation(
            "mean_form",
            "L_mean of each sample, or of the pooled batch?",
            (
                Variant("each sample (paper)"),
                Variant("pooled (authors' code)", {"mean_form": "official"}),
                Variant("each sample, L_mean alone", MEAN),
                Variant("pooled, L_mean alone", MEAN | {"mean_form": "official"}),
            ),
            "each sample (paper)",
        ),
    )


def _of_the_heatmap(settings: Settings) -> tuple[Ablation, ...]:
    text, side = settings.model.text, settings.amc.map_size
    layers = tuple(Variant(f"layer {i}", {"layer": i}) for i in range(text.fusion_from, text.layers))
    sides = sorted({settings.model.vision.grid, *(int(side * factor) for factor in SIDES)})
    return (
        Ablation("layer", "Which fusion layer's heatmap is trained?", layers, f"layer {settings.amc.layer}"),
        Ablation(
            "map_size",
            "At which size does the loss compare heatmap and mask?",
            tuple(Variant(f"{pixels} px", {"map_size": pixels}) for pixels in sides),
            f"{side} px",
        ),
        Ablation(
            "explanation",
            "GradCAM, or plain attention?",
            (
                Variant("no boxes, GradCAM read", NO_BOXES.changes),
                Variant("no boxes, attention read", NO_BOXES.changes, "attention"),
                Variant("GradCAM trained, GradCAM read"),
                Variant("GradCAM trained, attention read", read="attention"),
                Variant("attention trained, GradCAM read", {"explanation": "attention"}),
                Variant("attention trained, attention read", {"explanation": "attention"}, "attention"),
            ),
            "GradCAM trained, GradCAM read",
        ),
    )


def _of_the_boxes() -> tuple[Ablation, ...]:
    return (
        Ablation(
            "box_share",
            "How few boxes are enough?",
            tuple(Variant(f"{share:.0%}", {"box_share": share}) for share in SHARES),
            "100%",
        ),
        Ablation(
            "box_noise",
            "How exact must boxes be?",
            (
                Variant("exact"),
                Variant("shifted by up to 25 %", {"box_shift": 0.25}),
                Variant("shifted by up to 50 %", {"box_shift": 0.5}),
                Variant("half as wide and high", {"box_scale": 0.5}),
                Variant("1.5 times as wide and high", {"box_scale": 1.5}),
                Variant("twice as wide and high", {"box_scale": 2.0}),
            ),
            "exact",
        ),
    )


def _of_training() -> tuple[Ablation, ...]:
    terms = (("no boxes", NO_BOXES.changes), ("L_mean", MEAN), ("L_max", MAX), ("both", {}))
    return (
        Ablation(
            "distillation",
            "MLM's teacher: none, over the vocabulary, or over the sequence?",
            (
                Variant("no teacher", {"alpha": 0.0}),
                Variant("vocabulary", {"alpha": 0.4}),
                Variant("sequence (authors' code)", {"alpha": 0.4, "mlm_distillation": "official"}),
            ),
            "no teacher",
        ),
        Ablation(
            "schedule",
            "Does the light schedule rank settings as the full one does?",
            tuple(
                Variant(f"{name}, {length}", changes, light=length == "light")
                for length in ("light", "full")
                for name, changes in terms
            ),
            "both, full",
        ),
    )
