"""The model: `ALBEF(settings)` has the settings' sizes and is randomly initialised above its trunk."""

from amc_lib.model.albef import ALBEF

__all__ = ["ALBEF"]
