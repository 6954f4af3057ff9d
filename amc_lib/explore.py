"""Looking at answers: the widgets of 06_explore.ipynb, and what figures show of single phrases."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace

import ipywidgets as widgets
import numpy as np
from PIL import Image

from amc_lib.config import SceneSettings
from amc_lib.datasets import scenes
from amc_lib.evaluation import point_hits
from amc_lib.figures import Example, Shown
from amc_lib.grounder import Grounder, read_image
from amc_lib.pairs import box_mask
from amc_lib.region_grounder import RegionGrounder, RegionGrounding
from amc_lib.regions import Region
from amc_lib.tiers import SheetImage

PICTURE_WIDTH = "320px"
SPLIT = "referring_b"


class Explorer:
    """A picture (a scene or an upload), a phrase, and one overlay for each of `grounders`.

    `panel` is the widget to display; `pictures` and `scores` hold what is shown, by system.
    """

    def __init__(self, grounders: Mapping[str, Grounder], phrase: str, scene: int = 0) -> None:
        self.grounders = dict(grounders)
        self.settings = next(iter(self.grounders.values())).checkpoint.settings.scenes
        self.phrase = widgets.Text(value=phrase, description="phrase", continuous_update=False)
        self.scene = widgets.BoundedIntText(scene, 0, self.settings.count(SPLIT) - 1, description="scene")
        self.upload = widgets.FileUpload(accept="image/*", description="own image")
        self.message = widgets.HTML()
        self.pictures = {name: widgets.Image(format="png", width=PICTURE_WIDTH) for name in self.grounders}
        self.scores = {name: widgets.HTML() for name in self.grounders}
        columns = [widgets.VBox((self.scores[name], self.pictures[name])) for name in self.grounders]
        controls = widgets.HBox((self.phrase, self.scene, self.upload))
        self.panel = widgets.VBox((controls, self.message, widgets.HBox(columns)))
        self.image = draw_scene(self.settings, scene)
        self.phrase.observe(lambda _: self.show(), names="value")
        self.scene.observe(self._new_scene, names="value")
        self.upload.observe(self._new_upload, names="value")
        self.show()

    def show(self) -> None:
        """Ask every system and show its answer; what is wrong with a phrase or an image is said above the pictures."""
        try:
            answers = {
                name: grounder.ground(self.image, self.phrase.value) for name, grounder in self.grounders.items()
            }
        except ValueError as error:
            self.message.value = f"<b>{error}</b>"
            return
        self.message.value = ""
        for name, answer in answers.items():
            self.pictures[name].value = png(answer.overlay())
            self.scores[name].value = f"<b>{name}</b> match {100 * answer.score:.0f} %"

    def _new_scene(self, _: object) -> None:
        self.image = draw_scene(self.settings, self.scene.value)
        self.show()

    def _new_upload(self, _: object) -> None:
        if not self.upload.value:
            return
        try:
            self.image = read_image(io.BytesIO(self.upload.value[0].content))
        except ValueError:
            self.message.value = f"<b>{self.upload.value[0].name}: cannot be read as an image</b>"
            return
        self.show()


def draw_scene(settings: SceneSettings, index: int) -> Image.Image:
    """A scene of the split in which twins stand side by side."""
    return scenes.draw(settings, SPLIT, index).image


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def example_of(region: Region, grounders: Mapping[str, Grounder | RegionGrounder]) -> Example:
    """A region with every system's heatmap or box, its point, and whether it hits, for the qualitative figure."""
    image, systems = region.image.open(), {}
    for name, grounder in grounders.items():
        answer = grounder.ground(image, region.phrase)
        hit = bool(point_hits([answer.point], [region])[0])
        if isinstance(answer, RegionGrounding):
            systems[name] = Shown(answer.point, hit, box=answer.boxes[0])
        else:
            systems[name] = Shown(answer.point, hit, heatmap=answer.heatmap)
    return Example(image, region.phrase, region.boxes, systems)


def detections_of(region: Region, grounder: RegionGrounder) -> SheetImage:
    """The picture of a region with what the detector sees in it, best first, each named as the detector names it."""
    image = region.image.open()
    found, classes = grounder.propose(image), grounder.detector.classes
    seen = [
        replace(region, phrase=f"{classes[label]}, {100 * score:.0f} %", boxes=(tuple(box),), kind="object")
        for box, label, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    ]
    return SheetImage(image, seen)


def method_inputs(region: Region, grounder: Grounder) -> dict[str, object]:
    """The arrays that the figure of the method shows: image (square, as the model sees it), heatmap, mask, phrase."""
    image = region.image.open()
    sides = (image.width, image.height) * 2
    relative = [tuple(edge / side for edge, side in zip(box, sides, strict=True)) for box in region.boxes]
    image = image.resize((image.width, image.width)) if image.width != image.height else image
    return {
        "image": np.asarray(image),
        "heatmap": grounder.ground(image, region.phrase).heatmap,
        "mask": box_mask(relative, image.width).numpy(),
        "phrase": region.phrase,
    }
