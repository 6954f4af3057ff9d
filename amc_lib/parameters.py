"""Typed settings from flat names and plain values (papermill, command line, JSON); what does not fit is refused."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from amc_lib.config import AmcSettings, BoxSettings, ObjectiveSettings, Settings, TrainingSettings, require
from amc_lib.presets import preset

AMC_PARAMETERS = ("lambda1", "lambda2", "delta1", "delta2")
SCHEDULE_PARAMETERS = ("seed", "epochs", "batch_size", "learning_rate", "precision", "accumulation", "checkpointing")
FINETUNING_PARAMETERS = ("tier", "init", "output", *AMC_PARAMETERS, *SCHEDULE_PARAMETERS, "workers", "more")
"""Names that notebook 03 and `python -m amc_study.finetune` take; `more` holds whatever else `resolve` knows."""


def resolve(tier: str, stage: str, parameters: Mapping[str, Any]) -> Settings:
    """The tier's preset with `parameters` applied; a value of None keeps the preset's.

    Names are the fields of `AmcSettings`, `ObjectiveSettings`, `BoxSettings` and the stage's `TrainingSettings`; `more`
    may hold further ones, as a mapping or as its JSON. Raises ValueError with one sentence naming what does not fit.
    """
    settings = preset(tier)
    named = {name: value for name, value in parameters.items() if name != "more"}
    more = _mapping(parameters.get("more") or {})
    for name in more:
        require(named.get(name) is None, f"{name!r:.80} is given twice, the second time in more")
    homes = {"amc": AmcSettings, "objective": ObjectiveSettings, "boxes": BoxSettings, stage: TrainingSettings}
    home_by_name = {field.name: home for home, kind in homes.items() for field in dataclasses.fields(kind)}
    changes: dict[str, dict[str, Any]] = {home: {} for home in homes}
    for name, value in (named | more).items():
        require(name in home_by_name, unknown_name(name, home_by_name))
        if value is not None:
            changes[home_by_name[name]][name] = value
    parts = {home: replace(getattr(settings, home), **values) for home, values in changes.items()}
    return dataclasses.replace(settings, **parts)


def _mapping(more: Any) -> dict[str, Any]:
    try:
        return dict(json.loads(more) if isinstance(more, str) else more)
    except (TypeError, ValueError) as error:
        raise ValueError(f"more must be a mapping of names to values, got {more!r:.80}") from error


def replace(settings: Any, **values: Any) -> Any:
    """`dataclasses.replace` that also checks types; raises ValueError naming the field."""
    hints = get_type_hints(type(settings))
    return dataclasses.replace(settings, **{name: _typed(value, hints[name], name) for name, value in values.items()})


def from_mapping(kind: type, values: Any, where: str = "settings") -> Any:
    """A settings dataclass from nested plain values, as JSON holds them; raises ValueError naming the field."""
    require(isinstance(values, Mapping), f"{where} must be a mapping, got {values!r:.80}")
    hints = get_type_hints(kind)
    for name in values:
        require(name in hints, f"{where}: {unknown_name(name, hints)}")
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in values]
    require(not missing, f"{where} lacks {', '.join(missing)}")
    return kind(**{name: _typed(value, hints[name], f"{where}.{name}") for name, value in values.items()})


def unknown_name(name: Any, known: Iterable[str]) -> str:
    """The error sentence for a parameter name that is not among `known`, with the likeliest meant."""
    close = difflib.get_close_matches(f"{name:.80}" if isinstance(name, str) else "", list(known), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown parameter {name!r:.80}{hint} (known: {', '.join(sorted(known))})"


def _typed(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type `hint`: a whole number passes as a float, a list as a tuple; nothing else is converted."""
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_mapping(hint, value, name)
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        require(value in parts, f"{name} must be one of {', '.join(map(repr, parts))}, got {value!r:.80}")
        return value
    if get_origin(hint) is tuple:
        fits = isinstance(value, list | tuple) and len(value) == len(parts)
        require(fits, f"{name} must be {len(parts)} numbers, got {value!r:.80}")
        return tuple(_typed(item, part, name) for item, part in zip(value, parts, strict=True))
    kind = {float: "number", int: "whole number", str: "text", bool: "truth value"}[hint]
    fits = isinstance(value, int | float if hint is float else hint) and isinstance(value, bool) == (hint is bool)
    if fits and hint in (int, float):
        fits = abs(value) < 2**63  # not for nan and infinity either
    require(fits, f"{name} must be a {kind}, got {value!r:.80}")
    return float(value) if hint is float else value
