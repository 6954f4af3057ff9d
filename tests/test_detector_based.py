"""The detector-based system from pretraining to the table, on a few drawn scenes, with the shipped detector."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scenes import LOSSES, TINY, keep_in

from amc_lib import Grounder
from amc_lib.checkpoints import SHIPPED, CheckpointError
from amc_study import comparison, tiers
from amc_study.comparison import Answers, answer, proposal_tier, study_folders
from amc_study.figures.inputs import example_of
from amc_study.rival.detector_runs import load_detector, save_detector
from amc_study.rival.region_answers import choose_regions, oracle
from amc_study.rival.region_grounder import RegionGrounder, open_grounder
from amc_study.rival.settings import detector_based
from amc_study.rival.vmrm import WAYS
from amc_study.run_folder import Run
from amc_study.runs import finetune, pretrain
from amc_study.wrong_phrases import KINDS, wrong_questions

SCENES = replace(TINY.scenes, pretrain=16, train=16, val=4, phrases=4, referring_a=4, referring_b=4)
SETTINGS = detector_based(replace(TINY, scenes=SCENES))


@pytest.fixture(scope="module", autouse=True)
def in_a_folder_of_its_own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector-based")
    with pytest.MonkeyPatch.context() as patch:
        keep_in(folder, patch.setattr)
        yield folder


@pytest.fixture(scope="module")
def pretrained() -> Run:
    return pretrain(SETTINGS)


@pytest.fixture(scope="module")
def tuned(pretrained) -> Run:
    return finetune(SETTINGS, pretrained.folder)


@pytest.fixture(scope="module")
def answers(tuned) -> Answers:
    return answer(tuned.checkpoint(), {}, wrong={"phrases": KINDS})


@pytest.fixture(scope="module")
def grounder(tuned) -> RegionGrounder:
    return RegionGrounder.load(tuned.folder)


@pytest.fixture(scope="module")
def with_heatmap(in_a_folder_of_its_own) -> Run:
    return pretrain(replace(TINY, scenes=SCENES))


def test_both_stages_minimise_the_four_terms_on_pairs_without_boxes(pretrained, tuned):
    terms = {"mlm", "mrm", "itc", "itm", "total"}
    for run in (pretrained, tuned):
        assert terms <= set(run.history) and "amc" not in run.history
        assert run.history["total"].iloc[-1] == pytest.approx(
            run.history[list(terms - {"total"})].iloc[-1].sum(), rel=1e-5
        )
        assert 0 <= run.history["pointing"].iloc[-1] <= 100
    assert set(LOSSES) - terms == {"amc"}
    assert tuned.metrics["init_sha256"] == pretrained.checkpoint().sha256


def test_answers_are_read_by_the_way_that_is_best_on_validation(answers, tuned):
    assert set(answers.layers) == set(WAYS)
    assert answers.layers[answers.layer] == max(answers.layers.values())
    assert set(answers.pointing) == set(tiers.EVALUATED_SCENES)
    checkpoint, bank = tuned.checkpoint(), tiers.tier_of(SETTINGS).split("referring_a")
    again = choose_regions(checkpoint.model, checkpoint.tokenizer, bank.all_regions(), bank)[answers.layer]
    assert np.array_equal(again.boxes, answers.pointing["referring_a"].boxes)


def test_wrong_phrases_are_asked_of_the_same_proposals_in_the_same_way(answers, tuned):
    checkpoint, bank = tuned.checkpoint(), tiers.tier_of(SETTINGS).split("phrases")
    assert set(answers.wrong) == {"phrases"} < set(answers.pointing)
    for kind, questions in wrong_questions(bank.all_regions()).items():
        asked, hits = [one for one in questions if one], answers.wrong["phrases"][f"hit_{kind}"]
        found = choose_regions(checkpoint.model, checkpoint.tokenizer, asked, bank)[answers.layer]
        assert np.array_equal(found.hits, hits[[one is not None for one in questions]])


def test_no_choice_among_the_proposals_beats_the_oracle(answers):
    for split, of_split in answers.pointing.items():
        best = oracle(tiers.tier_of(SETTINGS).split(split))
        assert (best.hits | ~of_split.hits).all()
        assert best.hits.mean() > of_split.hits.mean()


def test_proposals_are_asked_the_phrases_that_all_are_asked(tuned):
    splits = proposal_tier(tuned.checkpoint()).evaluation_splits()
    for split, scenes in tiers.tier_of(replace(TINY, scenes=SCENES)).evaluation_splits().items():
        assert splits[split].all_regions() == scenes.all_regions()


@pytest.mark.parametrize(("seeds", "shipped"), [(2, True), (1, True), (1, False)])
def test_system_without_runs_is_the_shipped_one_in_a_study_of_one_seed_or_left_out_aloud(
    monkeypatch, tmp_path, capsys, seeds, shipped
):
    monkeypatch.setattr(comparison, "pretrained", lambda settings: "albef-scenes")
    monkeypatch.setattr(comparison, "exists", lambda source: shipped and source == "vmrm-scenes")
    folders = study_folders("scenes", tmp_path, seeds)
    assert len(folders["AMC"]) == seeds
    assert folders.get("VMRM") == (["vmrm-scenes"] if shipped and seeds == 1 else None)
    assert ("of seed 0" if shipped and seeds == 1 else "VMRM: left out") in capsys.readouterr().out


def test_bases_of_further_seeds_are_asked_beside_the_first(monkeypatch, tmp_path):
    monkeypatch.setattr(comparison, "pretrained", lambda settings: "albef-scenes")
    there = ["albef-scenes", tmp_path / "seed-2" / comparison.BASE]
    monkeypatch.setattr(comparison, "exists", lambda source: source in there)
    assert study_folders("scenes", tmp_path, 3)["ALBEF"] == there
    there.insert(1, "albef-scenes-1")  # shipped
    assert study_folders("scenes", tmp_path, 3)["ALBEF"] == there


def test_another_detector_makes_another_run(pretrained, tuned, in_a_folder_of_its_own, tmp_path):
    """What is trained reads the detector that it is given; a run knows which one that was, and is asked with it."""
    own = in_a_folder_of_its_own / "runs" / "own-detector"
    shutil.copytree(SHIPPED / "detector-scenes", own)
    other = load_detector(own)
    with torch.no_grad():
        other.detector.colour.bias.add_(1)
    save_detector(own, other.detector, {})
    again = finetune(SETTINGS, pretrained.folder, tmp_path / "tuned", detector=own)
    assert again.metrics["detector_sha256"] == load_detector(own).sha256
    assert again.metrics["detector_sha256"] != tuned.metrics["detector_sha256"] == load_detector().sha256
    assert open_grounder(again.folder).detector.folder == own
    assert open_grounder(tuned.folder).detector.folder == SHIPPED / "detector-scenes"
    with pytest.raises(ValueError, match="holds a run with other settings"):
        finetune(SETTINGS, pretrained.folder, tmp_path / "tuned")


def test_picture_and_cached_proposals_give_the_same_answer(grounder, answers):
    bank = tiers.tier_of(SETTINGS).split("phrases")
    regions = bank.all_regions()[:4]
    checkpoint = grounder.checkpoint
    cached = choose_regions(checkpoint.model, checkpoint.tokenizer, regions, bank, [grounder.way])[grounder.way]
    for region, box in zip(regions, cached.boxes, strict=True):
        grounding = grounder.ground(region.image.open(), region.phrase)
        assert np.allclose(grounding.boxes[0], box, atol=0.5)
        assert grounding.scores == sorted(grounding.scores, reverse=True)
        x1, y1, x2, y2 = grounding.boxes[0]
        assert grounding.point == ((x1 + x2) / 2, (y1 + y2) / 2)


def test_several_phrases_share_one_look_of_the_detector(grounder, monkeypatch):
    image, looks = tiers.tier_of(SETTINGS).split("val").all_regions()[0].image.open(), []
    propose = grounder.detector.propose
    monkeypatch.setattr(grounder.detector, "propose", lambda images: looks.append(1) or propose(images))
    both = grounder.ground(image, ["red cup", "dog"])
    assert [one.phrase for one in both] == ["red cup", "dog"] and len(looks) == 1
    assert [one.unknown_words for one in (*both, grounder.ground(image, "a zxqv dog"))] == [(), (), ("zxqv",)]
    assert grounder.ground(image, []) == []
    with pytest.raises(ValueError):
        grounder.ground(image, "")


def test_each_kind_of_checkpoint_is_opened_by_its_own_grounder(tuned, with_heatmap):
    ours, heat = open_grounder(tuned.folder, "matching"), open_grounder(with_heatmap.folder, 1)
    assert isinstance(ours, RegionGrounder) and ours.way == "matching"
    assert isinstance(heat, Grounder) and heat.layer == 1
    with pytest.raises(CheckpointError, match=r"Grounder\.load"):
        RegionGrounder.load(with_heatmap.folder)
    with pytest.raises(CheckpointError, match=r"RegionGrounder\.load"):
        Grounder.load(tuned.folder)


def test_examples_show_a_box_of_the_one_and_a_heatmap_of_the_other(grounder, with_heatmap):
    region = tiers.tier_of(SETTINGS).split("referring_b").all_regions()[0]
    shown = example_of(region, {"VMRM": grounder, "AMC": Grounder.load(with_heatmap.folder)}).systems
    assert shown["VMRM"].heatmap is None and shown["VMRM"].box == tuple(
        grounder.ground(region.image.open(), region.phrase).boxes[0]
    )
    assert shown["AMC"].box is None and shown["AMC"].heatmap.shape == region.image.open().size[::-1]
