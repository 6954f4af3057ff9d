"""The film of finetuning: looking changes nothing, the recording comes back whole, drawings show its numbers."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from legibility import assert_texts_are_legible
from PIL import Image
from test_training import made_up
from tiny_scenes import SCENES, TINY, with_training

from amc_lib.config import SceneSettings
from amc_lib.files import plain
from amc_lib.model import ALBEF
from amc_lib.train import train
from amc_study.figures import FOLDER, Film, training_figure, training_film, training_gif
from amc_study.figures.training_film import frame_figure, shown_frames
from amc_study.report import film
from amc_study.report.film import FilmSettings, draw_phrases, film_steps, read_film, recorder, write_film
from amc_study.scenes import scene as scenes

SMALL = SceneSettings(size=96, train_objects=(6, 9), train=64, val=8)
STEPS = np.array([0, 1, 4, 9, 16, 25])


@pytest.fixture(scope="module")
def regions():
    """The first phrase of each of five validation scenes."""
    return [scenes.draw(SMALL, "val", index).regions[0] for index in range(5)]


@pytest.fixture(scope="module")
def recorded(regions) -> Film:
    """Two systems; the second's points move into the boxes after step 0, the first's stay outside."""
    S, F, P, G = 2, len(STEPS), len(regions), 6
    heatmaps = np.random.default_rng(0).random((S, F, P, G, G), dtype=np.float32)
    points = np.zeros((S, F, P, 2), dtype=int)
    for p, region in enumerate(regions):
        x1, y1, x2, y2 = region.boxes[0]
        points[1, 1:, p] = round((x1 + x2) / 2), round((y1 + y2) / 2)
    accuracy = np.array([np.linspace(60, 62, F), np.linspace(60, 70.25, F)])
    return Film(tuple(film.SYSTEMS), STEPS, accuracy, heatmaps, points, regions, asked=812)


def test_steps_begin_at_0_end_at_the_last_and_are_denser_at_the_beginning():
    steps = film_steps(180, FilmSettings(frames=26))
    assert steps[0] == 0 and steps[-1] == 180 and len(steps) == len(set(steps)) >= 20
    gaps = np.diff(steps)
    assert gaps[:5].max() <= gaps[-5:].min() and (gaps > 0).all()


def test_phrases_are_one_an_image_and_first_those_that_differ(regions):
    several = [replace(region, id=f"{n}", image_id=f"picture-{n % 4}") for n, region in enumerate(regions * 4)]
    differ = np.arange(len(several)) % 4 == 2
    drawn = draw_phrases(several, differ, 3, seed=0)
    assert differ[drawn[0]] and len({several[p].image_id for p in drawn}) == 3
    assert drawn == draw_phrases(several, differ, 3, seed=0) != draw_phrases(several, differ, 3, seed=1)
    assert len(draw_phrases(several, differ, 9, seed=0)) == 4


def same_picture(region):
    """A picture for a model of TINY's size, and (height, width) of the original."""
    return torch.ones(3, 64, 64), (96, 96)


def test_looking_between_updates_changes_no_bit_of_the_training(regions):
    accumulation = 2
    settings = with_training(epochs=2, batch_size=8, accumulation=accumulation)
    updates = 32 // 8 // accumulation * 2

    def trained(look: bool):
        torch.manual_seed(0)
        model, (pairs, collator) = ALBEF(TINY.model), made_up()
        seen, recorded = [], []
        look_at = recorder(recorded, range(0, updates + 1, 2), collator.tokenizer, regions, same_picture, 2)

        def after_update(model, step):
            assert model.training
            seen.append(step)
            look_at(model, step)
            assert model.training and all(p.grad is None for p in model.parameters())

        train(model, pairs, collator, settings, "finetuning", after_update=after_update if look else None)
        return model.state_dict(), seen, recorded

    unseen, _, _ = trained(look=False)
    looked, seen, recorded = trained(look=True)
    assert seen == list(range(1, updates + 1))
    assert all(torch.equal(tensor, looked[name]) for name, tensor in unseen.items())
    assert len(recorded) == updates // 2 and all(pointing.regions == regions for pointing in recorded)
    maps = film.scaled(recorded[-1].heatmaps)
    assert (maps.max(axis=(1, 2)) == 1).all() and maps.min() >= 0


