"""What figures of single phrases show: systems asked, their answers as `Example`s and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from amc_lib.config import Settings
from amc_lib.data import box_mask
from amc_lib.datasets import flickr30k
from amc_lib.evaluate import point_hits
from amc_lib.files import photos_root
from amc_lib.grounder import Grounder
from amc_lib.regions import Region
from amc_study.figures.qualitative import Example, Shown
from amc_study.figures.scene_sheet import SheetImage
from amc_study.rival.region_grounder import RegionGrounder, RegionGrounding
from amc_study.scenes.scene import draw


def example_of(region: Region, grounders: Mapping[str, Grounder | RegionGrounder]) -> Example:
    """A region with every system's heatmap or box, its point, and whether it hits, for the qualitative figure."""
    image, systems = region.image.open(), {}
    for name, grounder in grounders.items():
        answer = grounder.ground(image, region.phrase)
        hit = bool(point_hits([answer.point], [region])[0])
        source = {"box": answer.boxes[0]} if isinstance(answer, RegionGrounding) else {"heatmap": answer.heatmap}
        systems[name] = Shown(answer.point, hit, **source)
    return Example(image, region.phrase, region.boxes, systems)


def square_picture(settings: Settings, number: int) -> SheetImage:
    """Validation scene or photograph `number`, square as the model sees it, with its regions; boxes in its pixels.

    Of a photograph those with one box; of photographs there are few, so `number` is counted round.
    """
    if settings.tier not in ("scenes", "photos"):
        raise ValueError(f"the method is shown in the tiers scenes and photos, not in {settings.tier}")
    if settings.tier == "scenes":
        scene = draw(settings.scenes, "val", number)
        return SheetImage(scene.image, list(scene.regions))
    side, regions = settings.model.vision.image_size, list(flickr30k.read(photos_root(), "val"))
    regions = [region for region in regions if len(region.boxes) == 1]
    image_ids = list(dict.fromkeys(region.image_id for region in regions))
    shown = [region for region in regions if region.image_id == image_ids[number % len(image_ids)]]
    picture = shown[0].image.open()
    scale = np.tile(side / np.array(picture.size), 2)  # of x1, y1, x2, y2
    scaled = [replace(region, boxes=tuple(tuple(scale * box) for box in region.boxes)) for region in shown]
    return SheetImage(picture.resize((side, side)), scaled)


def method_inputs(region: Region, grounder: Grounder) -> dict[str, object]:
    """The arrays that the figure of the method shows: image (square, as the model sees it), heatmap, mask, phrase."""
    image = region.image.open()
    sides = (image.width, image.height) * 2
    relative = [tuple(edge / side for edge, side in zip(box, sides, strict=True)) for box in region.boxes]
    image = image.resize((image.width, image.width)) if image.width != image.height else image
    heatmap = grounder.ground(image, region.phrase).heatmap
    mask = box_mask(relative, image.width).numpy()
    return {"image": np.asarray(image), "heatmap": heatmap, "mask": mask, "phrase": region.phrase}
