"""Files of torch.save: their tensors come out as torch.load gives them, and nothing in them is executed."""

from __future__ import annotations

import argparse
import collections
import enum
import io
import os
import pickle
import re
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from amc_lib.checkpoints import CheckpointError
from amc_lib.inert_pickle import Inert, PickledFile
from amc_lib.official import read_official

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(content: object, path: Path, zipped: bool, protocol: int = 2) -> Path:
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return path


def tensors() -> dict[str, torch.Tensor]:
    numbers = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    return {
        "matrix": numbers,
        "tied": numbers,
        "transposed": numbers.T,
        "part": numbers[2:5, 1::2],
        "expanded": numbers[:, :1].expand(6, 3),
        "scalar": torch.tensor(0.07),
        "empty": torch.empty(0, 3),
        "byte": torch.arange(3, dtype=torch.uint8),  # an odd number of bytes: in the older format others stand askew
        "double": numbers.double(),
        "half": numbers.half(),
        "bfloat16": numbers.bfloat16(),
        "count": torch.arange(7),
        "flag": torch.tensor([True, False, True]),
        "parameter": nn.Parameter(numbers[0]),
    }


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "bare"])
def test_tensors_are_those_of_torch_load(tmp_path, zipped, protocol, wrapped):
    content = tensors() | nn.Linear(3, 2).state_dict()  # whose OrderedDict carries attributes
    path = save({"model": content} if wrapped else content, tmp_path / "a.pth", zipped, protocol)
    found = read_official(path)
    assert list(found) == list(content)
    for name, tensor in content.items():
        assert found[name].dtype == tensor.dtype and found[name].equal(tensor), name
        assert found[name].data_ptr() % tensor.itemsize == 0, name


@FORMATS
def test_state_dict_with_its_attributes_is_read(tmp_path, zipped):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = module.state_dict()
    assert state._metadata
    found = read_official(save({"model": state}, tmp_path / "a.pth", zipped))
    assert list(found) == list(state) and all(found[name].equal(state[name]) for name in state)


def test_changing_a_tensor_leaves_the_file_alone(tmp_path):
    path = save(tensors(), tmp_path / "a.pth", zipped=True)
    before = path.read_bytes()
    read_official(path)["matrix"].zero_()
    assert path.read_bytes() == before


# ------------------------------------------------------------------------------------------------- what else is inside


@pytest.fixture
def gone_classes():
    """Classes of a module that is gone once the block ends, as the authors' packages may be."""
    module = types.ModuleType("gone_package")
    for name, bases in {"Plain": (), "Mapping": (dict,), "Sequence": (list,), "Set": (set,)}.items():
        setattr(module, name, type(name, bases, {"__module__": "gone_package"}))
    module.Choice = enum.Enum("Choice", "A B", module="gone_package")
    sys.modules["gone_package"] = module
    yield module
    sys.modules.pop("gone_package", None)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_of_absent_classes_are_passed_over(tmp_path, gone_classes, zipped, protocol):
    plain, sequence = gone_classes.Plain(), gone_classes.Sequence([1, 2])
    plain.inner, sequence.name = {"lr": 1e-5}, "x"
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    content = {
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"values": np.linspace(0, 1, 5), "last": np.float64(0.5), "warm": collections.deque([1, 2])},
        "config": [plain, gone_classes.Mapping(a=1), sequence, gone_classes.Set({3}), gone_classes.Choice.B],
        "args": argparse.Namespace(seed=1, output=Path("out")),
        "defaults": collections.defaultdict(list, a=[1]),
        "sizes": {"size": torch.Size([2]), "type": torch.float32, "device": torch.device("cpu"), "bytes": b"\xff\0"},
        "model": tensors(),
    }
    path = save(content, tmp_path / "a.pth", zipped, protocol)
    del sys.modules["gone_package"]
    assert read_official(path)["matrix"].equal(content["model"]["matrix"])
    assert all(isinstance(thing, Inert) for thing in PickledFile(path).content["config"])
    assert "gone_package" not in sys.modules


# ----------------------------------------------------------------------------------------------------------- execution


