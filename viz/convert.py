"""Scenes from stored rollouts and live states, by attribute names alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .fields import as_array, particle_field
from .scene import Scene, Tool, embed, value_span

__all__ = ["field_range", "scene_from_reader", "scene_from_state"]


def scene_from_reader(
    reader: Any,
    index: int,
    *,
    trajectory: int = 0,
    field: str | None = None,
    tools: Sequence[Any] | None = None,
    rest: np.ndarray | None = None,
    **overrides: Any,
) -> Scene:
    """Scene of one stored frame.

    Args:
        reader: object with `n_frames, times, groups, frame(t, trajectory=...), config`; "domain"
            {"lower", "upper"}, "tools" and "title" of the config are used where present.
        index: frame, 0 … n_frames − 1; negative counts from the end.
        trajectory: which trajectory of the file.
        field: color by this field (see `particle_field`) instead of by group.
        tools: shapes, colliders or `Tool`s in the order of the frame's "tool_pose"; None takes the
            config's.
        rest: positions for the field "displacement" [m]; None takes frame 0.
        overrides: any field of `Scene`.

    Returns:
        The scene.

    Raises:
        IndexError: if the frame does not exist.
    """
    count = int(reader.n_frames)
    if not -count <= index < count:
        raise IndexError(f"scene_from_reader: frame in [0, {count}); got {index}. Lower the index.")
    index %= count
    frame = reader.frame(index, trajectory=trajectory)
    config = dict(getattr(reader, "config", None) or {})
    domain = config.get("domain") or {}
    items: dict[str, Any] = {
        "x": frame["x"],
        "groups": dict(reader.groups or {}) or None,
        "time": float(as_array(reader.times)[index]),
        "lower": domain.get("lower"),
        "upper": domain.get("upper"),
        "tools": _tools(config.get("tools") or [] if tools is None else tools, frame),
    }
    if field is not None:
        if field == "displacement" and rest is None:
            rest = as_array(reader.frame(0, trajectory=trajectory)["x"])
        items["values"], items["label"] = particle_field(
            field, frame, groups=items["groups"], rest=rest
        )
    return Scene(**{**items, **overrides})


def scene_from_state(
    model: Any, state: Any, *, batch: int = 0, field: str | None = None, **overrides: Any
) -> Scene:
    """Scene of a live particle state.

    Args:
        model: object with `grid.lower`, `grid.upper`, `groups` (each with `name`, `count`, `law`)
            and `colliders` (each with `shape`, `name`).
        state: object with `x` (B, N, D), `tool_pose` (B, K, 7) and, for fields, `v`, `F`, `J`.
        batch: which scene of the batch.
        field: color by this field (see `particle_field`) instead of by group.
        overrides: any field of `Scene`.

    Returns:
        The scene; groups whose law stores only J look liquid.
    """
    names = ("x", "v", "F", "J", "alpha", "tool_pose")
    frame = {
        n: as_array(getattr(state, n))[batch] for n in names if getattr(state, n, None) is not None
    }
    groups, looks, start = {}, {}, 0
    for group in model.groups:
        groups[group.name] = (start, start + group.count)
        start += group.count
        if getattr(group.law, "storage", "F") == "J":
            looks[group.name] = "liquid"
    items: dict[str, Any] = {
        "x": frame["x"],
        "groups": groups,
        "looks": looks,
        "lower": model.grid.lower,
        "upper": model.grid.upper,
        "tools": _tools(getattr(model, "colliders", ()), frame),
    }
    if field is not None:
        items["values"], items["label"] = particle_field(field, frame, groups=groups)
    return Scene(**{**items, **overrides})


def field_range(
    reader: Any, field: str, *, trajectory: int = 0, samples: int = 12
) -> tuple[float, float]:
    """1st to 99th percentile of a field over a rollout: one color scale for every frame."""
    count = int(reader.n_frames)
    rest = as_array(reader.frame(0, trajectory=trajectory)["x"])
    values = [
        particle_field(
            field, reader.frame(int(i), trajectory=trajectory), groups=reader.groups, rest=rest
        )[0]
        for i in np.unique(np.linspace(0, count - 1, min(samples, count)).round())
    ]
    values = np.concatenate(values)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    return value_span(np.percentile(values, [1, 99]))


class _Attributes:
    """Attributes of an object behind a dictionary's `get`."""

    def __init__(self, item: Any) -> None:
        self._item = item

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self._item, name, default)


def _tools(tools: Sequence[Any], frame: Mapping[str, Any]) -> list[Tool]:
    """Tools at the poses of this frame; without stored poses at their own."""
    poses = as_array(frame["tool_pose"]).reshape(-1, 7) if "tool_pose" in frame else None
    drawn = []
    for k, tool in enumerate(tools):
        if isinstance(tool, Tool):
            item = dataclasses.replace(tool)
        else:
            entries = tool if isinstance(tool, Mapping) else _Attributes(tool)
            get = entries.get
            shape = get("shape")
            item = Tool(shape if shape is not None and not isinstance(shape, str) else tool)
            item.name = str(get("name", "") or "")
            item.color = get("color")
            item.opacity = float(get("opacity", 1.0) or 1.0)
            if get("pose") is not None:
                item.pose = get("pose")
            elif get("position") is not None:
                turn = get("orientation")
                turn = (1.0, 0.0, 0.0, 0.0) if turn is None else as_array(turn).reshape(-1)
                item.pose = np.concatenate([embed(as_array(get("position"))).reshape(-1), turn])
        if poses is not None and k < len(poses):
            item.pose = poses[k]
        drawn.append(item)
    return drawn
