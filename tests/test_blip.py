"""BLIP behind the interface of backbones: transformers' scores, a heatmap that can be differentiated, and training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference_cases import tiny_batch
from refusal import refused
from tiny_blip import SETTINGS, WORDS, save_blip, tiny_blip
from torch import Tensor
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipModel

from amc_lib import gradcam
from amc_lib.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from amc_lib.config import AmcSettings, ObjectiveSettings
from amc_lib.datasets.transforms import MEAN, STD
from amc_lib.grounder import Grounder, model_input
from amc_lib.model.blip import BLIP, config_of, settings_of
from amc_lib.presets import preset
from amc_lib.step import Batch, losses_without_words
from amc_lib.train.loop import train_top
from amc_study.runs import finetuning_settings

LAYER = 1
AMC = AmcSettings(layer=LAYER)


@pytest.fixture
def model() -> BLIP:
    return tiny_blip().double()


@pytest.fixture
def saved(tmp_path) -> str:
    return save_blip(tmp_path / "blip")


def watched_pass(model: BLIP, batch: Batch, *, twice: bool = True):
    text_embeds = model.encode_text(batch.input_ids, batch.attention_mask)
    memory = model.text_encoder.remember(model.encode_image(batch.image))
    with gradcam.watch_attention(model.text_encoder, LAYER, twice=twice) as watch:
        logits = model.match(model.text_encoder.fuse(text_embeds, batch.attention_mask, memory))
    return watch, logits


def plain_heatmaps(model: BLIP, batch: Batch) -> Tensor:
    """[B, G, G] from transformers' own forward pass, whose cross-attention is recorded, with [ENC] put first."""
    ids = batch.input_ids.clone()
    ids[:, 0] = SETTINGS.text.vocab_size - 1
    image_embeds = model.blip.vision_model(batch.image).last_hidden_state
    out = model.blip.text_encoder(
        ids, attention_mask=batch.attention_mask, encoder_hidden_states=image_embeds, output_attentions=True
    )
    attention = out.cross_attentions[LAYER]  # [B, h, L, N]
    logits = model.blip.itm_head(out.last_hidden_state[:, 0])
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), attention)
    maps = torch.einsum("bhln,bhln,bl->bn", attention, gradient.relu(), batch.attention_mask.to(attention.dtype))
    return (maps / (attention.shape[1] * attention.shape[2]))[:, 1:].unflatten(1, (4, 4))


def test_scores_are_those_of_transformers_with_enc_put_first(model):
    batch = tiny_batch(3)
    _, logits = watched_pass(model, batch)
    ids = batch.input_ids.clone()
    ids[:, 0] = SETTINGS.text.vocab_size - 1
    theirs = {"pixel_values": batch.image, "attention_mask": batch.attention_mask}
    torch.testing.assert_close(logits, model.blip(input_ids=ids, **theirs).itm_score)
    assert not torch.allclose(logits, model.blip(input_ids=batch.input_ids, **theirs).itm_score)
    image_feat = model.image_features(model.encode_image(batch.image))
    text_feat = model.text_features(model.encode_text(batch.input_ids, batch.attention_mask), batch.attention_mask)
    cosines = model.blip(input_ids=batch.input_ids, use_itm_head=False, **theirs).itm_score
    torch.testing.assert_close(image_feat @ text_feat.T, cosines)


def test_heatmap_is_the_plain_one(model):
    batch = tiny_batch(3)
    raw = gradcam.heatmap(*watched_pass(model, batch), batch.attention_mask, create_graph=False)
    torch.testing.assert_close(raw, plain_heatmaps(model, batch).detach())
    assert raw.amax((1, 2)).gt(0).all()


