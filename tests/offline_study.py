"""The scenes tier at a tiny size in a process that reports what it reached for: run as a script, with a folder.

Before anything is imported an audit hook is set, which Python calls, from C code too, before each name look-up,
connection and opening of a file; it refuses whatever would leave the machine and writes down what is written where.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1]).resolve()
LOCAL = {"127.0.0.1", "::1", "localhost"}
reached: list[str] = []
written: set[str] = set()


def watch(event: str, arguments: tuple) -> None:
    """Raises for whatever would leave the machine."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        refuse(event, str(arguments[0]))
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(arguments[1], tuple):
        refuse(event, str(arguments[1][0]))
    elif event == "open":
        path, _, flags = arguments
        if not isinstance(path, int) and (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.add(os.path.abspath(os.fsdecode(path)))
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.chmod"):
        written.update(os.path.abspath(os.fsdecode(part)) for part in arguments[:2] if isinstance(part, str | bytes))


def refuse(event: str, host: str) -> None:
    if host not in LOCAL:
        reached.append(f"{event} {host}")
        raise ConnectionRefusedError(f"{event} {host}: the study needs no network")


def study() -> None:
    """Import everything, ask the shipped checkpoint, draw, pretrain, finetune, evaluate."""
    import importlib
    import pkgutil

    import amc_lib
    import amc_study

    for package in (amc_lib, amc_study):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)

    from dataclasses import replace

    from tiny_scenes import TINY

    from amc_lib import Grounder
    from amc_lib.evaluate import point_at
    from amc_study import runs, tiers
    from amc_study.rival.detector_runs import load_detector
    from amc_study.scenes import cache
    from amc_study.scenes import scene as scenes

    picture = scenes.draw(TINY.scenes, "val", 0).image
    for grounding in Grounder.load("amc-scenes").ground(picture, ["a red cat", "the dog"]):
        grounding.overlay().save(FOLDER / "overlay.png")
    load_detector().propose([picture])

    cache.WORKERS = 1
    cache.CACHE = FOLDER / "cache"
    runs.RUNS = FOLDER / "runs"
    settings = replace(TINY, scenes=replace(TINY.scenes, pretrain=16, train=16))
    start = runs.pretrain(settings, FOLDER / "runs" / "start")
    finished = runs.finetune(settings, start.folder, FOLDER / "runs" / "amc").checkpoint()
    bank = tiers.tier_of(settings).split("phrases")
    answers = point_at(finished.model, finished.tokenizer, bank.all_regions(), bank.load, settings.amc.layer)
    assert answers.hits.shape == (len(bank.all_regions()),)


if __name__ == "__main__":
    sys.addaudithook(watch)
    study()
    print(json.dumps({"reached": reached, "written": sorted(written), "modules": sorted(sys.modules)}))
