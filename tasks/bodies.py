"""What scenes of the implicit solver have in common: one list of points, pictures, starts that settle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..sim.core.colliders import Collider
from ..sim.core.shapes import Plane
from ..sim.fem import FEMControl, FEMState, Handle, SolverFEM

__all__ = ["Bodies", "Kept", "at_rest", "settle"]


class Bodies:
    """Collects bodies over one list of points, handles and plates; base of scenes."""

    colors: ClassVar[Mapping[str, str]]
    """Of kinds of bodies, in pictures."""
    clear: ClassVar[str]
    """The kind one sees through."""

    def __init__(self) -> None:
        self.spans: dict[str, slice] = {}
        """Points of each body."""
        self.kinds: dict[str, str] = {}
        """What each body is."""
        self.faces: dict[str, Tensor] = {}
        """Triangles that collide, or segments of rods, in the numbering of all points."""
        self.handles: list[Handle] = []
        self.parts: list[Any] = []
        self.plates: list[Collider] = []
        self._x: list[Tensor] = []

    @property
    def x(self) -> Tensor:
        """Start positions [m], (N, 3)."""
        return torch.cat(self._x)

    def _add(self, name: str, kind: str, x: Tensor) -> int:
        start = sum(len(part) for part in self._x)
        self.spans[name] = slice(start, start + len(x))
        self.kinds[name] = kind
        self._x.append(x.double())
        return start

    def plate(self, collider: Collider) -> None:
        """A rigid body that rests."""
        self.plates.append(collider)

    def driven(self) -> Tensor:
        """Whether a handle holds each point, (N,) bool."""
        held = torch.zeros(len(self.x), dtype=torch.bool)
        for handle in self.handles:
            held[torch.as_tensor(handle.vertices)] = True
        return held

    def mesh_part(self, x: Tensor, name: str, edges: bool = True) -> Any:
        """What a renderer draws of a body at positions (N, 3)."""
        from ..viz import MeshPart

        span, kind = self.spans[name], self.kinds[name]
        part = MeshPart(x[span], self.faces[name] - span.start, self.colors[kind], show_edges=edges)
        part.opacity = 0.6 if kind == self.clear else 1.0
        return part

    def plate_parts(self) -> list[Any]:
        """What a renderer draws of the plates; planes are left out."""
        from ..viz import Tool

        return [
            Tool(self.drawable(p), (*p.position, *p.orientation), "#c3c9cf", name=p.name)
            for p in self.plates
            if not isinstance(p.shape, Plane)
        ]

    def drawable(self, plate: Collider) -> Any:
        """Shape of a plate in pictures."""
        return plate.shape


class Kept(dict[Any, Any]):
    """The latest entries, at most so many."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: Any, value: Any) -> None:
        while key not in self and len(self) >= self.most:
            self.pop(next(iter(self)))
        super().__setitem__(key, value)


@torch.no_grad()
def settle(
    fem: SolverFEM,
    state: FEMState,
    prepared: Any,
    handles: Mapping[str, int],
    motions: Sequence[tuple[int, Mapping[str, Sequence[float]]]],
) -> FEMState:
    """Damped steps.

    Args:
        fem: the solver.
        state: where they begin.
        prepared: its parameters.
        handles: numbers of the handles by name.
        motions: numbers of steps, and velocities of handles [m/s] during them.
    """
    for steps, moves in motions:
        twist = torch.zeros(state.batch_size, len(handles), 6, dtype=torch.float64)
        for name, velocity in moves.items():
            twist[:, handles[name], : len(velocity)] = twist.new_tensor(velocity)
        for _ in range(steps):
            state = fem.step(state, FEMControl(twist=twist), prepared)
            # What swings loses most of its speed in every step, and weight is still carried.
            state = state.replace(v=0.2 * state.v)
    return state


def at_rest(state: FEMState) -> FEMState:
    """The same places, without motion or history."""
    still = torch.zeros_like(state.x)
    return state.replace(v=still, x_prev=state.x.clone(), v_prev=still.clone(), t=0.0, steps=0)
