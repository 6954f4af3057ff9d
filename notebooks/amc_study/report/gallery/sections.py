"""What the page holds: its sections in the order of reading, and the figures and tables of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from amc_study.report.gallery import ablations, captions, captions_beyond, captions_making
from amc_study.report.gallery.results import Results

Words = Callable[[Results], str]


@dataclass(frozen=True)
class Entry:
    """A figure with its table. It is shown when a file of one of its `stems` is there.

    `caption` needs the csv files among `needs`; `rows` gives their Markdown (None: shown as they are, if they are
    small). `account` is the stem of the provenance; `made_by` a notebook, or a module and its arguments.
    """

    title: str
    stems: tuple[str, ...]
    made_by: str
    caption: Words
    rows: Words | None = None
    needs: tuple[str, ...] = ()
    account: str | None = None


@dataclass(frozen=True)
class Section:
    title: str
    entries: tuple[Entry, ...]
    introduction: Words | None = None


def _said(text: str) -> Words:
    return lambda results: text


EVALUATE, EXPLAIN = "04_evaluate", "10_explanations"
START = (
    Entry("The method", ("method",), EVALUATE, captions.method),
    Entry("Two ways to point", ("two_ways",), EVALUATE, captions.two_ways),
    Entry("The pictures", ("scenes", "scenes_splits"), "01_data", captions.scenes),
)
OUTCOME = (
    Entry(
        "Pointing accuracy (table 1)", ("accuracy", "table1"), EVALUATE, captions.accuracy, captions.table1, ("table1",)
    ),
    Entry(
        "Claims, one by one", ("claims",), EXPLAIN, captions.claims, captions.claims_rows, ("claims",)
    ),
    Entry("Examples", ("qualitative",), EVALUATE, captions.qualitative),
    Entry("Things, groups, parts", ("kinds",), EVALUATE, captions.kinds, captions.kinds_rows, ("kinds",), "accuracy"),
    Entry(
        "Boxes instead of points", ("box_ranking",), EVALUATE, captions.box_ranking, captions.box_ranking_rows,
        ("box_ranking",), "accuracy",
    ),
)  # fmt: skip
MAKING = (
    Entry("Heatmaps during finetuning", ("training",), "python -m amc_study.report.film", captions_making.training, _said("")),
    Entry("Learning curves", ("learning",), EVALUATE, captions_making.learning),
    Entry(
        "Which layer is read", ("layers",), EVALUATE, captions_making.layers, captions_making.layers_rows, ("layers",),
        "accuracy",
    ),
    Entry("What an answer costs", ("costs",), EVALUATE, captions_making.costs, None, ("costs",), "accuracy"),
    Entry(
        "The rival's detector", ("detector",), "09_detector", captions_making.detector, captions_making.detector_rows,
        ("detector",),
    ),
    Entry(
        "What was tried for the detector", ("detector_trials",), "python -m amc_study.rival.trials detector",
        captions_making.detector_trials, None, ("detector_trials",),
    ),
    Entry(
        "What was tried for VMRM", ("vmrm_trials",), "python -m amc_study.rival.trials vmrm", captions_making.vmrm_trials, None,
        ("vmrm_trials",),
    ),
)  # fmt: skip
BEYOND = (
    Entry(
        "The shape of heatmaps", ("explanation_quality",), EXPLAIN, captions_beyond.explanation_quality,
        captions_beyond.quality_rows, ("explanation_quality",),
    ),
    Entry(
        "Where pointing is hard", ("difficulty",), EXPLAIN, captions_beyond.difficulty, captions_beyond.difficulty_rows,
        ("difficulty",),
    ),
    Entry(
        "Deletion and insertion", ("faithfulness_curves", "faithfulness"), EXPLAIN, captions_beyond.faithfulness,
        captions_beyond.faithfulness_rows,
    ),
    Entry(
        "Random weights", ("randomisation",), EXPLAIN, captions_beyond.randomisation,
        captions_beyond.randomisation_rows, ("randomisation",),
    ),
    Entry(
        "Retrieval and matching", ("retrieval",), EXPLAIN, captions_beyond.retrieval, captions_beyond.retrieval_rows,
        ("retrieval",),
    ),
    Entry("Failures", ("misses",), EXPLAIN, captions_beyond.misses, captions_beyond.misses_rows, ("misses",)),
)  # fmt: skip
ABLATED = tuple(
    Entry(
        ablations.title(name), (ablations.stem(name), *(["ablation_ranks"] if name == "schedule" else [])),
        "05_ablations", partial(ablations.caption, name), partial(ablations.rows, name),
    )
    for name in ablations.GRID
)  # fmt: skip
SPEED = (
    Entry(
        "Benchmarks", ("benchmarks",), "python -m tests.bench", captions_making.benchmarks, captions_making.benchmarks_rows,
        ("benchmarks",),
    ),
    Entry(
        "One update at full size", ("paper_step",), "python -m tests.bench", captions_making.paper_step,
        captions_making.paper_step_rows,
        ("paper_step",),
    ),
)  # fmt: skip
POSTER = (
    Entry(
        "The poster", ("poster",), "python -m amc_study.report.poster",
        _said("The study on one page; its numbers come from the same files as this page's."),
    ),
)  # fmt: skip
SECTIONS = (
    Section("What is asked, and how", START),
    Section("What came out", OUTCOME),
    Section("How the systems were made", MAKING),
    Section("Explanations, beyond a point", BEYOND),
    Section("Ablations", ABLATED, ablations.introduction),
    Section("Speed and memory", SPEED),
    Section("On one page", POSTER),
)
