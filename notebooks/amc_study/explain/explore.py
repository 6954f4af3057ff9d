"""Looking at answers: the widgets of 06_explore.ipynb, and what figures show of single phrases."""

from __future__ import annotations

import html
import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from PIL import Image

from amc_lib.config import SceneSettings
from amc_lib.data import box_mask
from amc_lib.evaluate import point_hits
from amc_lib.grounder import Grounder, Grounding, checked_phrases, read_image
from amc_lib.regions import Box, Region
from amc_study.comparison import study_folders
from amc_study.explain.explanation import (
    box_terms,
    heading,
    loss_table,
    mask_picture,
    outlined,
    overlay,
    quick_png,
    token_strip,
)
from amc_study.figures import Example, Shown
from amc_study.rival.region_grounder import RegionGrounder, RegionGrounding
from amc_study.scenes import scene as scenes

SPLIT = "referring_b"  # of the scenes to choose from: the one in which twins stand side by side
SHOWN_SIDE = 480  # pixels of the longer side of a picture as it is shown; the systems read it at its full size
COLUMN = "260px"
MIDDLE = (0.25, 0.25, 0.75, 0.75)  # the box before any is drawn, shares of the picture


def _alone(method: Callable[..., None]) -> Callable[..., None]:
    """A method of `Explorer` that waits for others to end: JupyterLab sends widgets' events to several threads."""

    @wraps(method)
    def waiting(self: Explorer, *arguments: object) -> None:
        with self.lock:
            method(self, *arguments)

    return waiting


def load_systems(
    tier: str, albef: str | Path | None = None, amc: str | Path | None = None, vmrm: str | Path | None = None
) -> dict[str, Grounder | RegionGrounder]:
    """The systems of the comparison, each from a checkpoint's folder or name; None: as `make study` or `make paper`
    leaves it. The detector-based system takes part where its checkpoint is there.
    """
    usual = {system: sources[0] for system, sources in study_folders(tier, None, seeds=1).items()}
    systems: dict[str, Grounder | RegionGrounder] = {
        "ALBEF": Grounder.load(albef or usual["ALBEF"]),
        "AMC": Grounder.load(amc or usual["AMC"]),
    }
    if vmrm or "VMRM" in usual:
        systems["VMRM"] = RegionGrounder.load(vmrm or usual["VMRM"])
    return systems


