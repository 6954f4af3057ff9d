"""The poster, put together from the study's own figures and numbers: `python -m amc_study.report.poster`.

Reads figures/ and writes figures/poster.png, poster.pdf and poster.json, which names every file that it was made of
with its hash. No model is asked.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from amc_lib.files import sha256_of, write_bytes, write_json
from amc_study.explain.claims import CONFIRMED, NOT_TESTABLE, THE_POSTER
from amc_study.figures import (
    FOLDER,
    Picture,
    Poster,
    Verdict,
    accuracy_figure,
    example_blocks,
    poster_figure,
    to_image,
)
from amc_study.figures.poster import BAD, GOOD, OPEN
from amc_study.provenance import provenance
from amc_study.report.gallery.results import Number, Results, listed, signed
from amc_study.report.readme import COLUMNS, SYSTEMS
from amc_study.scenes.pictograms import ATTRIBUTION

NAME = "poster"
PICTURES = ("method.png", "two_ways.png", "qualitative.png")
TABLES = ("table1.csv", "scenes_splits.csv", "claims.csv")  # the last one if it is there
PNG_DPI, PDF_DPI = 150, 150
PNG_COLOURS, PALETTE_ROUNDS = 256, 10  # of the page's one palette, and how often it is fitted to the page
EXAMPLES, ABREAST = (2, 3), 2  # of qualitative.png: one that AMC misses, one that it alone answers
LEFT_OUT = ("chance", "centre", "oracle")  # of the accuracy panel; the table has them
SPLITS = ("phrases", "referring A", "referring B")
TITLE = "Can explanations be trained to point at the right thing?"
SUBTITLE = (
    "Attention Map Consistency (AMC) for ALBEF, rebuilt and tested at the scale of two CPU cores, on drawn scenes"
)
MOTIVATION = (
    "Whoever wants to know where in a picture a phrase is meant usually asks a detector first: it proposes boxes, and "
    "a second model picks one. What the detector was never taught it may not propose.",
    "A model that only tells whether phrase and picture match needs no boxes. Its match score, differentiated with "
    "respect to its own attention, gives a heatmap: an explanation. Left to itself it is only roughly in the right "
    "place.",
    "AMC trains the explanation: where a box is known, the heat has to lie inside. Does the model then point better, "
    "also at things whose box it has never seen? And better than the detector's way?",
)
SHORT = (
    ("ALBEF finetuned", "all", "against the same finetuning without boxes"),
    ("ALBEF finetuned", "unboxed", "against it, on things that never had a box"),
    ("VMRM", "all", "against the system with a detector"),
)
ROWS_NOTE = (
    "± half of the 95 % interval (bootstrap over images); below, paired: that of the difference. never boxed: concepts "
    "without a box in finetuning. oracle: the best of the detector's proposals."
)
EXAMPLES_NOTE = (
    "Dark outline: what the phrase means. Cross: the point. By lot: one that AMC misses, one that it alone answers."
)
RIVALS = {"other heatmaps": ("ALBEF", "ALBEF finetuned"), "the detector-based system": ("VMRM",)}
ASKED = (*((split, "all") for split in SPLITS), ("phrases", "unboxed"))
AUTHORS = {THE_POSTER: "the authors' poster"}
SOURCES = "AMC: Yang et al., CVPR 2023; ALBEF: Li et al., NeurIPS 2021; VMRM: Dou and Peng, EMNLP 2021"


def poster(folder: Path) -> Poster:
    """All that the page shows, from the files of `folder`."""
    results = Results(folder)
    table = results.table("table1")
    blocks = example_blocks(_pixels(folder / "qualitative.png"), ABREAST)
    panel = table[~table["system"].isin(LEFT_OUT) & table["concepts"].isin(["all", "unboxed"])]
    return Poster(
        title=TITLE,
        subtitle=SUBTITLE,
        motivation=[*MOTIVATION, data_in_words(results)],
        short=in_short(results),
        method=Picture(_pixels(folder / "method.png")),
        two_ways=Picture(closed_up(_pixels(folder / "two_ways.png"))),
        rows=table_rows(results),
        rows_note=ROWS_NOTE,
        findings=findings(results),
        examples=[Picture(blocks[number]) for number in EXAMPLES if number < len(blocks)],
        examples_note=EXAMPLES_NOTE,
        results=Picture(np.asarray(to_image(accuracy_figure(panel)))),
        claims=claims(results),
        footer=f"{ATTRIBUTION}.  {SOURCES}.  Made by python -m amc_study.report.poster.",
    )


def table_rows(results: Results) -> list[list[str]]:
    """Table 1 as text: heading and a row for each system that has a number."""
    rows = [["", *(name.replace("phrases, ", "") for name in COLUMNS)]]
    for system in SYSTEMS:
        cells = [results.accuracy(system, *column) for column in COLUMNS.values()]
        if any(cells):
            rows.append([system, *(_plus_minus(cell) if cell else "–" for cell in cells)])
    return rows


def _plus_minus(number: Number) -> str:
    return f"{number.value:.1f} ± {(number.high - number.low) / 2:.1f}"


def data_in_words(results: Results) -> str:
    sizes = results.table("scenes_splits").set_index("split")
    asked = sizes.drop(index=["train", "val"])
    seeds = int(results.table("table1")["seeds"].max())
    return (
        f"Measured here: {sizes.images['train']:,} pictures with {sizes.phrases['train']:,} phrases to learn from, "
        f"{asked.phrases.sum():,} phrases of {asked.images.sum():,} other pictures to answer, {seeds} training "
        f"seed{'s' if seeds > 1 else ''}, one score: does the peak lie in the box?"
    )


def in_short(results: Results) -> list[tuple[str, str]]:
    """The outcome on `phrases` as a few numbers: AMC's accuracy, and how far it is from its rivals."""
    told = [(str(results.accuracy("AMC")).split(" [")[0], "of the phrases: AMC's heatmap peaks on the right thing")]
    for rival, concepts, said in SHORT:
        one, other = results.accuracy("AMC", "phrases", concepts), results.accuracy(rival, "phrases", concepts)
        if one and other:
            paired = results.paired("AMC", rival, "phrases", concepts)
            ends = f" [{signed(paired['ci_low'])}, {signed(paired['ci_high'])}]" if paired is not None else ""
            overlap = "" if ends or one.is_apart_from(other) else "; intervals overlap"
            told.append((signed(one.value - other.value), f"points{ends} {said}{overlap}"))
    return told


