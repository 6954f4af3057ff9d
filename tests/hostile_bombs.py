"""Short files that ask for much: run as a script, each is opened under a limit of memory; one line of JSON for each.

A process of its own, since a bomb that is not defused takes the process with it.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import resource
import struct
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from reference_cases import TINY_AMC, tiny_model, tiny_settings
from safetensors.torch import save

from amc_lib.checkpoints import DESCRIPTION, load_checkpoint, save_checkpoint
from amc_lib.config import ObjectiveSettings, Settings, TrainingSettings
from amc_lib.datasets import flickr30k, records, refer
from amc_lib.datasets.image_files import ImageFile
from amc_lib.grounder import read_image
from amc_lib.official import read_official
from amc_lib.tokens import SPECIAL, Tokenizer, clean

MEMORY = 1 << 30  # bytes that a bomb may ask for beyond what the process has


def png(path: Path, width: int, height: int, data: bytes) -> Path:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def jpeg(path: Path, width: int, height: int) -> Path:
    """A true JPEG whose header has other sides."""
    Image.new("RGB", (8, 8)).save(path, "JPEG")
    data = bytearray(path.read_bytes())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    path.write_bytes(data)
    return path


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def zipped(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(4_000))
    return path


def repeated(numel: int, size: tuple[int, ...]) -> bytes:
    """A pickled tensor whose strides are 0."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, thing: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if thing == "the storage" else None

    class Rebuilt:
        def __reduce__(self) -> tuple:
            return torch._utils._rebuild_tensor_v2, ("the storage", 0, size, (0,) * len(size), False, {})

    Pickler(file := io.BytesIO(), 2).dump({"a": Rebuilt()})
    return file.getvalue()


