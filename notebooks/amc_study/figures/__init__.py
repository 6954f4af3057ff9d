"""Figures: each function returns a matplotlib Figure, `save` writes it with its provenance, `to_image` shows it."""

# ruff: noqa: F401

from amc_study.figures.curves import faithfulness_figure, learning_curves, randomisation_figure
from amc_study.figures.dots import (
    ablation_figure,
    accuracy_figure,
    asked_figure,
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