class Explorer:
    """A picture (a scene or an upload), a phrase, a box: what every system answers, and the losses of its heatmap.

    `panel` is the widget to display; `pictures`, `texts` and `strips` hold what is shown, by system. A picture is
    read once by each system and kept until the next one is chosen.
    """

    def __init__(self, systems: Mapping[str, Grounder | RegionGrounder], phrase: str, scene: int = 0) -> None:
        self.systems, self.lock = dict(systems), threading.RLock()
        grounder = next(system for system in self.systems.values() if isinstance(system, Grounder))
        self.settings, text = grounder.checkpoint.settings, grounder.checkpoint.settings.model.text
        self.phrase = widgets.Text(value=phrase, description="phrase", continuous_update=False)
        self.suggestions = widgets.Dropdown(description="or one of")
        self.scene = widgets.BoundedIntText(scene, 0, self.settings.scenes.count(SPLIT) - 1, description="scene")
        self.upload = widgets.FileUpload(accept="image/*", description="own image")
        self.layer = widgets.IntSlider(grounder.layer, text.fusion_from, text.layers - 1, description="layer")
        self.across, self.down = (widgets.IntRangeSlider(description=name) for name in ("box, x", "box, y"))
        self.message, self.time = widgets.HTML(), widgets.HTML()
        self.mask = widgets.Image(format="png", width=COLUMN)
        self.pictures = {name: widgets.Image(format="png", width=COLUMN) for name in self.systems}
        self.strips = {name: widgets.Image(format="png", width=COLUMN) for name in self._with_heatmaps()}
        self.texts = {name: widgets.HTML() for name in self.systems}
        self.panel = self._panel()
        self.phrase.observe(self._new_phrase, names="value")
        self.suggestions.observe(self._new_suggestion, names="value")
        self.scene.observe(self._choose_scene, names="value")
        self.upload.observe(self._new_upload, names="value")
        self.layer.observe(self.ask, names="value")
        for slider in (self.across, self.down):
            slider.observe(self.show, names="value")
        self._choose_scene()

    @property
    def box(self) -> Box:
        """The drawn box, xyxy as shares of the picture."""
        (x1, x2), (y1, y2) = self.across.value, self.down.value
        return x1 / self.across.max, y1 / self.down.max, x2 / self.across.max, y2 / self.down.max

    @_alone
    def read(self, image: Image.Image, regions: Sequence[Region] = ()) -> None:
        """Take another picture, whose phrases with one box are offered, and ask it the phrase."""
        shown = image.copy()
        shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        self.image, self.inputs, self.answers, self.overlays = shown, {}, {}, {}
        for name, system in self.systems.items():
            if isinstance(system, Grounder):
                self.inputs[name] = replace(system.encode(image), picture=shown)
            else:
                self.inputs[name] = system.propose(image).resized((shown.height, shown.width))
        self.boxes = {region.phrase: region.boxes[0] for region in regions if len(region.boxes) == 1}
        self.suggestions.options = [("", None), *((phrase, phrase) for phrase in self.boxes)]
        self.size = image.size
        self._draw_box(tuple(share * side for share, side in zip(MIDDLE, image.size * 2, strict=True)))
        self._new_phrase()

    @_alone
    def ask(self, _: object = None) -> None:
        """Ask every system the phrase; what is wrong with it is said above the pictures."""
        begin = time.perf_counter()
        try:
            self.answers = {name: self._answer(name) for name in self.systems}
        except ValueError as error:
            self._say(error)
            return
        self.message.value = ""
        self.overlays = {name: overlay(answer) for name, answer in self.answers.items()}
        for name in self._with_heatmaps():
            self.strips[name].value = quick_png(token_strip(self.answers[name]))
        self.show()
        self.time.value = f"answered in {1000 * (time.perf_counter() - begin):.0f} ms"

    @_alone
    def show(self, _: object = None) -> None:
        """Show the answers with the drawn box: what it means as a mask, and the losses of each heatmap."""
        self.mask.value = quick_png(mask_picture(self.image, self.box))
        for name, answer in self.answers.items():
            self.pictures[name].value = quick_png(outlined(self.overlays[name], self.box))
            lines = [heading(name, answer, self.box)]
            if isinstance(answer, Grounding):
                lines.append(loss_table(box_terms(answer, self.box, self.settings.amc), self.settings.amc))
            self.texts[name].value = "<br>".join(lines)

    def _answer(self, name: str) -> Grounding | RegionGrounding:
        system, inputs = self.systems[name], self.inputs[name]
        if isinstance(system, Grounder):
            return Grounder(system.checkpoint, self.layer.value).ground(inputs, self.phrase.value)
        return system.match(self.image, inputs, checked_phrases(self.phrase.value))[0]

    def _with_heatmaps(self) -> list[str]:
        return [name for name, system in self.systems.items() if isinstance(system, Grounder)]

    def _panel(self) -> widgets.Widget:
        asked, chosen = (self.phrase, self.suggestions, self.time), (self.scene, self.upload)
        sliders = (self.layer, self.across, self.down)
        columns = [widgets.VBox((self.mask, widgets.HTML("<b>box</b> as mask")))]
        for name in self.systems:
            strip = [self.strips[name]] if name in self.strips else []
            columns.append(widgets.VBox((self.pictures[name], self.texts[name], *strip)))
        wrapped = widgets.Box(columns, layout=widgets.Layout(flex_flow="row wrap", grid_gap="12px"))
        return widgets.VBox((*map(widgets.HBox, (asked, chosen, sliders)), self.message, wrapped))

    def _say(self, error: Exception | str) -> None:
        self.message.value = f"<b>{html.escape(str(error), quote=False)}</b>"

    def _choose_scene(self, _: object = None) -> None:
        scene = scenes.draw(self.settings.scenes, SPLIT, self.scene.value)
        self.read(scene.image, scene.regions)

    @_alone
    def _new_phrase(self, _: object = None) -> None:
        if self.phrase.value in self.boxes:
            self._draw_box(self.boxes[self.phrase.value])
        self.ask()

    def _draw_box(self, box: Box) -> None:
        """Draw a box (xyxy, pixels of the picture) that is shown with the next answers."""
        (width, height), (x1, y1, x2, y2) = self.size, map(round, box)
        for slider, side, extent in ((self.across, width, (x1, x2)), (self.down, height, (y1, y2))):
            slider.unobserve(self.show, names="value")
            slider.max, slider.value = side, extent
            slider.observe(self.show, names="value")

    def _new_suggestion(self, _: object) -> None:
        if self.suggestions.value:
            self.phrase.value, self.suggestions.value = self.suggestions.value, None

    def _new_upload(self, _: object) -> None:
        if not self.upload.value:
            return
        try:
            self.read(read_image(io.BytesIO(self.upload.value[0].content)))
        except ValueError:
            self._say(f"{self.upload.value[0].name}: cannot be read as an image")


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
