"""The authors' checkpoints: what a file holds is what the model has, and each difference is reported or refused."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference_cases import TINY_LAYER, case_params, load_case, tiny_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from amc_lib.checkpoints import CheckpointError, load_checkpoint
from amc_lib.config import TrainingSettings
from amc_lib.files import plain
from amc_lib.model import ALBEF
from amc_lib.official import POSITION_IDS, TWINS, bert_vocabulary, export_official, load_official, read_official
from amc_lib.parameters import replace
from amc_lib.presets import preset
from amc_lib.tokens import SPECIAL

State = dict[str, Tensor]
MOMENTUM = ("visual_encoder_m.", "vision_proj_m.", "text_encoder_m.", "text_proj_m.")
QUEUES = ("image_queue", "text_queue", "queue_ptr")
CLS = "text_encoder.cls.predictions.decoder"
BERT = "text_encoder.bert.encoder.layer.0.output.dense.weight"


def model_with_a_past(seed: int) -> ALBEF:
    """A tiny model whose momentum differs from the online model and whose queues have moved on."""
    model = tiny_model(torch.float32, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(MOMENTUM):
                parameter += torch.randn(parameter.shape, generator=generator)
    model.enqueue(torch.randn(3, 8, generator=generator), torch.randn(3, 8, generator=generator))
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return export_official(tmp_path_factory.mktemp("official") / "new" / "exported.pth", model_with_a_past(seed=1))


@pytest.fixture
def state(exported) -> State:
    """What an official file of a tiny model holds; each test changes it as some file differs."""
    return read_official(exported)


def load(folder: Path, state: State):
    """A model with another past after loading a file of this state, and the report."""
    torch.save({"model": state, "epoch": 29}, folder / "a.pth")
    model = model_with_a_past(seed=0)
    return model, load_official(folder / "a.pth", model)


def assert_holds(model: ALBEF, state: State, *, but: tuple[str, ...] = ()) -> None:
    for name, tensor in model.state_dict().items():
        assert name.startswith(but) or tensor.equal(state[name]), name


def reshaped(name: str, *shape: int) -> Callable[[State], object]:
    return lambda state: state.update({name: torch.zeros(shape)})


def lacking(*beginnings: str) -> Callable[[State], object]:
    return lambda state: [state.pop(name) for name in list(state) if name.startswith(beginnings)]


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "safetensors"])
def test_exported_model_comes_back_whole_whatever_its_ending(tmp_path, state, kind):
    path = tmp_path / "official.bin"
    if kind == "safetensors":
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    else:
        content = {"model": state, "config": argparse.Namespace(epochs=30), "lr": {"base": [1e-5]}}
        torch.save(state if kind == "bare" else content, path, _use_new_zipfile_serialization=kind != "legacy")
    model = tiny_model(torch.float32)
    report = load_official(path, model)
    assert_holds(model, state)
    assert model.queue_ptr_img.item() == model.queue_ptr_txt.item() == 3
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.loaded == len(model.state_dict()) == len(state) - 2
    assert report.notes == tuple(f"left out: text_encoder{m}.{POSITION_IDS} (1, 24)" for m in ("", "_m"))
    for bert in (model.text_encoder, model.text_encoder_m):
        assert bert.cls.predictions.decoder.weight is bert.bert.embeddings.word_embeddings.weight


@pytest.mark.parametrize("folder", case_params())
def test_reference_weights_are_loaded_whole(folder):
    case = load_case(folder)
    model = ALBEF(case.model_settings())
    report = load_official(folder / "weights.safetensors", model)
    assert all(note.startswith("left out: ") and POSITION_IDS in note for note in report.notes)
    assert_holds(model, load_file(folder / "weights.safetensors"))


def test_names_of_other_files_are_understood(tmp_path, state):
    """DataParallel's prefix, the text encoder without `bert.`, one queue pointer, the queue of image numbers."""
    other = {re.sub(r"^(text_encoder(_m)?)\.bert\.", r"\1.", name): t for name, t in state.items()}
    del other["queue_ptr_txt"]
    other |= {"queue_ptr": other.pop("queue_ptr_img"), "idx_queue": torch.full((1, 10), -100)}
    model, report = load(tmp_path, {f"module.{name}": t for name, t in other.items()})
    assert_holds(model, state)
    assert report.loaded == len(model.state_dict())
    assert f"{len(other)} tensors renamed" in report.notes and "left out: idx_queue (1, 10)" in report.notes
    assert str(report).splitlines()[1] == f"  {len(other)} tensors renamed"
    assert json.loads(json.dumps(plain(report)))["notes"] == list(report.notes)


