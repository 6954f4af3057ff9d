"""PyTorch's own files (.pth) read without executing anything in them.

Such a file is a pickle, and a pickle may name any function and have it called. Here no name is ever imported:
dictionaries stay dictionaries, tensors become notes of where their numbers stand in the file, and whatever else is
named becomes `Inert`, which takes everything and does nothing. So a file opens even where the classes of its other
contents are not installed. `torch.load` would refuse such classes (weights_only) or run them.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from amc_lib.bounded_pickle import BoundedUnpickler

ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first number in a file of PyTorch before 1.6, whose later ones are zips
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class PickledFile:
    """A file of `torch.save`, zip or older. Opening one can raise nearly anything if the file is damaged.

    content: what was saved, with a `StoredTensor` for each tensor and something inert for each object.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            read = _read_zip if file.read(len(ZIP_START)) == ZIP_START else _read_legacy
            file.seek(0)
            self.content, self._places = read(file)
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def tensor(self, stored: StoredTensor) -> Tensor:
        """The tensor itself, mapped from the file.

        ValueError or RuntimeError if it reaches beyond its storage or has more elements than that.
        """
        storage = stored.storage
        if not isinstance(storage, Storage):
            raise ValueError("a tensor is of a kind that is not read here")
        start, available = self._places[storage.key]
        size = storage.numel * storage.dtype.itemsize
        if not 0 <= size <= available:
            raise ValueError(f"storage {storage.key} should have {size} bytes, the file has {available}")
        if math.prod(stored.size) > storage.numel:
            raise ValueError(f"a tensor repeats the {storage.numel} numbers of storage {storage.key}")
        numbers = torch.empty(0, dtype=torch.uint8)
        if size:
            numbers = torch.frombuffer(self._bytes, dtype=torch.uint8, count=size, offset=start)
        if start % storage.dtype.itemsize:
            numbers = numbers.clone()  # which is aligned, as the older format's storages are not
        return numbers.view(storage.dtype).as_strided(stored.size, stored.stride, stored.offset)


class Storage(NamedTuple):
    """The numbers below one or more tensors, by the key under which the file keeps them."""

    key: str
    dtype: torch.dtype
    numel: int


def _nothing(*_args: object, **_kwargs: object) -> None:
    """Stands for every method through which a pickle fills an object."""


class Inert:
    """Any class, function or object of a file that is no tensor; it may be called, filled and given state."""

    __init__ = __setstate__ = __setitem__ = append = _nothing

    def __new__(cls, *_args: object, **_kwargs: object) -> Inert:
        return super().__new__(cls)

    def __call__(self, *_args: object, **_kwargs: object) -> Inert:
        return self


class StoredTensor:
    """A tensor's place: offset, size and stride, in elements of its storage. Further arguments of torch are ignored."""

    __setstate__ = _nothing

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride


class _Parameter:
    """torch's parameters wrap a tensor; the tensor is what counts."""

    __setstate__ = _nothing

    def __new__(cls, data: Any, *_: object) -> Any:
        return data


class _Dictionary(dict):
    """Stands for OrderedDict, whose attributes (a state dict's versions of its modules) are dropped."""

    __setstate__ = _nothing


KNOWN = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_tensor"): StoredTensor,
    ("torch._utils", "_rebuild_tensor_v2"): StoredTensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
}


class _Unpickler(BoundedUnpickler):
    """Everything that it hands to a pickle ignores being given state, so that a file cannot change it either."""

    def __init__(self, file: BinaryIO | mmap.mmap) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return name
        return KNOWN.get((module, name), Inert)

    def persistent_load(self, identifier: Any) -> Any:
        match identifier:
            case ("storage", str(kind), str(key), _, int(numel), *view) if kind in DTYPES and view in ([], [None]):
                return self.storages.setdefault(key, Storage(key, DTYPES[kind], numel))
        return Inert()


Places = dict[str, tuple[int, int]]  # storage key -> first byte in the file and number of bytes


def _read_zip(file: BinaryIO) -> tuple[Any, Places]:
    """One folder that holds data.pkl and, uncompressed, data/KEY for each storage."""
    with zipfile.ZipFile(file) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
            raise ValueError("its records are compressed, as those of torch.save never are")
        if "data.pkl" not in records:
            raise ValueError("it is a zip archive, but not one of PyTorch")
        content = _Unpickler(io.BytesIO(archive.read(records["data.pkl"]))).load()
    places = {}
    for name, info in records.items():
        folder, _, key = name.partition("/")
        if folder == "data":
            file.seek(info.header_offset + 26)  # of a local header of 30 bytes, then a name and extra bytes
            name_length, extra_length = struct.unpack("<HH", file.read(4))
            places[key] = (info.header_offset + 30 + name_length + extra_length, info.file_size)
    return content, places


def _read_legacy(file: BinaryIO) -> tuple[Any, Places]:
    """Pickles in a row (magic number, version, system, content, storage keys), then length and numbers of each key."""
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # which gives no more than there is, whatever is asked
    if _Unpickler(data).load() != LEGACY_MAGIC:
        raise ValueError("it is a pickle, but not one of PyTorch")
    _version, _system = _Unpickler(data).load(), _Unpickler(data).load()
    unpickler = _Unpickler(data)
    content, keys = unpickler.load(), _Unpickler(data).load()
    places = {}
    for key in keys:
        (numel,) = struct.unpack("<q", data.read(8))
        size = numel * unpickler.storages[key].dtype.itemsize
        if not 0 <= size <= len(data) - data.tell():
            raise ValueError("it is cut short")
        places[key] = (data.tell(), size)
        data.seek(size, io.SEEK_CUR)
    return content, places
