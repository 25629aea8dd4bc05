"""Numbers that contacts are made of: checks, and friction per pair of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...core.errors import InputError, message

__all__ = ["friction_table", "not_negative", "positive"]


def positive(where: str, name: str, value: float, unit: str) -> float:
    """The number, or InputError unless it is positive and finite."""
    value = float(value)
    if not 0 < value < float("inf"):
        expected = f"{name} > 0 {unit} and finite"
        raise InputError(message(where, expected, value, f"Give it in {unit}"))
    return value


def not_negative(where: str, name: str, value: float, unit: str) -> float:
    """The number, or InputError unless it is finite and not negative."""
    return 0.0 if float(value) == 0 else positive(where, name, value, unit)


def friction_table(
    where: str,
    friction: float | Mapping[tuple[str, str], float],
    first: Sequence[str],
    second: Sequence[str] | None = None,
) -> tuple[np.ndarray, dict[str, float]]:
    """Which coefficient each pair of names has.

    Args:
        where: for messages.
        friction: μ of all pairs, or {(name, name): μ}; pairs that are not named have none.
        first: names of the first kind.
        second: names of the second kind; None: pairs within `first`, in either order.

    Returns:
        Numbers of the coefficients, −1 for none, (len(first), len(second)); and the coefficients by
        name: "friction", or "friction_<a>_<b>".
    """
    symmetric = second is None
    second = first if second is None else second
    table = np.full((len(first), len(second)), -1)
    if not isinstance(friction, Mapping):
        table[:] = 0
        return table, {"friction": not_negative(where, "friction", friction, "-")}
    values: dict[str, float] = {}
    for pair, value in friction.items():
        if len(pair) != 2 or pair[0] not in first or pair[1] not in second:
            expected = f"friction between {tuple(first)} and {tuple(second)}"
            raise InputError(message(where, expected, f"{pair}", "Use those names"))
        a, b = first.index(pair[0]), second.index(pair[1])
        if symmetric:
            a, b = min(a, b), max(a, b)
        key = f"friction_{first[a]}_{second[b]}"
        if key in values:
            raise InputError(message(where, "each pair once", f"{pair} twice", "Keep one of them"))
        table[a, b] = len(values)
        if symmetric:
            table[b, a] = table[a, b]
        values[key] = not_negative(where, key, value, "-")
    return table, values
