"""The model: `build(settings)` gives an ALBEF of the settings' sizes, randomly initialised above its trunk."""

from amc_lib.config import ModelSettings
from amc_lib.model.albef import ALBEF


def build(settings: ModelSettings) -> ALBEF:
    """An ALBEF for `amc_lib.presets.preset(tier).model` or sizes of one's own."""
    return ALBEF(settings)


__all__ = ["ALBEF", "build"]
