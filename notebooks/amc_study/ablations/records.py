"""What a finished run of the grid answered: a small JSON that the repository keeps, so that no run is repeated.

It holds which phrases were hit on every split (a bit each), the layer and how it was chosen, the last losses, and the
provenance of the training (settings, commit, versions, seed, device, seconds). Phrases are known by a hash: a record
of other phrases counts as absent.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amc_lib.files import plain, write_json
from amc_study.comparison import Answers
from amc_study.figures import folder_of
from amc_study.run_folder import Run
from amc_study.tiers import Split


@dataclass(frozen=True)
class Record:
    """`hits` are bool [P] by split."""

    key: str
    layer: int | str
    hits: dict[str, np.ndarray]
    content: dict[str, Any]  # all that the file holds


def records_folder(tier: str) -> Path:
    return folder_of(tier) / "ablations"


def write_record(folder: Path, key: str, parameters: Mapping[str, Any], read: str, answers: Answers, run: Run) -> None:
    splits = {
        name: {"phrases": phrases_hash(pointing.regions), "hits": _pack(pointing.hits), "count": len(pointing.hits)}
        for name, pointing in answers.pointing.items()
    }
    content = {
        "key": key,
        "parameters": dict(parameters),
        "read": read,
        "layer": answers.layer,
        "layers": {str(layer): round(accuracy, 3) for layer, accuracy in answers.layers.items()},
        "accuracy": {name: round(100 * float(one.hits.mean()), 3) for name, one in answers.pointing.items()},
        "splits": splits,
        "final": run.metrics["final"],
        "training": run.metrics["provenance"],
    }
    write_json(folder / f"{key}.json", content)


def read_records(folder: Path, banks: Mapping[str, Split]) -> dict[str, Record]:
    """The records of a folder by key, but for those of other phrases than the banks'.

    Raises ValueError naming a file that is no record.
    """
    asked = {name: phrases_hash(bank.all_regions()) for name, bank in banks.items()}
    found = {}
    for path in sorted(folder.glob("*.json")):
        record = _read(path)
        if {name: split["phrases"] for name, split in record.content["splits"].items()} == asked:
            found[record.key] = record
    return found


def _read(path: Path) -> Record:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        hits = {name: _unpack(split["hits"], split["count"]) for name, split in content["splits"].items()}
        record = Record(content["key"], content["layer"], hits, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: is no record of an ablation's run ({type(error).__name__}: {error})") from error
    if record.key != path.stem:
        raise ValueError(f"{path}: holds the record of {record.key}")
    return record


def phrases_hash(regions: list) -> str:
    """Twelve hex digits of what was asked: ids, phrases and boxes, in their order."""
    content = json.dumps(plain([(region.id, region.phrase, region.boxes) for region in regions]))
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _pack(hits: np.ndarray) -> str:
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


def _unpack(text: str, count: int) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8))
    if not count <= len(bits) < count + 8:
        raise ValueError(f"{len(bits)} bits for {count} phrases")
    return bits[:count].astype(bool)
