"""Exports that mislead: values are right, or a sentence says what is wrong; nothing is taken for something else."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from refusal import refused

from amc_lib.datasets import own_table
from amc_lib.datasets.annotations import convert, picture_folder

SIZE = (400, 300)
CORNERS = "image,phrase,x1,y1,x2,y2\n"
BOX = "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>110</xmax><ymax>220</ymax></bndbox>"
THING = f"<object><name>cat</name>{BOX}</object>"
EDGES = [10, 20, 110, 220]  # of BOX


def laid_out(root: Path, files: dict[str, object]) -> Path:
    """Files below a folder: of a picture the size, of others text, bytes or JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, tuple):
            Image.new("RGB", content).save(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return root


def converted(root: Path, name: str, files: dict[str, object], **options) -> tuple[list[list], list[str]]:
    """Rows and sentences of a source below a new folder, with a.png and b.png of SIZE beside it."""
    source = laid_out(root, {"a.png": SIZE, "b.png": SIZE, **files}) / name
    table, skipped, _ = convert(source, picture_folder(source), **options)
    return table.to_numpy().tolist(), skipped


def coco(*annotations: dict, **more: object) -> dict:
    images = [{"id": n, "file_name": f"{name}.png", "width": 400, "height": 300} for n, name in enumerate("ab")]
    annotations = [{"image_id": 0, "category_id": 1, "bbox": [10, 20, 100, 200]} | one for one in annotations]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]} | more


ROWS_OF_YOLO = "xmin,ymin,xmax,ymax,confidence,class,name,image\n10,20,110,220,0.9,0,cat,a.png\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (ROWS_OF_YOLO, None),
        (
            ROWS_OF_YOLO.replace("name", "note"),
            "all its labels are bare numbers, as of classes (0): name another column",
        ),
        (ROWS_OF_YOLO.replace("cat", "a.png"), "by --phrase, or class if these are the names"),
        (ROWS_OF_YOLO.replace("cat", "3"), "all its labels are bare numbers, as of classes (0)"),
        (f"{CORNERS}a.png,/m/01g317,10,20,110,220\n", "all its labels are Open Images' codes of classes"),
        (f"{CORNERS}a.png,7,10,20,110,220\na.png,cat,10,20,110,220\n", None),
    ],
)
def test_numbers_and_codes_of_classes_are_no_phrases(tmp_path, content, sentence):
    if not sentence:
        assert converted(tmp_path, "x.csv", {"x.csv": content})[0][-1] == ["a.png", "cat", *EDGES]
        return
    with refused(sentence):
        converted(tmp_path, "x.csv", {"x.csv": content})


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("x.json", coco(categories=[{"id": 1, "name": "7"}], annotations=[coco({})["annotations"][0]]), {}),
        ("x.csv", f"{CORNERS}a.png,7,10,20,110,220\n", {"phrase": "phrase"}),
    ],
)
def test_numbers_are_phrases_where_they_are_the_names(tmp_path, name, content, options):
    rows, skipped = converted(tmp_path, name, {name: content}, **options)
    assert (rows, skipped) == ([["a.png", "7", *EDGES]], [])
    (tmp_path / "own.csv").write_text(f"{CORNERS}a.png,7,10,20,110,220\n")
    assert [region.phrase for region in own_table.read(tmp_path / "own.csv")] == ["7"]


