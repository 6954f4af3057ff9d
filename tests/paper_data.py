"""A mini copy of every set of the paper tier, in its own format and folders, made of drawn scenes.

The same on every machine. Image sides are 96 pixels; pictures are JPEGs.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from amc_lib.config import SceneSettings
from amc_lib.datasets import refer
from amc_lib.regions import Box
from amc_lib.tokens import clean, word_vocabulary
from amc_study.scenes import scene as scenes
from amc_study.scenes.scene import Scene, SceneObject

SIDE = 96
SCENES = SceneSettings(
    seed=7, size=SIDE, objects=(2, 4), train_objects=(2, 4), object_width=(0.3, 0.4), rotation_degrees=0.0
)
FLICKR_SPLITS = ("test", "val", "train")  # picture by picture, in turn
REFER_SPLITS = {"refcoco+": ("testA", "testB", "val", "train"), "refclef": ("test", "val", "train")}
VG_URL = "https://cs.stanford.edu/people/rak248"


def write_paper_data(
    root: Path, visual_genome: int = 12, flickr30k: int = 12, refcoco: int = 12, refclef: int = 6
) -> None:
    """Write the sets below `root`, with so many pictures each.

    Visual Genome's first picture has the COCO id of RefCOCO+'s first (testA), its second the Flickr id of Flickr30k's
    first (test), its third has a box that overruns the picture.
    """
    words: set[str] = set()
    words |= _write_flickr30k(root / "flickr30k", _draw("phrases", flickr30k))
    for dataset, split, number in (("refcoco+", "referring_a", refcoco), ("refclef", "referring_b", refclef)):
        words |= _write_refer(root / "refer", dataset, _draw(split, number))
    words |= _write_visual_genome(root / "visual_genome", _draw("train", visual_genome))
    write_vocabulary(root / "bert-base-uncased" / "vocab.txt", words)


def write_vocabulary(path: Path, words: set[str]) -> None:
    """A vocabulary in BERT's shape: one token a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(word_vocabulary(words)) + "\n", encoding="utf-8")


def coco_id(number: int) -> int:
    return 98304 + number


def flickr_id(number: int) -> int:
    return 1007129816 + number


def name_of(thing: SceneObject) -> str:
    return f"{thing.colour} {thing.concept.name}".strip()


def _draw(split: str, number: int) -> list[Scene]:
    return [scenes.draw(SCENES, split, index) for index in range(number)]


def _save(scene: Scene, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scene.image.save(path, quality=90)


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _words(phrases: Sequence[str]) -> set[str]:
    return {word for phrase in phrases for word in clean(phrase).split()}


def _xywh(box: Box) -> list[int]:
    x1, y1, x2, y2 = map(int, box)
    return [x1, y1, x2 - x1, y2 - y1]


# Flickr30k Entities: chain n is object n, counted from 1; the last chain but one is all objects together, the last
# one the background, which has no box.


def _write_flickr30k(root: Path, drawn: Sequence[Scene]) -> set[str]:
    ids: dict[str, list[str]] = {split: [] for split in FLICKR_SPLITS}
    words = _words(["in front of", "a wall", "nothing", "some things", "stand"])
    for folder in ("Sentences", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(drawn):
        image_id = str(flickr_id(number))
        ids[FLICKR_SPLITS[number % len(FLICKR_SPLITS)]].append(image_id)
        _save(scene, root / "flickr30k-images" / f"{image_id}.jpg")
        (root / "Sentences" / f"{image_id}.txt").write_text(_sentences(scene), encoding="utf-8")
        (root / "Annotations" / f"{image_id}.xml").write_text(_annotation(scene, image_id), encoding="utf-8")
        words |= _words([f"a {name_of(thing)}" for thing in scene.objects])
    for split, of_split in ids.items():
        (root / f"{split}.txt").write_text("".join(f"{image_id}\n" for image_id in of_split), encoding="utf-8")
    return words


def _sentences(scene: Scene) -> str:
    """Five captions: one of all objects, the others of one object each."""
    number = len(scene.objects)
    captions = [
        f"[/EN#{number + 1}/other Some things] stand in front of [/EN#{number + 2}/scene a wall] "
        "and [/EN#0/notvisual nothing] else ."
    ]
    for index in range(4):
        chain = index % number
        kind = "people" if scene.objects[chain].concept.category == "people" else "other"
        captions.append(
            f"[/EN#{chain + 1}/{kind} A {name_of(scene.objects[chain])}] in front of [/EN#{number + 2}/scene a wall] ."
        )
    return "\n".join(captions) + "\n"


def _annotation(scene: Scene, image_id: str) -> str:
    number = len(scene.objects)
    objects = [
        f"<object><name>{chain}</name><name>{number + 1}</name><bndbox>"
        + "".join(
            f"<{edge}>{int(value) + 1}</{edge}>"
            for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), thing.box, strict=True)
        )
        + "</bndbox></object>"
        for chain, thing in enumerate(scene.objects, start=1)
    ]
    objects.append(f"<object><name>{number + 2}</name><scene>1</scene><nobndbox>1</nobndbox></object>")
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
    return f"<annotation><filename>{image_id}.jpg</filename>{size}{''.join(objects)}</annotation>\n"


