"""Scenes from stored rollouts and live states, by attribute names alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .fields import as_array, particle_field
from .scene import Inset, MeshPart, Scene, Tool, embed, value_span
from .shapes import shape_name

__all__ = [
    "field_range",
    "model_config",
    "open_reader",
    "scene_from_reader",
    "scene_from_state",
]


def open_reader(source: Any) -> Any:
    """Reader of a rollout file, or the reader itself.

    Raises:
        FileNotFoundError: if the path does not exist.
    """
    if not isinstance(source, (str, os.PathLike)):
        return source
    if not Path(source).exists():
        raise FileNotFoundError(
            f"open_reader: a rollout file; got {source}, not found. Check the path."
        )
    from ..sim.io.store import RolloutReader

    return RolloutReader(source)


def model_config(model: Any) -> dict[str, Any]:
    """What a stored rollout needs to be drawn, for the `config` of its writer.

    Args:
        model: see `scene_from_state`.

    Returns:
        {"domain": {"lower", "upper"}, "tools": [{"name", "shape": {"type", ...}}], "looks"}, plain
        numbers, lists and strings.
    """
    tools = []
    for collider in getattr(model, "colliders", ()):
        shape = collider.shape
        names = (
            [f.name for f in dataclasses.fields(shape)]
            if dataclasses.is_dataclass(shape)
            else list(vars(shape))
        )
        entry: dict[str, Any] = {"type": shape_name(shape)}
        for name in names:
            value = as_array(getattr(shape, name))
            if value.dtype.kind in "fiub":
                entry[name] = value.tolist()
        tools.append({"name": str(getattr(collider, "name", "")), "shape": entry})
    lower, upper = (
        as_array(c).astype(float).tolist() for c in (model.grid.lower, model.grid.upper)
    )
    return {
        "domain": {"lower": lower, "upper": upper},
        "tools": tools,
        "looks": _looks(model),
    }


def scene_from_reader(
    reader: Any,
    index: int,
    *,
    trajectory: int = 0,
    field: str | None = None,
    tools: Sequence[Any] | None = None,
    rest: np.ndarray | None = None,
    insets: Callable[[int], Sequence[Inset]] | None = None,
    **overrides: Any,
) -> Scene:
    """Scene of one stored frame.

    Args:
        reader: object with `n_frames, times, groups, frame(t, trajectory=...), config`; "domain"
            {"lower", "upper"}, "tools" and "looks" of the config are used where present (see
            `model_config`), and "meshes": {"name", "start", "stop", "faces", "color", "opacity",
            "edges"}, points of x that are drawn as surfaces instead of particles.
        index: frame, 0 … n_frames − 1; negative counts from the end.
        trajectory: which trajectory of the file.
        field: color by this field (see `particle_field`) instead of by group.
        tools: shapes, colliders or `Tool`s in the order of the frame's "tool_pose"; None takes the
            config's.
        rest: positions for the field "displacement" [m]; None takes frame 0.
        insets: gives the pictures beside a frame.
        overrides: any field of `Scene`.

    Returns:
        The scene.

    Raises:
        IndexError: if the frame does not exist.
    """
    reader = open_reader(reader)
    count = int(reader.n_frames)
    if not -count <= index < count:
        raise IndexError(f"scene_from_reader: frame in [0, {count}); got {index}. Lower the index.")
    index %= count
    frame = _whole_frame(reader, index, trajectory)
    config = dict(getattr(reader, "config", None) or {})
    domain = config.get("domain") or {}
    items: dict[str, Any] = {
        "x": frame["x"],
        "groups": dict(reader.groups or {}) or None,
        "time": float(as_array(reader.times)[index]),
        "lower": domain.get("lower"),
        "upper": domain.get("upper"),
        "tools": _tools(config.get("tools") or [] if tools is None else tools, frame),
        "looks": dict(config.get("looks") or {}),
    }
    if field is not None:
        if field == "displacement" and rest is None:
            rest = as_array(reader.frame(0, trajectory=trajectory)["x"])
        items["values"], items["label"] = particle_field(
            field, frame, groups=items["groups"], rest=rest
        )
    if config.get("meshes"):
        _as_meshes(items, config["meshes"])
    if insets is not None:
        items["insets"] = tuple(insets(index))
    return Scene(**{**items, **overrides})


def _as_meshes(items: dict[str, Any], meshes: Sequence[Mapping[str, Any]]) -> None:
    """Points that belong to surfaces become these; what is left stays particles."""
    x, values, groups = items["x"], items.pop("values", None), items["groups"] or {}
    parts, taken = [], np.zeros(len(x), dtype=bool)
    for entry in meshes:
        span = slice(int(entry["start"]), int(entry["stop"]))
        taken[span] = True
        faces = np.asarray(entry["faces"], dtype=int).reshape(-1, 3)
        part = MeshPart(x[span], faces, values=None if values is None else values[span])
        part.color = str(entry.get("color") or part.color)
        part.opacity = float(entry.get("opacity", 1.0))
        part.show_edges = bool(entry.get("edges", False))
        parts.append(part)
    items["meshes"] = tuple(parts)
    kept, start = {}, 0
    for name, (low, high) in groups.items():
        count = int((~taken[low:high]).sum())
        if count:
            kept[name] = (start, start + count)
            start += count
    items["groups"] = kept or None
    items["x"] = x[~taken] if kept else None
    if kept and values is not None:
        items["values"] = values[~taken]


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
    groups, start = {}, 0
    for group in model.groups:
        groups[group.name] = (start, start + group.count)
        start += group.count
    items: dict[str, Any] = {
        "x": frame["x"],
        "groups": groups,
        "looks": _looks(model),
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
            field, _whole_frame(reader, int(i), trajectory), groups=reader.groups, rest=rest
        )[0]
        for i in np.unique(np.linspace(0, count - 1, min(samples, count)).round())
    ]
    values = np.concatenate(values)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    return value_span(np.percentile(values, [1, 99]))


def _whole_frame(reader: Any, index: int, trajectory: int) -> dict[str, np.ndarray]:
    """A frame with partly stored fields as NaN elsewhere, if the reader knows where."""
    frame = {n: as_array(v) for n, v in reader.frame(index, trajectory=trajectory).items()}
    if not hasattr(reader, "particles"):
        return frame
    count = len(frame["x"])
    for name in [n for n in frame if n in reader.fields and len(frame[n]) < count]:
        whole = np.full((count, *frame[name].shape[1:]), np.nan)
        whole[as_array(reader.particles(name))] = frame[name]
        frame[name] = whole
    return frame


def _looks(model: Any) -> dict[str, str]:
    """Groups whose law keeps no shape look liquid."""
    liquid = [g.name for g in model.groups if getattr(g.law, "storage", "F") == "J"]
    return dict.fromkeys(liquid, "liquid")


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
        if isinstance(tool, Mapping) and "shape" in tool and tool["shape"] is None:
            continue  # a pose without a shape, such as a mount
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
