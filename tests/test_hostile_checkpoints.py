"""Checkpoints that are damaged or mean harm: a model with the file's finite weights, or one sentence and no model."""

from __future__ import annotations

import collections
import copy
import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from hostile import JUNK, NASTY_TEXT, RUNS, damaged, drive, mutated, outcome, untouched
from hostile_pickles import programs
from hypothesis import strategies as st
from reference_cases import TINY_AMC, tiny_model, tiny_settings
from safetensors.torch import load, save
from torch import Tensor

from amc_lib.checkpoints import DESCRIPTION, WEIGHTS, Checkpoint, load_checkpoint, online_state, save_checkpoint
from amc_lib.config import ObjectiveSettings, Settings, TrainingSettings
from amc_lib.grounder import Grounder
from amc_lib.official import export_official, load_official, read_official
from amc_lib.tokens import SPECIAL, Tokenizer

SETTINGS = Settings(
    tier="scenes",
    model=tiny_settings(),
    objective=ObjectiveSettings(),
    amc=TINY_AMC,
    pretraining=TrainingSettings(batch_size=8),
    finetuning=TrainingSettings(batch_size=4),
)


@pytest.fixture
def folder(tmp_path) -> Path:
    tokenizer = Tokenizer([*SPECIAL, *(f"w{i}" for i in range(35))], 12)
    about = {"layer": TINY_AMC.layer}
    return save_checkpoint(tmp_path / "checkpoint", tiny_model(torch.float32), tokenizer, SETTINGS, about)


def check_model(checkpoint: Checkpoint | None, folder: Path) -> None:
    """Its weights are those of the file, number by number."""
    if checkpoint is not None:
        stored = load((folder / WEIGHTS).read_bytes())
        for name, tensor in online_state(checkpoint.model).items():
            assert tensor.isfinite().all() and tensor.equal(stored[name].to(tensor.dtype)), name


def opened(folder: Path) -> None:
    with untouched(folder.parent):
        checkpoint, _ = outcome(lambda: load_checkpoint(folder), folder)
    check_model(checkpoint, folder)


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Other weights, with a hash that agrees."""
    data = save(tensors)
    (folder / WEIGHTS).write_bytes(data)
    about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    about["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(about), encoding="utf-8")


@RUNS
def test_damaged_files_of_a_checkpoint(inputs, folder):
    contents = {name: (folder / name).read_bytes() for name in (DESCRIPTION, WEIGHTS)}
    size = len(contents[WEIGHTS])

    def law(name: str, case: bytes, true_hash: bool) -> None:
        (folder / name).write_bytes(case)
        if true_hash and name == WEIGHTS:
            about = json.loads(contents[DESCRIPTION]) | {"sha256": hashlib.sha256(case).hexdigest()}
            (folder / DESCRIPTION).write_text(json.dumps(about), encoding="utf-8")
        opened(folder)
        for other, content in contents.items():
            (folder / other).write_bytes(content)

    header = 8 + int.from_bytes(contents[WEIGHTS][:8], "little")
    heads = damaged(contents[WEIGHTS][:header]).map(lambda head: head + contents[WEIGHTS][header:])
    assert header < size
    drive(inputs, law, st.just(WEIGHTS), heads | damaged(contents[WEIGHTS]), st.booleans())
    drive(inputs, law, st.just(DESCRIPTION), damaged(contents[DESCRIPTION]), st.booleans())


@RUNS
def test_descriptions_that_say_something_else(inputs, folder):
    original = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    sizes = st.sampled_from([0, -1, 1, 2, 3, 7, 2**15, 2**31, 10**9, 10**12, 0.0, 1.5])

    def law(content: object) -> None:
        (folder / DESCRIPTION).write_text(json.dumps(content), encoding="utf-8")
        opened(folder)
        grounder, _ = outcome(lambda: Grounder.load(folder))
        assert grounder is None or 2 <= grounder.layer < 6

    drive(inputs, law, mutated(original) | mutated(original, sizes))


@st.composite
def other_tensors(draw, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One tensor with a number, a type, a shape or a name of another kind, or gone."""
    changed = dict(tensors)
    name = draw(st.sampled_from(sorted(tensors)))
    tensor = changed[name]
    match draw(st.sampled_from(["number", "type", "shape", "name", "gone", "more"])):
        case "number":
            changed[name] = tensor.clone()
            changed[name].view(-1)[:1] = draw(st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30]))
        case "type":
            types = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]
            changed[name] = (tensor.double() * draw(st.sampled_from([1.0, 1e300]))).to(draw(st.sampled_from(types)))
        case "shape":
            changed[name] = torch.zeros(draw(st.lists(st.integers(0, 5), max_size=3)))
        case "name":
            changed[draw(NASTY_TEXT.filter(lambda text: text.isprintable()))] = changed.pop(name)
        case "gone":
            del changed[name]
        case "more":
            changed[draw(st.text("abc.", max_size=9))] = torch.zeros(draw(st.integers(0, 3)))
    return {name: tensor.contiguous() for name, tensor in changed.items()}


