"""Figures: each function returns a matplotlib Figure, `save` writes it with its provenance, `to_image` shows it."""

from amc_lib.overlay import heat_overlay
from amc_study.figures.curves import faithfulness_figure, learning_curves, randomisation_figure
from amc_study.figures.dots import (
    ablation_figure,
    accuracy_figure,
    claims_figure,
    difficulty_figure,
    dot_and_whisker,
    measures_figure,
    table_markdown,
)
from amc_study.figures.method import method_figure
from amc_study.figures.qualitative import Example, Shown, qualitative_figure
from amc_study.figures.scene_sheet import scene_sheet
from amc_study.figures.style import COLOURS, FOLDER, save, to_image
from amc_study.figures.training_film import Film, training_figure, training_gif
from amc_study.figures.two_ways import TwoWays, two_ways_figure

__all__ = [
    "COLOURS",
    "FOLDER",
    "Example",
    "Film",
    "Shown",
    "TwoWays",
    "ablation_figure",
    "accuracy_figure",
    "claims_figure",
    "difficulty_figure",
    "dot_and_whisker",
    "faithfulness_figure",
    "heat_overlay",
    "learning_curves",
    "measures_figure",
    "method_figure",
    "qualitative_figure",
    "randomisation_figure",
    "save",
    "scene_sheet",
    "table_markdown",
    "to_image",
    "training_figure",
    "training_gif",
    "two_ways_figure",
]
