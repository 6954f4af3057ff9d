"""Wrong phrases: drawn from what is allowed by id and seed alone, and what asking them says of a system."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from amc_lib.regions import Region
from amc_study.comparison import baseline_rows
from amc_study.groupings import by_question, grouped, phrase_columns, which_of_several
from amc_study.scenes.splits import SceneSplit
from amc_study.statistics import mean_interval, paired_difference
from amc_study.table import accuracy, answer_rows, read_table, write_table
from amc_study.wrong_phrases import (
    ASKED,
    KINDS,
    apart,
    control_table,
    paired_controls,
    told,
    wrong_answers,
    wrong_questions,
)

SIDE = 40
LEFT, RIGHT, MIDDLE = (0.0, 0.0, 10.0, 10.0), (30.0, 0.0, 40.0, 10.0), (15.0, 15.0, 25.0, 25.0)


@dataclass(frozen=True)
class Blank:
    def open(self) -> Image.Image:
        return Image.new("RGB", (SIDE, SIDE))


def region(picture: str, number: int, phrase: str, *boxes, **values) -> Region:
    return Region(f"{picture}-{number}", "test", Blank(), picture, phrase, boxes or (LEFT,), **values)


PARK = [
    region("park", 0, "A dog", LEFT, chain="1", entity="animals"),
    region("park", 1, "the black dog", LEFT, chain="1", entity="animals"),
    region("park", 2, "a cat", (0.0, 0.0, 10.0, 11.0), chain="2", entity="animals"),
    region("park", 3, "a dog", RIGHT, chain="3", entity="animals"),
    region("park", 4, "two balls", RIGHT, MIDDLE, chain="4", entity="other"),
]
STREET = [region("street", 0, "a bus", entity="vehicles"), region("street", 1, "a dog!", entity="animals")]
ROOM = [region("room", 0, "a table", chain="9", entity="other")]
REGIONS = [*PARK, *STREET, *ROOM]
MANY = [region(f"picture {i}", k, f"phrase {i} {k}", (LEFT, RIGHT)[k % 2]) for i in range(15) for k in range(4)]


def drawn(regions: list[Region], name: str, seeds: int = 200) -> dict[str, set[str]]:
    """Every phrase that some seed draws, by id."""
    found: dict[str, set[str]] = {region.id: set() for region in regions}
    for seed in range(seeds):
        for one, question in zip(regions, wrong_questions(regions, seed)[name], strict=True):
            found[one.id].add(question and question.phrase)
    return found


def test_random_phrases_are_of_other_pictures_and_never_the_own_words():
    found = drawn(REGIONS, "random")
    assert found["park-0"] == {"a bus", "a table"}  # not "a dog!", which is the same words
    assert found["park-2"] == {"a bus", "a dog!", "a table"}
    assert found["street-1"] == {"the black dog", "a cat", "two balls", "a table"}


def test_other_phrases_mean_another_thing_of_the_picture():
    found = drawn(REGIONS, "other")
    assert found["park-0"] == {"a cat", "two balls"}  # the other dog has the same words
    assert found["park-1"] == {"a cat", "a dog", "two balls"}  # not "A dog", which is the same one
    assert found["park-4"] == {"A dog", "the black dog", "a cat", "a dog"}
    assert found["street-0"] == found["room-0"] == {None}  # one box; one phrase


def test_where_no_chain_is_known_boxes_tell_things_apart():
    without = [region("x", 0, "a dog", LEFT), region("x", 1, "an animal", (0.0, 0.0, 10.0, 20.0))]
    beside = [*without, region("x", 2, "dogs", LEFT, RIGHT), region("x", 3, "a cat", RIGHT, chain="2")]
    found = drawn(beside, "other")
    assert found["x-0"] == {"a cat"} and found["x-2"] == {None}
    assert apart([LEFT], [(0.0, 0.0, 10.0, 34.0)]) and not apart([LEFT], [(0.0, 0.0, 10.0, 33.0)])


def test_questions_keep_id_picture_and_boxes_and_their_place():
    for questions in wrong_questions(REGIONS).values():
        for one, question in zip(REGIONS, questions, strict=True):
            if question is not None:
                assert (question.id, question.image_id, question.boxes) == (one.id, one.image_id, one.boxes)


def test_questions_depend_on_id_and_seed_alone():
    mixed = random.Random(0).sample(MANY, len(MANY))
    first, again, other = (wrong_questions(regions, seed) for regions, seed in ((MANY, 0), (mixed, 0), (MANY, 1)))
    for name in ("random", "other"):
        assert {q.id: q for q in first[name]} == {q.id: q for q in again[name]}
        assert first[name] != other[name]
    assert wrong_questions([]) == {"random": [], "other": [], "absent": []}


def test_absent_phrases_name_a_type_that_the_picture_does_not_show():
    found = drawn(REGIONS, "absent")
    assert found["park-0"] == {"a bus"}  # not "a table": "other" things may well be there, unnamed
    assert found["street-0"] == {None}  # animals are there, and nobody plays
    assert found["room-0"] == {"A dog", "the black dog", "a cat", "a dog", "a bus", "a dog!"}
    plain = [
        region("x", 0, "a dog"),
        region("x", 1, "two red cats"),
        region("y", 0, "the cat"),
        region("y", 1, "a bus"),
    ]
    found = drawn(plain, "absent")  # without types: no phrase of the picture has the noun
    assert found["x-0"] == {"a bus"} and found["y-1"] == {"a dog"}


def test_auroc_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    parts, expected = [], {}
    for system in ("AMC", "ALBEF"):
        own, absent = rng.integers(0, 6, 60) + 1.0, rng.integers(0, 6, 60).astype(float)
        absent[::7] = np.nan
        parts.append(answer_rows(system, 0, "test", MANY, np.ones(60), scores=own, score_absent=absent))
        there = absent[~np.isnan(absent)]
        expected[system] = np.mean([(a > b) + (a == b) / 2 for a in own for b in there])
    parts.append(answer_rows("centre", 0, "test", MANY, np.ones(60)))  # has no score
    found = told(pd.concat(parts)).groupby("system")["told"].mean()
    assert found.to_dict() == pytest.approx(expected)


def test_every_allowed_phrase_is_as_likely():
    counts = Counter(wrong_questions(PARK + ROOM, seed)["other"][1].phrase for seed in range(600))
    assert all(count == pytest.approx(200, abs=60) for count in counts.values()) and len(counts) == 3


def test_questions_that_are_not_asked_have_no_hit():
    asked = []

    def ask(regions: list[Region]) -> tuple[np.ndarray, np.ndarray]:
        asked.append([region.phrase for region in regions])
        return np.array(["dog" in region.phrase for region in regions]), np.arange(len(regions)) / 9

    found = wrong_answers(REGIONS, ask)
    questions = wrong_questions(REGIONS)
    for name, phrases in zip(("random", "other", "absent"), asked, strict=True):
        assert phrases == [question.phrase for question in questions[name] if question]
        expected = [np.nan if question is None else "dog" in question.phrase for question in questions[name]]
        np.testing.assert_array_equal(found[f"hit_{name}"], expected)
    assert np.isnan(found["hit_other"]).sum() == 3
    scores = found["score_absent"]
    np.testing.assert_array_equal(scores[~np.isnan(scores)], np.arange(len(asked[2])) / 9)
    assert (np.isnan(scores) == np.isnan(found["hit_absent"])).all()
    asked.clear()
    alone = wrong_answers(REGIONS, ask, kinds=["random"])
    assert [*alone] == ["hit_random"] and len(asked) == 1
    np.testing.assert_array_equal(alone["hit_random"], found["hit_random"])
    lonely = wrong_answers(ROOM, lambda _: pytest.fail("there is nothing to ask"))
    assert np.isnan([*lonely.values()]).all()


def test_what_does_not_look_answers_wrong_phrases_as_its_own():
    split = SceneSplit(SimpleNamespace(size=SIDE), "test", torch.zeros(3, 1), [], [PARK, STREET, ROOM])
    rows = baseline_rows("test", split, KINDS)
    assert baseline_rows("test", split)["hit_random"].isna().all()
    assert rows["hit_random"].equals(rows["hit"])
    there = rows["hit_other"].notna()
    assert rows.loc[there, "hit_other"].equals(rows.loc[there, "hit"])
    assert rows.groupby("system")["hit_other"].count().tolist() == [5, 5]
    assert rows[rows["system"] == "centre"].set_index("phrase_id")["hit"].to_dict()["park-4"] == 1


@pytest.fixture
def hits() -> dict[str, np.ndarray]:
    """For each system own, random and other hits [3, S, P]; every fifth phrase has no other question."""
    rng = np.random.default_rng(0)
    hits = {"AMC": (rng.random((3, 3, 60)) < 0.7).astype(float), "ALBEF": (rng.random((3, 1, 60)) < 0.5).astype(float)}
    for of_system in hits.values():
        of_system[2, :, ::5] = np.nan
    return hits


@pytest.fixture
def table(hits) -> pd.DataFrame:
    rows = [
        answer_rows(system, seed, "test", MANY, own, hit_random=other, hit_other=third)
        for system, of_system in hits.items()
        for seed, (own, other, third) in enumerate(zip(*of_system, strict=True))
    ]
    return pd.concat([*rows, answer_rows("oracle", 0, "test", MANY, np.ones(60))], ignore_index=True)


def test_table_of_controls_is_that_of_the_hits(table, hits):
    found = control_table(table).set_index(["system", "asked"])
    images = np.array([region.image_id for region in MANY])
    for system, (own, random_, other) in hits.items():
        there = ~np.isnan(other[0])
        expected = {
            "own phrase": (own, images),
            "random phrase": (random_, images),
            "other phrase": (other[:, there], images[there]),
            "own − random": (own - random_, images),
        }
        for asked, (values, of_images) in expected.items():
            row, interval = found.loc[(system, asked)], mean_interval(values, of_images)
            assert row[["accuracy", "ci_low", "ci_high"]].tolist() == pytest.approx(
                [100 * interval.value, 100 * interval.low, 100 * interval.high]
            )
            assert (row["phrases"], row["seeds"]) == (values.shape[1], values.shape[0])
    assert found.loc["oracle"].index.tolist() == ["own phrase"]  # it was not asked anything else


def test_differences_of_controls_are_paired(table, hits):
    found = paired_controls(table, "AMC", "ALBEF").set_index("asked")
    images = [region.image_id for region in MANY]
    gains = [own - random_ for own, random_, _ in hits.values()]
    expected = paired_difference(*gains, images)
    row = found.loc["own − random"]
    assert (row["difference"], row["p"]) == pytest.approx((expected.value, expected.p))
    asked = [name for name in ASKED.values() if name != "absent phrase"]  # which nobody was asked
    assert found.index.tolist() == asked and found["phrases"].tolist() == [60, 60, 48, 60]


def test_columns_say_what_kind_of_phrase_it_is():
    split = SceneSplit(SimpleNamespace(size=SIDE), "test", torch.zeros(3, 1), [], [PARK, STREET, ROOM])
    columns = phrase_columns(split)
    assert columns.index.tolist() == [region.id for region in REGIONS]
    assert columns["entity"].tolist() == [region.entity for region in REGIONS]
    assert columns["words"].tolist() == [2, 3, 2, 2, 2, 2, 2, 2]
    assert columns.loc["park-4", "area"] == 200 / 1600 and columns["area"].min() == 100 / 1600
    assert columns["quarter"].tolist() == [1, 1, 4, 1, 4, 1, 1, 1]  # most have 100 pixels, which are the lower borders


def test_quarters_are_equal_where_areas_differ():
    regions = [region(f"p{i}", 0, "a dog", (0.0, 0.0, i + 1.0, 1.0)) for i in range(20)]
    split = SceneSplit(SimpleNamespace(size=SIDE), "test", torch.zeros(20, 1), [], [[one] for one in regions])
    assert phrase_columns(split)["quarter"].tolist() == [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5


def test_which_of_several_needs_another_chain_of_the_type_elsewhere():
    cases = {
        "park-0": "A",  # the dog on the right
        "park-2": "A",
        "park-4": "",  # the only one of its type
        "street-1": "",
    }
    found = dict(zip([region.id for region in REGIONS], which_of_several(REGIONS), strict=True))
    assert {name: found[name] for name in cases} == cases
    same_place = [PARK[0], PARK[1], PARK[2]]
    assert which_of_several(same_place) == ["", "", ""]
    hats = [region("x", k, "a hat", box, chain=f"{k}", entity="clothing") for k, box in enumerate((LEFT, RIGHT))]
    untyped = [region("y", k, "a hat", box, chain=f"{k}") for k, box in enumerate((LEFT, RIGHT))]
    assert which_of_several(hats + untyped) == ["B", "B", "", ""]


def test_table_1_asks_whole_splits_concepts_apart_and_which_of_several():
    split = SceneSplit(SimpleNamespace(size=SIDE), "test", torch.zeros(3, 1), [], [PARK, STREET, ROOM])
    table = answer_rows("AMC", 0, "test", REGIONS, np.ones(len(REGIONS))).join(phrase_columns(split), on="phrase_id")
    boxed = np.arange(len(REGIONS)) % 3 > 0
    asked = by_question(table.assign(annotated=boxed), {"test": "Test"}).groupby(["split", "concepts"]).size()
    expected = {("Test", "all"): len(REGIONS), ("Test", "boxed"): boxed.sum(), ("Test", "unboxed"): (~boxed).sum()}
    counts = table["which"].value_counts()
    expected |= {(f"Test, which {letter}", "all"): counts[letter] for letter in "AB" if letter in counts}
    assert asked.to_dict() == expected and ("Test, which A", "all") in expected
    assert set(by_question(table, {"test": "Test"})["concepts"]) == {"all"}


def test_groups_are_rows_and_survive_the_file(tmp_path):
    split = SceneSplit(SimpleNamespace(size=SIDE), "test", torch.zeros(3, 1), [], [PARK, STREET, ROOM])
    hits = np.arange(len(REGIONS)) % 2
    table = answer_rows("AMC", 0, "test", REGIONS, hits).join(phrase_columns(split), on="phrase_id")
    write_table(tmp_path / "answers.csv.gz", table)
    for rows in (grouped(table), grouped(read_table(tmp_path / "answers.csv.gz"))):
        found = accuracy(rows, ["by", "group"]).set_index(["by", "group"])
        assert found.loc[("entity", "animals"), "phrases"] == 5 and found.loc[("which", "A"), "phrases"] == 4
        assert found.loc[("words", "3"), "accuracy"] == 100
        assert ("which", "") not in found.index and found.loc["quarter", "phrases"].sum() == len(REGIONS)
