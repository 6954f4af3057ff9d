"""Files that are either whole or not there: each writer fills a neighbour, then renames it into place."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
_IN_A_WHEEL = Path(__file__).with_name("shipped")
SHIPPED_DATA = _IN_A_WHEEL if _IN_A_WHEEL.is_dir() else ROOT / "data"
"""The folder of shipped checkpoints and photographs: that of this repository, or what a wheel carries of it."""


def data_root() -> Path:
    """The folder of downloaded data sets and weights: data/paper, or the environment variable AMC_DATA."""
    return Path(os.environ.get("AMC_DATA", ROOT / "data" / "paper")).expanduser()


def proposals_file() -> Path:
    """The file of a detector's proposals in the paper tier's pictures, which the detector-based system reads."""
    return data_root() / "proposals.npz"


def photos_root() -> Path:
    """The folder of the photos tier, which holds Annotations/: data/photos, or what AMC_PHOTOS names."""
    return annotated_folder(os.environ.get("AMC_PHOTOS") or ROOT / "data" / "photos")


def annotated_folder(root: str | Path) -> Path:
    """The folder of that name or, where Annotations/ does not lie in it, the folder `flickr30k` in it."""
    root = Path(root).expanduser()
    below = root / "flickr30k"
    return below if below.is_dir() and not (root / "Annotations").is_dir() else root


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which becomes `path` when the block ends without an error.

    Missing folders are made. If the block raises, an older file at `path` stays as it was and nothing new remains; an
    OSError names `path`, not the neighbour.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if f"{error.filename}" == f"{temporary}":
            raise OSError(error.errno, error.strerror, f"{path}") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` when the block ends without an error.

    If another process was quicker, its folder stays. If the block raises, nothing new remains.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if not path.is_dir():
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_file(path) as file:
        file.write(data)


def json_bytes(obj: Any) -> bytes:
    """`obj` as indented UTF-8 JSON; raises ValueError for NaN and infinity, which JSON lacks."""
    return f"{json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)}\n".encode()


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as JSON (`json_bytes`) atomically."""
    write_bytes(path, json_bytes(obj))


def write_csv(path: str | Path, frame: Any) -> None:
    """Write a pandas DataFrame as UTF-8 CSV without its index, with full float precision, atomically."""
    write_bytes(path, frame.to_csv(index=False, lineterminator="\n").encode())


def sha256_of(path: str | Path) -> str:
    """The hash of a file's bytes, 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


BEGINNINGS = {  # of files, in lower case -> what they are
    (b"version https://git-lfs",): "a Git LFS pointer, not the file itself: run `git lfs pull`",
    (b"<svg",): "an SVG drawing",
    (b"<!doctype", b"<html", b"<head", b"<!--", b"<?xml"): "a web page, not the file itself: download it again",
    (b"%pdf",): "a PDF document",
    (b"\x1f\x8b", b"bzh", b"\xfd7zxz", b"7z\xbc\xaf", b"rar!"): "a compressed archive: unpack it",
}
OFFICE = re.compile(
    rb"\xd0\xcf\x11\xe0|PK\x03\x04.{26}(\[Content_Types\]|_rels/|docProps/|xl/|mimetypeapplication/vnd\.oasis)",
    re.DOTALL,
)  # how a workbook begins: xls, or xlsx and ods by the first file in their archive
BRANDS = {b"avif": "an AVIF picture", b"avis": "an AVIF picture"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC picture"
)  # of ISO media files


def what_it_is(head: bytes) -> str | None:
    """What a file is by its first bytes (some hundred), where it is not the data it is named for; else None."""
    if not head.strip(b"\0"):
        return "an empty file" if not head else "a file of zeros: an interrupted download or copy"
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12].lower(), "a video")
    if OFFICE.match(head):
        return "a workbook of a spreadsheet program: save the sheet as CSV"
    if head[257:262] == b"ustar":
        return "a compressed archive: unpack it"
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = next((what for beginnings, what in BEGINNINGS.items() if head.startswith(beginnings)), None)
    return "an SVG drawing" if found and b"<svg" in head else found


def unexpected_content(path: str | Path) -> str | None:
    """What a downloaded file is where it is not the data it is named for ("a web page", ...), else None."""
    with Path(path).open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\3\4") and not zipfile.is_zipfile(path):
        return "an incomplete download (an archive without its end)"
    return what_it_is(head)


def content_or(path: Path, reason: str) -> str:
    """What a file that could not be read is ("is a web page, ..."), or else the reason that was found."""
    content = unexpected_content(path) if path.is_file() else None
    return f"is {content}" if content else reason


def named_path(path: str | Path) -> Path:
    """A path as people write it: `~` is their home folder, and what is relative lies below the working directory."""
    return Path.cwd() / Path(path).expanduser()


def plain(value: Any, name: str = "settings") -> Any:
    """`value` in JSON's types: dataclasses and mappings as dicts, sequences as lists, numbers as Python's.

    A path is written relative to the repository, or by its last part if it lies elsewhere. Raises an error that says
    where it stands for a value that JSON cannot hold (an object, NaN).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    match value:
        case Mapping():
            return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
        case list() | tuple():
            return [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
        case Path():
            inside = value.resolve().is_relative_to(ROOT)
            outside = value.name if value.is_absolute() else value.as_posix()
            return value.resolve().relative_to(ROOT).as_posix() if inside else outside
        case np.generic():
            return plain(value.item(), name)
        case float() if not np.isfinite(value):
            raise ValueError(f"{name} is {value}, which cannot be written as JSON")
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{name} is a {type(value).__name__}, which cannot be written as JSON")