def shared_views(number: int) -> bytes:
    """Many names for one storage of 1,000 floats."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, thing: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", 1000) if thing == "the storage" else None

    class Rebuilt:
        def __reduce__(self) -> tuple:
            return torch._utils._rebuild_tensor_v2, ("the storage", 0, (1000,), (1,), False, {})

    one = Rebuilt()
    Pickler(file := io.BytesIO(), 2).dump({str(name): one for name in range(number)})
    return file.getvalue()


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def doubled(depth: int) -> bytes:
    """A list whose parts are the same two lists, and so on: 2 ** depth leaves."""
    return b"]K\1a" + b"".join(b"q\x010]h\1ah\1a" for _ in range(depth))


def with_settings(folder: Path, **sizes: dict[str, int]) -> Path:
    """A tiny checkpoint whose description asks for more."""
    training = TrainingSettings(batch_size=8)
    settings = Settings("scenes", tiny_settings(), ObjectiveSettings(), TINY_AMC, training, training)
    tokenizer = Tokenizer([*SPECIAL, *(f"w{i}" for i in range(35))], 12)
    save_checkpoint(folder, tiny_model(torch.float32), tokenizer, settings, {})
    about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    for part, values in sizes.items():
        home = about["settings"]["model"]
        (home if part == "model" else home[part]).update(values)
    (folder / DESCRIPTION).write_text(json.dumps(about), encoding="utf-8")
    return folder


def many_headers(folder: Path) -> Path:
    """Weights of a true hash and a header that says there are 10 ** 12 numbers."""
    with_settings(folder)
    plain = save({"a": torch.zeros(1)})
    length = int.from_bytes(plain[:8], "little")
    header = plain[8 : 8 + length].replace(b"[1]", b"[1000000000000]").rstrip()
    data = struct.pack("<Q", len(header)) + header + plain[8 + length :]
    (folder / "weights.safetensors").write_bytes(data)
    about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    about["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(about), encoding="utf-8")
    return folder


def bombs(root: Path) -> dict[str, Callable[[], object]]:
    refs, pth = root / "refs(unc).p", root / "a.pth"
    blank = zlib.compress(bytes(1 + 3 * 30_000) * 100, 9)
    laughs = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    xml = f'<!DOCTYPE a [<!ENTITY e0 "ha">{laughs}]><annotation><object><name>&e11;</name></object></annotation>'
    return {
        "png of 30,000 x 30,000": lambda: read_image(png(root / "a.png", 30_000, 30_000, blank)),
        "png of 12,000 x 12,000": lambda: read_image(png(root / "a.png", 12_000, 12_000, blank)),
        "png of 2**31 x 2**31": lambda: read_image(png(root / "a.png", 2**31 - 1, 2**31 - 1, b"")),
        "png of a data set": lambda: ImageFile(png(root / "a.png", 12_000, 12_000, blank)).open(),
        "jpeg of 65,000 x 65,000": lambda: read_image(jpeg(root / "a.jpg", 65_000, 65_000)),
        "jpeg of 10,000 x 9,000": lambda: read_image(jpeg(root / "a.jpg", 10_000, 9_000)),
        "memo of 2**32": lambda: refer.read_refs(written(refs, b"\x80\2}r\xff\xff\xff\xff.")),
        "bytes of 2**36": lambda: refer.read_refs(written(refs, b"\x80\5]\x96\0\0\0\0\x10\0\0\0.")),
        "frame of 2**36": lambda: refer.read_refs(written(refs, b"\x80\4\x95\0\0\0\0\x10\0\0\0.")),
        "deep tuple": lambda: refer.read_refs(written(refs, b"\x80\2)" + b"\x85" * 300_000 + b".")),
        "deep tuple as key": lambda: refer.read_refs(written(refs, b"\x80\2})" + b"\x85" * 300_000 + b"K\1s.")),
        "shared tuple as key": lambda: refer.read_refs(written(refs, b"\x80\2}K\1\x85" + b"2\x86" * 64 + b"K\1s.")),
        "shared tuple in a set": lambda: refer.read_refs(
            written(refs, b"\x80\4\x8f(K\1\x85" + b"2\x86" * 64 + b"\x90.")
        ),
        "colliding keys": lambda: refer.read_refs(
            written(refs, pickle.dumps([{k * (2**61 - 1): 0 for k in range(1, 2000)}], 2))
        ),
        "shared list as split": lambda: refer.read(
            _refer_root(root, b"\x80\2]}" + text("split") + doubled(64) + b"sa."), "refcoco+", "unc", "testA"
        ),
        "shared list as phrase": lambda: records.phrase_of(pickle.loads(b"\x80\2" + doubled(64) + b"."), "a.p, ref 0"),
        "pth with a memo of 2**32": lambda: read_official(zipped(pth, b"\x80\2}r\xff\xff\xff\xff.")),
        "pth with a shared tuple as key": lambda: read_official(
            zipped(pth, b"\x80\2}K\1\x85" + b"2\x86" * 64 + b"K\1s.")
        ),
        "pth whose records are compressed": lambda: read_official(zipped(pth, bytes(1 << 26), zipfile.ZIP_DEFLATED)),
        "pth that repeats a number": lambda: read_official(zipped(pth, repeated(1, (10**6, 10**6)))),
        "pth of many views": lambda: read_official(zipped(pth, shared_views(50_000))),
        "legacy pth with a text of 2**36": lambda: read_official(written(pth, b"\x80\2\x8d\0\0\0\0\x10\0\0\0.")),
        "checkpoint of width 10**6": lambda: load_checkpoint(
            with_settings(root / "c", vision={"width": 10**6}, text={"width": 10**6})
        ),
        "checkpoint of 10**9 words": lambda: load_checkpoint(with_settings(root / "c", text={"vocab_size": 10**9})),
        "checkpoint of 10**9 layers": lambda: load_checkpoint(with_settings(root / "c", text={"layers": 10**9})),
        "checkpoint of 10**9 blocks": lambda: load_checkpoint(with_settings(root / "c", vision={"depth": 10**9})),
        "checkpoint of a long queue": lambda: load_checkpoint(with_settings(root / "c", model={"queue_size": 10**12})),
        "checkpoint of a large picture": lambda: load_checkpoint(
            with_settings(root / "c", vision={"image_size": 16384})
        ),
        "checkpoint that says more than it holds": lambda: load_checkpoint(many_headers(root / "c")),
        "json nested deeply": lambda: records.read_json(written(root / "a.json", "[" * 1_000_000)),
        "json with a long number": lambda: records.read_json(written(root / "a.json", "9" * 1_000_000)),
        "xml that laughs": lambda: flickr30k.chain_boxes(written(root / "a.xml", xml), records.Skips(True)),
        "xml nested deeply": lambda: flickr30k.chain_boxes(
            written(root / "a.xml", "<a>" * 50_000 + "</a>" * 50_000 + "<"), records.Skips(True)
        ),
        "phrase of one long word": lambda: clean("a" * 50_000_000),
    }


def _refer_root(root: Path, refs: bytes) -> Path:
    (root / "refcoco+").mkdir(exist_ok=True)
    (root / refer.IMAGE_FOLDERS["refcoco+"]).mkdir(parents=True, exist_ok=True)
    written(root / "refcoco+" / "instances.json", '{"annotations": []}')
    written(root / "refcoco+" / "refs(unc).p", refs)
    return root


def main(root: Path) -> None:
    warnings.simplefilter("ignore")
    load_checkpoint(with_settings(root / "c"))  # whatever is imported late is there before memory is limited
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for name, explode in bombs(root).items():
        begin = time.perf_counter()
        try:
            explode()
            kind, sentence = "", ""
        except Exception as error:
            kind, sentence = type(error).__name__, str(error)
        seconds = time.perf_counter() - begin
        print(json.dumps({"name": name, "error": kind, "sentence": sentence, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
