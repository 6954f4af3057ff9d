"""The same two boxes as each annotation tool writes them, beside their two pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from PIL import Image

SIZE = (40, 30)
EXPECTED = [("a.png", "red cat", 4.0, 3.0, 20.0, 18.0), ("b.png", "dog", 0.0, 0.0, 40.0, 30.0)]


def two_pictures(root: Path) -> Path:
    """A folder with a.png and b.png."""
    (folder := root / "data").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", SIZE).save(folder / name)
    return folder


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def coco(folder: Path) -> Path:
    images = [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in ((1, "a.png"), (2, "b.png"))]
    annotations = [
        {"image_id": 1, "category_id": 7, "bbox": [4, 3, 16, 15], "phrase": "red cat"},
        {"image_id": 2, "category_id": 8, "bbox": [0, 0, 40, 30]},
    ]
    categories = [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return write(folder / "coco.json", content)


def voc(folder: Path) -> Path:
    for name, phrase, label, box in (
        ("a.png", "<phrase>red cat</phrase>", "cat", (4, 3, 20, 18)),
        ("b.png", "", "dog", (0, 0, 40, 30)),
    ):
        edges = "".join(
            f"<{edge}>{value}</{edge}>" for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        size = "<size><width>40</width><height>30</height></size>"
        thing = f"{size}<object><name>{label}</name>{phrase}<bndbox>{edges}</bndbox></object>"
        write(folder / f"{name[0]}.xml", f"<annotation><filename>{name}</filename>{thing}</annotation>")
    return folder


def yolo(folder: Path) -> Path:
    (folder / "images").mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).rename(folder / "images" / name)
    write(folder / "data.yaml", "names:\n  0: dog\n  3: red cat\n")
    write(folder / "labels" / "a.txt", "3 0.3 0.35 0.4 0.5\n")
    write(folder / "labels" / "b.txt", "0 0.5 0.5 1 1 0.9\n\n")
    return folder


def label_studio(folder: Path) -> Path:
    def task(name: str, label: str, box: dict, *more: dict) -> dict:
        rectangle = {"id": "r", "type": "rectanglelabels", "original_width": 40, "original_height": 30}
        rectangle["value"] = box | {"rectanglelabels": [label], "rotation": 0}
        return {"data": {"id": "7", "image": f"/data/upload/1/{name}"}, "annotations": [{"result": [rectangle, *more]}]}

    text = {"id": "r", "type": "textarea", "from_name": "phrase", "value": {"text": ["red cat"]}}
    first = task("a.png", "cat", {"x": 10, "y": 10, "width": 40, "height": 50}, text)
    return write(folder / "studio.json", [first, task("b.png", "dog", {"x": 0, "y": 0, "width": 100, "height": 100})])


def via_files() -> dict:
    def file(name: str, box: dict, attributes: dict) -> dict:
        return {
            "filename": name,
            "regions": [{"shape_attributes": {"name": "rect"} | box, "region_attributes": attributes}],
        }

    first = file("a.png", {"x": 4, "y": 3, "width": 16, "height": 15}, {"kind": "cat", "phrase": "red cat"})
    second = file("b.png", {"x": 0, "y": 0, "width": 40, "height": 30}, {"kind": {"cat": False, "dog": True}})
    return {"a.png123": first, "b.png456": second}


def via(folder: Path) -> Path:
    return write(folder / "via.json", {"_via_settings": {}, "_via_img_metadata": via_files()})


def via_csv(folder: Path) -> Path:
    rows = []
    for file in via_files().values():
        shape, attributes = (json.dumps(file["regions"][0][name]) for name in ("shape_attributes", "region_attributes"))
        row = {"filename": file["filename"], "region_shape_attributes": shape, "region_attributes": attributes}
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "via.csv", index=False)
    return folder / "via.csv"


def via_3(folder: Path) -> Path:
    """As its version 3 saves a project: one text and one choice, a rectangle and one through four points."""
    attributes = {"1": {"aname": "phrase", "type": 1, "options": {}}}
    attributes["2"] = {"aname": "label", "type": 4, "options": {"c": "cat", "d": "dog"}}
    files = {f"{n}": {"fid": f"{n}", "fname": name, "src": name} for n, name in ((1, "a.png"), (2, "b.png"))}
    metadata = {
        "1_x": {"vid": "1", "z": [], "xy": [2, 4, 3, 16, 15], "av": {"1": "red cat", "2": "c"}},
        "2_x": {"vid": "2", "z": [], "xy": [8, 9, 0, 40, 9, 9, 30, 0, 9], "av": {"2": "d"}},
        "2_y": {"vid": "2", "z": [], "xy": [], "av": {"3": "about the picture"}},
    }
    views = {"1": {"fid_list": ["1"]}, "2": {"fid_list": [2]}}
    content = {"project": {}, "attribute": attributes, "file": files, "metadata": metadata, "view": views}
    return write(folder / "via3.json", content)


def label_studio_min(folder: Path) -> Path:
    size = {"original_width": 40, "original_height": 30, "rotation": 0}
    cat = {"x": 10, "y": 10, "width": 40, "height": 50, "rectanglelabels": ["red cat"]} | size
    dog = {"x": 0, "y": 0, "width": 100, "height": 100, "rectanglelabels": ["dog"]} | size
    task = {"annotator": 1, "created_at": "2026-01-01T00:00:00Z", "verdict": "good", "texts": ["one", "two"]}
    rows = [{"id": 1, "image": "/data/upload/1/0a1b2c3d-a.png", "boxes": [cat], "annotation_id": 3} | task]
    return write(folder / "min.json", [*rows, {"id": 2, "image": "b.png", "boxes": [dog], "annotation_id": 4} | task])


def corners(folder: Path) -> Path:
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    return write(folder / "corners.csv", f"{head}a.png,40,30,red cat,4,3,20,18\nb.png,40,30,dog,0,0,40,30\n")


def sizes(folder: Path) -> Path:
    return write(folder / "sizes.csv", "Image; Label; x; y; w; h\na.png;red cat;4;3,0;16;15\nb.png;dog;0;0;40;30\n")


def make_sense(folder: Path) -> Path:
    head = "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
    rows = "red cat,8,6,32,30,a.png,80,60\ndog,0,0,40,30,b.png,40,30\n"
    return write(folder / "make_sense.csv", head + rows)


def make_sense_as_exported(folder: Path) -> Path:
    return write(folder / "labels.csv", "red cat,8,6,32,30,a.PNG,80,60\ndog,0,0,40,30,b.png,40,30\n")


def label_studio_csv(folder: Path) -> Path:
    rows = json.loads(label_studio_min(folder).read_text(encoding="utf-8"))
    cells = [
        {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()} for row in rows
    ]
    pd.DataFrame(cells).to_csv(folder / "studio.csv", index=False)
    return folder / "studio.csv"


def percent(folder: Path) -> Path:
    head = "filename\tclass\tx_center\ty_center\twidth\theight\tunit\n"
    rows = "a.png\tred cat\t30\t35\t40\t50\tpercent\nb.png\tdog\t50\t50\t100\t100\tpercent\n"
    path = write(folder / "percent.tsv", "")
    path.write_bytes((head + rows).encode("utf-16"))
    return path


FORMATS = [
    *(coco, voc, yolo, label_studio, label_studio_min, label_studio_csv, via, via_csv, via_3),
    *(corners, sizes, make_sense, make_sense_as_exported, percent),
]
