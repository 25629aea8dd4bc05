"""Flow past bodies on a MAC grid, by stream function and pressure: the residual of one step.

Differentiable everywhere. Source: Wandel et al. 2021, "Learning Incompressible Fluid Dynamics from
Scratch" (ICLR), section 3; Huang et al. 2023 (NeuralStagger). Written in SI units here.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import InputError, message

__all__ = ["MacFlow2D"]

BORDER = 2
"""Prescribed cells at each side of a box that is not periodic: the widest stencil reaches two faces."""
SCHEMES = {"explicit": 0.0, "imex": 0.5, "implicit": 1.0}


class MacFlow2D:
    """Defect of incompressible Navier–Stokes equations with prescribed velocities in bodies and walls.

        ρ [(v' − v)/Δt + (v̄·∇) v̄] + ∇p' − η ∇² v̄ = 0  on faces between fluid cells,   v' = v_d on others

    v̄ = v ("explicit"), (v + v')/2 ("imex") or v' ("implicit"). State u (B, 2, *cells): stream function a
    [m²/s] at the lower corner of each cell, pressure p [Pa] at its centre. Velocities
    v_x = ∂a/∂z, v_z = −∂a/∂x on the lower faces have no divergence, whatever a is. Laplacian of nine
    points, advection by central differences, pressure gradient from face to face; second order in space.

    Context (B, 3, *cells): 1 where velocity is prescribed and 0 in fluid; v_d of those cells [m/s].

    Args:
        cells: of the plane (x, z).
        dx: length of a cell [m].
        dt: step [s].
        rho: density ρ [kg/m³].
        eta: dynamic viscosity η [Pa s].
        scheme: which v̄.
        periodic: no border; else two cells at every side have to be prescribed.

    Raises:
        InputError: numbers out of range, unknown scheme.

    Differentiable in both states and v_d. Source: Wandel et al. 2021, section 3 and released code.
    """

    channels = ("stream_function", "pressure")

    def __init__(
        self,
        cells: tuple[int, int],
        dx: float,
        dt: float,
        rho: float = 1.0,
        eta: float = 1e-3,
        scheme: Literal["explicit", "imex", "implicit"] = "imex",
        periodic: bool = False,
    ) -> None:
        cells = tuple(int(n) for n in cells)
        if len(cells) != 2 or min(cells) < 2 * BORDER + 2:
            expected = f"two axes of at least {2 * BORDER + 2} cells"
            raise InputError(message("MacFlow2D", expected, f"{cells}", "Refine the grid"))
        numbers = {"dx": dx, "dt": dt, "rho": rho, "eta": eta}
        for name, value in numbers.items():
            if not (0 < value < math.inf or (name == "eta" and value == 0)):
                raise InputError(message("MacFlow2D", f"{name} > 0", value, "Correct it"))
        if scheme not in SCHEMES:
            expected = f"scheme out of {tuple(SCHEMES)}"
            raise InputError(message("MacFlow2D", expected, scheme, "Choose one"))
        self.cells, self.dx, self.dt = cells, float(dx), float(dt)
        self.rho, self.eta, self.scheme, self.periodic = rho, eta, scheme, periodic

    def velocity(self, u: Tensor) -> Tensor:
        """v_x and v_z on the lower faces [m/s], (B, 2, *cells), of states (B, 2, *cells).

        In a box that is not periodic the last faces have no upper corner and are not to be read.
        """
        a = u[:, 0]
        v_x, v_z = a.roll(-1, -1) - a, a - a.roll(-1, -2)
        return torch.stack((v_x, v_z), 1) / self.dx

    def divergence(self, v: Tensor) -> Tensor:
        """∇·v of the cells [1/s], (B, *cells), of velocities on faces (B, 2, *cells)."""
        flow = v[:, 0].roll(-1, -2) - v[:, 0] + v[:, 1].roll(-1, -1) - v[:, 1]
        return flow / self.dx

    def faces(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where momentum and where velocities count, and these velocities, each (B, 2, *cells).

        Raises:
            InputError: a context of another shape, or a border that is not prescribed.
        """
        if context.ndim != 4 or tuple(context.shape[1:]) != (3, *self.cells):
            expected = f"context (B, 3, {self.cells[0]}, {self.cells[1]}): solid, v_x, v_z"
            raise InputError(message("MacFlow2D", expected, context, "Correct the shape"))
        solid, given = context[:, 0], context[:, 1:]
        if not self.periodic:
            inner = solid[:, BORDER:-BORDER, BORDER:-BORDER]
            border = solid.numel() - inner.numel()
            if float(solid.detach().sum() - inner.detach().sum()) < border - 0.5:
                expected = f"{BORDER} prescribed cells at every side"
                fix = "Set them, see channel, or take periodic=True"
                raise InputError(message("MacFlow2D", expected, "fluid there", fix))
        held, flow = [], []
        for c in (0, 1):
            below = solid.roll(1, c - 2)
            share = solid + below
            sum_of = solid * given[:, c] + below * given[:, c].roll(1, c - 2)
            held.append(sum_of / share.clamp(min=1.0))
            flow.append((share < 0.5).to(context))
        fluid, v_d = torch.stack(flow, 1), torch.stack(held, 1)
        wall = 1.0 - fluid
        if not self.periodic:  # the first and last faces touch what lies beyond the box
            wall = wall.clone()
            for axis in (-2, -1):
                for end in (0, self.cells[axis] - 1):
                    wall.select(axis, end).zero_()
        return fluid, wall, v_d

    def residual(self, u0: Tensor, u1: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Defects (B, 4, *cells) and their masks (B, 4, *cells).

        Args:
            u0, u1: states before and after a step.
            context: see above, (B or 1, 3, *cells).

        Returns:
            Of the momentum along x, z [Pa/m] and of prescribed velocities [m/s]; mask 1 where they count.

        Raises:
            InputError: shapes that do not fit.
        """
        for name, u in (("u0", u0), ("u1", u1)):
            if u.ndim != 4 or tuple(u.shape[1:]) != (2, *self.cells):
                expected = f"{name} (B, 2, {self.cells[0]}, {self.cells[1]})"
                fix = "Channels are stream function and pressure"
                raise InputError(message("MacFlow2D.residual", expected, u, fix))
        fluid, wall, v_d = self.faces(context)
        v0, v1 = self.velocity(u0), self.velocity(u1)
        weight = SCHEMES[self.scheme]
        mean = v0 + weight * (v1 - v0)
        p = u1[:, 1]
        slope = torch.stack((p - p.roll(1, -2), p - p.roll(1, -1)), 1) / self.dx
        inertia = (v1 - v0) / self.dt + self._advection(mean)
        R = self.rho * inertia + slope - self.eta * self._laplacian(mean)
        R, slip = torch.broadcast_tensors(R, v1 - v_d)
        mask = torch.cat((fluid, wall), 1).expand(len(R), -1, -1, -1)
        return torch.cat((R, slip), 1), mask

    def channel(
        self,
        speed: Tensor,
        centre: tuple[float, float] | None = None,
        radius: float = 0.0,
        spin: Tensor | float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Scene of a stream past a cylinder: all sides move with the stream.

        Args:
            speed: of the stream along x, (B,) [m/s].
            centre, radius: of the cylinder [m]; None: no cylinder.
            spin: its angular velocity about y, number or (B,) [rad/s].

        Returns:
            Start (B, 2, *cells), the stream without the cylinder and p = 0, and context (B, 3, *cells).
            Differentiable in speed and spin.
        """
        B, (n, m) = len(speed), self.cells
        x = (torch.arange(n).to(speed) + 0.5) * self.dx
        z = (torch.arange(m).to(speed) + 0.5) * self.dx
        solid = torch.ones(n, m).to(speed)
        solid[BORDER:-BORDER, BORDER:-BORDER] = 0.0
        U = speed.view(B, 1, 1)
        v_x, v_z = (U * solid), torch.zeros(B, n, m).to(speed)
        if centre is not None:
            right, up = (x - centre[0])[:, None], (z - centre[1])[None]
            body = (right**2 + up**2 <= radius**2).to(speed)
            solid = torch.maximum(solid, body)
            turn = torch.as_tensor(spin).to(speed).reshape(-1, 1, 1)
            v_x = v_x * (1 - body) - turn * up * body
            v_z = v_z + turn * right * body
        a = U * (torch.arange(m).to(speed) - 0.5 * m) * self.dx
        start = torch.stack((a.expand(B, n, m), torch.zeros(B, n, m).to(speed)), 1)
        return start, torch.stack((solid.expand(B, n, m), v_x, v_z.expand(B, n, m)), 1)

    def _advection(self, v: Tensor) -> Tensor:
        """(v·∇) v on the faces."""
        out, h = [], self.dx
        for c in (0, 1):
            own, other = v[:, c], v[:, 1 - c]
            along, across = c - 2, -1 - c
            straight = own * (own.roll(-1, along) - own.roll(1, along)) / (2 * h)
            corner = 0.5 * (other + other.roll(1, along))  # at the lower corner of the face
            jump = corner * (own - own.roll(1, across)) / h
            out.append(straight + 0.5 * (jump + jump.roll(-1, across)))
        return torch.stack(out, 1)

    def _laplacian(self, v: Tensor) -> Tensor:
        """¼ [1 2 1; 2 −12 2; 1 2 1] / dx² applied to each component."""
        rows = v.roll(1, -2) + 2 * v + v.roll(-1, -2)
        box = rows.roll(1, -1) + 2 * rows + rows.roll(-1, -1)  # [1 2 1; 2 4 2; 1 2 1]
        return (box - 16 * v) / (4 * self.dx**2)