@pytest.mark.parametrize(
    ("form", "boxes"),
    [
        ("x and y of the middle, width, height", [(350, 200, 90, 190), *((60 + n, 120, 100, 200) for n in range(7))]),
        (None, [(350, 200, 30, 90), (150, 200, 90, 150), (60, 120, 40, 30), (200, 150, 40, 40)]),  # two overrun
        ("x1, y1, x2, y2", [(10, 20, 110, 220), (210, 150, 390, 290), (200, 10, 300, 290)]),
        (None, [(10, 20, 110, 220), (210, 150, 190, 150), (380, 10, 20, 30), (0, 0, 400, 300)]),
        (None, [(300, 200, 150, 50), (1, 1, 9, 9), (10, 200, 30, 40)]),
    ],
)
@pytest.mark.parametrize("kind", ["COCO", "CSV", "own table"])
def test_boxes_of_another_form_are_refused_together(tmp_path, form, boxes, kind):
    rows = [f"a.png,thing {n},{','.join(map(str, box))}" for n, box in enumerate(boxes)]
    head = "image,phrase,bbox_x,bbox_y,bbox_w,bbox_h" if kind == "own table" else "image,label,x,y,width,height"
    source = "x.json" if kind == "COCO" else "x.csv"
    laid_out(tmp_path, {"a.png": SIZE, "x.csv": "\n".join((head, *rows))})
    laid_out(tmp_path, {"x.json": coco(*({"bbox": box} for box in boxes))})
    read = own_table.read if kind == "own table" else lambda source: convert(source, tmp_path)
    if form:
        with refused(f"do not fit their pictures as x, y, width, height, which is read, and fit as {form}"):
            read(tmp_path / source)
    elif kind != "own table":
        x, y, width, height = boxes[-1]
        assert [*read(tmp_path / source)[0].iloc[-1, 2:]] == [x, y, x + width, y + height]


def test_turned_boxes_are_left_out_and_an_attribute_is_no_label(tmp_path):
    content = coco({"attributes": {"rotation": 30.5}}, {"attributes": {"rotation": 0.0, "occluded": False}})
    rows, (sentence,) = converted(tmp_path / "coco", "x.json", {"x.json": content})
    assert rows == [["a.png", "cat", *EDGES]]
    assert sentence.endswith("x.json, annotation 0: it is turned by 30.5 degrees, not an upright rectangle")
    named = "<attribute><name>name</name><value>tom</value></attribute>"
    turned = "<attribute><name>rotation</name><value>30</value></attribute>"
    things = "".join(THING.replace(BOX, f"{BOX}<attributes>{words}</attributes>") for words in (named, turned))
    xml = f"<annotation><filename>a.png</filename>{things}</annotation>"
    rows, (sentence,) = converted(tmp_path / "voc", "", {"a.xml": xml})
    assert rows == [["a.png", "cat", *EDGES]] and "object 1: it is turned by 30 degrees" in sentence


def test_ids_of_coco_that_stand_twice_or_as_text(tmp_path):
    images, categories = coco()["images"], [{"id": 1, "name": "cat"}]
    text = coco({"image_id": "0", "category_id": "1"}, images=images * 2, categories=categories * 2)
    assert converted(tmp_path, "x.json", {"x.json": text}) == ([["a.png", "cat", *EDGES]], [])
    for kind, entries in (
        ("images", [*images, images[0] | {"file_name": "b.png"}]),
        ("categories", [*categories, {"id": 1, "name": "dog"}]),
    ):
        with refused(f"x.json: its {kind} have the id {entries[-1]['id']} twice, and differ"):
            converted(tmp_path, "x.json", {"x.json": coco({}, **{kind: entries})})


@pytest.mark.parametrize(
    ("file_name", "stated", "b_size", "image"),
    [
        ("b.png", SIZE, (200, 300), "a.png"),
        ("b.png", (200, 300), (200, 300), "b.png"),
        ("b.png", SIZE, SIZE, "it names b.png, and by the name of its file it is of a.png: which is it?"),
        ("gone.jpg", SIZE, SIZE, "a.png"),
        ("A.PNG", SIZE, SIZE, "a.png"),
    ],
)
def test_stale_file_names_of_voc(tmp_path, file_name, stated, b_size, image):
    size = "<size><width>{}</width><height>{}</height></size>".format(*stated)
    xml = f"<annotation><filename>{file_name}</filename>{size}{THING}</annotation>"
    files = {"a.png": SIZE, "b.png": b_size, "a.xml": xml}
    if image.endswith(".png"):
        assert converted(tmp_path, "", files) == ([[image, "cat", *EDGES]], [])
    else:
        with refused(image):
            converted(tmp_path, "", files)


