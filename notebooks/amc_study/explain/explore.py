"""The widget of 06_explore.ipynb: a picture, a phrase, a box, and what every system makes of them."""

from __future__ import annotations

import html
import io
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path

import ipywidgets as widgets
from PIL import Image

from amc_lib.config import Settings
from amc_lib.datasets import flickr30k
from amc_lib.datasets.image_files import read_image
from amc_lib.files import photos_root
from amc_lib.grounder import Grounder
from amc_lib.grounding import Grounding
from amc_lib.phrases import checked_phrases
from amc_lib.regions import Region
from amc_study.comparison import study_folders
from amc_study.explain.explanation import box_terms, heading, loss_table, outlined, overlay, token_strip
from amc_study.figures.scene_sheet import SheetImage
from amc_study.rival.region_grounder import RegionGrounder, RegionGrounding, open_grounders
from amc_study.scenes.scene import Scene, draw

SPLIT = "referring_b"  # of the scenes to choose from: the one in which twins stand side by side
SHOWN_SIDE = 480  # pixels of the longer side of a picture on the page; the systems read it at its full size
COLUMN = "236px"  # four of them fit a JupyterLab of 1440 pixels
System = Grounder | RegionGrounder


def _alone(method: Callable[..., None]) -> Callable[..., None]:
    """A method of `Explorer` that waits for others to end: JupyterLab sends widgets' events to several threads."""

    @wraps(method)
    def waiting(self: Explorer, *arguments: object) -> None:
        with self.lock:
            method(self, *arguments)

    return waiting


def load_systems(
    tier: str, albef: str | Path | None = None, amc: str | Path | None = None, vmrm: str | Path | None = None
) -> dict[str, System]:
    """The systems of the comparison, each from a checkpoint's folder or name; None: as `study_folders` finds it.

    The detector-based system takes part where its checkpoint is there.
    """
    usual = {system: sources[0] for system, sources in study_folders(tier, None, seeds=1).items()}
    named = {"ALBEF": albef, "AMC": amc, "VMRM": vmrm}
    sources = {name: source or usual.get(name) for name, source in named.items()}
    return open_grounders({name: (source, None) for name, source in sources.items() if source})


def study_pictures(settings: Settings) -> tuple[int, Callable[[int], Scene | SheetImage]]:
    """How many pictures there are to choose from, and what gives the n-th with its regions, counted from 0.

    They are scenes or, in the photos tier, the photographs of test; ValueError where those are not there.
    """
    if settings.tier != "photos":
        return settings.scenes.count(SPLIT), partial(draw, settings.scenes, SPLIT)
    of_image: dict[str, list[Region]] = defaultdict(list)
    for region in flickr30k.read(photos_root(), "test"):
        of_image[region.image_id].append(region)
    photographs = list(of_image.values())
    return len(photographs), lambda n: SheetImage(photographs[n][0].image.open(), photographs[n])