def findings(results: Results) -> list[tuple[str, str]]:
    """What can be read off table 1, as numbers of AMC against each rival."""
    return [
        ("Against the same finetuning without boxes", against(results, "ALBEF finetuned", SPLITS)),
        ("Against the detector-based system", against(results, "VMRM", SPLITS)),
        ("Concepts that never had a box", against(results, "ALBEF finetuned", SPLITS, "unboxed")),
    ]


def against(results: Results, rival: str, splits: Sequence[str], concepts: str = "all") -> str:
    """By how many points AMC is ahead or behind, split by split, and how sure that is (as `Results.lead` says it)."""
    pairs = [(results.accuracy("AMC", split, concepts), results.accuracy(rival, split, concepts)) for split in splits]
    if not all(one and other for one, other in pairs):
        return f"{rival} was not measured."
    differences = [one.value - other.value for one, other in pairs]
    apart = sum(one.is_apart_from(other) for one, other in pairs)
    numbers = listed([f"{abs(difference):.1f}" for difference in differences])
    side = "ahead of" if min(differences) >= 0 else "behind" if max(differences) < 0 else ""
    if not side:
        numbers, side = listed([f"{difference:+.1f}" for difference in differences]), "against"
    sure = f"intervals apart on {apart} of {len(pairs)}"
    paired = {split: row for split in splits if (row := results.paired("AMC", rival, split, concepts)) is not None}
    if paired:
        ends = ", ".join(f"[{signed(row['ci_low'])}, {signed(row['ci_high'])}]" for row in paired.values())
        sure = f"paired {ends}{'' if len(paired) == len(splits) else f' on {listed(list(paired))} alone'}"
    return f"AMC is {numbers} points {side} {rival} on {listed(splits)}; {sure}."


