"""What settings must be: checks that name the field and the value in one sentence."""

from __future__ import annotations

from amc_lib.wording import shown


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def positive(settings: object, *names: str) -> None:
    for name in names:
        require(getattr(settings, name) > 0, f"{name} must be positive, got {shown(getattr(settings, name))}")


def not_negative(settings: object, *names: str) -> None:
    for name in names:
        require(getattr(settings, name) >= 0, f"{name} must not be negative, got {shown(getattr(settings, name))}")
