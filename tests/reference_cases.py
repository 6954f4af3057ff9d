"""Cases that tests share: the stored reference cases, and a made-up tiny model and batch.

A stored case is a folder with `config.json`, `weights.safetensors` and `tensors.safetensors`: inputs of one training
step and of one evaluation, and what the authors' code gave for them. The folder of cases is `AMC_REFERENCE_DIR`, by
default `../shared/reference` beside the repository. One of them is copied to `tests/reference`, so that a checkout
that stands alone still has something to be compared with.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from amc_lib.config import AmcSettings, ModelSettings, ObjectiveSettings, TextSettings, VisionSettings
from amc_lib.files import ROOT
from amc_lib.model import ALBEF
from amc_lib.step import Batch
from amc_lib.tokens import IGNORED

SHIPPED = ROOT / "tests" / "reference"


def reference_folder() -> Path | None:
    """The folder of reference cases, or None where there is none."""
    folder = Path(os.environ.get("AMC_REFERENCE_DIR", ROOT.parent / "shared" / "reference"))
    return folder if folder.is_dir() else None


def case_params() -> list:
    """Pytest parameters: every case of the reference folder, or else the one in tests/reference."""
    parent = reference_folder() or SHIPPED
    folders = sorted(path.parent for path in parent.glob("*/config.json"))
    assert folders, f"{parent} holds no case (a folder with config.json)"
    return [pytest.param(folder, id=folder.name) for folder in folders]


@dataclass(frozen=True)
class Case:
    """One stored case: `config` as in its file, `weights` under the official names, `tensors` "in/*" and "out/*"."""

    config: dict
    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]

    @property
    def outputs(self) -> dict[str, Tensor]:
        """Stored results by name, without "out/"."""
        return {name.removeprefix("out/"): t for name, t in self.tensors.items() if name.startswith("out/")}

    @property
    def noise(self) -> dict[str, float]:
        """For each output the largest difference between float32 and float64 runs of the authors' code."""
        return self.config["float32_vs_float64_max_abs_diff"]

    @property
    def negatives(self) -> tuple[Tensor, Tensor]:
        """The stored draw: image rows for texts, text rows for images."""
        return self.tensors["out/negatives_image_idx"], self.tensors["out/negatives_text_idx"]

    def model_settings(self) -> ModelSettings:
        model, bert = self.config["model"], self.config["bert_config"]
        return ModelSettings(
            vision=VisionSettings(
                image_size=model["image_res"],
                patch_size=model["patch_size"],
                width=model["vision_width"],
                depth=model["vit_depth"],
                heads=model["vit_heads"],
                mlp_ratio=model["vit_mlp_ratio"],
            ),
            text=TextSettings(
                vocab_size=bert["vocab_size"],
                width=bert["hidden_size"],
                layers=bert["num_hidden_layers"],
                fusion_from=bert["fusion_layer"],
                heads=bert["num_attention_heads"],
                ffn_width=bert["intermediate_size"],
                positions=bert["max_position_embeddings"],
                dropout=bert["hidden_dropout_prob"],
            ),
            embed_dim=model["embed_dim"],
            queue_size=model["queue_size"],
            momentum=model["momentum"],
            temperature=model["temp"],
            temperature_range=tuple(model["temp_clamp"]),
        )

    def amc_settings(self) -> AmcSettings:
        losses = self.config["losses"]
        return AmcSettings(
            lambda1=losses["weight_mean"],
            lambda2=losses["weight_max"],
            delta1=losses["margin_mean"],
            delta2=losses["margin_max"],
            layer=losses["gradcam_layer"],
            mean_form="official",
        )

    def model(self, dtype: torch.dtype) -> ALBEF:
        """A new model with the stored weights, in training mode."""
        model = ALBEF(self.model_settings())
        loaded = model.load_state_dict(self.weights, strict=False)
        assert not loaded.missing_keys
        assert all(name.endswith("embeddings.position_ids") for name in loaded.unexpected_keys)
        return model.to(dtype).train()

    def input(self, name: str, dtype: torch.dtype) -> Tensor:
        """A stored input; `dtype` applies to floating point."""
        tensor = self.tensors[f"in/{name}"]
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    def batch(self, dtype: torch.dtype) -> Batch:
        return Batch(
            image=self.input("image", dtype),
            image_rows=torch.arange(len(self.input("image", dtype))),
            input_ids=self.input("input_ids", dtype),
            attention_mask=self.input("attention_mask", dtype),
            mlm_input_ids=self.tensors["out/mlm_input_ids"],
            mlm_labels=self.tensors["out/mlm_labels"],
            box_mask=self.input("box_mask", dtype),
            has_box=self.input("has_box", dtype).flatten() > 0,
            unreadable=torch.tensor(0),
        )


@cache
def load_case(folder: Path) -> Case:
    return Case(
        config=json.loads((folder / "config.json").read_text(encoding="utf-8")),
        weights=load_file(folder / "weights.safetensors"),
        tensors=load_file(folder / "tensors.safetensors"),
    )


# ------------------------------------------------------------------ a made-up case, for what needs no stored values

TINY_LAYER = 3  # of the layers 2-4 that fuse: one fusion layer below it and one above it
TINY_OBJECTIVE = ObjectiveSettings()
TINY_AMC = AmcSettings(layer=TINY_LAYER)


def tiny_settings(trunk: str = "none") -> ModelSettings:
    """A 4x4 grid; three fusion layers above two text layers."""
    size, patch = (64, 16) if trunk == "lite0" else (16, 4)
    return ModelSettings(
        vision=VisionSettings(image_size=size, trunk=trunk, patch_size=patch, width=24, depth=1, heads=2),
        text=TextSettings(
            vocab_size=40, width=24, layers=5, fusion_from=2, heads=2, ffn_width=32, positions=24, dropout=0.0,
            max_tokens=12,
        ),
        embed_dim=8,
        queue_size=10,
    )  # fmt: skip


def tiny_model(dtype: torch.dtype = torch.float64, seed: int = 0, trunk: str = "none") -> ALBEF:
    """A tiny model whose weights are large enough that attention is far from uniform."""
    torch.manual_seed(seed)
    model = ALBEF(tiny_settings(trunk))
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad and p.ndim > 1):
            parameter.normal_(std=0.3)
    model.copy_to_momentum()
    return model.to(dtype).train()


def tiny_batch(size: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0, length: int = 6) -> Batch:
    """Random pixels, phrases of unequal length, one word masked in each, one box each."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, 40, (size, length), generator=generator)
    lengths = torch.arange(size) % 3  # number of padded positions
    mask = (torch.arange(length) < length - lengths[:, None]).long()
    words = words * mask
    labels = torch.full_like(words, IGNORED)
    labels[:, 1] = words[:, 1]
    corrupted = words.clone()
    corrupted[:, 1] = 4
    box_mask = torch.zeros(size, 16, 16, dtype=dtype)
    box_mask[:, 3:9, 5:14] = 1
    return Batch(
        image=torch.randn(size, 3, 16, 16, generator=generator).to(dtype),
        image_rows=torch.arange(size),
        input_ids=words,
        attention_mask=mask,
        mlm_input_ids=corrupted,
        mlm_labels=labels,
        box_mask=box_mask,
        has_box=torch.ones(size, dtype=torch.bool),
        unreadable=torch.tensor(0),
    )
