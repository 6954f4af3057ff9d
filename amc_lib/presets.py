"""The settings of the three tiers: `preset("scenes")`, `preset("photos")` and `preset("paper")`."""

from __future__ import annotations

from dataclasses import replace

from amc_lib.config import (
    AmcSettings,
    ModelSettings,
    ObjectiveSettings,
    Settings,
    TextSettings,
    TrainingSettings,
    VisionSettings,
)

DEFAULT_CHECKPOINT = "amc-photos"  # of those that are shipped, the one for anyone's picture
_LAPTOP_SCHEDULE = TrainingSettings(
    epochs=3,
    batch_size=32,
    phrases_per_image=4,
    learning_rate=4e-4,
    min_learning_rate=1e-5,
    warmup_learning_rate=1e-5,
    cosine_by="step",
    warmup_steps=50,
    max_grad_norm=1.0,
    snapshot_every=50,
)


def _scenes() -> Settings:
    return Settings(
        tier="scenes",
        model=ModelSettings(
            vision=VisionSettings(
                image_size=160, trunk="lite0", patch_size=16, width=128, depth=2, heads=4, mlp_ratio=2.0
            ),
            text=TextSettings(
                vocab_size=1024, width=128, layers=6, fusion_from=3, heads=4, ffn_width=512, positions=64, dropout=0.0
            ),
            embed_dim=64,
            queue_size=0,  # a queue's older features differ from the batch's more than pictures differ from each other
            momentum=0.9,
            temperature_range=(0.07, 0.07),
        ),
        objective=ObjectiveSettings(alpha=0.0, mlm_probability=0.4),
        amc=AmcSettings(layer=3, map_size=80),
        pretraining=replace(
            _LAPTOP_SCHEDULE, epochs=6, warmup_steps=100, short_captions_until=4, fuse_from=3, hard_negatives_from=5
        ),
        finetuning=_LAPTOP_SCHEDULE,
    )


def _photos() -> Settings:
    epochs = _LAPTOP_SCHEDULE.epochs
    finetuning = replace(
        _LAPTOP_SCHEDULE,
        learning_rate=2e-4,
        snapshot_every=100,
        hard_negatives_from=epochs,  # never: of "a man" the hardest negatives are other men, and no negatives
    )
    return Settings(
        tier="photos",
        model=ModelSettings(
            vision=VisionSettings(
                image_size=256, trunk="lite2", patch_size=16, width=256, depth=2, heads=4, mlp_ratio=2.0
            ),
            text=TextSettings(
                trunk="minilm", width=256, layers=4, fusion_from=1, heads=8, ffn_width=1024, dropout=0.0, max_tokens=20
            ),
            queue_size=0,  # as on scenes; with one of 2,048 the contrast grew worse as the rate fell
            momentum=0.9,
            stored="float16",
        ),
        objective=ObjectiveSettings(alpha=0.0),
        amc=AmcSettings(layer=2, map_size=128),
        pretraining=replace(
            finetuning,
            epochs=9,
            batch_size=64,
            phrases_per_image=2,
            learning_rate=4e-4,
            warmup_steps=200,
            fuse_from=3,
            hard_negatives_from=7,
        ),
        finetuning=finetuning,
    )


def with_own_words(settings: Settings) -> Settings:
    """The photos tier with words learnt from nothing in place of MiniLM: as many text layers as fusion layers.

    ValueError for a tier that does not read MiniLM.
    """
    if settings.model.text.trunk != "minilm":
        raise ValueError(f"own words stand in for MiniLM, which the tier {settings.tier!r} does not read")
    text = replace(settings.model.text, trunk="none", layers=6, fusion_from=3)
    raised = settings.amc.layer + text.fusion_from - settings.model.text.fusion_from
    return replace(settings, model=replace(settings.model, text=text), amc=replace(settings.amc, layer=raised))


def _paper() -> Settings:
    return Settings(
        tier="paper",
        model=ModelSettings(),
        objective=ObjectiveSettings(),
        amc=AmcSettings(),
        pretraining=TrainingSettings(learning_rate=1e-4, min_learning_rate=1e-5, warmup_learning_rate=1e-5),
        finetuning=TrainingSettings(workers=8),
    )


_PRESETS = {"scenes": _scenes, "photos": _photos, "paper": _paper}


def preset(tier: str) -> Settings:
    """The settings of a tier. Raises ValueError for an unknown tier."""
    if not isinstance(tier, str) or tier not in _PRESETS:
        raise ValueError(f"unknown tier {tier!r:.80}; known: {', '.join(_PRESETS)}")
    return _PRESETS[tier]()
