"""State and Solver: what every simulator shares.

A `State` is plain data: a dataclass of torch tensors whose first axis is the scene B. A `Solver` turns
one state into the next and keeps nothing between calls but scratch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

__all__ = ["Params", "Solver", "State"]

S = TypeVar("S", bound="State")
Wider = TypeVar("Wider", bound="State")
Params = Mapping[str, Mapping[str, Any]]
"""`{group name: {parameter name: value}}`; values are numbers or tensors broadcastable to (B, n)."""


@dataclasses.dataclass
class State:
    """Base of all states: named tensors `(B, ...)` plus plain counters.

    Only fields that hold tensors take part in `map`, `clone`, `detach`, `to` and indexing; all others
    are carried along unchanged. A field may be a state, whose fields are then called "field.name".
    """

    def tensors(self) -> dict[str, Tensor]:
        """Tensor fields by name, in field order."""
        return {name: value for name, value in self._fields() if isinstance(value, Tensor)}

    def counters(self) -> dict[str, Any]:
        """All other fields by name."""
        return {name: value for name, value in self._fields() if not isinstance(value, Tensor)}

    def _fields(self) -> Iterator[tuple[str, Any]]:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, State):
                yield from ((f"{field.name}.{name}", inner) for name, inner in value._fields())
            else:
                yield field.name, value

    def replace(self: S, **changes: Any) -> S:
        """Copy with some fields exchanged."""
        inner: dict[str, dict[str, Any]] = {}
        for name in [name for name in changes if "." in name]:
            field, _, rest = name.partition(".")
            inner.setdefault(field, {})[rest] = changes.pop(name)
        for field, values in inner.items():
            changes[field] = changes.get(field, getattr(self, field)).replace(**values)
        return dataclasses.replace(self, **changes)

    def widened(self, kind: type[Wider], **more: Any) -> Wider:
        """A state of a class with more fields, which are given by name."""
        return kind(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, **more)

    def map(self: S, function: Callable[[Tensor], Tensor]) -> S:
        """Copy with `function` applied to every tensor."""
        return self.replace(**{name: function(t) for name, t in self.tensors().items()})

    def repeat(self: S, count: int) -> S:
        """Every scene so many times, one after the other as a whole."""
        return self.map(lambda t: t.repeat(count, *[1] * (t.ndim - 1)))

    def clone(self: S) -> S:
        return self.map(torch.clone)

    def detach(self: S) -> S:
        return self.map(torch.detach)

    def to(self: S, *args: Any, **kwargs: Any) -> S:
        """Copy on another device or in another precision, as `Tensor.to`."""
        return self.map(lambda t: t.to(*args, **kwargs))

    def __getitem__(self: S, scenes: slice | Sequence[int] | Tensor | int) -> S:
        """Some of the scenes; the batch axis stays."""
        if isinstance(scenes, int):
            scenes = slice(scenes, scenes + 1 or None)
        return self.map(lambda t: t[scenes])

    @property
    def batch_size(self) -> int:
        return next(iter(self.tensors().values())).shape[0]

    @classmethod
    def cat(cls: type[S], states: Sequence[S]) -> S:
        """Join states along the batch axis."""
        first = states[0]
        joined = {
            name: torch.cat([state.tensors()[name] for state in states])
            for name in first.tensors()
        }
        return first.replace(**joined)


class Solver(Protocol):
    """A differentiable time stepper.

    `prepare` turns user parameters into whatever the solver needs once per rollout; `step` accepts
    either form. `step` is functional: no argument is modified.
    """

    def prepare(self, params: Any, state: Any) -> Any: ...

    def step(self, state: Any, control: Any = None, params: Any = None) -> Any: ...
