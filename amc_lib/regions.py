"""Region: the one record that every data source becomes and that training, evaluation and figures read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from PIL import Image

Box = tuple[float, float, float, float]


@runtime_checkable
class ImageSource(Protocol):
    """Anything that can show its picture: a file, or a scene that is drawn when asked."""

    def open(self) -> Image.Image:
        """The picture as RGB at its original size."""
        ...


@dataclass(frozen=True, slots=True)
class Region:
    """A phrase and the boxes that it means in one image.

    `boxes` are xyxy floats in pixels of the original image (x2, y2 exclusive edges); a point inside any of them is a
    hit. `annotated` is False where the phrase's concept never has a box in finetuning. `entity` is the type of what the
    phrase names, one of Flickr30k Entities' (people, clothing, bodyparts, animals, vehicles, instruments, scene,
    other); two phrases of a picture with one `chain` name the same thing. Both are "" where the data do not say. An
    empty phrase, or a box without area, is refused with a ValueError that names the record.
    """

    id: str
    split: str
    image: ImageSource
    image_id: str
    phrase: str
    boxes: tuple[Box, ...]
    kind: Literal["object", "group", "part"] = "object"
    annotated: bool = True
    entity: str = ""
    chain: str = ""

    def __post_init__(self) -> None:
        if not self.phrase.strip():
            raise ValueError(f"region {self.id}: the phrase has no words")
        for x1, y1, x2, y2 in self.boxes:
            if not (x1 < x2 and y1 < y2):
                raise ValueError(f"region {self.id}: box ({x1}, {y1}, {x2}, {y2}) has no area")
