"""From flat names and plain values (papermill, command line, JSON) to typed settings, refusing what does not fit."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from amc_lib.config import AmcSettings, ObjectiveSettings, Settings, TrainingSettings
from amc_lib.config_data import BoxSettings
from amc_lib.presets import preset
from amc_lib.wording import shown

LARGEST = 2**63 - 1  # of any number among the settings; no sensible one comes near it
LONGEST_NAME = 40
FINETUNING_PARAMETERS = tuple(
    [
        "tier",
        "lambda1",
        "lambda2",
        "delta1",
        "delta2",
        "seed",
        "epochs",
        "batch_size",
        "learning_rate",
        "init",
        "output",
        "precision",
        "accumulation",
        "checkpointing",
        "workers",
        "more",
    ]
)  # of 03_train.ipynb and of `python -m amc_study.finetune`


def resolve(tier: str, stage: str, parameters: Mapping[str, Any]) -> Settings:
    """The tier's preset with `parameters` applied; a value of None keeps the preset's.

    Known names are the fields of `AmcSettings`, `ObjectiveSettings`, `BoxSettings` and of the stage's
    `TrainingSettings`; `more` may hold a mapping of further ones. Raises ValueError with one sentence for an unknown
    name or an impossible value.
    """
    settings = preset(tier)
    parameters = _with_more(parameters)
    homes = {"amc": AmcSettings, "objective": ObjectiveSettings, "boxes": BoxSettings, stage: TrainingSettings}
    owner = {field.name: home for home, kind in homes.items() for field in dataclasses.fields(kind)}
    changes: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        if name not in owner:
            raise ValueError(unknown_name(name, owner))
        if value is not None:
            changes.setdefault(owner[name], {})[name] = value
    parts = {home: replace(getattr(settings, home), **values) for home, values in changes.items()}
    return dataclasses.replace(settings, **parts)


def _with_more(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with those in `more` (a mapping, or one as JSON) among them."""
    named = {name: value for name, value in parameters.items() if name != "more"}
    more = parameters.get("more") or {}
    if isinstance(more, str):
        try:
            more = json.loads(more)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"more must be a mapping of names to values, got {shown(more)}") from error
    if not isinstance(more, Mapping):
        raise ValueError(f"more must be a mapping of names to values, got {shown(more)}")
    if twice := [name for name in more if named.get(name) is not None]:
        raise ValueError(f"{shown(twice[0])} is given twice, the second time in more")
    return named | dict(more)


def replace(settings: Any, **values: Any) -> Any:
    """`dataclasses.replace` that also checks types."""
    hints = typing.get_type_hints(type(settings))
    return dataclasses.replace(settings, **{name: typed(value, hints[name], name) for name, value in values.items()})


def from_mapping(kind: type, values: Any, where: str = "settings") -> Any:
    """A settings dataclass from nested plain values, as JSON gives them. Raises ValueError naming the field."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be a mapping, got {shown(values)}")
    hints = typing.get_type_hints(kind)
    unknown = [name for name in values if name not in hints]
    if unknown:
        raise ValueError(f"{where}: {unknown_name(unknown[0], hints)}")
    missing = [f.name for f in dataclasses.fields(kind) if _required(f) and f.name not in values]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return kind(**{name: typed(value, hints[name], f"{where}.{name}") for name, value in values.items()})


def typed(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type `hint` says: whole numbers pass as floats, lists as tuples; nothing else is converted."""
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_mapping(hint, value, name)
    if typing.get_origin(hint) is Literal:
        if not isinstance(value, str) or value not in typing.get_args(hint):
            known = ", ".join(map(repr, typing.get_args(hint)))
            raise ValueError(f"{name} must be one of {known}, got {shown(value)}")
        return value
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise ValueError(f"{name} must be {len(parts)} numbers, got {shown(value)}")
        return tuple(typed(item, part, name) for item, part in zip(value, parts, strict=True))
    if isinstance(hint, types.UnionType) and value is None:
        return None
    allowed = (int, float) if hint is float else hint
    if isinstance(value, bool) != (hint is bool) or not isinstance(value, allowed):
        raise ValueError(f"{name} must be a {_name(hint)}, got {shown(value)}")
    if hint in (int, float) and not abs(value) <= LARGEST:
        raise ValueError(f"{name} must be a {_name(hint)}, got {shown(value)}")
    return float(value) if hint is float else value


def unknown_name(name: Any, known: Mapping[str, Any] | typing.Iterable[str]) -> str:
    """The sentence for a name that is none of `known`."""
    close = difflib.get_close_matches(str(name)[:LONGEST_NAME], list(known), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown parameter {shown(name)}{hint} (known: {', '.join(sorted(known))})"


def notebook_parameters(namespace: Mapping[str, Any], known: typing.Iterable[str]) -> dict[str, Any]:
    """The parameters of a notebook whose first cell has just set them: `namespace` is its `globals()`.

    Called before anything else is defined, so a name that is not `known` came in by mistake (`papermill -p`).
    """
    shell = {"In", "Out", "get_ipython", "exit", "quit", "open"}
    names = [
        name
        for name, value in namespace.items()
        if not name.startswith("_")
        and name not in shell
        and not isinstance(value, types.ModuleType | types.FunctionType)
    ]
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(unknown_name(name, known))
    return {name: namespace[name] for name in known if name in namespace}


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _name(hint: Any) -> str:
    return {float: "number", int: "whole number", str: "text", bool: "truth value"}.get(hint, str(hint))
