"""What figures of single phrases show: systems asked, their answers as `Example`s and arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from amc_lib.data import box_mask
from amc_lib.evaluate import point_hits
from amc_lib.grounder import Grounder
from amc_lib.regions import Region
from amc_study.figures.qualitative import Example, Shown
from amc_study.rival.region_grounder import RegionGrounder, RegionGrounding


def example_of(region: Region, grounders: Mapping[str, Grounder | RegionGrounder]) -> Example:
    """A region with every system's heatmap or box, its point, and whether it hits, for the qualitative figure."""
    image, systems = region.image.open(), {}
    for name, grounder in grounders.items():
        answer = grounder.ground(image, region.phrase)
        hit = bool(point_hits([answer.point], [region])[0])
        source = {"box": answer.boxes[0]} if isinstance(answer, RegionGrounding) else {"heatmap": answer.heatmap}
        systems[name] = Shown(answer.point, hit, **source)
    return Example(image, region.phrase, region.boxes, systems)


def method_inputs(region: Region, grounder: Grounder) -> dict[str, object]:
    """The arrays that the figure of the method shows: image (square, as the model sees it), heatmap, mask, phrase."""
    image = region.image.open()
    sides = (image.width, image.height) * 2
    relative = [tuple(edge / side for edge, side in zip(box, sides, strict=True)) for box in region.boxes]
    image = image.resize((image.width, image.width)) if image.width != image.height else image
    heatmap = grounder.ground(image, region.phrase).heatmap
    mask = box_mask(relative, image.width).numpy()
    return {"image": np.asarray(image), "heatmap": heatmap, "mask": mask, "phrase": region.phrase}
