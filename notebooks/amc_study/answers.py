"""What a checkpoint answers to a split, kept on disk in parts.

A split of photographs takes hours on few devices, so it is asked in parts of some images: each part is a file, written
whole. A part that is there is not asked again, and several processes share the parts among themselves:

    accelerate launch -m amc_study.answers CHECKPOINT ...
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from itertools import groupby

import torch
from safetensors.torch import load_file, save
from tqdm.auto import tqdm

from amc_lib.checkpoints import Checkpoint
from amc_lib.distributed import process_state
from amc_lib.evaluate import Pointing, point_at
from amc_lib.files import ROOT, plain, write_bytes
from amc_lib.regions import Region
from amc_study.rival.region_tower import open_checkpoint
from amc_study.runs import RUNS
from amc_study.tiers import Split, evaluation_splits

ANSWERS = RUNS / "answers"
IMAGES_A_PART = 100
IMAGES_AT_ONCE = 4  # of photographs: about 50 phrases, whose keys and values take 0.5 GB at base size
CODE = (  # what answers depend on
    "evaluate.py",
    "gradcam.py",
    "tokens.py",
    "model",
    "datasets/transforms.py",
    "datasets/image_files.py",
)


def ask(checkpoint: Checkpoint, bank: Split, layer: int, progress: str | None = None) -> Pointing:
    """The answers to a whole split, now and in memory."""
    regions, explanation = bank.all_regions(), checkpoint.settings.amc.explanation
    with bank.fit(checkpoint.model):
        return point_at(
            checkpoint.model, checkpoint.tokenizer, regions, bank.load, layer, progress=progress,
            explanation=explanation,
        )  # fmt: skip


def ask_in_parts(checkpoint: Checkpoint, bank: Split, layer: int) -> Pointing:
    """The answers to a split, those parts that `ANSWERS` lacks asked now; each process asks its share and gets all."""
    state = process_state()
    regions = bank.all_regions()
    parts = _parts(regions)
    home = ANSWERS / f"{bank.title.replace(' ', '-')}-{_key(checkpoint, bank, layer)}"
    files = [home / f"part-{number:05}-of-{len(parts):05}.safetensors" for number in range(len(parts))]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    state.wait_for_everyone()  # all have looked before any has written
    mine = missing[state.process_index :: state.num_processes]
    model = checkpoint.model.to(state.device)
    with bank.fit(model):
        for number in tqdm(mine, desc=bank.title, unit="part", disable=not mine or not state.is_main_process):
            part = point_at(
                model, checkpoint.tokenizer, [regions[p] for p in parts[number]], bank.load, layer, IMAGES_AT_ONCE,
                explanation=checkpoint.settings.amc.explanation,
            )  # fmt: skip
            write_bytes(files[number], save(_tensors(part)))
    state.wait_for_everyone()
    stored = [load_file(file) for file in files]
    as_asked = torch.tensor([p for part in parts for p in part]).argsort()
    joined = {name: torch.cat([part[name] for part in stored])[as_asked] for name in ("heatmaps", "points", "scores")}
    return Pointing(regions, joined["heatmaps"], joined["points"].numpy(), joined["scores"].numpy())


def _parts(regions: list[Region]) -> list[list[int]]:
    """Places of the regions of whole images, up to `IMAGES_A_PART` images each, images in order of appearance."""
    number = {image_id: n for n, image_id in enumerate(dict.fromkeys(region.image_id for region in regions))}
    numbers = [number[region.image_id] for region in regions]
    ranked = sorted(range(len(regions)), key=numbers.__getitem__)  # stable: an image's phrases stay in order
    return [list(part) for _, part in groupby(ranked, key=lambda p: numbers[p] // IMAGES_A_PART)]


def _tensors(pointing: Pointing) -> dict[str, torch.Tensor]:
    return {
        "heatmaps": pointing.heatmaps.contiguous(),
        "points": torch.from_numpy(pointing.points),
        "scores": torch.from_numpy(pointing.scores),
    }


def _key(checkpoint: Checkpoint, bank: Split, layer: int) -> str:
    """Hash of what answers depend on: weights, words, phrases and boxes, input, layer, and the code that answers."""
    asked = [(region.id, region.image_id, region.phrase, region.boxes) for region in bank.all_regions()]
    seen = [getattr(bank, name, None) for name in ("image_size", "resize")]
    read_at = layer, checkpoint.settings.amc.explanation
    content = [checkpoint.sha256, checkpoint.tokenizer.vocabulary, read_at, seen, IMAGES_A_PART, plain(asked)]
    digest = hashlib.sha256(json.dumps(content).encode())
    here = ROOT / "amc_lib"
    for path in sorted(path for name in CODE for path in [here / name, *(here / name).glob("*.py")] if path.is_file()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_study.answers", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", nargs="+", help="folders of runs, or official .pth files")
    try:
        for source in parser.parse_args().checkpoints:
            _report(source)
    except ValueError as error:
        sys.exit(str(error))


def _report(source: str) -> None:
    """Ask every split of a checkpoint's tier and print the accuracies."""
    checkpoint = open_checkpoint(source)
    for bank in evaluation_splits(checkpoint.settings).values():
        pointing = ask_in_parts(checkpoint, bank, checkpoint.settings.amc.layer)
        process_state().print(
            f"{source}, {bank.title}: {100 * pointing.hits.mean():.2f} % of {len(pointing.hits)} phrases"
        )


if __name__ == "__main__":
    main()
