"""Numbers watched: a loss or gradient that is not finite stops the run, and names the batch that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from amc_lib.data import EpochBatches, PairDataset
from amc_lib.files import plain, write_json


class DivergedError(RuntimeError):
    """A loss or gradient that is not a finite number."""


@dataclass(frozen=True)
class Watch:
    """What it takes to say which images and phrases were visited; `file` is where that is written, if anywhere."""

    pairs: PairDataset
    batches: EpochBatches
    file: Path | None

    def stop(self, what: str, losses: dict[str, float], step: int, first: int, last: int) -> NoReturn:
        """Raise DivergedError after writing which pairs the batches `first` to `last` of this update held."""
        sentence = f"update {step + 1}: the {what} is no longer a finite number, at losses {losses}"
        if self.file is None:
            raise DivergedError(sentence)
        visited = [
            {"batch": number, "images": [self._visited(index) for index in indices]}
            for number, indices in enumerate(self.batches.between(first, last + 1), first)
        ]
        numbers = {name: f"{value:.6g}" for name, value in losses.items()}  # JSON has no NaN
        content = {"update": step + 1, "epoch": self.batches.epoch, "what": what, "losses": numbers, "batches": visited}
        try:
            write_json(self.file, content)
        except OSError as error:
            raise DivergedError(f"{sentence}; {self.file} cannot be written ({error})") from error
        raise DivergedError(f"{sentence}; {self.file} names the images and phrases of this update")

    def _visited(self, index: int) -> dict[str, Any]:
        """An image and its phrases of this epoch, drawn once more."""
        pairs = self.pairs[index]
        row = pairs.key[-1]
        return {"index": index, "row": row, "image": self.pairs.image_name(row), "phrases": plain(pairs.phrases)}
