"""What a scene of deformable bodies is made of: points, parts, handles; and its state and control."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError, message
from ..core.state import State
from .bending import hinge_angle
from .parts import Part, Sheet
from .terms import Contact

__all__ = ["FEMControl", "FEMModel", "FEMState", "Handle"]

SCENE = "scene"
"""Key in `params` of what belongs to no part."""


@dataclasses.dataclass(frozen=True)
class Handle:
    """A rigid frame that moves as it is told: a gripper that holds points, or a tool of a contact."""

    name: str
    vertices: Sequence[int] | Tensor = ()
    """Points that move with it; one point makes a pin, none a tool."""
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Start [m]; twists turn about it."""
    orientation: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """Quaternion (w, x, y, z) at the start."""


@dataclasses.dataclass
class FEMState(State):
    """Points of B scenes, and what the time stepper remembers."""

    x: Tensor
    """Positions [m], (B, N, 3)."""
    v: Tensor
    """Velocities [m/s], (B, N, 3)."""
    pose: Tensor
    """Poses of all handles, (B, K, 7): position [m] and quaternion (w, x, y, z)."""
    x_prev: Tensor
    """Positions one step ago [m], (B, N, 3); the first ones at the start."""
    v_prev: Tensor
    """Velocities one step ago [m/s], (B, N, 3)."""
    theta_ref: Tensor | None = None
    """Rest angles of all hinges [rad], (B, H) in the order of the sheets, where creases may form;
    None: those of the rest shape."""
    alpha: Tensor | None = None
    """What plastic bending has hardened every hinge by, (B, H), see `sim/shell/creases.py`."""
    t: float = 0.0
    """Time [s]."""
    steps: int = 0
    """Steps since the start; set it to 0 where the motion starts anew, as after a change of x."""


@dataclasses.dataclass
class FEMControl:
    """Inputs of one step; None means none."""

    twist: Tensor | None = None
    """Linear [m/s] and angular [rad/s] velocity of every handle in world axes, (B, K, 6)."""
    force: Tensor | None = None
    """Force on every point [N], (B, N, 3)."""
    spring: Tensor | None = None
    """Stiffness of a spring from every point to its `anchor` [N/m], (B, N)."""
    anchor: Tensor | None = None
    """Where the springs rest [m], (B, N, 3)."""