def test_flat_pictures_beside_folders_of_splits(tmp_path):
    line = "0 0.15 0.4 0.25 0.66666667"
    files = {"images/a.png": SIZE, "images/b.png": SIZE, "data.yaml": "names: [cat]"}
    files |= {"labels/train/a.txt": line, "labels/val/b.txt": line}
    rows, skipped = converted(tmp_path, "", files)
    assert [(row[0], row[-1]) for row in rows] == [("a.png", "train"), ("b.png", "val")] and not skipped
    _, (sentence,) = converted(tmp_path, "", {"labels/val/a.txt": line})
    assert sentence.endswith(f"val/a.txt, line 1: repeats {tmp_path / 'labels' / 'train' / 'a.txt'}, line 1")


@pytest.mark.parametrize(
    ("content", "edges"),
    [
        ("image;label;x1;y1;x2;y2\na.png;cat;10,0;20;1,10E+02;220\n", EDGES),
        ("image\tlabel\tx1\ty1\tx2\ty2\na.png\tcat\t10,0\t20\t110,0\t220\n", EDGES),
        ("image;label;x1;y1;x2;y2\na.png;cat;10.125;20;110.5;220\n", [10.125, 20, 110.5, 220]),
        (
            "image;label;x1;y1;x2;y2\na.png;cat;10,5;20;1.010;220\n",
            "row 2: 1.010 may count thousands, as other numbers",
        ),
        ("image,label,x1,y1,x2,y2\na.png,cat,10,20,10.1,220\n", "the box is smaller than a pixel: 0.1 x 200"),
        ("image,label,x1,y1,x2,y2\na.png,cat,,20,10,220\n", "row 2: x1 is '', which is not a number"),
        ("image,label,x0,y0,x1,y1\na.png,cat,10,20,110,220\n", EDGES),
        ("image,file_name,label,x1,y1,x2,y2\n17,a.png,cat,10,20,110,220\n", EDGES),
        ("7,10,20,100,200,a.png,400,300\ncat,10,20,100,200,a.png,400,300\n", EDGES),
        ("UNASSIGNED,gs://b/b.png,cat,0.1,0.1,0.5,0.1,0.5,0.5,0.1,0.5\n", [40, 30, 200, 150, "UNASSIGNED"]),
        ("UNASSIGNED,gs://b/b.png,cat,0.1,0.1,,,0.5,0.5,,\n", [40, 30, 200, 150, "UNASSIGNED"]),
    ],
)
def test_numbers_and_columns_of_tables(tmp_path, content, edges):
    if isinstance(edges, str):
        with refused(edges):
            converted(tmp_path, "x.csv", {"x.csv": content})
    else:
        rows, skipped = converted(tmp_path, "x.csv", {"x.csv": content})
        assert rows[-1][1:] == ["cat", *edges] and not skipped


@pytest.mark.parametrize(
    ("lines", "boxes"),
    [
        ("0 0.5 0.5 0.2 0.4 0.9 1\n0 0.5 0.5 0.5 0.5 0.25 12\n", [[160, 90, 240, 210], [100, 75, 300, 225]]),
        ("0 0.5 0.5 0.25 0.5 0.75 1\n0 0.25 0.5 0.5 0.5 0.25 0.75\n", [[100, 150, 300, 300], [100, 150, 200, 225]]),
    ],
    ids=["tracks", "triangles"],
)
def test_seven_numbers_of_yolo(tmp_path, lines, boxes):
    rows, skipped = converted(tmp_path, "", {"labels/a.txt": lines, "classes.txt": b"caf\xe9\n"})
    assert rows == [["a.png", "café", *box] for box in boxes] and not skipped


