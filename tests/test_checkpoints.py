"""Checkpoints: what is written comes back, and whatever does not fit is refused with a sentence that says where."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference_cases import TINY_AMC, TINY_LAYER, tiny_model, tiny_settings
from safetensors.torch import load, load_file, save

from amc_lib import checkpoints, files
from amc_lib.checkpoints import DESCRIPTION, WEIGHTS, CheckpointError, description, load_checkpoint, save_checkpoint
from amc_lib.config import ObjectiveSettings, Settings, TrainingSettings
from amc_lib.evaluate import ground_phrases
from amc_lib.tokens import SPECIAL, Tokenizer

VOCABULARY = [*SPECIAL, *(f"w{i}" for i in range(35))]
SETTINGS = Settings(
    tier="scenes",
    model=tiny_settings(),
    objective=ObjectiveSettings(alpha=0.25),
    amc=TINY_AMC,
    pretraining=TrainingSettings(batch_size=8),
    finetuning=TrainingSettings(batch_size=4, learning_rate=1 / 3),
)
TEMP = "text_encoder.bert.encoder.layer.2.crossattention.self.query.weight"


def write(folder: Path, seed: int = 0, **about: object) -> Path:
    return save_checkpoint(folder, tiny_model(torch.float32, seed), Tokenizer(VOCABULARY, 12), SETTINGS, about)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "checkpoint", note="λ")


def refused(message: str):
    return pytest.raises(CheckpointError, match=re.escape(message))


def describe(folder: Path, change: Callable[[dict], object]) -> None:
    """Rewrite the description after `change`, which edits it in place or gives another one."""
    content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    other = change(content)
    (folder / DESCRIPTION).write_text(json.dumps(content if other is None else other), encoding="utf-8")


def reweigh(folder: Path, data: bytes) -> None:
    """Put other weights in place, with a hash that agrees."""
    (folder / WEIGHTS).write_bytes(data)
    describe(folder, lambda content: content.update(sha256=hashlib.sha256(data).hexdigest()))


# --------------------------------------------------------------------------------------------------------- round trip


def test_outputs_come_back_equal(folder):
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    question = (images, ["w1 w2", "w30", "w4 w5 w6"], [0, 1, 1], TINY_LAYER)
    written = ground_phrases(tiny_model(torch.float32), Tokenizer(VOCABULARY, 12), *question)
    checkpoint = load_checkpoint(folder)
    for before, after in zip(written, ground_phrases(checkpoint.model, checkpoint.tokenizer, *question), strict=True):
        assert before.std() > 1e-4 and before.equal(after)


def test_settings_words_and_origin_come_back(folder):
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.settings == SETTINGS
    assert checkpoint.tokenizer.vocabulary == tuple(VOCABULARY)
    assert checkpoint.tokenizer.max_tokens == 12
    assert checkpoint.about == {"note": "λ"}
    assert checkpoint.sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert description(folder)["sha256"] == checkpoint.sha256


def test_momentum_model_starts_as_a_copy(folder):
    model = load_checkpoint(folder).model
    for name, tensor in model.vision_proj.state_dict().items():
        assert model.vision_proj_m.state_dict()[name].equal(tensor)
    query = model.state_dict()[TEMP]
    assert model.state_dict()[TEMP.replace("text_encoder", "text_encoder_m")].equal(query)


def test_only_the_online_model_is_in_the_file(folder):
    names = set(load_file(folder / WEIGHTS))
    model = tiny_model(torch.float32)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable <= names
    assert not [name for name in names if "_m." in name or "queue" in name]


def test_frozen_trunk_is_left_out():
    model = tiny_model(torch.float32, trunk="lite0")
    assert any(name.startswith("trunk.") for name in model.state_dict())
    assert not [name for name in checkpoints.online_state(model) if name.startswith("trunk.")]


def test_same_weights_same_hash(tmp_path):
    hashes = [description(write(tmp_path / str(i), seed))["sha256"] for i, seed in enumerate((0, 0, 1))]
    assert hashes[0] == hashes[1] != hashes[2]


# ---------------------------------------------------------------------------------------------- missing and damaged


def test_missing_checkpoint_lists_those_that_are_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "shipped")
    with refused("no checkpoint at 'nowhere'; shipped ones: none"):
        load_checkpoint("nowhere")
    write(tmp_path / "shipped" / "amc-tiny")
    write(tmp_path / "shipped" / "albef-tiny")
    with refused("no checkpoint at 'nowhere'; shipped ones: albef-tiny, amc-tiny"):
        load_checkpoint("nowhere")
    assert load_checkpoint("amc-tiny").settings == SETTINGS


def test_missing_weights_are_named(folder):
    (folder / WEIGHTS).unlink()
    with refused(f"has no readable {WEIGHTS}"):
        load_checkpoint(folder)


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", lambda data: data + b"\0"])
def test_weights_of_another_length_are_damaged(folder, damage):
    (folder / WEIGHTS).write_bytes(damage((folder / WEIGHTS).read_bytes()))
    with refused(f"{folder / WEIGHTS}: damaged"):
        load_checkpoint(folder)


@pytest.mark.parametrize("where", [0, 0.5, 0.999])
def test_one_flipped_bit_is_damage(folder, where):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[int(where * len(data))] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with refused("damaged"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", '{"settings": ', "no json", "\x00"])
def test_broken_description_is_named(folder, text):
    (folder / DESCRIPTION).write_text(text)
    with refused(f"{folder / DESCRIPTION}: cannot be read as a checkpoint's description"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [[1], "text", 3])
def test_description_that_is_no_mapping_is_refused(folder, content):
    describe(folder, lambda _: content)
    with refused("is no description of a checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("sha256") and None, "damaged"),
        (lambda c: c.pop("settings") and None, "settings must be a mapping, got None"),
        (lambda c: c.pop("vocabulary") and None, "vocabulary"),
        (lambda c: c.update(vocabulary=["a", "b"]), "the vocabulary lacks [PAD], [UNK], [CLS], [SEP], [MASK]"),
        (lambda c: c["settings"].pop("amc") and None, "settings lacks amc"),
        (lambda c: c["settings"]["model"].update(embed_dim="8"), "settings.model.embed_dim must be a whole number"),
        (lambda c: c["settings"]["model"].update(depth=1), "settings.model: unknown parameter 'depth'"),
        (lambda c: c["settings"]["amc"].update(layer=1), "layer 1 has no cross-attention"),
        (lambda c: c["settings"]["model"]["vision"].update(width=25), "vision width 25 is no multiple of its 2 heads"),
    ],
    ids=range(9),
)
def test_what_is_wrong_in_the_description_is_said(folder, change, message):
    describe(folder, change)
    with refused(message) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)


# ------------------------------------------------------------------------------------------------------ other shapes


def test_missing_and_unexpected_tensors_are_named(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["query.weight"] = tensors.pop(TEMP)
    reweigh(folder, save(tensors))
    with refused(f"{folder}: does not fit the model: missing {TEMP} (24, 24); unexpected query.weight (24, 24)"):
        load_checkpoint(folder)


def test_tensor_of_another_shape_is_named_with_both(folder):
    tensors = load_file(folder / WEIGHTS) | {"itm_head.weight": torch.zeros(2, 23)}
    reweigh(folder, save(tensors))
    with refused("itm_head.weight is (2, 23), the model has (2, 24)"):
        load_checkpoint(folder)


def test_settings_of_another_model_are_refused_in_few_words(folder):
    describe(folder, lambda c: c["settings"]["model"]["vision"].update(depth=2))
    with refused("does not fit the model: missing visual_encoder.blocks.1.") as caught:
        load_checkpoint(folder)
    assert re.search(r"; and \d+ more$", str(caught.value)) and len(str(caught.value)) < 600


def test_refused_weights_leave_the_model_as_it_was():
    model, other = tiny_model(torch.float32), checkpoints.online_state(tiny_model(torch.float32, seed=1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with refused("here: does not fit the model: missing temp ()"):
        checkpoints.load_weights(model, {name: t for name, t in other.items() if name != "temp"}, origin="here")
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    checkpoints.load_weights(model, other, origin="here")
    assert model.state_dict()[TEMP].equal(other[TEMP])


# ----------------------------------------------------------------------------------------------- written whole, no code


def test_write_that_fails_leaves_the_old_checkpoint(folder, monkeypatch):
    before = load_checkpoint(folder).sha256

    def full(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write(folder, seed=1)
    monkeypatch.undo()
    assert load_checkpoint(folder).sha256 == before
    assert sorted(path.name for path in folder.iterdir()) == [DESCRIPTION, WEIGHTS]


def test_new_weights_beside_an_old_description_are_named(folder, monkeypatch):
    """What a kill between the two renames leaves."""

    class Killed(BaseException): ...

    def killed_before_the_description(source, target):
        if target.name == DESCRIPTION:
            raise Killed
        rename(source, target)

    rename = files.os.replace
    monkeypatch.setattr(files.os, "replace", killed_before_the_description)
    with pytest.raises(Killed):
        write(folder, seed=1)
    with refused(f"{folder / WEIGHTS}: damaged (its hash is not the one in {DESCRIPTION})"):
        load_checkpoint(folder)


def test_nothing_is_pickled(folder):
    assert sorted(path.name for path in folder.iterdir()) == [DESCRIPTION, WEIGHTS]
    data = (folder / WEIGHTS).read_bytes()
    header = int.from_bytes(data[:8], "little")
    assert set(json.loads(data[8 : 8 + header])) >= set(load(data))


def test_pickle_in_place_of_the_weights_is_not_run(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    reweigh(folder, pickle.dumps(Trap()))
    with refused(str(folder)):
        load_checkpoint(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    tensors = load_file(folder / WEIGHTS)
    tensors[TEMP][0, 0] = value
    reweigh(folder, save(tensors))
    with refused(f"{folder}: has weights that are no finite numbers: {TEMP}"):
        load_checkpoint(folder)


def test_weights_of_another_type_are_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    reweigh(folder, save(tensors | {TEMP: tensors[TEMP].long()}))
    with refused(f"{TEMP} is torch.int64, the model has torch.float32"):
        load_checkpoint(folder)


def test_settings_that_ask_for_more_than_the_file_holds_build_nothing(folder):
    describe(folder, lambda c: c["settings"]["model"]["text"].update(vocab_size=10**9))
    with refused("its settings ask for at least 24,000,027,456 weights, the file holds 39,435"):
        load_checkpoint(folder, lambda settings: pytest.fail("a model was built"))


def test_word_that_stands_twice_in_the_vocabulary_is_refused(folder):
    describe(folder, lambda c: c.update(vocabulary=[*c["vocabulary"][:-1], "w0"]))
    with refused("its vocabulary has a word twice"):
        load_checkpoint(folder)


@pytest.mark.parametrize("source", ["x" * 5000, "a\0b"])
def test_name_that_no_folder_can_have_is_no_checkpoint(source):
    with refused("no checkpoint at '"):
        load_checkpoint(source)
