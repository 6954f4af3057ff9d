"""Make a file of proposals with torchvision's Faster R-CNN: python -m amc_study.rival.propose PICTURES OUTPUT.npz

PICTURES are folders or files. Weights are those that torchvision fetches (COCO), or a file of a state dict of
`fasterrcnn_resnet50_fpn`. Features are the 1,024 numbers of its box head, boxes its detections, best first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN, FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn
from torchvision.ops import nms
from torchvision.transforms.functional import pil_to_tensor
from tqdm.auto import tqdm

from amc_lib.datasets.image_files import ENDINGS, ImageFile
from amc_lib.datasets.records import visible
from amc_lib.distributed import process_state
from amc_lib.files import atomic_file
from amc_lib.official import load_tensors, read_official

BOXES = 36  # a picture, as bottom-up attention takes (Anderson et al., CVPR 2018)
OVERLAP = 0.5  # largest intersection over union of two kept boxes, whatever their labels


def pictures_below(sources: Sequence[Path]) -> list[Path]:
    """The picture files among `sources` and below their folders. ValueError where there is none."""
    sources = [source.expanduser() for source in sources]
    found = [path for source in sources for path in (sorted(source.rglob("*")) if source.is_dir() else [source])]
    pictures = [path for path in visible(found) if path.suffix.lower() in ENDINGS]
    if not pictures:
        raise ValueError(f"no pictures at {', '.join(map(str, sources))}")
    return pictures


def open_detector(weights: str | None) -> FasterRCNN:
    """Faster R-CNN of torchvision: `weights` None fetches COCO's, else a file of its state dict; in evaluation mode."""
    if weights is None:
        return fasterrcnn_resnet50_fpn(weights=FasterRCNN_ResNet50_FPN_Weights.COCO_V1).eval()
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    load_tensors(model, read_official(weights), model.state_dict().keys(), weights)
    return model.eval()


@torch.no_grad()
def propose(model: FasterRCNN, picture: Tensor, count: int = BOXES) -> tuple[Tensor, Tensor, Tensor]:
    """Of a picture uint8 [3, H, W] the best boxes [k, 4] (xyxy, pixels), scores [k] and features [k, F], k <= count.

    A box keeps its likeliest class; the detector's own threshold of scores is not applied.
    """
    size = picture.shape[-2:]
    images, _ = model.transform([picture.float() / 255])
    maps = model.backbone(images.tensors)
    candidates, _ = model.rpn(images, maps)
    heads = model.roi_heads
    features = heads.box_head(heads.box_roi_pool(maps, candidates, images.image_sizes))  # [P, F]
    logits, deltas = heads.box_predictor(features)
    scores, labels = logits.softmax(-1)[:, 1:].max(-1)  # class 0 is the background
    boxes = heads.box_coder.decode(deltas, candidates)[torch.arange(len(labels)), labels + 1]  # [P, 4]
    height, width = images.image_sizes[0]
    scale = torch.tensor([size[1] / width, size[0] / height] * 2, device=boxes.device)
    limit = torch.tensor([size[1], size[0]] * 2, device=boxes.device)
    boxes = (boxes * scale).clamp(min=0).minimum(limit)
    solid = ((boxes[:, 2:] - boxes[:, :2]) > 1).all(1).nonzero()[:, 0]
    kept = solid[nms(boxes[solid], scores[solid], OVERLAP)][:count]
    return boxes[kept].cpu(), scores[kept].cpu(), features[kept].cpu()


def write_proposals(pictures: Sequence[Path], output: Path, model: FasterRCNN, count: int = BOXES) -> None:
    """A file of proposals (`proposal_file`) of all pictures. ValueError names a picture that cannot be read."""
    device = process_state().device
    model.to(device)
    width, n = model.roi_heads.box_predictor.cls_score.in_features, len(pictures)
    sizes, boxes = np.zeros((n, 2), np.int32), np.zeros((n, count, 4), np.float32)
    scores, features = np.zeros((n, count), np.float32), np.zeros((n, count, width), np.float16)
    for row, path in enumerate(tqdm(pictures, desc="proposals", unit="picture")):
        picture = pil_to_tensor(ImageFile(path).open())
        sizes[row] = picture.shape[-2:]
        found = propose(model, picture.to(device), count)
        for array, values in zip((boxes, scores, features), found, strict=True):
            array[row, : len(values)] = values.numpy()
    with atomic_file(output) as file:
        names = np.array([path.name for path in pictures])
        np.savez(file, image=names, size=sizes, boxes=boxes, scores=scores, features=features)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_study.rival.propose", description=__doc__.split("\n")[0])
    parser.add_argument("pictures", nargs="+", type=Path, help="folders or files")
    parser.add_argument("output", type=Path, help="the file, .npz")
    parser.add_argument("--weights", help="a state dict of fasterrcnn_resnet50_fpn; default: COCO's, fetched")
    parser.add_argument("--boxes", type=int, default=BOXES, help="a picture; default: %(default)s")
    given = parser.parse_args(arguments)
    try:
        if given.output.suffix.lower() != ".npz":
            raise ValueError(f"{given.output}: must end in .npz")
        write_proposals(pictures_below(given.pictures), given.output, open_detector(given.weights), given.boxes)
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