@RUNS
def test_weights_that_are_others(inputs, folder):
    tensors = load((folder / WEIGHTS).read_bytes())

    def law(changed: dict[str, Tensor]) -> None:
        write_weights(folder, changed)
        opened(folder)

    drive(inputs, law, other_tensors(tensors))


# ------------------------------------------------------------------------------------------------------ official files


def torch_bytes(content: object, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def check_official(path: Path) -> None:
    """Tensors that are finite and all in the file, or one sentence."""
    with untouched(path.parent):
        tensors, _ = outcome(lambda: read_official(path), path)
    for tensor in (tensors or {}).values():
        assert tensor.is_complex() or tensor.float().isfinite().all()
    assert sum(tensor.nbytes for tensor in (tensors or {}).values()) <= 8 * path.stat().st_size


@RUNS
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_damaged_official_files(inputs, tmp_path, zipped):
    path = tmp_path / "a.pth"
    content = {"model": {"a": torch.randn(3, 4), "b": torch.arange(5)}, "config": {"lr": 1.0, "x": [1, (2, 3)]}}
    content["model"] = collections.OrderedDict(content["model"], c=content["model"]["a"].T)

    def law(data: bytes) -> None:
        path.write_bytes(data)
        check_official(path)

    drive(inputs, law, damaged(torch_bytes(content, zipped)))


@RUNS
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_official_files_that_try_to_execute(inputs, tmp_path, zipped):
    path, canary = tmp_path / "a.pth", tmp_path / "canary"
    start = torch_bytes(1, False)[: -len(torch_bytes(1, False).split(b".")[-2]) - 4] if not zipped else b""

    def law(program: bytes) -> None:
        if zipped:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", program)
                archive.writestr("archive/data/0", bytes(8))
        else:
            path.write_bytes(start + program)
        check_official(path)
        assert not canary.exists()

    drive(inputs, law, programs(canary))


@RUNS
def test_official_files_of_other_tensors(inputs, tmp_path):
    path = export_official(tmp_path / "a.pth", tiny_model(torch.float32, seed=1))
    tensors = torch.load(path)["model"]
    model = tiny_model(torch.float32)
    before = copy.deepcopy(model.state_dict())

    def law(changed: dict[str, Tensor], zipped: bool) -> None:
        model.load_state_dict(before)
        path.write_bytes(torch_bytes({"model": changed}, zipped))
        report, _ = outcome(lambda: load_official(path, model), path)
        for name, tensor in model.state_dict().items():
            assert tensor.float().isfinite().all(), name
            assert report is not None or tensor.equal(before[name]), name

    drive(inputs, law, other_tensors(tensors), st.booleans())


@RUNS
def test_what_is_loaded_as_a_checkpoint(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("AMC_DATA", str(tmp_path))

    def law(source: str) -> None:
        with untouched(tmp_path):
            checkpoint, _ = outcome(lambda: Grounder.load(source))
        assert checkpoint is None

    names = NASTY_TEXT | JUNK.filter(lambda junk: isinstance(junk, str))
    drive(inputs, law, names | st.text(max_size=9).map(lambda text: f"{text}.pth"))