def test_gradient_of_the_heatmap_is_that_of_finite_differences(model):
    """Along a random direction, of the key weights of the watched layer."""
    batch, generator = tiny_batch(2), torch.Generator().manual_seed(0)
    weight = model.blip.text_encoder.encoder.layer[LAYER].crossattention.self.key.weight
    direction = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    places = torch.randn(2, 4, 4, generator=generator, dtype=weight.dtype)

    def value() -> Tensor:
        raw = gradcam.heatmap(*watched_pass(model, batch), batch.attention_mask, create_graph=True)
        return (raw * places).sum()

    def moved(distance: float) -> Tensor:
        with torch.no_grad():
            weight.add_(direction, alpha=distance)
        found = value().detach()
        with torch.no_grad():
            weight.sub_(direction, alpha=distance)
        return found

    (gradient,) = torch.autograd.grad(value(), weight)
    step = 1e-5
    expected = (moved(step) - moved(-step)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-5, atol=1e-9)


def test_padding_changes_nothing_but_the_mean(model):
    batch = tiny_batch(3)
    longer = dataclasses.replace(
        batch,
        input_ids=torch.nn.functional.pad(batch.input_ids, (0, 2)),
        attention_mask=torch.nn.functional.pad(batch.attention_mask, (0, 2)),
    )
    (watch, logits), (padded_watch, padded_logits) = watched_pass(model, batch), watched_pass(model, longer)
    torch.testing.assert_close(logits, padded_logits)
    raw = gradcam.heatmap(watch, logits, batch.attention_mask, create_graph=False)
    padded = gradcam.heatmap(padded_watch, padded_logits, longer.attention_mask, create_graph=False)
    torch.testing.assert_close(raw * 6 / 8, padded)  # 6 positions, then 8


def test_amc_steps_lower_the_loss(model):
    batch, optimizer, l_amc = tiny_batch(4), torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(8):
        generator = torch.Generator().manual_seed(0)
        losses = losses_without_words(model, batch, ObjectiveSettings(), AMC, generator=generator)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        l_amc.append(losses.amc.item())
        assert losses.mlm == 0 and losses.itm > 0 and losses.itc > 0
    assert l_amc[-1] < 0.9 * l_amc[0]


def test_only_the_top_layers_and_the_match_head_train(model):
    train_top(model, 2)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    above = [f"blip.text_encoder.encoder.layer.{i}." for i in (1, 2)]
    assert trained and all(name.startswith((*above, "blip.itm_head")) for name in trained)
    losses_without_words(model, tiny_batch(3), ObjectiveSettings(), AMC).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    with refused("trained_layers is 4, but the model has 3 fusion layers"):
        train_top(model, 4)


def test_finetuning_starts_with_the_papers_rates_unless_others_are_named(saved):
    usual, paper = preset("photos"), preset("paper").finetuning
    settings = finetuning_settings(usual, saved)
    assert settings.finetuning.learning_rate == paper.learning_rate < usual.finetuning.learning_rate
    assert settings.finetuning.warmup_steps == usual.finetuning.warmup_steps and settings.model.backbone == "blip"
    chosen = dataclasses.replace(usual.finetuning, learning_rate=3e-5)
    named = dataclasses.replace(usual, finetuning=chosen)
    assert finetuning_settings(named, saved).finetuning == named.finetuning


def test_phrases_share_their_image(model):
    batch, rows = tiny_batch(3), torch.tensor([2, 0, 2])
    encoder, text_embeds = model.text_encoder, model.encode_text(batch.input_ids, batch.attention_mask)
    image_embeds = model.encode_image(batch.image)
    shared = encoder.fuse(text_embeds, batch.attention_mask, encoder.remember(image_embeds).rows(rows))
    torch.testing.assert_close(
        shared, encoder.fuse(text_embeds, batch.attention_mask, encoder.remember(image_embeds[rows]))
    )


