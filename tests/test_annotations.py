"""What annotation tools write becomes the table of one's own: the same two boxes from every format."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from annotation_samples import (
    EXPECTED,
    FORMATS,
    SIZE,
    coco,
    corners,
    label_studio,
    two_pictures,
    via_files,
    voc,
    write,
    yolo,
)
from PIL import Image
from refusal import refused

from amc_lib.datasets.__main__ import main
from amc_lib.datasets.annotations import convert, picture_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return two_pictures(tmp_path)


@pytest.mark.parametrize("made", FORMATS)
def test_every_format_gives_the_same_table(folder, made):
    source = made(folder)
    table, skipped, _ = convert(source, picture_folder(source))
    assert [*table.itertuples(index=False, name=None)] == EXPECTED and not skipped


@pytest.mark.parametrize("made", FORMATS)
def test_command_writes_a_table_that_can_be_used(folder, tmp_path, capsys, made):
    source, table = made(folder), tmp_path / "my boxes.csv"
    assert main(["import", str(source), str(table)]) == 0
    command = f"papermill notebooks/07_your_data.ipynb out.ipynb -p csv '{table}' -p images {picture_folder(source)}"
    assert capsys.readouterr().out.splitlines() == [
        f"{table}: 2 boxes of 2 pictures, 0 left out, 0 clipped to their picture",
        f"2 phrases, ready for: {command}",
    ]


def test_what_macos_leaves_is_no_annotation(tmp_path):
    for name in ("._a.xml", "__MACOSX/a.xml"):
        (tmp_path / "voc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "voc" / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "voc" / "a.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    with refused("voc: holds no annotation"):
        convert(tmp_path / "voc", tmp_path)


@pytest.mark.parametrize("made", [coco, voc, label_studio, corners])
def test_boxes_are_brought_to_the_size_of_the_picture(folder, made):
    """The annotations state another size than the files have."""
    source = made(folder)
    pictures = {name: Image.open(picture_folder(source) / name) for name in ("a.png", "b.png")}
    for name, picture in pictures.items():
        picture.resize((2 * picture.width, 2 * picture.height)).save(picture_folder(source) / name)
    table, skipped, _ = convert(source, picture_folder(source))
    doubled = [(*row[:2], *(2 * edge for edge in row[2:])) for row in EXPECTED]
    assert [*table.itertuples(index=False, name=None)] == doubled and not skipped
    pictures["a.png"].resize((40, 90)).save(picture_folder(source) / "a.png")
    table, skipped, _ = convert(source, picture_folder(source))
    assert len(table) == 1 and "the image has another shape than its annotation" in skipped[0]


def test_open_images_are_read_as_shares_which_is_said(folder, capsys):
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"
    source = write(folder / "x.csv", f"{head}a,xclick,red cat,1,0.1,0.5,0.1,0.6\nb,xclick,dog,1,0,1,0,1\n")
    assert [*convert(source, folder)[0].itertuples(index=False, name=None)] == EXPECTED
    assert capsys.readouterr().out == f"{source}: its boxes are read as shares of the sides (0 to 1)\n"
    source = write(folder / "x.csv", "filename,class,xmin,ymin,xmax,ymax,width,height\na.png,cat,0,0,1,1,30,40\n")
    with refused("row 2: the image has another shape than its annotation"):
        convert(source, folder)


def test_thousandths_are_refused_before_any_of_them_is_taken_for_pixels(folder):
    head = "filename,class,xmin,ymin,xmax,ymax"
    rows = ("a.png,cat,10,10,39,29", "b.png,dog,200,100,990,700")
    with refused(
        "x.csv: its boxes look like thousandths of the sides (0 to 1000): add a column unit that says permille"
    ):
        convert(write(folder / "x.csv", "\n".join((head, *rows))), folder)
    source = write(folder / "x.csv", "\n".join((f"{head},unit", *(f"{row},permille" for row in rows))))
    assert [*convert(source, folder)[0].iloc[-1, 2:]] == [8, 3, 39.6, 21]


def test_small_boxes_whose_unit_is_known_stay_pixels(folder):
    """They look like percent, and the table that is written is not refused for that."""
    Image.new("RGB", (400, 300)).save(folder / "a.png")
    rows = "filename,class,xmin,ymin,xmax,ymax,unit\na.png,cat,1,2,30,40,pixel\n"
    table, *_ = convert(write(folder / "x.csv", rows), folder)
    assert [*table["unit"]] == ["pixel"]
    assert main(["import", str(folder / "x.csv"), str(folder / "own.csv")]) == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"result": None}, "task 1, b.png: its results are null, not a list"),
        ({"result": {"a": 1}}, "task 1, b.png: its results are dict, not a list"),
        ({"result": [{"id": "z", "value": {}}]}, "task 1, b.png, result 0: has no type"),
        ({"result": ["x"]}, "task 1, b.png, result 0: is of another form than expected"),
        ({"regions": None}, "b.png: its regions are null, not a list"),
        ({"regions": 3}, "b.png: its regions are int, not a list"),
        ({"annotations": None}, "coco.json: its annotations are null, not a list"),
    ],
    ids=str,
)
def test_annotations_that_are_no_list_are_left_out_and_counted(folder, change, sentence):
    if "result" in change:
        content = json.loads((source := label_studio(folder)).read_text(encoding="utf-8"))
        content[1]["annotations"] = [change]
    elif "regions" in change:
        source, content = folder / "via.json", via_files()
        content["b.png456"] |= change
    else:
        content = json.loads((source := coco(folder)).read_text(encoding="utf-8")) | change
    if "annotations" in change:
        with refused(sentence):
            convert(write(source, content), folder)
    else:
        table, (skipped,), _ = convert(write(source, content), folder)
        assert len(table) == 1 and sentence in skipped


def test_column_of_splits_is_kept(folder, capsys):
    source = write(folder / "x.csv", "filename,class,xmin,ymin,xmax,ymax,Split\na.png,cat,1,2,3,4,val\n")
    table, *_ = convert(source, folder)
    assert main(["import", str(source), str(folder / "own.csv")]) == 0
    assert "1 phrases; notebook 07 needs two pictures" in capsys.readouterr().out
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
        f"{tmp_path / 'boxes.csv'}: 1 boxes of 1 pictures, 2 left out, 0 clipped to their picture",
    ]
    tasks = json.loads(label_studio(folder).read_text(encoding="utf-8"))
    tasks[1]["annotations"][0]["result"][0]["value"]["rotation"] = 30
    _, (sentence,), _ = convert(write(folder / "studio.json", tasks), folder)
    assert sentence.endswith("task 1, b.png, result 0: it is a turned rectanglelabels, not an upright rectangle")


def test_pictures_and_classes_that_are_not_there_are_named(folder):
    source = yolo(folder)
    (folder / "images" / "a.png").unlink()
    write(folder / "labels" / "b.txt", "9 0.5 0.5 1 1\n0 0.5 0.5 1 1\n0 0.1 0.1 0.2\n")
    _, skipped, _ = convert(source, picture_folder(source))
    assert [sentence.partition(", ")[2] for sentence in skipped] == [
        f"line 1: there is no picture a below {folder / 'images'}",
        "line 1: its class 9 is none of the 2 that have a name",
        "line 3: the 3 numbers after its class are neither a box nor a polygon",
    ]
    with refused("there is no picture a below " + str(folder / "labels") + " (and the other 3 cannot be used either)"):
        convert(source, folder / "labels")
    with refused(f"{folder / 'none'}: no such folder of pictures"):
        convert(source, folder / "none")
    write(folder / "labels" / "b.txt", "0.0 0.5 0.5 1 1\n")
    assert [*convert(source, picture_folder(source))[0]["phrase"]] == ["dog"]
    for names in ("cat", "3", ""):
        write(folder / "data.yaml", f"names: {names}\n")
        with refused("data.yaml: its names must be a list of the classes' names, and are "):
            convert(source, folder)
    (folder / "data.yaml").unlink()
    with refused(f"{folder}: has neither data.yaml nor classes.txt"):
        convert(source, folder)


def laid_out(root: Path, *names: str) -> Path:
    """Pictures, labels and XML of these paths below a new folder, and YOLO's data.yml."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.new("RGB", SIZE).save(root / name)
        elif name.endswith(".txt"):
            write(root / name, f"{'train' not in name:d} 0.3 0.35 0.4 0.5\n")
    write(root / "data.yml", "names: [cat, dog]\n")
    return root


