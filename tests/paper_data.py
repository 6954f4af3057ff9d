"""A mini copy of every set of the paper tier, in its own format and folders, made of drawn scenes.

The same on every machine. Image sides are 96 pixels; pictures are JPEGs.
"""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
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
SPLIT_BY = {"refcoco+": "unc", "refclef": "berkeley"}


def write_paper_data(root: Path) -> None:
    """Write the sets below `root`.

    Visual Genome's first picture has the COCO id of RefCOCO+'s first (testA), its second the Flickr id of Flickr30k's
    first (test), its third has a box that overruns the picture.
    """
    phrases = ["there is a standing here in front of a wall nothing some things stand"]
    phrases += _write_flickr30k(root / "flickr30k", _draw("phrases", 12))
    for dataset, split, number in (("refcoco+", "referring_a", 12), ("refclef", "referring_b", 6)):
        phrases += _write_refer(root / "refer", dataset, _draw(split, number))
    phrases += _write_visual_genome(root / "visual_genome", _draw("train", 12))
    words = {word for phrase in phrases for word in clean(phrase).split()}
    _write(root / "bert-base-uncased" / "vocab.txt", "\n".join(word_vocabulary(words)) + "\n")


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


def _write(path: Path, content: object) -> None:
    """Text as it is, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def _xywh(box: Box) -> list[int]:
    x1, y1, x2, y2 = map(int, box)
    return [x1, y1, x2 - x1, y2 - y1]


def _write_flickr30k(root: Path, drawn: list[Scene]) -> list[str]:
    """Chain n is object n, counted from 1; then one chain of all objects, and the background, which has no box."""
    ids, phrases = defaultdict(list), []
    for number, scene in enumerate(drawn):
        image_id = str(flickr_id(number))
        ids[FLICKR_SPLITS[number % len(FLICKR_SPLITS)]].append(image_id)
        _save(scene, root / "flickr30k-images" / f"{image_id}.jpg")
        _write(root / "Sentences" / f"{image_id}.txt", _sentences(scene))
        _write(root / "Annotations" / f"{image_id}.xml", _annotation(scene, image_id))
        phrases += [f"a {name_of(thing)}" for thing in scene.objects]
    for split in FLICKR_SPLITS:
        _write(root / f"{split}.txt", "".join(f"{image_id}\n" for image_id in ids[split]))
    return phrases


def _sentences(scene: Scene) -> str:
    """Five captions: one of all objects, the others of one object each."""
    number = len(scene.objects)
    wall = f"in front of [/EN#{number + 2}/scene a wall]"
    captions = [f"[/EN#{number + 1}/other Some things] stand {wall} and [/EN#0/notvisual nothing] else ."]
    for index in range(4):
        chain = index % number
        captions.append(f"[/EN#{chain + 1}/other A {name_of(scene.objects[chain])}] {wall} .")
    return "\n".join(captions) + "\n"


def _annotation(scene: Scene, image_id: str) -> str:
    number = len(scene.objects)
    objects = ""
    for chain, thing in enumerate(scene.objects, start=1):
        x1, y1, x2, y2 = (int(edge) + 1 for edge in thing.box)
        box = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        objects += f"<object><name>{chain}</name><name>{number + 1}</name><bndbox>{box}</bndbox></object>"
    objects += f"<object><name>{number + 2}</name><scene>1</scene><nobndbox>1</nobndbox></object>"
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
    return f"<annotation><filename>{image_id}.jpg</filename>{size}{objects}</annotation>\n"


def _write_refer(root: Path, dataset: str, drawn: list[Scene]) -> list[str]:
    """Every object is an annotation; the first of a picture has a ref with two sentences, the second, one."""
    refs, annotations, images, phrases = [], [], [], []
    ann_ids, sent_ids = count(1001), count()
    for number, scene in enumerate(drawn):
        image_id = 8756 + number if dataset == "refclef" else coco_id(number)
        file_name = f"{image_id}.jpg" if dataset == "refclef" else f"COCO_train2014_{image_id:012d}.jpg"
        images.append({"id": image_id, "file_name": file_name, "width": SIDE, "height": SIDE})
        _save(scene, root / refer.IMAGE_FOLDERS[dataset] / file_name)
        split = REFER_SPLITS[dataset][number % len(REFER_SPLITS[dataset])]
        for index, thing in enumerate(scene.objects):
            ann_id = next(ann_ids)
            annotations.append({"id": ann_id, "image_id": image_id, "bbox": _xywh(thing.box), "iscrowd": 0})
            texts = [name_of(thing), f"the {name_of(thing)}"][: max(2 - index, 0)]
            if texts:
                sentences = [{"sent_id": next(sent_ids), "sent": text, "raw": text.title()} for text in texts]
                ref = {"ref_id": len(refs), "ann_id": ann_id, "image_id": image_id, "split": split}
                refs.append(ref | {"file_name": f"{Path(file_name).stem}_{index}.jpg", "sentences": sentences})
                phrases += texts
    _write(root / dataset / "instances.json", {"images": images, "annotations": annotations, "categories": []})
    (root / dataset / f"refs({SPLIT_BY[dataset]}).p").write_bytes(pickle.dumps(refs, protocol=2))
    if dataset == "refcoco+":
        boxes = defaultdict(list)
        for annotation in annotations:
            boxes[str(annotation["image_id"])].append(annotation["bbox"])
        _write(root / dataset / "dets.json", boxes)
    return phrases


def _write_visual_genome(root: Path, drawn: list[Scene]) -> list[str]:
    """A region for each thing; things with a colour have it as their attribute."""
    descriptions, attributes, images, phrases, ids = [], [], [], [], count(5000)
    for number, scene in enumerate(drawn):
        image_id, folder = 2315353 + number, ("VG_100K", "VG_100K_2")[number % 2]
        _save(scene, root / folder / f"{image_id}.jpg")
        held_out = {"coco_id": coco_id(0) if number == 0 else None, "flickr_id": flickr_id(0) if number == 1 else None}
        images.append({"image_id": image_id, "width": SIDE, "height": SIDE, **held_out})
        regions, things = [], []
        for index, thing in enumerate(scene.objects):
            x, y, w, h = _xywh(thing.box)
            w += SIDE if number == 2 and index == 0 else 0
            phrases.append(phrase := f"there is a {name_of(thing)} standing here")
            place = {"x": x, "y": y, "width": w, "height": h}
            regions.append({"region_id": next(ids), "image_id": image_id, "phrase": phrase, **place})
            known = {"object_id": next(ids), "x": x, "y": y, "w": w, "h": h, "names": [thing.concept.name]}
            things.append(known | ({"attributes": [thing.colour]} if thing.colour else {}))
        descriptions.append({"id": image_id, "regions": regions})
        attributes.append({"image_id": image_id, "attributes": things})
    _write(root / "region_descriptions.json", descriptions)
    _write(root / "attributes.json", attributes)
    _write(root / "image_data.json", images)
    return phrases
