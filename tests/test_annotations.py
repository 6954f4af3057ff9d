"""What annotation tools write becomes the table of one's own: the same two boxes from every format."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from refusal import refused

from amc_lib.datasets.__main__ import main
from amc_lib.datasets.annotations import convert, picture_folder

SIZE = (40, 30)
EXPECTED = [("a.png", "red cat", 4.0, 3.0, 20.0, 18.0), ("b.png", "dog", 0.0, 0.0, 40.0, 30.0)]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two pictures in a folder."""
    for name in ("a.png", "b.png"):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.new("RGB", SIZE).save(tmp_path / "data" / name)
    return tmp_path / "data"


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
        return {"data": {"image": f"/data/upload/1/{name}"}, "annotations": [{"result": [rectangle, *more]}]}

    text = {"id": "r", "type": "textarea", "value": {"text": ["red cat"]}}
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


def corners(folder: Path) -> Path:
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    return write(folder / "corners.csv", f"{head}a.png,40,30,red cat,4,3,20,18\nb.png,40,30,dog,0,0,40,30\n")


def sizes(folder: Path) -> Path:
    return write(folder / "sizes.csv", "Image; Label; x; y; w; h\na.png;red cat;4;3;16;15\nb.png;dog;0;0;40;30\n")


FORMATS = pytest.mark.parametrize("made", [coco, voc, yolo, label_studio, via, via_csv, corners, sizes])


@FORMATS
def test_every_format_gives_the_same_table(folder, made):
    source = made(folder)
    table, skipped = convert(source, picture_folder(source))
    assert [*table.itertuples(index=False, name=None)] == EXPECTED and not skipped


@FORMATS
def test_command_writes_a_table_that_can_be_used(folder, tmp_path, capsys, made):
    assert main(["import", str(made(folder)), str(tmp_path / "boxes.csv")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'boxes.csv'}: 2 boxes of 2 pictures, 0 left out",
        "2 phrases: ready for notebook 07",
    ]


def test_what_macos_leaves_is_no_annotation(tmp_path):
    for name in ("._a.xml", "__MACOSX/a.xml"):
        (tmp_path / "voc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "voc" / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "voc" / "a.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    table, skipped = convert(tmp_path / "voc", tmp_path)
    assert table.empty and not skipped


@pytest.mark.parametrize("made", [coco, voc, label_studio])
def test_boxes_are_brought_to_the_size_of_the_picture(folder, made):
    """The annotations state another size than the files have."""
    source = made(folder)
    pictures = {name: Image.open(picture_folder(source) / name) for name in ("a.png", "b.png")}
    for name, picture in pictures.items():
        picture.resize((2 * picture.width, 2 * picture.height)).save(picture_folder(source) / name)
    table, skipped = convert(source, picture_folder(source))
    doubled = [(*row[:2], *(2 * edge for edge in row[2:])) for row in EXPECTED]
    assert [*table.itertuples(index=False, name=None)] == doubled and not skipped
    pictures["a.png"].resize((40, 90)).save(picture_folder(source) / "a.png")
    table, skipped = convert(source, picture_folder(source))
    assert len(table) == 1 and "the image has another shape than its annotation" in skipped[0]


def test_column_of_splits_is_kept(tmp_path):
    (tmp_path / "x.csv").write_text("filename,class,xmin,ymin,xmax,ymax,split\na.png,cat,1,2,3,4,val\n")
    table, _ = convert(tmp_path / "x.csv", tmp_path)
    assert table.to_dict("records") == [
        {"image": "a.png", "phrase": "cat", "x1": 1, "y1": 2, "x2": 3, "y2": 4, "split": "val"}
    ]


def test_what_is_no_upright_rectangle_is_left_out_and_named(folder, tmp_path, capsys):
    files = via_files()
    files["a.png123"]["regions"].append({"shape_attributes": {"name": "polygon"}, "region_attributes": {}})
    files["b.png456"]["regions"][0]["region_attributes"] = {}
    source = write(folder / "via.json", files)
    assert main(["import", str(source), str(tmp_path / "boxes.csv")]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        f"left out: {source}, a.png, region 1: it is a polygon, not a rectangle",
        f"left out: {source}, b.png, region 0: it has no label",
        f"{tmp_path / 'boxes.csv'}: 1 boxes of 1 pictures, 2 left out",
    ]
    tasks = json.loads(label_studio(folder).read_text(encoding="utf-8"))
    tasks[1]["annotations"][0]["result"][0]["value"]["rotation"] = 30
    _, (sentence,) = convert(write(folder / "studio.json", tasks), folder)
    assert sentence.endswith("task 1, b.png: it is a turned rectanglelabels, not an upright rectangle")


def test_pictures_and_classes_that_are_not_there_are_named(folder):
    source = yolo(folder)
    (folder / "images" / "a.png").unlink()
    write(folder / "labels" / "b.txt", "9 0.5 0.5 1 1\n")
    table, skipped = convert(source, picture_folder(source))
    assert table.empty and len(skipped) == 2
    assert skipped[0].endswith(f"a.txt, line 1: there is no picture a below {folder / 'images'}")
    assert skipped[1].endswith("b.txt, line 1: has no 9")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.json", {"a": 1}, "is JSON, but of no known annotation tool ('a')"),
        ("x.csv", "a.png,1,2,3,4,cat\n", "has no header: put the line image,x1,y1,x2,y2,phrase above"),
        ("x.csv", "picture,left,top\n", "its first row must name a column for the picture, one for the label"),
        ("x.txt", "", "is none of COCO, VIA, Label Studio"),
        ("x.json", "{", "is not JSON, or not all of it"),
    ],
)
def test_source_of_no_known_kind_is_refused_with_one_sentence(tmp_path, name, content, sentence):
    path = write(tmp_path / name, content)
    with refused(sentence):
        convert(path, tmp_path)
    with refused(f"{tmp_path / 'none.csv'}: no such file"):
        convert(tmp_path / "none.csv", tmp_path)