def test_grounder_opens_what_transformers_saves(saved):
    grounder, picture = Grounder.load(saved), Image.fromarray(np.arange(30 * 20 * 3, dtype=np.uint8).reshape(30, 20, 3))
    checkpoint = grounder.checkpoint
    one, other = grounder.ground(picture, ["a red dog", "dog"])
    assert one.heatmap.shape == (30, 20) and 0 <= one.point[0] < 20 and one.heatmap.max() > 0.9
    assert one.tokens[0] == "[CLS]" and "dog" in other.tokens and not other.unknown_words
    ids, mask = checkpoint.tokenizer(["a red dog"])
    ids[:, 0] = SETTINGS.text.vocab_size - 1
    inputs = model_input(picture, checkpoint.model)[None]
    theirs = BlipForImageTextRetrieval.from_pretrained(saved).eval()
    with torch.no_grad():
        score = theirs(input_ids=ids, pixel_values=inputs, attention_mask=mask).itm_score.softmax(1)[0, 1]
    assert one.score == pytest.approx(score.item(), abs=1e-6)
    resized = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    np.testing.assert_allclose(inputs[0].permute(1, 2, 0), (resized - MEAN) / STD, rtol=1e-4, atol=1e-5)


def test_saved_and_loaded_it_is_the_same(saved, tmp_path):
    first = load_checkpoint(saved)
    save_checkpoint(tmp_path / "own", first.model, first.tokenizer, first.settings, first.about)
    again = load_checkpoint(tmp_path / "own")
    assert again.settings == first.settings and again.sha256 == first.sha256
    assert isinstance(again.model, BLIP) and again.tokenizer.vocabulary == tuple(WORDS)
    for name, tensor in first.model.state_dict().items():
        assert tensor.equal(again.model.state_dict()[name]), name


def test_sizes_survive_the_way_through_transformers():
    assert settings_of(config_of(SETTINGS)) == dataclasses.replace(SETTINGS, backbone="blip")
    config = config_of(SETTINGS)
    config.text_config.hidden_act = "relu"
    with refused("a BLIP whose text_config has hidden_act relu is not known here, only one with gelu"):
        settings_of(config)


CLIP = {"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}
NEEDED = "needed is a BLIP for image-text retrieval, such as Salesforce/blip-itm-base-coco"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0"


@pytest.mark.parametrize("other", [BlipForConditionalGeneration, BlipModel])
def test_blip_for_another_task_is_refused_and_not_filled_with_random_weights(saved, other, capfd):
    other(config_of(SETTINGS)).save_pretrained(saved)
    capfd.readouterr()
    with refused(f"{saved}: weights are missing or of other sizes (88, such as itm_head.bias); {NEEDED}"):
        load_checkpoint(saved)
    assert "MISSING" not in "".join(capfd.readouterr())  # nor printed as a table


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("config.json", lambda data: json.dumps(CLIP).encode(), f": is of type 'clip'; {NEEDED}"),
        ("config.json", lambda data: b"<html>", "/config.json: is a web page"),
        ("tokenizer.json", lambda data: None, ": its tokenizer (vocab.txt or tokenizer.json) has 5 words, its model"),
        ("tokenizer.json", lambda data: LFS, "/tokenizer.json: is a Git LFS pointer"),
        ("model.safetensors", lambda data: LFS, "/model.safetensors: is a Git LFS pointer"),
        ("model.safetensors", lambda data: data[:-9], "/model.safetensors: is a safetensors file that is cut off"),
        ("model.safetensors", lambda data: data[:99], "/model.safetensors: is a safetensors file that is cut off"),
        ("model.safetensors", lambda data: None, ": Error no file named model.safetensors"),
    ],
)
def test_folder_that_is_not_whole_is_refused_with_what_is_wrong(saved, name, change, sentence):
    path = Path(saved) / name
    data = change(path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)
    with refused(f"{saved}{sentence}", CheckpointError) as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)


def test_folder_without_weights_and_name_off_line_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with refused(f"{tmp_path}: Unrecognized model", CheckpointError):
        load_checkpoint(tmp_path)
    with refused(f"nobody/no-such-model (on the hub, as {Path.cwd()} has no such folder): ", CheckpointError):
        load_checkpoint("nobody/no-such-model")