@pytest.mark.parametrize("source", ["", "data.yml"])
@pytest.mark.parametrize("form", ["images/{}/a.png labels/{}/a.txt", "{}/images/a.png {}/labels/a.txt"])
def test_pictures_of_one_name_keep_their_own_boxes_and_split(tmp_path, form, source):
    names = [name for split in ("train", "valid") for name in form.format(split, split).split()]
    source = laid_out(tmp_path, *names) / source
    table, skipped, _ = convert(source, picture_folder(source))
    cells = [*table[["image", "phrase", "split"]].itertuples(index=False, name=None)]
    pictures = [(tmp_path / name).relative_to(picture_folder(source)).as_posix() for name in names[::2]]
    assert cells == [(pictures[0], "cat", "train"), (pictures[1], "dog", "val")] and not skipped
    (tmp_path / names[2]).unlink()
    assert len(convert(source, picture_folder(source))[0]) == 1  # not the other picture of that name
    assert len(convert(source, tmp_path / Path(names[0]).parent)[0]) == 1


@pytest.mark.parametrize(
    ("settings", "line", "box"),
    [
        ("", "0 0.1 0.1 0.5 0.2 0.3 0.6", (4, 3, 20, 18)),
        ("", "0 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6", (4, 3, 20, 18)),
        ("kpt_shape: [2, 2]\n", "0 0.3 0.35 0.4 0.5 0.9 0.9 0.8 0.8", (4, 3, 20, 18)),
    ],
    ids=["polygon", "turned box", "pose"],
)
def test_yolo_lines_of_other_tasks_give_the_box_around(folder, settings, line, box):
    source = yolo(folder)
    write(folder / "data.yaml", f"names: [cat]\n{settings}")
    write(folder / "labels" / "a.txt", line)
    assert [*convert(source, folder)[0].iloc[0, 2:]] == [*box]


