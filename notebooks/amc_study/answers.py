"""What a checkpoint answers to a split of phrases.

A split of photographs takes hours on few devices, so it is asked in parts of some images: each part is a file, written
whole. A part that is there is not asked again, and several processes share the parts among themselves:

    accelerate launch -m amc_study.answers CHECKPOINT ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby

import numpy as np
import torch
from safetensors.torch import load_file, save
from tqdm.auto import tqdm

from amc_lib.checkpoints import Checkpoint
from amc_lib.distributed import process_state
from amc_lib.evaluate import Pointing, point_at
from amc_lib.files import write_bytes
from amc_lib.regions import Region
from amc_study.photos.splits import as_read_by
from amc_study.rival.proposals import ProposalSplit
from amc_study.rival.region_answers import DEFAULT_WAY, RegionAnswers, choose_regions
from amc_study.rival.region_tower import open_checkpoint
from amc_study.run_folder import RUNS
from amc_study.scenes.cache import fingerprint
from amc_study.tiers import Split, tier_of
from amc_study.wrong_phrases import KINDS, wrong_answers

ANSWERS = RUNS / "answers"
IMAGES_A_PART = 100
IMAGES_AT_ONCE = 4  # of photographs: about 50 phrases, whose keys and values take 0.5 GB at base size
CODE = (  # what answers depend on
    *(f"amc_lib/{name}.py" for name in ("evaluate", "gradcam", "tokens", "model/*")),
    *(f"amc_lib/datasets/{name}.py" for name in ("image_files", "transforms")),
)


def ask(
    checkpoint: Checkpoint,
    split: Split,
    layer: int | str | None = None,
    regions: Sequence[Region] | None = None,
    progress: str | None = None,
) -> Pointing | RegionAnswers:
    """The answers to a split, or to some of its regions, now and in memory.

    layer: of the heatmap, or VMRM's way of scoring proposals; by default that of the checkpoint's settings.
    """
    model, tokenizer, amc = checkpoint.model, checkpoint.tokenizer, checkpoint.settings.amc
    split = as_read_by(model, split)
    regions = split.all_regions() if regions is None else regions
    if isinstance(split, ProposalSplit):
        way = layer or DEFAULT_WAY
        return choose_regions(model, tokenizer, regions, split, [way], progress)[way]
    layer = amc.layer if layer is None else layer
    with split.fit(model):
        return point_at(model, tokenizer, regions, split.load, layer, progress=progress, explanation=amc.explanation)


def ask_in_parts(checkpoint: Checkpoint, split: Split, layer: int, regions: Sequence[Region] | None = None) -> Pointing:
    """The answers to a split, or to some of its regions, those parts that `ANSWERS` lacks asked now.

    Each process asks its share and gets all.
    """
    split = as_read_by(checkpoint.model, split)
    state, regions = process_state(), split.all_regions() if regions is None else list(regions)
    parts, explanation = _parts(regions), checkpoint.settings.amc.explanation
    home = ANSWERS / f"{split.title.replace(' ', '-')}-{_key(checkpoint, split, layer, regions)}"
    files = [home / f"part-{number:05}-of-{len(parts):05}.safetensors" for number in range(len(parts))]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    state.wait_for_everyone()  # all have looked before any has written
    mine = missing[state.process_index :: state.num_processes]
    model, tokenizer = checkpoint.model.to(state.device), checkpoint.tokenizer
    with split.fit(model):
        for number in tqdm(mine, desc=split.title, unit="part", disable=not mine or not state.is_main_process):
            part = [regions[p] for p in parts[number]]
            found = point_at(model, tokenizer, part, split.load, layer, IMAGES_AT_ONCE, explanation=explanation)
            points, scores = torch.from_numpy(found.points), torch.from_numpy(found.scores)
            write_bytes(files[number], save({"heatmaps": found.heatmaps, "points": points, "scores": scores}))
    state.wait_for_everyone()
    stored = [load_file(file) for file in files]
    as_asked = torch.tensor([p for part in parts for p in part]).argsort()
    joined = {name: torch.cat([part[name] for part in stored])[as_asked] for name in ("heatmaps", "points", "scores")}
    return Pointing(regions, joined["heatmaps"], joined["points"].numpy(), joined["scores"].numpy())


def ask_wrong(
    checkpoint: Checkpoint,
    split: Split,
    own: Pointing | RegionAnswers,
    layer: int | str,
    in_parts: bool = False,
    kinds: Sequence[str] = KINDS,
) -> dict[str, np.ndarray]:
    """`wrong_answers` of a checkpoint on a split, at the layer that gave the answers to its `own` phrases.

    What all these have answered, as they have another phrase of the same picture, is not asked again.
    """
    asking = ask_in_parts if in_parts else ask
    places = {(region.image_id, region.phrase): p for p, region in enumerate(own.regions)}

    def answer(regions: list[Region]) -> tuple[np.ndarray, np.ndarray]:
        known = [places.get((region.image_id, region.phrase)) for region in regions]
        found = asking(checkpoint, split, layer, regions) if None in known else _answered(own, known, regions)
        return found.hits, found.scores

    return wrong_answers(split.all_regions(), answer, kinds=kinds)


def _answered(own: Pointing | RegionAnswers, places: list[int], regions: list[Region]) -> Pointing | RegionAnswers:
    """The answers at some places as answers to `regions`, which may have other boxes."""
    columns = {part.name: getattr(own, part.name)[places] for part in fields(own) if part.name != "regions"}
    return type(own)(regions, **columns)


def _parts(regions: Sequence[Region]) -> list[list[int]]:
    """Places of the regions of whole images, up to `IMAGES_A_PART` images each, images in order of appearance."""
    number = {image_id: n for n, image_id in enumerate(dict.fromkeys(region.image_id for region in regions))}
    numbers = [number[region.image_id] for region in regions]
    ranked = sorted(range(len(regions)), key=numbers.__getitem__)  # stable: an image's phrases stay in order
    return [list(part) for _, part in groupby(ranked, key=lambda p: numbers[p] // IMAGES_A_PART)]


def _key(checkpoint: Checkpoint, split: Split, layer: int, regions: Sequence[Region]) -> str:
    """Hash of what answers depend on: weights, words, phrases and boxes, input, layer, and the code that answers."""
    asked = [(region.id, region.image_id, region.phrase, region.boxes) for region in regions]
    seen = [getattr(split, name, None) for name in ("image_size", "resize")]
    read_at = layer, checkpoint.settings.amc.explanation
    content = [checkpoint.sha256, checkpoint.tokenizer.vocabulary, read_at, seen, IMAGES_A_PART, asked]
    return fingerprint(content, CODE)


def main() -> None:
    """Ask every split of the tier of some checkpoints, the first also with wrong phrases, and print the accuracies."""
    parser = argparse.ArgumentParser(prog="python -m amc_study.answers", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", nargs="+", help="folders of runs, or official .pth files")
    try:
        for source in parser.parse_args().checkpoints:
            checkpoint = open_checkpoint(source)
            layer = checkpoint.settings.amc.layer
            for n, split in enumerate(tier_of(checkpoint.settings).evaluation_splits().values()):
                own = ask_in_parts(checkpoint, split, layer)
                shares = f"{100 * own.hits.mean():.2f} % of {len(own.hits)} phrases"
                if n == 0:
                    wrong = ask_wrong(checkpoint, split, own, layer, in_parts=True)
                    shares += f", {100 * np.nanmean(wrong['hit_random']):.2f} % with others"
                process_state().print(f"{source}, {split.title}: {shares}")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
