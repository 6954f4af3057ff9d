"""Attention Map Consistency: visual grounding by explanations that are trained to point at the right thing."""

from importlib import import_module

__version__ = "0.1.0"
_HOMES = {
    "ALBEF": "amc_lib.model",
    "Grounder": "amc_lib.grounder",
    "Grounding": "amc_lib.grounding",
    "amc_loss": "amc_lib.losses",
    "heatmap": "amc_lib.gradcam",
    "max_loss": "amc_lib.losses",
    "mean_loss": "amc_lib.losses",
    "watch_attention": "amc_lib.gradcam",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Import what is exported when it is first asked for: `import amc_lib` alone loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