@pytest.mark.parametrize(
    "head",
    ["<filename>a</filename>", "<path>C:\\pics\\a.png</path>", "", "<filename>a.PNG</filename><path>b.png</path>"],
)
def test_voc_pictures_are_found_by_file_name_path_or_the_name_of_the_xml(tmp_path, head):
    laid_out(tmp_path, "JPEGImages/a.png", "JPEGImages/b.png")
    box = "<bndbox><xmin>4</xmin><ymin>3</ymin><xmax>20</xmax><ymax>18</ymax></bndbox>"
    words = "<attributes><attribute><name>phrase</name><value>red cat</value></attribute></attributes>"
    thing = f"<object><name>cat</name>{box}{words}</object>"
    write(tmp_path / "Annotations" / "a.XML", f"<annotation>{head}{thing}</annotation>")
    write(tmp_path / "Annotations" / "broken.xml", "<annotation>")
    for source in (tmp_path, tmp_path / "Annotations"):
        table, (sentence,), _ = convert(source, picture_folder(source))
        assert [*table.itertuples(index=False, name=None)] == EXPECTED[:1]
        assert sentence.startswith(f"{tmp_path / 'Annotations' / 'broken.xml'}: cannot be read as XML")


def test_command_does_not_write_over_its_source_or_a_folder(folder, capsys):
    source = corners(folder)
    before = source.read_bytes()
    assert main(["import", str(source), str(source)]) == 1 and source.read_bytes() == before
    assert "is the source, which stays as it is: name another table" in capsys.readouterr().out
    assert main(["import", str(source), str(folder)]) == 1
    assert capsys.readouterr().out == f"[Errno 21] Is a directory: '{folder}'\n"