# refer: every object of a picture is an annotation; the first of them has a ref with two sentences, the second, one.


def _write_refer(root: Path, dataset: str, drawn: Sequence[Scene]) -> set[str]:
    refs, annotations, images, words = [], [], [], set()
    ann_ids, sent_ids = count(1001), count()
    for number, scene in enumerate(drawn):
        image_id, file_name = _refer_image(dataset, number)
        images.append({"id": image_id, "file_name": file_name, "width": SIDE, "height": SIDE})
        _save(scene, root / refer.IMAGE_FOLDERS[dataset] / file_name)
        for index, thing in enumerate(scene.objects):
            ann_id = next(ann_ids)
            annotations.append({"id": ann_id, "image_id": image_id, "bbox": _xywh(thing.box), "iscrowd": 0})
            if index < 2:
                said = [name_of(thing), f"the {name_of(thing)}"][: 2 - index]
                words |= _words(said)
                refs.append(
                    {
                        "ref_id": len(refs),
                        "ann_id": ann_id,
                        "image_id": image_id,
                        "split": REFER_SPLITS[dataset][number % len(REFER_SPLITS[dataset])],
                        "file_name": f"{Path(file_name).stem}_{index}.jpg",
                        "sentences": [
                            {"sent_id": next(sent_ids), "sent": text, "raw": text.title(), "tokens": text.split()}
                            for text in said
                        ],
                    }
                )
    _write_json(root / dataset / "instances.json", {"images": images, "annotations": annotations, "categories": []})
    (root / dataset / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    if dataset == "refcoco+":
        _write_json(root / dataset / "dets.json", _detections(annotations))
    return words


def _refer_image(dataset: str, number: int) -> tuple[int, str]:
    if dataset == "refclef":
        return 8756 + number, f"{8756 + number}.jpg"
    return coco_id(number), f"COCO_train2014_{coco_id(number):012d}.jpg"


def _detections(annotations: Sequence[dict]) -> dict[str, list[list[int]]]:
    boxes: dict[str, list[list[int]]] = {}
    for annotation in annotations:
        boxes.setdefault(str(annotation["image_id"]), []).append(annotation["bbox"])
    return boxes


# Visual Genome: a region and an object for each thing; things with a colour have it as their attribute.


def _write_visual_genome(root: Path, drawn: Sequence[Scene]) -> set[str]:
    descriptions, objects, attributes, images = [], [], [], []
    words, ids = _words(["there is a standing here"]), count(5000)
    for number, scene in enumerate(drawn):
        image_id, folder = 2315353 + number, ("VG_100K", "VG_100K_2")[number % 2]
        _save(scene, root / folder / f"{image_id}.jpg")
        images.append(
            {
                "image_id": image_id,
                "width": SIDE,
                "height": SIDE,
                "url": f"{VG_URL}/{folder}/{image_id}.jpg",
                "coco_id": coco_id(0) if number == 0 else None,
                "flickr_id": flickr_id(0) if number == 1 else None,
            }
        )
        regions, things, with_attributes = [], [], []
        for index, thing in enumerate(scene.objects):
            x, y, w, h = _xywh(thing.box)
            w += SIDE if number == 2 and index == 0 else 0
            place = {"x": x, "y": y, "width": w, "height": h}
            phrase = f"there is a {name_of(thing)} standing here"
            regions.append({"region_id": next(ids), "image_id": image_id, "phrase": phrase, **place})
            known = {"object_id": next(ids), "x": x, "y": y, "w": w, "h": h, "names": [thing.concept.name]}
            things.append({**known, "synsets": [], "merged_object_ids": []})
            said = {"attributes": [thing.colour]} if thing.colour else {}
            with_attributes.append({**known, "synsets": [], **said})
            words |= _words([phrase])
        descriptions.append({"id": image_id, "regions": regions})
        objects.append({"image_id": image_id, "image_url": images[-1]["url"], "objects": things})
        attributes.append({"image_id": image_id, "attributes": with_attributes})
    for name, records in (
        ("region_descriptions", descriptions),
        ("objects", objects),
        ("attributes", attributes),
        ("image_data", images),
    ):
        _write_json(root / f"{name}.json", records)
    return words