def claims(results: Results) -> list[tuple[str, list[Verdict]]]:
    """The claims with their verdicts, under whose they are; without claims.csv what table 1 says of them."""
    table = results.table("claims")
    if table is None:
        return [
            (f"Against {rivals} (table 1)", [_by_intervals(results, name, *one) for name in names for one in ASKED])
            for rivals, names in RIVALS.items()
        ]
    return [
        (f"Claims of {AUTHORS.get(of, of)}", [_verdict(row) for row in part.itertuples()])
        for of, part in table.groupby("of", sort=False)
    ]


def _verdict(row: object) -> Verdict:
    if row.verdict == NOT_TESTABLE:
        return Verdict(row.claim, "", NOT_TESTABLE, OPEN)
    numbers = f"{row.difference:+.1f} [{row.ci_low:+.1f}, {row.ci_high:+.1f}]"
    tone = GOOD if row.verdict in CONFIRMED else BAD
    return Verdict(row.claim, numbers, row.verdict.replace(" at this scale", ""), tone)


def _by_intervals(results: Results, rival: str, split: str, concepts: str) -> Verdict:
    where = f"{split}{', never boxed' if concepts == 'unboxed' else ''}"
    claim = f"AMC is better than {rival}: {where}"
    one, other = results.accuracy("AMC", split, concepts), results.accuracy(rival, split, concepts)
    if one is None or other is None:
        return Verdict(claim, "", NOT_TESTABLE, OPEN)
    difference = one.value - other.value
    if not one.is_apart_from(other):
        return Verdict(claim, f"{difference:+.1f}", "intervals overlap", OPEN)
    return Verdict(
        claim, f"{difference:+.1f}", "ahead" if difference > 0 else "behind", GOOD if difference > 0 else BAD
    )


def png(figure: Figure) -> bytes:
    """The page as PNG with a palette, which keeps it small."""
    image = to_image(figure, PNG_DPI).quantize(PNG_COLOURS, Image.Quantize.MEDIANCUT, kmeans=PALETTE_ROUNDS)
    image.save(buffer := io.BytesIO(), "PNG", optimize=True)
    return buffer.getvalue()


def pdf(figure: Figure) -> bytes:
    """The page as PDF: lines and letters as such, pictures at PDF_DPI. The same figure gives the same bytes."""
    figure.savefig(buffer := io.BytesIO(), format="pdf", dpi=PDF_DPI, metadata={"CreationDate": None})
    return buffer.getvalue()


def inputs(folder: Path) -> dict[str, str]:
    """Every file that the poster is made of with its hash."""
    return {name: sha256_of(folder / name) for name in (*PICTURES, *TABLES) if (folder / name).is_file()}


def closed_up(pixels: np.ndarray, most: int = 40) -> np.ndarray:
    """The picture (uint8 [H, W, 3]) with every blank band that is higher than `most` cut to that height."""
    blank = (pixels == 255).all(axis=(1, 2))
    run = np.zeros(len(blank), dtype=int)  # how many rows up to this one have been blank
    for row in range(len(blank)):
        run[row] = (run[row - 1] + 1 if row else 1) * blank[row]
    return pixels[run <= most]


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def main() -> None:
    figure = poster_figure(poster(FOLDER))
    write_bytes(FOLDER / f"{NAME}.png", png(figure))
    write_bytes(FOLDER / f"{NAME}.pdf", pdf(figure))
    write_json(FOLDER / f"{NAME}.json", provenance({"inputs": inputs(FOLDER)}, seed=0))


if __name__ == "__main__":
    main()
