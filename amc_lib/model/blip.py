"""BLIP (Li et al., ICML 2022): transformers' `BlipForImageTextRetrieval` behind the interface of `amc_lib.model`.

Every layer of its match encoder looks at the image, so there are no text layers below fusion: text_embeds are the word
embeddings. A phrase that is matched begins with [ENC], as LAVIS sets it and transformers does not; contrast reads the
phrase alone, from [CLS]. I images, R phrases, L text positions, N image tokens, D width, E contrastive width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, BlipConfig, BlipForImageTextRetrieval
from transformers.models.blip.modeling_blip_text import BlipTextModel
from transformers.utils import logging

from amc_lib.config import ModelSettings, TextSettings, VisionSettings
from amc_lib.model.attention import Watch
from amc_lib.model.memory import take_rows

NEEDED = "needed is a BLIP for image-text retrieval, such as Salesforce/blip-itm-base-coco"
SHARED = {"width": "hidden_size", "heads": "num_attention_heads"}  # our names of sizes -> transformers'
IMAGE_SIZES = SHARED | {"image_size": "image_size", "patch_size": "patch_size", "depth": "num_hidden_layers"}
TEXT_SIZES = SHARED | {"vocab_size": "vocab_size", "layers": "num_hidden_layers", "ffn_width": "intermediate_size"}
TEXT_SIZES |= {"positions": "max_position_embeddings", "dropout": "hidden_dropout_prob"}


@dataclass(frozen=True)
class ImageTokens:
    """Tokens [I, N, D] of images, for phrases that look at them."""

    tokens: Tensor
    image_rows: Tensor | None = None  # int64 [R], the image of each phrase; None: phrase r looks at image r

    def rows(self, image_rows: Tensor) -> ImageTokens:
        """The same images for R phrases (int64 [R], the image of each)."""
        return replace(self, image_rows=image_rows if self.image_rows is None else self.image_rows[image_rows])

    def of_phrases(self) -> Tensor:
        """[R, N, D]"""
        return self.tokens if self.image_rows is None else take_rows(self.tokens, self.image_rows)


class MatchEncoder:
    """BLIP's BERT as ALBEF's text encoder."""

    fusion_from = 0

    def __init__(self, bert: BlipTextModel) -> None:
        self.bert = bert
        self.enc = bert.config.vocab_size - 1  # id of [ENC], which stands last

    @property
    def layers(self) -> nn.ModuleList:
        return self.bert.encoder.layer

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [R, L] -> text_embeds [R, L, D]; the mask [R, L] plays no part yet."""
        return self.bert.embeddings(input_ids)

    def remember(self, image_embeds: Tensor) -> ImageTokens:
        return ImageTokens(image_embeds)

    def fuse(self, text_embeds: Tensor, attention_mask: Tensor, memory: ImageTokens) -> Tensor:
        """text_embeds [R, L, D], [ENC] put first, looking at the images of `memory` -> fusion_embeds [R, L, D]."""
        enc = self.bert.embeddings(attention_mask.new_full((len(text_embeds), 1), self.enc))  # [R, 1, D]
        words = torch.cat((enc, text_embeds[:, 1:]), dim=1)
        return self.read(words, attention_mask, encoder_hidden_states=memory.of_phrases())

    def read(self, words: Tensor, attention_mask: Tensor, **image: Tensor) -> Tensor:
        """Word embeddings [R, L, D] through all layers."""
        return self.bert(encoder_embeds=words, attention_mask=attention_mask, **image).last_hidden_state

    @contextmanager
    def watch(self, layer: int, *, twice: bool, above: bool = False) -> Iterator[Watch]:
        """Keep the cross-attention of `layer`, and of those `above`; all attention here has a second derivative."""
        layers = self.layers[layer:] if above else self.layers[layer : layer + 1]
        watches = [Watch() for _ in layers]

        def keep(watch: Watch, module: nn.Module, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
            watch.probabilities = output[1]

        handles = [
            one.crossattention.self.register_forward_hook(partial(keep, watch))
            for one, watch in zip(layers, watches, strict=True)
        ]
        watches[0].above = watches[1:]
        try:
            yield watches[0]
        finally:
            for handle in handles:
                handle.remove()


class BLIP(nn.Module):
    """The model with sizes of `settings`, at random or with the weights of `blip`."""

    resize = "bicubic"

    def __init__(self, settings: ModelSettings, blip: BlipForImageTextRetrieval | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.blip = blip or BlipForImageTextRetrieval(config_of(settings))
        self.temp = nn.Parameter(torch.tensor(settings.temperature))

    @property
    def text_encoder(self) -> MatchEncoder:
        return MatchEncoder(self.blip.text_encoder)

    @property
    def itm_head(self) -> nn.Linear:
        return self.blip.itm_head

    def checkpoint_layers(self, enable: bool) -> None:
        if enable:
            raise ValueError("BLIP trains without checkpointing: its heatmap is made of what the layers keep")

    def encode_image(self, image: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] -> image_embeds [B, N, D]."""
        return self.blip.vision_model(pixel_values=image).last_hidden_state

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [B, L], mask [B, L] -> text_embeds [B, L, D]."""
        return self.text_encoder.encode(input_ids, attention_mask)

    def image_features(self, image_embeds: Tensor) -> Tensor:
        """[B, N, D] -> image_feat [B, E] of unit length."""
        return F.normalize(self.blip.vision_proj(image_embeds[:, 0]), dim=-1)

    def text_features(self, text_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, L, D], mask [B, L] -> text_feat [B, E] of unit length, of phrases that see no image."""
        hidden = self.text_encoder.read(text_embeds, attention_mask)
        return F.normalize(self.blip.text_proj(hidden[:, 0]), dim=-1)

    def match(self, fusion_embeds: Tensor) -> Tensor:
        """[B, L, D] -> itm_logits [B, 2]; column 1 is "match"."""
        return self.itm_head(fusion_embeds[:, 0])

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        self.temp.clamp_(*self.settings.temperature_range)


def pretrained(source: str) -> tuple[BLIP, list[str]]:
    """A model as transformers saves it (a folder, or a name on the hub), and the words of its tokenizer.

    Raises OSError where there is none, ValueError where it is no BLIP for image-text retrieval, whole and with words.
    """
    with quiet():
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        blip, found = BlipForImageTextRetrieval.from_pretrained(source, **options)
    lacking = sorted(found["missing_keys"] | {name for name, *_ in found["mismatched_keys"]})
    if lacking:
        raise ValueError(f"weights are missing or of other sizes ({len(lacking)}, such as {lacking[0]}); {NEEDED}")
    ids, size = AutoTokenizer.from_pretrained(source).get_vocab(), blip.config.text_config.vocab_size
    if not 0 <= size - len(ids) <= 2:  # it may lack [DEC] and [ENC]
        raise ValueError(f"its tokenizer (vocab.txt or tokenizer.json) has {len(ids)} words, its model knows {size}")
    return BLIP(settings_of(blip.config), blip), sorted(ids, key=ids.get)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block transformers does not print which weights it found: what is missing is an error here."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def described(source: str) -> ModelSettings:
    """The sizes of the model that `pretrained` would open; errors as there."""
    return settings_of(AutoConfig.from_pretrained(source))


def settings_of(config: BlipConfig) -> ModelSettings:
    """The sizes of a BLIP. ValueError for one of another make."""
    if not isinstance(config, BlipConfig):
        raise ValueError(f"is of type {config.model_type!r}; {NEEDED}")
    image, text = config.vision_config, config.text_config
    sizes = {ours: getattr(image, theirs) for ours, theirs in IMAGE_SIZES.items()}
    vision = VisionSettings(**sizes, mlp_ratio=image.intermediate_size / image.hidden_size)
    sizes = {ours: getattr(text, theirs) for ours, theirs in TEXT_SIZES.items()}
    words = TextSettings(**sizes, fusion_from=0, max_tokens=min(TextSettings.max_tokens, sizes["positions"]))
    settings = ModelSettings(vision, words, config.image_text_hidden_size, queue_size=0, backbone="blip")
    described = config_of(settings)
    for part in ("vision_config", "text_config"):
        for name in ("hidden_act", "layer_norm_eps", "attention_probs_dropout_prob", "attention_dropout"):
            mine, its = (getattr(getattr(one, part), name, None) for one in (described, config))
            if mine != its:
                raise ValueError(f"a BLIP whose {part} has {name} {its} is not known here, only one with {mine}")
    return settings


def config_of(settings: ModelSettings) -> BlipConfig:
    """What transformers calls these sizes."""
    image, text = settings.vision, settings.text
    vision_config = {theirs: getattr(image, ours) for ours, theirs in IMAGE_SIZES.items()}
    vision_config |= {"intermediate_size": round(image.width * image.mlp_ratio), "initializer_range": 0.02}
    text_config = {theirs: getattr(text, ours) for ours, theirs in TEXT_SIZES.items()}
    text_config |= {"attention_probs_dropout_prob": text.dropout}
    return BlipConfig(vision_config=vision_config, text_config=text_config, image_text_hidden_size=settings.embed_dim)