def test_momentum_starts_as_a_copy_where_it_is_absent(tmp_path, state):
    lacking(*MOMENTUM)(state)
    model, report = load(tmp_path, state)
    assert_holds(model, state | {name: state[name.replace("_m.", ".", 1)] for name in model.state_dict()})
    assert "absent: momentum model, now a copy" in report.notes[-1]


def longer_queues(state: State) -> None:
    state |= {name: torch.zeros(8, 16) for name in ("image_queue", "text_queue")}


@pytest.mark.parametrize(
    ("change", "beginnings", "note"),
    [
        (lacking("text_encoder.cls.", "text_encoder_m.cls."), ("text_encoder.cls.", "text_encoder_m.cls."), "MLM head"),
        (lacking("vision_proj", "text_proj", "temp"), ("vision_proj", "text_proj", "temp"), "contrastive space"),
        (lacking(*QUEUES), QUEUES, "queues"),
        (longer_queues, QUEUES, "queues"),
    ],
    ids=range(4),
)
def test_group_that_is_absent_or_of_another_length_stays_as_it_was(tmp_path, state, change, beginnings, note):
    before, whole = model_with_a_past(seed=0).state_dict(), dict(state)
    kept = {n: t for n, t in before.items() if n.startswith(beginnings) and not n.endswith(next(iter(TWINS)))}
    change(state)
    model, report = load(tmp_path, state)
    assert_holds(model, whole | kept)
    assert len(kept) >= 4 and report.notes[-1].startswith(f"absent: {note}")