YOLO = {"labels/a.txt": "0 0.15 0.4 0.25 0.66666667\n", "data.yaml": "names: [cat]\n"}
VOC = f"<annotation><filename>a.png</filename>{THING}</annotation>"
CVAT = "<annotations><version>1.1</version></annotations>"
SPACED = VOC.replace("<annotation>", '<annotation xmlns="http://x.org/voc">')
VIA_1 = (
    "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    'a.png,9,"{}",1,0,"{""name"":""rect"",""x"":10,""y"":20,""width"":100,""height"":200}","{""kind"":""cat""}"\n'
)
LABELME = {"shapes": [], "imagePath": "a.png"}


@pytest.mark.parametrize(
    ("files", "outcome"),
    [
        ({**YOLO, ".idea/misc.xml": VOC}, []),
        ({**YOLO, "annotations.xml": CVAT, "notes.xml": "<project/>"}, []),
        ({"x.xml": SPACED}, []),
        (
            {"x.xml": VOC, "notes.xml": f"<project>{THING}</project>"},
            ["notes.xml: is XML of <project>, not of VOC's <annotation>"],
        ),
        ({"x.xml": VOC, "labels/readme.txt": "by hand"}, []),
        ({"x.xml": VOC, **YOLO}, "holds Pascal VOC's XML and YOLO's labels: take one kind out, or name its folder"),
        ({"annotations.xml": CVAT}, "annotations.xml: is CVAT's own XML, which is not read: export as COCO or Pascal"),
        ({"note.xml": "<note>"}, "note.xml: cannot be read as XML"),
        ({"obj.names": "cat\n", "obj_train_data/a.txt": YOLO["labels/a.txt"]}, []),
        ({"annotations/instances_default.json": coco({})}, []),
        ({"a.json": LABELME, "b.json": LABELME}, "a.json: is LabelMe's JSON, which is not read: convert its folder to"),
        ({"x.csv": f"{CORNERS}a.png,cat,10,20,110,220\n"}, "holds x.csv: name a file, not its folder"),
        ({"a.json": coco(), "b.json": coco()}, "holds a.json: name a file, not its folder"),
        ({}, "is none of COCO, VIA, Label Studio"),
    ],
)
def test_what_a_folder_holds(tmp_path, files, outcome):
    if isinstance(outcome, str):
        with refused(outcome):
            converted(tmp_path / "data", "", files)
    else:
        rows, skipped = converted(tmp_path / "data", "", files)
        assert rows == [["a.png", "cat", *map(pytest.approx, EDGES)]]
        assert [sentence.rpartition("data/")[2] for sentence in skipped] == outcome