class Trap:
    """Calls `function` with `arguments` when it is unpickled as usual."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call

    def __call__(self) -> None:
        """Only what can be called may be pickled as the function of another trap."""


def traps(sentinel: Path) -> dict[str, Trap]:
    return {
        "system": Trap(os.system, f"touch {sentinel}"),
        "exec": Trap(exec, f"open({str(sentinel)!r}, 'w').close()"),
        "touch": Trap(Path.touch, sentinel),
        "open": Trap(open, str(sentinel), "w"),
        "twice": Trap(Trap(getattr, Path, "touch"), sentinel),
    }


def places(trap: Trap) -> dict[str, object]:
    weights = {"weight": torch.ones(2)}
    return {
        "alone": trap,
        "beside": {"model": weights, "optimizer": {"state": [{0: trap}]}},
        "among the weights": {"model": weights | {"trap": trap}},
        "as the weights": {"model": trap},
        "as a key": {"model": weights, "config": {trap: 1}},
    }


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", list(traps(Path("x"))))
@pytest.mark.parametrize("place", list(places(None)))
def test_hostile_file_executes_nothing(tmp_path, zipped, protocol, name, place):
    sentinel = tmp_path / "sprung"
    path = save(places(traps(sentinel)[name])[place], tmp_path / "a.pth", zipped, protocol)
    if place in ("beside", "as a key"):
        assert read_official(path)["weight"].equal(torch.ones(2))
    else:
        with pytest.raises(
            CheckpointError, match=f"{path}: holds (no tensors|values that are no tensors: (trap|model))"
        ):
            read_official(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("name", list(traps(Path("x"))))
def test_traps_work_where_pickles_are_executed(tmp_path, name):
    sentinel = tmp_path / "sprung"
    torch.load(save(traps(sentinel)[name], tmp_path / "a.pth", zipped=True), weights_only=False)
    assert sentinel.exists()


BUILT_ON = {
    "Inert": b"cgone\nThing\n",
    "StoredTensor": b"ctorch._utils\n_rebuild_tensor_v2\n",
    "OrderedDict": b"ccollections\nOrderedDict\n",
}


@pytest.mark.parametrize("target", BUILT_ON)
def test_file_cannot_change_what_the_next_file_meets(tmp_path, target):
    """Opcode `b` gives an object state; on a class it would set attributes: here `__init__` and `tensor`."""
    state = b"N}(X\x08\0\0\0__init__NX\x06\0\0\0tensorNu\x86"  # (None, {"__init__": None, "tensor": None})
    (tmp_path / "a.pth").write_bytes(zip_of(b"\x80\x02" + BUILT_ON[target] + state + b"b."))
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_official(tmp_path / "a.pth")
    content = {"model": collections.OrderedDict(a=torch.ones(2)), "config": argparse.Namespace(a=1)}
    assert read_official(save(content, tmp_path / "b.pth", zipped=True))["a"].equal(torch.ones(2))


# ------------------------------------------------------------------------------------------------------------- damaged


def zip_of(pickled: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive like PyTorch's, with one storage of 8 bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(8))
    return file.getvalue()


def tensor_of(numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], key: str = "0") -> bytes:
    """A pickle of {"a": tensor} whose storage says it has `numel` floats."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", torch.FloatStorage, key, "cpu", numel) if thing == "the storage" else None

    rebuilt = Trap(torch._utils._rebuild_tensor_v2, "the storage", offset, size, stride, False, {})
    file = io.BytesIO()
    Pickler(file, 2).dump({"a": rebuilt})
    return file.getvalue()


def test_tensor_inside_its_storage_is_read(tmp_path):
    (tmp_path / "a.pth").write_bytes(zip_of(tensor_of(2, 0, (2,), (1,))))
    assert read_official(tmp_path / "a.pth")["a"].equal(torch.zeros(2))


@pytest.mark.parametrize(
    "beyond",
    [
        (2, 0, (3,), (1,)),
        (2, 1, (2,), (1,)),
        (2, 0, (2,), (2,)),
        (2, -1, (2,), (1,)),
        (2, 0, (2,), (-1,)),
        (3, 0, (3,), (1,)),
        (-1, 0, (1,), (1,)),
        (10**12, 0, (1,), (1,)),
        (0, 0, (1,), (1,)),
        (2, 0, (2,), (1,), "1"),
        (2, "0", (2,), (1,)),
    ],
    ids=str,
)
def test_tensor_beyond_its_storage_is_refused(tmp_path, beyond):
    (tmp_path / "a.pth").write_bytes(zip_of(tensor_of(*beyond)))
    with pytest.raises(CheckpointError, match=r"a\.pth: cannot be read as a checkpoint"):
        read_official(tmp_path / "a.pth")


@FORMATS
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(tmp_path, zipped, share):
    data = save({"model": {"a": torch.randn(1000), "b": torch.randn(10)}}, tmp_path / "a.pth", zipped).read_bytes()
    (tmp_path / "a.pth").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"a\.pth: cannot be read as a checkpoint"):
        read_official(tmp_path / "a.pth")


@FORMATS
@pytest.mark.parametrize("cut", [1, 9])
def test_file_that_ends_in_numbers_nobody_asks_for_is_refused(tmp_path, zipped, cut):
    path = save({"model": {"a": torch.empty(0)}, "optimizer": {"b": torch.randn(9)}}, tmp_path / "a.pth", zipped)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_official(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no pickle at all", "cannot be read as a checkpoint"),
        (pickle.dumps({"model": 1}), "it is a pickle, but not one of PyTorch"),
        (zip_of(pickle.dumps({}), zipfile.ZIP_DEFLATED), "its records are compressed"),
        (zip_of(pickle.dumps([1, 2])), "holds no tensors"),
        (zip_of(pickle.dumps({})), "holds no tensors"),
        (zip_of(pickle.dumps({"model": {}})), "holds no tensors"),
        (zip_of(pickle.dumps({"model": [1]})), "holds values that are no tensors: model"),
        (zip_of(pickle.dumps({"epoch": 1, "best": 2.0})), "holds values that are no tensors: epoch; best"),
        (zip_of(pickle.dumps(dict.fromkeys("abcdefgh"))), "no tensors: a; b; c; d; e; and 3 more"),
    ],
    ids=range(9),
)
def test_what_is_no_checkpoint_is_refused(tmp_path, data, message):
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / "a.pth")) + ".*" + re.escape(message)):
        read_official(tmp_path / "a.pth")


def test_archive_of_other_things_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="zip archive, but not one of PyTorch"):
        read_official(tmp_path / "a.pth")


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such file"):
        read_official(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=f"{tmp_path}: cannot be read as a checkpoint"):
        read_official(tmp_path)


@FORMATS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_that_are_no_finite_numbers_are_refused(tmp_path, zipped, value, dtype):
    content = {"good": torch.ones(3), "bad": torch.tensor([1, value], dtype=dtype)}
    with pytest.raises(CheckpointError, match=r"a\.pth: has values that are no finite numbers: bad$"):
        read_official(save({"model": content}, tmp_path / "a.pth", zipped))