def test_recording_comes_back(recorded, tmp_path):
    settings = replace(SCENES, scenes=SMALL)
    write_film(recorded, tmp_path, {"settings": plain(settings), "film": {}})
    again = read_film(tmp_path)
    assert again.systems == recorded.systems and again.asked == 812 and list(again.steps) == list(STEPS)
    np.testing.assert_allclose(again.accuracy, recorded.accuracy.round(2))
    np.testing.assert_allclose(again.heatmaps, recorded.heatmaps, atol=1e-3)
    assert np.array_equal(again.points, recorded.points)
    assert [(r.id, r.phrase, r.boxes) for r in again.regions] == [(r.id, r.phrase, r.boxes) for r in recorded.regions]


def test_still_shows_the_shown_steps_of_both_systems(recorded):
    figure = training_figure(recorded)
    texts = assert_texts_are_legible(figure)
    frames = shown_frames(STEPS)
    assert [int(STEPS[frame]) for frame in frames] == [0, 1, 9, 25]
    tiles = 5 * (1 + 2 * (len(frames) - 1))
    assert sum(bool(axes.images) for axes in figure.axes) == tiles
    assert texts.count("✓") == 5 * 3 and texts.count("✗") == tiles - 15
    assert {"62.0 without boxes", "70.2 with boxes (AMC)", "before"} <= set(texts)


@pytest.mark.parametrize("frame", [0, 3])
def test_frame_shows_its_step_and_the_accuracy_so_far(recorded, frame):
    figure = frame_figure(recorded, frame)
    texts = assert_texts_are_legible(figure)
    assert f"step {STEPS[frame]} of 25" in texts
    assert f"{recorded.accuracy[1, frame]:.1f} with boxes (AMC)" in texts
    curves = [line for line in figure.axes[-1].lines if len(line.get_xdata()) == frame + 1]
    drawn = sorted(list(line.get_ydata()) for line in curves)
    assert drawn == sorted(list(path[: frame + 1]) for path in recorded.accuracy)


def test_close_values_can_be_read(recorded):
    path = np.linspace(60, 70, len(STEPS))
    assert_texts_are_legible(frame_figure(replace(recorded, accuracy=np.array([path, path + 0.5])), 4))


def test_a_heatmap_of_zeros_is_a_miss(recorded):
    assert recorded.hits(1, 3).all() and not recorded.hits(0, 3).any()
    blank = replace(recorded, heatmaps=np.zeros_like(recorded.heatmaps))
    assert not blank.hits(1, 3).any()


def test_animation_has_every_frame_and_holds_its_ends(recorded, monkeypatch):
    monkeypatch.setattr(training_film, "FRAME_DPI", 40)
    with Image.open(io.BytesIO(training_gif(replace(recorded, steps=STEPS[:3])))) as gif:
        assert gif.n_frames == 3 and gif.size == (320, 212) and gif.info["loop"] == 0
        durations = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations.append(gif.info["duration"])
    assert durations[0] > durations[1] < durations[2]


def test_committed_film_is_whole_and_its_rule_gives_its_phrases():
    recorded = read_film(FOLDER)
    settings = FilmSettings()
    assert list(recorded.steps) == film_steps(int(recorded.steps[-1]), settings)
    assert recorded.heatmaps.shape[:3] == (2, len(recorded.steps), settings.phrases)
    assert recorded.accuracy[0, 0] == recorded.accuracy[1, 0]
    pictures = {region.image_id for region in recorded.regions}
    assert len(pictures) == settings.phrases
    assert all(int(name.rsplit("-")[-1]) < settings.images for name in pictures)
    assert (FOLDER / "training.gif").stat().st_size < 3_000_000
    with Image.open(FOLDER / "training.gif") as gif:
        assert gif.n_frames == len(recorded.steps)
