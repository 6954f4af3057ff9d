"""The poster says what the tables say, can be read, and is made of the figures that are committed."""

from __future__ import annotations

import json

import explanation_tables as made
import numpy as np
import pytest
from legibility import assert_texts_are_legible
from PIL import Image
from test_figures_results import accuracy_table

from amc_study.figures import FOLDER, example_blocks, poster_figure, qualitative_figure, to_image
from amc_study.figures.poster import BAD, BODY, GOOD, MARGIN, OPEN, RIGHT, WIDE, extent, wrapped
from amc_study.report.gallery.results import Results
from amc_study.report.poster import against, claims, closed_up, findings, in_short, inputs, pdf, png, poster, table_rows

WIDE_SCREEN = 1600  # pixels across which everything must be readable
LEAST_TYPE = 11  # pixels on such a screen

committed = pytest.mark.skipif(
    not (FOLDER / "poster.json").is_file(), reason="python -m amc_study.report.poster was not run"
)


@pytest.fixture
def results(tmp_path) -> Results:
    table = accuracy_table(half=1.0, systems={"ALBEF": 60.0, "ALBEF finetuned": 64.0, "AMC": 69.84, "VMRM": 87.0})
    table.loc[(table["system"] == "ALBEF finetuned") & (table["split"] == "referring A"), "ci_high"] = 75.0
    table.to_csv(tmp_path / "table1.csv", index=False)
    return Results(tmp_path)


@pytest.fixture(scope="module")
def figure():
    return poster_figure(poster(FOLDER))


def test_every_text_can_be_read(figure):
    texts = assert_texts_are_legible(figure)
    assert "Motivation" in texts and "Method" in texts and "Two ways to point" in texts
    pixels_of_a_point = WIDE_SCREEN / (72 * figure.get_size_inches()[0])
    sizes = [text.get_fontsize() * pixels_of_a_point for text in figure.axes[0].texts]
    assert min(sizes) >= LEAST_TYPE


def test_no_text_leaves_the_margins(figure):
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        left, right = (WIDE * edge / figure.bbox.width for edge in (box.x0, box.x1))
        assert left >= MARGIN - 1 and right <= RIGHT + 1, text.get_text()


def test_page_has_the_proportions_of_a0(figure):
    width, height = figure.get_size_inches()
    assert height / width == pytest.approx(2**0.5, rel=1e-3)


def test_pictures_keep_their_proportions_and_off_each_other(figure):
    places = [axes.get_position() for axes in figure.axes[1:]]
    assert len(places) == 5
    for axes, place in zip(figure.axes[1:], places, strict=True):
        high, wide = axes.images[0].get_array().shape[:2]
        size = place.height * figure.get_size_inches()[1], place.width * figure.get_size_inches()[0]
        assert size[0] / size[1] == pytest.approx(high / wide, rel=1e-3)
    for n, one in enumerate(places):
        assert one.x0 > 0 and one.x1 < 1 and one.y0 > 0 and one.y1 < 1
        for other in places[n + 1 :]:
            wide, high = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
            assert wide < 1e-6 or high < 1e-6


def test_numbers_are_those_of_the_table(results):
    rows = table_rows(results)
    assert rows[0][1:] == ["phrases", "referring A", "referring B", "never boxed"]
    assert rows[3] == ["AMC", "69.8 ± 1.0", "69.8 ± 1.0", "69.8 ± 1.0", "69.8 ± 1.0"]
    assert [row[0] for row in rows[1:]] == ["ALBEF", "ALBEF finetuned", "AMC", "VMRM"]


def test_large_numbers_are_those_of_the_table(results):
    table = results.table("table1")
    table.loc[(table["system"] == "ALBEF finetuned") & (table["concepts"] == "unboxed"), "ci_high"] = 75.0
    assert in_short(results) == [
        ("69.8 %", "of the phrases: AMC's heatmap peaks on the right thing"),
        ("+5.8", "points against the same finetuning without boxes"),
        ("+5.8", "points against it, on things that never had a box; intervals overlap"),
        ("−17.2", "points against the system with a detector"),
    ]


def test_paired_differences_stand_where_they_were_taken(results):
    table = made.claims().astype({"ci_low": float, "ci_high": float})
    for rival, task, ends in (
        ("ALBEF finetuned", "phrases", (4.2, 7.4)),
        ("ALBEF finetuned", "concepts never boxed", (2.4, 5.5)),
        ("VMRM", "phrases", (-18.6, -16.5)),
    ):
        chosen = table["claim"] == f"AMC is better than {rival}: {task}"
        assert chosen.sum() == 1
        table.loc[chosen, ["ci_low", "ci_high", "verdict"]] = [*ends, "reproduced at this scale"]
    table.loc[table["claim"].str.endswith("ALBEF finetuned: referring A"), "verdict"] = "not testable"
    table.to_csv(results.folder / "claims.csv", index=False)
    told = Results(results.folder)
    assert in_short(told)[1:] == [
        ("+5.8", "points [+4.2, +7.4] against the same finetuning without boxes"),
        ("+5.8", "points [+2.4, +5.5] against it, on things that never had a box"),
        ("−17.2", "points [−18.6, −16.5] against the system with a detector"),
    ]
    assert "behind VMRM on phrases; paired [−18.6, −16.5]." in against(told, "VMRM", ["phrases"])
    two = against(told, "ALBEF finetuned", ("phrases", "referring A"))
    assert two.endswith("on phrases and referring A; paired [+4.2, +7.4] on phrases alone.")