def test_coco_boxes_that_cannot_be_used_are_named_and_small_overruns_clipped(tmp_path, capsys):
    laid_out(tmp_path, "train2017/a.png", "train2017/b.png")
    content = json.loads(coco(tmp_path).read_text(encoding="utf-8"))
    boxes = [[0, 0, 0, 0], [4, 3, 16, 15], [-0.9, 0, 41.8, 30], [0, 0, 50, 30]]
    content["annotations"] += [{"image_id": 1, "category_id": 7, "bbox": box} for box in boxes]
    content["annotations"][3]["attributes"] = {"phrase": "Red cat!"}
    source = write(tmp_path / "annotations" / "boxes.json", content)
    assert main(["import", str(source), str(tmp_path / "own.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("boxes.json, ")[2] for line in lines[:3]] == [
        "annotation 2: the box (0, 0, 0, 0) has no area",
        "annotation 3: repeats annotation 0",
        "annotation 5: the box (0, 0, 50, 30) lies partly outside the image of 40 x 30",
    ]
    assert lines[3].endswith("3 boxes of 2 pictures, 3 left out, 1 clipped to their picture")
    assert [*pd.read_csv(tmp_path / "own.csv").iloc[2]] == ["train2017/a.png", "cat", 0, 0, 40, 30]


@pytest.mark.parametrize(
    ("attributes", "phrase", "words"),
    [
        ({"id": "7", "Label": "cat", "note": "x"}, None, "cat"),
        ({"region_id": "7", "kind": "cat"}, None, "cat"),
        ({"class": "x", "note": "cat"}, "Note", "cat"),
    ],
)
def test_via_attribute_that_is_the_phrase(folder, attributes, phrase, words):
    files = via_files()
    for file in files.values():
        file["regions"][0]["region_attributes"] = attributes
    assert {*convert(write(folder / "via.json", files), folder, phrase)[0]["phrase"]} == {words}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("via.json", via_files(), "region 0: it has no field captoin; its fields are "),
        ("x.csv", "image,caption,x1,y1,x2,y2\na.png,a cat,1,2,3,4\n", "has no column captoin; it has image, caption"),
        ("labels/a.txt", "0 .5 .5 .5 .5\n", "YOLO's labels have no fields, so none is called captoin"),
    ],
)
def test_mistyped_field_does_not_give_labels(folder, name, content, sentence):
    path = write(folder / name, content)
    with refused(sentence):
        convert(folder if name.startswith("labels") else path, folder, "captoin")


def test_pictures_of_one_name_in_two_folders_are_not_confused(tmp_path):
    laid_out(tmp_path, "one/a.png", "two/a.png")
    rows = "one/a.png,cat,1,2,3,4\nC:\\pics\\two\\A.png,dog,1,2,3,4\na.png,cow,1,2,3,4\n"
    table, (sentence,), _ = convert(write(tmp_path / "x.csv", f"image,phrase,x1,y1,x2,y2\n{rows}"), tmp_path)
    assert [*table["image"]] == ["one/a.png", "two/a.png"]
    assert "row 4: a.png may be " in sentence
    laid_out(tmp_path, "a.png", "images/a.png", "images/b.png", "labels/b.txt")
    table, skipped, _ = convert(tmp_path / "x.csv", tmp_path)
    assert [*table["image"]] == ["one/a.png", "two/a.png", "a.png"] and not skipped
    Image.new("RGB", SIZE).save(tmp_path / "images" / "b.jpg")
    with refused("labels/b.txt, line 1: b may be "):
        convert(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.json", {"a": 1}, "is JSON, but of no known annotation tool ('a')"),
        ("x.csv", "a.png,1,2,3,4,cat\n", "has no header: put the line image,x1,y1,x2,y2,phrase above"),
        ("x.csv", "picture,left,top\n", "its first row must name a column for the picture, one for the label"),
        ("x.txt", "x", "is none of COCO, VIA, Label Studio"),
        ("x.json", "{", "is not JSON, or not all of it"),
        ("x.json", [{"image": "a.png", "label": []}], "x.json, task 0: is of no known annotation tool (Label"),
        (
            "x.json",
            [{"annotator": 1, "image": "a.png", "b": [{"points": []}]}],
            "a.png, result 0: it is a region, not an",
        ),
        ("x.json", {"metadata": {"1_a": {"xy": [7, 1, 2, 3, 4]}}, "view": {}}, "1_a: its shape is VIA's number 7, not"),
        ("x.csv", "# CSV_HEADER = metadata_id,temporal_coordinates,spatial_coordinates\n", "is the CSV of VIA 3"),
        ("x.csv", "image,phrase,x1,y1,x2,y2\na.png,a cat,a dog,1,2,3,4\n", "row 2: has more cells than the header"),
    ],
)
def test_source_of_no_known_kind_is_refused_with_one_sentence(tmp_path, name, content, sentence):
    path = write(tmp_path / name, content)
    with refused(sentence):
        convert(path, tmp_path)
    with refused(f"{tmp_path / 'none.csv'}: no such file"):
        convert(tmp_path / "none.csv", tmp_path)
