"""What finished runs of the grid answered, in one file of the repository, so that no run is repeated.

figures/ablations.json.gz is JSON (read it with `gzip -dc`):
- `phrases`: a hash of each split's phrases -> their `ids`, in the order of the bits below, and one byte of `each` one's
  own hash (base64)
- `runs`: for each run its `parameters`, the map that was `read`, the `layer` and the validation accuracy of all
  `layers`, the `accuracy` of each split in percent, the `final` losses, `hits`: split -> hash of its phrases and one
  bit for each phrase (base64), in later ones also for a `random` phrase asked in its place, and `training`: settings,
  start, commit, versions, device, seconds and, in later ones, the fingerprint of the `code` that trained
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from amc_lib.config import Settings
from amc_lib.files import plain, write_bytes
from amc_study.ablations.experiments import Experiment, run_key
from amc_study.comparison import Answers
from amc_study.run_folder import Run
from amc_study.tiers import Split

RECORDS = "ablations.json.gz"
ALIKE = 0.999  # least share of phrases that are today's: Pillow 12 and 13 draw two of 6,745 boxes a pixel apart
Records = dict[str, dict[str, Any]]
"""Key of a run -> its record; hits[name of a split] is bool [P], and so is random[name] where it was asked."""


def read_records(files: Iterable[Path], splits: Mapping[str, Split], today: Settings) -> Records:
    """The records in those of the files that exist, of runs that answered the splits' phrases (to `ALIKE`).

    A run that did not know one of `today`'s settings is left out. Raises ValueError naming a file without records.
    """
    counts = {name: len(split.all_regions()) for name, split in splits.items()}
    asked = {name: _asked(split) for name, split in splits.items()}
    records: Records = {}
    for path in filter(Path.is_file, files):
        try:
            stored = content(path)
            alike = {
                (name, key) for name in asked for key, old in stored["phrases"].items() if _alike(old, asked[name])
            }
            for run in stored["runs"]:
                answered = {(name, hits["phrases"]) for name, hits in run["hits"].items()}
                if len(answered) != len(splits) or not answered <= alike:
                    continue
                hits, random = (
                    {name: _unpacked(of[way], counts[name]) for name, of in run["hits"].items() if way in of}
                    for way in ("bits", "random")
                )
                if key := _key(run, today):
                    records[key] = run | {"hits": hits, "random": random}
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: holds no records of ablations ({type(error).__name__}: {error})") from error
    return records


def append_record(path: Path, experiment: Experiment, answers: Answers, splits: Mapping[str, Split], run: Run) -> None:
    """Add a run to the file, in the place of one of the same key; several processes may do so side by side.

    Of wrong phrases (`answers.wrong`) the random ones are kept, where each phrase had one.
    """
    hashes = {name: phrases_hash(split) for name, split in splits.items()}
    hits = {name: pointing.hits for name, pointing in answers.pointing.items()}
    wrong = {name: columns["hit_random"] for name, columns in answers.wrong.items()}
    asked = {name: values for name, values in wrong.items() if not np.isnan(values).any()}
    bits = {name: {"phrases": hashes[name], "bits": _packed(values)} for name, values in hits.items()}
    random = {name: {"random": _packed(values > 0)} for name, values in asked.items()}
    record = {
        "parameters": dict(experiment.parameters),
        "read": experiment.read,
        "layer": answers.layer,
        "layers": {str(layer): round(value, 3) for layer, value in answers.layers.items() if not np.isnan(value)},
        "accuracy": {name: round(100 * float(values.mean()), 3) for name, values in hits.items()},
        "hits": {name: of | random.get(name, {}) for name, of in bits.items()},
        "final": run.metrics["final"],
        "training": run.metrics["provenance"] | {name: run.metrics.get(name) for name in ("init_sha256", "code")},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        stored = content(path) if path.is_file() else {"phrases": {}, "runs": []}
        for name, split in splits.items():
            stored["phrases"].setdefault(hashes[name], _asked(split))
        stored["runs"] = [run for run in stored["runs"] if _key(run, experiment.settings) != experiment.key]
        stored["runs"].append(plain(record))
        text = json.dumps(stored, ensure_ascii=False, allow_nan=False)
        write_bytes(path, gzip.compress(text.encode(), mtime=0))


def phrases_hash(split: Split) -> str:
    """Twelve hex digits of what a split asks: ids, phrases and boxes, in their order."""
    return hashlib.sha256(json.dumps(_contents(split)).encode()).hexdigest()[:12]


def content(path: Path) -> dict[str, Any]:
    """What a file of records holds, as it is stored."""
    return json.loads(gzip.decompress(path.read_bytes()))


def _key(run: Mapping[str, Any], today: Settings) -> str | None:
    training = run["training"]
    return run_key(training["settings"], training["init_sha256"], run["read"], today)


def _contents(split: Split) -> list[list[Any]]:
    """For each phrase of a split its id, words and boxes."""
    return plain([(region.id, region.phrase, region.boxes) for region in split.all_regions()])


def _asked(split: Split) -> dict[str, Any]:
    """What a record keeps of a split, to be compared later."""
    contents = _contents(split)
    each = bytes(zlib.crc32(json.dumps(one).encode()) % 256 for one in contents)
    return {"ids": [name for name, _, _ in contents], "each": base64.b64encode(each).decode()}


def _alike(stored: Mapping[str, Any], today: Mapping[str, Any]) -> bool:
    """Whether two splits ask the same phrases, but for a share of 1 - `ALIKE`."""
    if stored["ids"] != today["ids"]:
        return False
    old, new = (np.frombuffer(base64.b64decode(one["each"], validate=True), np.uint8) for one in (stored, today))
    return len(old) == len(new) and bool((old == new).mean() >= ALIKE)


def _packed(hits: np.ndarray) -> str:
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


def _unpacked(text: str, count: int) -> np.ndarray:
    bits = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    return np.unpackbits(bits, count=count).astype(bool)