@dataclasses.dataclass(frozen=True, eq=False)
class FEMModel:
    """A scene: everything that does not change in time."""

    X: Tensor
    """Rest positions [m], (N, 3); the default start, too."""
    parts: Sequence[Part]
    """Solids, sheets and rods; they may share points."""
    handles: Sequence[Handle] = ()
    """Frames that move as controlled."""
    contacts: Sequence[Contact] = ()
    """Contact and friction, see `contact/`."""
    gravity: tuple[float, float, float] = (0.0, 0.0, -9.81)
    """Acceleration [m/s²]."""
    drag: float = 0.0
    """Force per mass against the velocity [1/s]: none; air, or a way to rest."""

    def __post_init__(self) -> None:
        X = torch.as_tensor(self.X, dtype=torch.float64).detach()
        if X.ndim != 2 or X.shape[1] != 3 or not bool(torch.isfinite(X).all()):
            raise InputError(message("FEMModel", "X of shape (N, 3), finite", X, "Correct it"))
        object.__setattr__(self, "X", X)
        for name in ("parts", "handles", "contacts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        names = [p.name for p in self.parts] + [c.name for c in self.contacts]
        if not self.parts or len(set(names)) != len(names) or SCENE in names:
            expected = f'parts and contacts with different names, none of them "{SCENE}"'
            raise InputError(message("FEMModel", expected, f"{names}", "Rename"))
        for part in self.parts:
            if int(part.cells.min()) < 0 or int(part.cells.max()) >= len(X):
                got = f"{int(part.cells.min())} … {int(part.cells.max())}"
                expected = f"points 0 … {len(X) - 1} in {part.where}"
                raise InputError(message("FEMModel", expected, got, "Correct the cells"))
            part.shape_gradients(X[None])
        self._check_points()
        if len(self.gravity) != 3:
            raise InputError(message("FEMModel", "gravity of 3", f"{self.gravity}", "Give m/s²"))

    def _check_points(self) -> None:
        handles = [h.name for h in self.handles]
        if len(set(handles)) != len(handles):
            raise InputError(message("FEMModel", "handles of different names", f"{handles}"))
        driven = torch.cat([v for v in self.handle_points] or [torch.zeros(0).long()])
        wrong = (driven < 0) | (driven >= len(self.X))
        if bool(wrong.any()) or len(driven.unique()) != len(driven):
            expected = f"handles with points out of 0 … {len(self.X) - 1}, each in one handle"
            got = f"{len(driven)} points, {int(wrong.sum())} outside, {len(driven.unique())} different"
            raise InputError(message("FEMModel", expected, got, "Correct the vertices"))
        loose = torch.ones(len(self.X), dtype=torch.bool)
        loose[torch.cat([part.cells.reshape(-1) for part in self.parts])] = False
        loose[driven] = False
        if bool(loose.any()):
            got = f"{int(loose.sum())} in none, the first is {int(loose.nonzero()[0])}"
            fix = "Remove points that no cell uses"
            raise InputError(message("FEMModel", "every point in a cell or handle", got, fix))

    @property
    def point_count(self) -> int:
        return len(self.X)

    @functools.cached_property
    def handle_points(self) -> tuple[Tensor, ...]:
        """Points of each handle, integers."""
        return tuple(torch.as_tensor(h.vertices).reshape(-1).long() for h in self.handles)

    @functools.cached_property
    def driven(self) -> tuple[Tensor, Tensor]:
        """Points that follow handles, sorted (n,), and the handle of each (n,)."""
        points = torch.cat([*self.handle_points, torch.zeros(0).long()])
        owner = [torch.full((len(p),), k) for k, p in enumerate(self.handle_points)]
        owners = torch.cat([*owner, torch.zeros(0).long()]).long()
        order = points.argsort()
        return points[order], owners[order]

    @functools.cached_property
    def free(self) -> Tensor:
        """Points that are solved for, sorted."""
        mask = torch.ones(len(self.X), dtype=torch.bool)
        mask[self.driven[0]] = False
        return mask.nonzero()[:, 0]

    @property
    def hinge_count(self) -> int:
        """H, hinges of all sheets."""
        return sum(p.hinge_count for p in self.parts if isinstance(p, Sheet))

    def hinge_slices(self) -> dict[str, slice]:
        """Range of each sheet on the axis of `theta_ref`."""
        result, start = {}, 0
        for part in self.parts:
            if isinstance(part, Sheet):
                result[part.name] = slice(start, start + part.hinge_count)
                start += part.hinge_count
        return result

    def default_params(self) -> dict[str, dict[str, Any]]:
        """Parameters as `step` takes them: `{part: {...}, contact: {...}, "scene": {...}}`."""
        params = {part.name: part.default_params() for part in self.parts}
        params |= {contact.name: dict(contact.default_params()) for contact in self.contacts}
        return params | {SCENE: {"X": self.X, "gravity": self.gravity, "drag": self.drag}}

    def initial_state(
        self,
        batch_size: int = 1,
        *,
        x: Tensor | None = None,
        v: Tensor | None = None,
        creases: bool = False,
        device: torch.device | str = "cpu",
    ) -> FEMState:
        """B scenes at rest, handles at their initial poses; float64.

        Args:
            batch_size: B.
            x: positions [m], (N, 3) or (B, N, 3); default X.
            v: velocities [m/s], likewise; default 0.
            creases: keep rest angles in the state, starting with those of X; plastic parts always do.
            device: of all tensors.
        """
        options: dict[str, Any] = {"dtype": torch.float64, "device": device}
        shape = (batch_size, self.point_count, 3)

        def field(value: Tensor, name: str) -> Tensor:
            given = torch.as_tensor(value).to(**options)
            batches = ((), (1,), shape[:1])
            if given.shape[-2:] != shape[1:] or given.shape[:-2] not in batches:
                expected = f"{name} of shape (N, 3) or (B, N, 3) = {shape}"
                raise InputError(message("FEMModel.initial_state", expected, given, "Correct it"))
            return given.expand(shape).clone()

        pose = torch.tensor([[*h.position, *h.orientation] for h in self.handles], **options)
        theta, plastic = None, any(part.plastic for part in self.parts)
        if creases or plastic:
            sheets = [p for p in self.parts if isinstance(p, Sheet) and p.hinge_count]
            angles = [hinge_angle(self.X[p.hinges[0]]) for p in sheets]
            theta = torch.cat([*angles, torch.zeros(0).to(self.X)]).to(**options)
            theta = theta.repeat(batch_size, 1)
        x = field(self.X if x is None else x, "x")
        v = field(torch.zeros_like(self.X) if v is None else v, "v")
        return FEMState(
            x=x,
            v=v,
            x_prev=x.clone(),
            v_prev=v.clone(),
            pose=pose.reshape(len(self.handles), 7).repeat(batch_size, 1, 1),
            theta_ref=theta,
            alpha=torch.zeros_like(theta) if plastic else None,
        )