class Explorer:
    """A picture (the study's or an upload), a phrase, a box: what every system answers, and its heatmap's losses.

    `panel` is the widget to display; `pictures`, `texts` and `strips` hold what is displayed, by system. A picture is
    read once by each system and kept until the next one is chosen. `box` (xyxy, shares of the picture) is that of the
    phrase, if the study asks it of the scene, or drawn by the sliders; before that there is none.
    """

    def __init__(self, systems: Mapping[str, System], phrase: str, scene: int = 0) -> None:
        self.systems, self.lock = dict(systems), threading.RLock()
        grounder = next(system for system in self.systems.values() if isinstance(system, Grounder))
        self.settings, text = grounder.checkpoint.settings, grounder.checkpoint.settings.model.text
        self.phrase = widgets.Text(value=phrase, description="phrase", continuous_update=False)
        self.suggestions = widgets.Dropdown(description="or one of")
        count, self.study_picture = study_pictures(self.settings)
        self.scene = widgets.BoundedIntText(scene, 0, count - 1, description="picture")
        self.upload = widgets.FileUpload(accept="image/*", description="own image")
        self.layer = widgets.IntSlider(grounder.layer, text.fusion_from, text.layers - 1, description="layer")
        self.across, self.down = (widgets.IntRangeSlider(description=name) for name in ("box, x", "box, y"))
        self.message, self.time = widgets.HTML(), widgets.HTML()
        self.picture = widgets.Image(format="png", width=COLUMN)
        self.pictures = {name: widgets.Image(format="png", width=COLUMN) for name in self.systems}
        heatmaps = [name for name, system in self.systems.items() if isinstance(system, Grounder)]
        self.strips = {name: widgets.Image(format="png", width=COLUMN) for name in heatmaps}
        self.texts = {name: widgets.HTML() for name in self.systems}
        self.panel = self._panel()
        self.phrase.observe(self._new_phrase, names="value")
        self.suggestions.observe(self._new_suggestion, names="value")
        self.scene.observe(self._choose_scene, names="value")
        self.upload.observe(self._new_upload, names="value")
        self.layer.observe(self.ask, names="value")
        for slider in (self.across, self.down):
            slider.observe(self._draw_box, names="value")
        self._choose_scene()

    @_alone
    def read(self, image: Image.Image, regions: Sequence[Region] = ()) -> None:
        """Take another picture, whose phrases with one box are offered, and ask it the phrase."""
        small = image.copy()
        small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        self.image, self.size, self.inputs, self.answers = small, image.size, {}, {}
        for name, system in self.systems.items():
            if isinstance(system, Grounder):
                self.inputs[name] = replace(system.encode(image), size=small.size, picture=small)
            else:
                self.inputs[name] = system.propose(image).resized((small.height, small.width))
        self.boxes = {region.phrase: region.boxes[0] for region in regions if len(region.boxes) == 1}
        self.suggestions.options = [("", None), *((phrase, phrase) for phrase in self.boxes)]
        self._new_phrase()

    @_alone
    def ask(self, _: object = None) -> None:
        """Ask every system the phrase; what is wrong with it stands above the pictures."""
        begin = time.perf_counter()
        try:
            self.answers = {name: self._answer(name) for name in self.systems}
            self.message.value = ""
        except ValueError as error:
            self.answers = {}
            self._say(str(error))
        unknown = next((answer.unknown_words for answer in self.answers.values()), ())
        if unknown:
            self._say(f"words that the checkpoint has never read: {', '.join(unknown)}")
        self.show()
        self.time.value = f"answered in {1000 * (time.perf_counter() - begin):.0f} ms"

    @_alone
    def show(self) -> None:
        """Show the answers and, where there is a box, its outline and the losses of each heatmap."""
        self.picture.value = quick_png(outlined(self.image, self.box))
        for name in self.systems:
            answer = self.answers.get(name)
            picture = self.image if answer is None else overlay(answer)
            self.pictures[name].value = quick_png(outlined(picture, self.box))
            lines = [f"<b>{name}</b>" if answer is None else heading(name, answer, self.box)]
            if isinstance(answer, Grounding) and self.box:
                lines.append(loss_table(box_terms(answer, self.box, self.settings.amc), self.settings.amc))
            self.texts[name].value = "<br>".join(lines)
            if name in self.strips:
                self.strips[name].value = b"" if answer is None else quick_png(token_strip(answer))

    def _answer(self, name: str) -> Grounding | RegionGrounding:
        system, inputs = self.systems[name], self.inputs[name]
        if isinstance(system, Grounder):
            return Grounder(system.checkpoint, self.layer.value).ground(inputs, self.phrase.value)
        return system.match(self.image, inputs, checked_phrases(self.phrase.value))[0]

    def _panel(self) -> widgets.Widget:
        columns = [widgets.VBox((self.picture, widgets.HTML("<b>picture</b> and box")))]
        for name, picture in self.pictures.items():
            strip = [self.strips[name]] if name in self.strips else []
            columns.append(widgets.VBox((picture, self.texts[name], *strip)))
        wrapped = widgets.Box(columns, layout=widgets.Layout(flex_flow="row wrap", grid_gap="8px"))
        what = widgets.HBox((self.phrase, self.suggestions, self.time)), widgets.HBox((self.scene, self.upload))
        return widgets.VBox((*what, widgets.HBox((self.layer, self.across, self.down)), self.message, wrapped))

    def _say(self, sentence: str) -> None:
        self.message.value = f"<b>{html.escape(sentence, quote=False)}</b>"

    def _choose_scene(self, _: object = None) -> None:
        scene = self.study_picture(self.scene.value)
        self.read(scene.image, scene.regions)

    @_alone
    def _new_phrase(self, _: object = None) -> None:
        """Give the phrase its box, if the scene has one, and the sliders its edges (else the whole picture)."""
        (width, height), box = self.size, self.boxes.get(self.phrase.value)
        x1, y1, x2, y2 = (0, 0, width, height) if box is None else map(round, box)
        for slider, side, extent in ((self.across, width, (x1, x2)), (self.down, height, (y1, y2))):
            slider.unobserve(self._draw_box, names="value")
            slider.max, slider.value = side, extent
            slider.observe(self._draw_box, names="value")
        self.box = None if box is None else (x1 / width, y1 / height, x2 / width, y2 / height)
        self.ask()

    @_alone
    def _draw_box(self, _: object = None) -> None:
        (x1, x2), (y1, y2), (width, height) = self.across.value, self.down.value, self.size
        self.box = (x1 / width, y1 / height, x2 / width, y2 / height)
        self.show()

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


def quick_png(image: Image.Image) -> bytes:
    """The bytes of a PNG file, written in a third of the time of one that is as small as can be."""
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=1)
    return buffer.getvalue()
