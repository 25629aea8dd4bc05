"""Scalar fields of particles, for coloring.

speed  |v| = √(v·v)            J  = det F            displacement  |x − x₀|
stress σ_eq = √(3/2 s : s),  s = σ − tr(σ)/3 I  (von Mises)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["FIELD_LABELS", "as_array", "available_fields", "particle_field", "von_mises"]

FIELD_LABELS = {
    "speed": "speed [m/s]",
    "J": "volume ratio J",
    "height": "height [m]",
    "displacement": "displacement [m]",
    "stress": "equivalent stress [Pa]",
    "alpha": "hardening",
}
_RESERVED = {"x", "v", "F", "J", "C", "stress", "tau", "tool_pose"}


def as_array(value: Any) -> np.ndarray:
    """Numpy copy or view of a torch tensor, a sequence or an array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def von_mises(sigma: np.ndarray) -> np.ndarray:
    """Equivalent stress σ_eq = √(3/2 s : s), s the deviator.

    Args:
        sigma: Cauchy or Kirchhoff stress [Pa], shape (..., 3, 3).

    Returns:
        σ_eq [Pa], shape (...).

    Raises:
        ValueError: if the last two axes are not 3×3.

    Not differentiable here (numpy); for pictures only.
    Source: von Mises 1913.
    """
    sigma = as_array(sigma)
    if sigma.shape[-2:] != (3, 3):
        raise ValueError(
            f"von_mises: stress of shape (..., 3, 3); got {sigma.shape}. Embed plane strain in 3×3."
        )
    trace = np.trace(sigma, axis1=-2, axis2=-1)[..., None, None]
    deviator = sigma - trace / 3.0 * np.eye(3)
    return np.sqrt(1.5 * np.sum(deviator**2, axis=(-2, -1)))


def available_fields(frame: Mapping[str, Any]) -> list[str]:
    """Names that `particle_field` can compute from this frame, the most useful first."""
    count = as_array(frame["x"]).shape[0]
    names = []
    if "v" in frame:
        names.append("speed")
    if any(key in frame and as_array(frame[key]).size for key in ("J", "F")):
        names.append("J")
    if "stress" in frame or "tau" in frame:
        names.append("stress")
    names.append("height")
    for name, value in frame.items():
        shape = as_array(value).shape
        if name not in _RESERVED and len(shape) in (1, 2) and shape[0] == count:
            names.append(name)
    return names


def particle_field(
    name: str,
    frame: Mapping[str, Any],
    *,
    groups: Mapping[str, tuple[int, int]] | None = None,
    rest: np.ndarray | None = None,
) -> tuple[np.ndarray, str]:
    """Values and label of a scalar field on the particles of one frame.

    Fields that only some groups store (J of liquids, F of solids, alpha of hardening laws) are
    placed on the groups whose sizes add up to the stored length.

    Args:
        name: "speed", "J", "height", "displacement", "stress", or any entry of `frame` with a
            leading particle axis; vectors give their norm.
        frame: arrays of one time: "x" [m] (N, D), "v" [m/s] (N, D), "J" (N_J) and "F" (N_F, 3, 3),
            "stress" or "tau" [Pa] (n, 3, 3) or (n,).
        groups: name to (start, stop), needed for partly stored fields.
        rest: positions x₀ [m], (N, D), for "displacement".

    Returns:
        Values (N,) and a label with the unit; NaN on particles without a value.

    Raises:
        KeyError: if the frame lacks what the field needs.
        ValueError: if a partly stored field cannot be placed.

    Not differentiable (numpy); for pictures only.
    Source: definitions at the top of this file.
    """
    x = as_array(frame["x"])
    label = FIELD_LABELS.get(name, name)
    if name == "speed" and "v" in frame:
        return np.linalg.norm(as_array(frame["v"]), axis=-1), label
    if name == "height":
        return np.array(x[:, -1], dtype=float), label
    if name == "displacement" and rest is not None:
        return np.linalg.norm(x - as_array(rest), axis=-1), label
    if name == "stress" and ("stress" in frame or "tau" in frame):
        stored = as_array(frame["stress"] if "stress" in frame else frame["tau"])
        parts = [von_mises(stored) if stored.ndim == 3 else stored]
    elif name == "J" and any(key in frame and as_array(frame[key]).size for key in ("J", "F")):
        parts = []
        if "J" in frame and as_array(frame["J"]).size:
            parts.append(as_array(frame["J"]).reshape(-1))
        if "F" in frame and as_array(frame["F"]).size:
            F = as_array(frame["F"])
            known = np.isfinite(F).all(axis=(-2, -1))
            parts.append(np.full(len(F), np.nan))
            parts[-1][known] = np.linalg.det(F[known])
        if len(parts) == 2 and len(parts[0]) == len(x) and np.isfinite(parts[0]).all():
            parts = parts[:1]
    elif name in frame and name not in _RESERVED:
        stored = as_array(frame[name])
        parts = [stored if stored.ndim == 1 else np.linalg.norm(stored, axis=-1)]
    else:
        raise KeyError(
            f"particle_field: a field the frame holds; got {name!r} of {sorted(frame)}. "
            f"Use one of {available_fields(frame)}."
        )
    return _place(name, [np.asarray(p, dtype=float) for p in parts], len(x), groups), label


def _place(name, parts, count, groups) -> np.ndarray:
    """Put stored parts on the groups they belong to; NaN elsewhere."""
    values = np.full(count, np.nan)
    free = dict(groups or {})
    for part in parts:
        if len(part) == count:
            values = np.where(np.isnan(values), part, values)
            continue
        choices = [
            subset
            for size in range(1, len(free) + 1)
            for subset in itertools.combinations(free, size)
            if sum(free[g][1] - free[g][0] for g in subset) == len(part)
        ]
        if len(choices) > 1 and len(parts) == 2 and part is parts[0]:
            # the other part must fill the complement, which often settles an ambiguity
            rest = len(parts[1])
            choices = [
                c for c in choices if sum(b - a for g, (a, b) in free.items() if g not in c) == rest
            ]
        if len(choices) != 1:
            raise ValueError(
                f"particle_field: {name!r} on all {count} particles or on whole groups; got "
                f"{len(part)} values and groups {free}. Store the field on every particle."
            )
        offset = 0
        for group in choices[0]:
            start, stop = free.pop(group)
            values[start:stop] = part[offset : offset + stop - start]
            offset += stop - start
    return values
