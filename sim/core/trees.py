"""Trees of tensors: what states, parameters and controls are, taken apart and put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

__all__ = ["flatten"]


def flatten(tree: Any, prefix: str = "") -> tuple[dict[str, Tensor], Callable[[Any], Any]]:
    """Split a tree into its tensors and the function that puts tensors back.

    Args:
        tree: tensor, or tuple, named tuple, list, dict or dataclass of trees; anything else is a
            constant that stays in the tree.
        prefix: path of this tree inside a larger one.

    Returns:
        The tensors by dotted path ("" for a lone tensor), and `rebuild(values)`, which takes
        tensors in the same order (a sequence, or a dict in that order) and returns the tree.
    """
    if isinstance(tree, Tensor):
        return {prefix: tree}, lambda values: next(iter(_sequence(values)))
    items = _children(tree)
    if items is None:
        return {}, lambda values: tree
    tensors: dict[str, Tensor] = {}
    parts = []
    for key, child in items:
        found, rebuild_child = flatten(child, f"{prefix}.{key}" if prefix else str(key))
        parts.append((key, len(found), rebuild_child))
        tensors.update(found)

    def rebuild(values: Any) -> Any:
        values = _sequence(values)
        built, start = {}, 0
        for key, count, rebuild_child in parts:
            built[key] = rebuild_child(values[start : start + count])
            start += count
        if dataclasses.is_dataclass(tree):
            return dataclasses.replace(tree, **built)
        if isinstance(tree, dict):
            return type(tree)(built)
        if hasattr(tree, "_fields"):
            return type(tree)(*built.values())
        return type(tree)(built.values())

    return tensors, rebuild


def _children(tree: Any) -> list[tuple[Any, Any]] | None:
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [(f.name, getattr(tree, f.name)) for f in dataclasses.fields(tree) if f.init]
    if isinstance(tree, dict):
        return list(tree.items())
    if hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree, strict=True))
    return list(enumerate(tree)) if isinstance(tree, (tuple, list)) else None


def _sequence(values: Any) -> Sequence:
    return list(values.values()) if isinstance(values, dict) else values