def test_roboflows_folders_of_coco_keep_their_pictures_and_splits(tmp_path):
    files = {f"{split}/_annotations.coco.json": coco({}) for split in ("train", "valid")}
    files |= {f"{split}/a.png": SIZE for split in ("train", "valid")}
    rows, skipped = converted(tmp_path, "", files)
    expected = [[f"{folder}/a.png", "cat", *EDGES, split] for folder, split in (("train", "train"), ("valid", "val"))]
    assert rows == expected and not skipped


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.zip", b"PK\5\6" + bytes(18), "x.zip: is a compressed archive: unpack it"),
        ("x.xml", CVAT, "is CVAT's own XML"),
        ("coco8.yaml", "path: coco8\nnames: [cat]\n", "no folder labels lies beside it: put it into that of YOLO's"),
        ("x.csv", f"{CORNERS}a.png,cat,1,2,3,4".encode("utf-16-le"), "is not UTF-8, but perhaps UTF-16: save it as"),
        ("x.json", coco({"bbox": [1, 2, 3]}), "annotation 0: the bbox [1, 2, 3] is not x, y, width, height"),
        ("x.json", coco(images=None), "x.json: its images are null, not a list"),
        ("x.json", coco(images=[None]), "x.json: is of another form than expected"),
        (
            "x.json",
            coco({}) | {"images": [{"id": 0, "file_name": "a.png", "width": "x", "height": 1}]},
            "annotation 0: its image's width is 'x'",
        ),
        ("x.xml", VOC.replace("<xmin>10</xmin>", "<xmin/>"), "object 0: its xmin is '', which is not a number"),
        ("x.xml", VOC.replace("bndbox", "robndbox"), "object 0: it has no bndbox"),
        (
            "x.json",
            [{"data": {"image": "a.png"}, "predictions": [{}, {}]}],
            "a.png: it has predictions (2) and no anno",
        ),
        (
            "x.json",
            coco({"bbox": [0.1, 0.2, 0.3, 0.4]}),
            "look like shares of the sides (0 to 1), and this format has p",
        ),
        (
            "x.csv",
            f"{CORNERS}a.png,cat,500,9,509,18\na.png,cat,10,400,19,409\na.png,cat,9,9,410,30\na.png,cat,1,2,110,220\n",
            "3 of 4 boxes reach beyond their pict",
        ),
        (
            "turned.csv",
            f"{CORNERS}turned.jpg,cat,10,20,110,220\n",
            "it is stored turned (EXIF orientation 6), so boxes",
        ),
    ],
)
def test_source_that_cannot_be_used_is_named(tmp_path, name, content, sentence):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(tmp_path / "turned.jpg", exif=exif)
    with refused(sentence):
        converted(tmp_path, name, {name: content})