@pytest.mark.parametrize("old", [1, 6])
def test_position_embeddings_are_resized_to_the_model(tmp_path, state, old):
    names = [f"visual_encoder{m}.pos_embed" for m in ("", "_m")]
    for name in names:
        state[name] = torch.randn(1, 1 + old * old, 24, generator=torch.Generator().manual_seed(len(name)))
    model, report = load(tmp_path, state)
    for name in names:
        grid = state[name][:, 1:].reshape(1, old, old, 24).permute(0, 3, 1, 2)  # [1, D, n, n]
        resized = torch.nn.functional.interpolate(grid, size=(4, 4), mode="bicubic", align_corners=False)
        ours = model.state_dict()[name]
        assert ours[:, 0].equal(state[name][:, 0])
        torch.testing.assert_close(ours[:, 1:].mT.reshape(1, 24, 4, 4), resized, rtol=1e-5, atol=1e-6)
    assert {f"resized: {name} {old}x{old} -> 4x4" for name in names} <= set(report.notes)
    assert_holds(model, state, but=tuple(names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lacking("itm_head."), "missing itm_head.weight; missing itm_head.bias"),
        (lacking("visual_encoder_m."), "missing visual_encoder_m.cls_token"),
        (lacking("queue_ptr_txt"), "missing queue_ptr_txt"),
        (reshaped("text_encoder.bert.pooler.dense.bias", 24), "unexpected text_encoder.bert.pooler.dense.bias (24,)"),
        (reshaped("itm_head.weight", 3, 24), "size mismatch for itm_head.weight"),
        (reshaped("visual_encoder.pos_embed", 1, 16, 24), "size mismatch for visual_encoder.pos_embed"),
        (reshaped("image_queue", 9, 10), "size mismatch for image_queue"),
        (reshaped(f"{CLS}.weight", 40, 24), f"{CLS}.weight differs from text_encoder.bert.embeddings.word_embeddings"),
        (lambda s: s.update({BERT: s[BERT] / 0}), f"{BERT} is not finite"),
        (lambda s: s.update({BERT: [1, 2]}), "holds something else than named tensors"),
    ],
    ids=range(10),
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, state, change, message):
    change(state)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        load(tmp_path, state)
    assert str(caught.value).startswith(str(tmp_path / "a.pth")) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"<!DOCTYPE html>\n<html>", "it is a web page"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (lambda data: data[: len(data) // 2], "it is an incomplete download"),
        (lambda data: b"", "it is an empty file"),
        (lambda data: b"some text", ""),
    ],
    ids=["page", "lfs", "cut", "empty", "text"],
)
def test_file_that_is_something_else_is_named_for_what_it_is(tmp_path, exported, damage, message):
    path = tmp_path / "ALBEF.pth"
    path.write_bytes(damage(exported.read_bytes()))
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: cannot be read as a checkpoint: {message}")):
        read_official(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_executed(tmp_path, state, zipped):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    content = {"model": state, "config": Trap()}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    sentence = r"a\.pth: cannot be read as a checkpoint: it would call [\w.]+; save its tensors alone$"
    with pytest.raises(CheckpointError, match=sentence):
        read_official(tmp_path / "a.pth")
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert (tmp_path / "sprung").exists()  # the trap works


def test_single_file_is_opened_as_a_model_of_the_paper_tier(tmp_path, exported, monkeypatch):
    paper, training = preset("paper"), TrainingSettings(batch_size=8)
    model, amc = tiny_model(torch.float32).settings, replace(paper.amc, layer=TINY_LAYER)
    small = replace(paper, model=model, amc=amc, pretraining=training, finetuning=training)
    monkeypatch.setattr("amc_lib.checkpoints.preset", lambda tier: {"paper": small}[tier])
    monkeypatch.setenv("AMC_DATA", str(tmp_path))
    words = tmp_path / "bert-base-uncased" / "vocab.txt"
    words.parent.mkdir()
    words.write_text("\n".join([*SPECIAL, *(f"w{i}" for i in range(35))]))
    exported.with_suffix(".CKPT").write_bytes(exported.read_bytes())
    checkpoint = load_checkpoint(exported.with_suffix(".CKPT"))
    assert_holds(checkpoint.model, read_official(exported))
    assert checkpoint.sha256 == checkpoint.about["imported"].sha256 and checkpoint.tokenizer.vocabulary[5] == "w0"


def test_model_on_a_trunk_is_no_model_of_the_authors(tmp_path):
    with pytest.raises(CheckpointError, match="no frozen trunk"):
        export_official(tmp_path / "b.pth", tiny_model(torch.float32, trunk="lite0"))
    assert not (tmp_path / "b.pth").exists()


def test_export_is_read_by_plain_pytorch(exported):
    content, model = torch.load(exported, weights_only=True), model_with_a_past(seed=1)
    state = content.pop("model")
    for tower in ("text_encoder", "text_encoder_m"):
        assert state.pop(f"{tower}.bert.embeddings.position_ids").equal(torch.arange(24)[None])
        words = state[f"{tower}.bert.embeddings.word_embeddings.weight"]
        assert state[f"{tower}.cls.predictions.decoder.weight"].data_ptr() == words.data_ptr()
    assert state.keys() == model.state_dict().keys() and not content
    assert_holds(model, state)


def test_vocabulary_keeps_its_order_and_its_size_is_checked(tmp_path):
    path, tokens = tmp_path / "vocab.txt", [*SPECIAL, "the", "##s", "\u2028", "é", "…"]
    path.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    assert bert_vocabulary(path, size=10) == tokens
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: has 10 different tokens, the model's vocabulary 11")):
        bert_vocabulary(path, size=11)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: cannot be read as a vocabulary")):
        bert_vocabulary(path)
