"""The cache of pictures: what every run reads of a split is computed once, on all cores, and kept on disk.

An entry is a folder of arrays (.npy, opened as memory maps) and records.json under data/cache. Its name ends in a
fingerprint of the settings and the code that it depends on, so that a change of either never meets an old entry.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import time
import tokenize
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amc_lib.config import SceneSettings
from amc_lib.files import ROOT, atomic_folder, plain
from amc_study.scenes.scene import SPLITS

CACHE = ROOT / "data" / "cache"
WORKERS = os.cpu_count() or 1  # processes that draw; with one, the calling process draws
DRAWING = ("notebooks/amc_study/scenes/*.py", "notebooks/amc_study/scenes/*.csv", "amc_lib/model/trunk.py")
LINES_EVERY = 15  # seconds between two lines of progress
Part = tuple[dict[str, np.ndarray], list]  # of m scenes: arrays [m, ...] by name, and m records for JSON


def fingerprint(content: Any, code: Iterable[str]) -> str:
    """Twelve hex digits of `content` (whatever `plain` can write) and of files, given as patterns below the root.

    Comments and docstrings of Python files do not count. Raises ValueError for a pattern that no file matches.
    """
    digest = hashlib.sha256(json.dumps(plain(content)).encode())
    for pattern in code:
        paths = sorted(ROOT.glob(pattern))
        if not paths:
            raise ValueError(f"no file matches {pattern!r}, on which a cache or a run depends")
        for path in paths:
            digest.update(_statements(path.read_text(encoding="utf-8")) if path.suffix == ".py" else path.read_bytes())
    return digest.hexdigest()[:12]


def _statements(source: str) -> bytes:
    """Tokens of Python source without comments, docstrings and layout: the same in every version of Python."""
    layout = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in layout]
    before = [tokenize.NEWLINE, *(token.type for token in tokens)]
    after = [*(token.type for token in tokens[1:]), tokenize.ENDMARKER]
    lone = (tokenize.NEWLINE, tokenize.STRING, tokenize.NEWLINE)  # a string that is a line of its own
    kept = (t.string for t, *kinds in zip(tokens, before, after, strict=False) if (kinds[0], t.type, kinds[1]) != lone)
    return "".join(kept).encode()


def open_entry(
    name: str,
    compute: Callable[[SceneSettings, str, int, int], Part],
    settings: SceneSettings,
    split: str,
    depends_on: Any,
    code: Iterable[str] = (),
    scenes_a_task: int = 25,
) -> tuple[dict[str, Tensor], list]:
    """Arrays [n, ...] by name, and n records: what `compute` gives for the n scenes of a split.

    Where the cache does not hold it yet, `compute(settings, split, start, stop)`, which must be picklable, is called
    now for successive ranges of scenes, with a progress bar. depends_on: what else determines the result, beside the
    scenes' settings; code: patterns of files that do, beside those that draw.
    """
    shared = {key: value for key, value in plain(settings).items() if key not in SPLITS}
    key = fingerprint([shared, settings.count(split), depends_on], (*DRAWING, *code))
    compute = partial(compute, settings, split)
    return open_rows(f"{name}-{split}-{key}", compute, settings.count(split), f"drawing {split}", scenes_a_task)


def open_rows(
    name: str, compute: Callable[[int, int], Part], count: int, title: str, rows_a_task: int
) -> tuple[dict[str, Tensor], list]:
    """Arrays [count, ...] by name, and `count` records: what `compute(start, stop)` gives, from the folder `name`.

    Where the cache does not hold it yet it is computed now, under `title`; `compute` must be picklable.
    """
    folder = CACHE / name
    if not folder.is_dir():
        _fill(folder, compute, count, title, rows_a_task)
    # "c": torch wants memory that could be written to; nothing written there reaches the disk
    arrays = {path.stem: torch.from_numpy(np.load(path, mmap_mode="c")) for path in folder.glob("*.npy")}
    return arrays, json.loads((folder / "records.json").read_text(encoding="utf-8"))


def _fill(folder: Path, compute: Callable[[int, int], Part], count: int, title: str, rows_a_task: int) -> None:
    """Compute an entry beside its place and rename it when it is whole; arrays never stand in memory whole."""
    arrays, records = {}, []
    starts = range(0, count, rows_a_task)
    stops = [min(start + rows_a_task, count) for start in starts]
    said = time.monotonic()
    with atomic_folder(folder) as unfinished, _mapping(len(starts)) as mapped:
        parts = mapped(compute, starts, stops)
        for start, stop, (part, part_records) in zip(starts, stops, parts, strict=True):
            for name, rows in part.items():
                if name not in arrays:
                    shape = (count, *rows.shape[1:])
                    arrays[name] = np.lib.format.open_memmap(unfinished / f"{name}.npy", "w+", rows.dtype, shape)
                arrays[name][start:stop] = rows
            records += part_records
            if stop == count or time.monotonic() >= said + LINES_EVERY:
                print(f"{title}: {stop:,} of {count:,}", flush=True)
                said = time.monotonic()
        for array in arrays.values():
            array.flush()
        (unfinished / "records.json").write_text(json.dumps(records), encoding="utf-8")


@contextmanager
def _mapping(tasks: int) -> Iterator[Callable[..., Iterable[Part]]]:
    """`map`, on as many processes of one thread each as there are cores and tasks."""
    if WORKERS == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(WORKERS, tasks), context, torch.set_num_threads, (1,)) as pool:
        yield pool.map