def test_folders_that_are_links_are_entered_once(tmp_path):
    laid_out(tmp_path / "elsewhere", {"a.png": SIZE, "a.txt": YOLO["labels/a.txt"]})
    root = laid_out(tmp_path / "data", {"data.yaml": "names: [cat]\n"})
    for name in ("images", "labels", "images/again"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    table, skipped, _ = convert(root, picture_folder(root))
    assert [*table["image"]] == ["a.png"] and not skipped


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_umlauts_in_file_names_have_two_spellings(tmp_path, form):
    stored, written = (unicodedata.normalize(one, "bär.png") for one in ({"NFC": "NFD", "NFD": "NFC"}[form], form))
    files = {stored: SIZE, "x.csv": f"{CORNERS}{written},cat,10,20,110,220\n"}
    assert converted(tmp_path, "x.csv", files)[0] == [[stored, "cat", *EDGES]]
    assert own_table.read(tmp_path / "x.csv")[0].image_id == stored


def studio(name: str) -> list[dict]:
    value = {"x": 2.5, "y": 10, "width": 25, "height": 50, "rectanglelabels": ["cat"]}
    result = {"type": "rectanglelabels", "original_width": 400, "original_height": 200, "value": value}
    return [{"data": {"image": f"/data/upload/1/{name}"}, "annotations": [{"result": [result]}]}]


@pytest.mark.parametrize(
    ("name", "more", "found"),
    [
        ("1234abcd-my_photo_1.jpg", [], "my photo (1).jpg"),
        ("1234abcd-photo_1.jpg", [], "photo_1.jpg"),
        ("my_photo_1.jpg", [], "there is no picture my_photo_1.jpg below"),
        ("1234abcd-my_photo_1.jpg", ["my_photo 1.jpg"], "my_photo_1.jpg may be "),
    ],
)
def test_uploads_are_found_by_their_changed_names(tmp_path, name, more, found):
    pictures = ["my photo (1).jpg", "photo_1.jpg", "photo (1).jpg", *more]
    files = {"x.json": studio(name), **dict.fromkeys(pictures, (400, 200))}
    if found in pictures:
        assert converted(tmp_path, "x.json", files)[0] == [[found, "cat", 10, 20, 110, 120]]
    else:
        with refused(found):
            converted(tmp_path, "x.json", files)


@pytest.mark.parametrize("names", ["[1, no, yes]", "{0: 1, 1: no, 2: yes}"])
def test_names_of_classes_are_read_as_written(tmp_path, names):
    box = YOLO["labels/a.txt"][1:]
    files = {"data.yaml": f"names: {names}\n", "labels/a.txt": f"0{box}1{box}2{box}"}
    assert [row[1] for row in converted(tmp_path, "", files)[0]] == ["1", "no", "yes"]


def test_csv_of_via_1(tmp_path):
    assert converted(tmp_path, "x.csv", {"x.csv": VIA_1}) == ([["a.png", "cat", *EDGES]], [])


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_few_small_boxes_of_a_format_of_pixels_are_said_to_be_pixels(tmp_path, kind):
    xml = "<annotation><object><name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>30</xmax><ymax>40</ymax>"
    files = {"x.json": coco({"bbox": [2, 3, 28, 37]}), "a.xml": f"{xml}</bndbox></object></annotation>"}
    name = {"coco": "x.json", "voc": "a.xml"}[kind]
    rows, _ = converted(tmp_path, name, {name: files[name]})
    assert rows == [["a.png", "cat", 2, 3, 30, 40, "pixel"]]


YOLO_LINE = "0 0.15 0.4 0.25 0.6666667\n"  # EDGES in a picture of SIZE


@pytest.mark.parametrize(
    ("source", "names", "labels"),
    [
        ("", "data/obj.names", "data/obj/a.txt"),
        ("train", "train/_darknet.labels", "train/a.txt"),
        ("", "train/_darknet.labels", "train/a.txt"),
        ("train/labels", "data.yaml", "train/labels/a.txt"),
    ],
)
def test_darknet_and_folders_of_labels(tmp_path, source, names, labels):
    picture = labels.replace("labels/", "images/").replace("txt", "png")
    content = "names: [cat]" if names.endswith("yaml") else "cat\n"
    laid_out(tmp_path, {names: content, labels: YOLO_LINE, picture: SIZE})
    table, skipped, _ = convert(tmp_path / source, tmp_path / picture.partition("/")[0])
    row = table.iloc[0].tolist()
    assert (row[1], row[2:6], skipped) == ("cat", pytest.approx(EDGES, abs=1e-4), [])


def test_what_a_table_cannot_hold_is_left_out(tmp_path):
    """Pictures of no split where others have one, and those that are too large to be read."""
    files = {f"images/{split}/{split}.png": SIZE for split in ("train", "test", "extra")}
    files |= {f"labels/{split}/{split}.txt": YOLO_LINE for split in ("train", "test", "extra", "train/large")}
    laid_out(tmp_path, files | {"classes.txt": "cat\n"})
    Image.new("1", (12_000, 9_000)).save(tmp_path / "images" / "train" / "large.png")
    (tmp_path / "labels" / "train" / "large.txt").write_text(YOLO_LINE)
    table, skipped, _ = convert(tmp_path, tmp_path / "images")
    assert sorted(table["split"]) == ["test", "train"]
    assert sum("extra.txt, line 1: is of no split (train, val or test), and others are" in one for one in skipped) == 1
    assert sum("large.png: cannot be read as an image: it has 12000 x 9000 pixels" in one for one in skipped) == 1


def test_small_boxes_of_a_format_that_has_pixels_are_pixels(tmp_path, capsys):
    boxes = [[10, 10, 85, 60], [12, 9, 80, 61]]
    images = [{"id": 0, "file_name": "large.png", "width": 4000, "height": 3000}]
    laid_out(tmp_path, {"large.png": (4000, 3000), "x.json": coco(*({"bbox": box} for box in boxes), images=images)})
    table, *_ = convert(tmp_path / "x.json", tmp_path)
    assert table["x2"].tolist() == [95, 92] and table["unit"].tolist() == ["pixel"] * 2
    assert "look like percent of the sides (0 to 100), and are read as pixels" in capsys.readouterr().out