def test_findings_say_who_is_ahead_and_whether_intervals_are_apart(results):
    splits = ("phrases", "referring A")
    told = against(results, "ALBEF finetuned", splits)
    assert told == (
        "AMC is 5.8 and 5.8 points ahead of ALBEF finetuned on phrases and referring A; intervals apart on 1 of 2."
    )
    assert "17.2 points behind VMRM on phrases; intervals apart on 1 of 1." in against(results, "VMRM", ["phrases"])
    assert against(results, "oracle", splits) == "oracle was not measured."
    assert len(findings(results)) == 3


def test_claims_come_from_their_table_or_else_from_table_1(results):
    told = {one.claim: (one.numbers, one.verdict, one.tone) for _, part in claims(results) for one in part}
    assert len(told) == 12
    assert told["AMC is better than VMRM: phrases"] == ("-17.2", "behind", BAD)
    assert told["AMC is better than ALBEF: phrases, never boxed"] == ("+9.8", "ahead", GOOD)
    assert told["AMC is better than ALBEF finetuned: referring A"] == ("+5.8", "intervals overlap", OPEN)

    made.claims().to_csv(results.folder / "claims.csv", index=False)
    of_poster, of_study = claims(Results(results.folder))
    assert (of_poster[0], of_study[0]) == ("Claims of the authors' poster", "Claims of this study")
    first = of_poster[1][0]
    assert (first.claim, first.numbers) == ("AMC is better than ALBEF: phrases", "+3.0 [+1.5, +4.5]")
    assert {one.tone for one in of_poster[1]} == {GOOD, BAD, OPEN}
    assert len(of_poster[1]) + len(of_study[1]) == len(made.claims())


def test_poster_with_every_claim_is_legible():
    content = poster(FOLDER)
    table = made.claims().assign(statement="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Results, "_table", lambda self, stem: table if stem == "claims" else None)
        with_claims = content.__class__(**{**vars(content), "claims": claims(Results(FOLDER))})
    assert_texts_are_legible(poster_figure(with_claims))


def test_lines_fit_and_lose_no_word():
    text = "Left to itself it is only roughly in the right place, as one can see. " * 3
    lines = wrapped(text, 300, BODY)
    assert " ".join(lines).split() == text.split()
    assert all(extent(line, BODY) <= 300 for line in lines) and len(lines) > 3
    assert wrapped("incomprehensibilities", 10, BODY) == ["incomprehensibilities"]


def test_examples_are_cut_out_whole():
    from test_figures import example

    page = np.asarray(to_image(qualitative_figure([example(phrase) for phrase in ("a", "b", "c", "d")], abreast=2)))
    blocks = example_blocks(page, abreast=2)
    assert len(blocks) == 4 and len({block.shape for block in blocks}) == 1
    assert blocks[0].shape[1] == page.shape[1] // 2
    for block in blocks:  # nothing is cut through: the edges are blank
        assert (block[[0, -1]] == 255).all() and (block[:, [0, -1]] == 255).all()


def test_only_high_blank_bands_are_closed_up():
    page = np.full((100, 4, 3), 255, dtype=np.uint8)
    page[[10, 20, 90], 1] = 0
    closed = closed_up(page, most=15)
    assert list(np.flatnonzero((closed < 255).any(axis=(1, 2)))) == [10, 20, 36] and len(closed) == 46


@committed
def test_committed_poster_is_made_of_the_committed_figures():
    account = json.loads((FOLDER / "poster.json").read_text(encoding="utf-8"))
    assert account["settings"]["inputs"] == inputs(FOLDER), "python -m amc_study.report.poster renews it"


@committed
def test_committed_files_are_small_and_large_enough():
    assert (FOLDER / "poster.png").stat().st_size < 2_000_000
    assert (FOLDER / "poster.pdf").stat().st_size < 4_000_000
    assert (FOLDER / "poster.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(FOLDER / "poster.png") as image:
        assert image.width >= WIDE_SCREEN


def test_the_same_figure_gives_the_same_bytes():
    from amc_study.figures import method_figure

    assert pdf(method_figure()) == pdf(method_figure())
    assert png(method_figure()) == png(method_figure())
