"""Steps of flow past bodies on a MAC grid: the root of `MacFlow2D.residual`, and forces on bodies.

    v' = P[v + Δt (η/ρ ∇² v̄ − (v̄·∇) v̄)],     v̄ between v and v' as the scheme says,     v' = v_d in bodies

P takes the gradient out that leaves a divergence. Implicit in v̄: accelerated sweeps, each with one solve
by a factor that is kept for the geometry; the root is differentiated by one adjoint solve.

Source: Chorin 1968 (projection); Wandel et al. 2021, section 3 (the residual).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import InputError, check_finite, message
from ...core.implicit import SolveInfo
from ..poisson.stencil import Stencil
from ..poisson.system import FaceSystem
from .base import FieldControl, FieldState
from .mac_flow import SCHEMES, MacFlow2D
from .sweeps import swept

__all__ = ["MacFlowSolver", "body_force"]

TOLERANCE = {torch.float64: 1e-11, torch.float32: 3e-6}
"""‖error of v'‖ / ‖v‖ to reach."""
LEAK = 1e-4
"""Net flow into an enclosed region that counts as round-off, as a share of what its sides push."""


class MacFlowSolver:
    """Steps of `MacFlow2D` by stream function and pressure: a `Solver` for `rollout`.

    The context, which `MacFlow2D.channel` makes, is the parameter "forcing" or comes with each control
    (both: their sum), as for networks of `operators.stagger`: one can stand in for the other. All scenes
    of a batch share the bodies' places; speeds differ.

    Args:
        flow: the discretization, in a box that is not periodic.
        max_iterations: sweeps of a step.
        tol: ‖error of v'‖ / ‖v‖; default 1e-11 in float64, 3e-6 in float32.

    Raises:
        InputError: a periodic box.

    Differentiable in the state and in prescribed velocities.
    Second order in space, and with "imex" in time.
    """

    channels = MacFlow2D.channels

    def __init__(self, flow: MacFlow2D, max_iterations: int = 60, tol: float | None = None) -> None:
        if flow.periodic:
            fix = "For periodic flow take NavierStokes2D"
            raise InputError(message("MacFlowSolver", "a box with sides", "a periodic one", fix))
        self.flow, self.max_iterations, self.tol = flow, max_iterations, tol
        self.info = SolveInfo()
        """Sweeps and residual of the last step."""
        self._known: tuple[Tensor, Tensor, Tensor, FaceSystem] | None = None

    @property
    def step_time(self) -> float:
        """Duration of one step [s]."""
        return self.flow.dt

    def initial_state(self, u: Tensor, t: float = 0.0) -> FieldState:
        """State from stream function and pressure (B, 2, *cells)."""
        if u.ndim != 4 or tuple(u.shape[1:]) != (2, *self.flow.cells):
            expected = f"u (B, 2, {self.flow.cells[0]}, {self.flow.cells[1]})"
            fix = "MacFlow2D.channel gives one"
            raise InputError(message("MacFlowSolver.initial_state", expected, u, fix))
        check_finite("MacFlowSolver.initial_state", u=u)
        return FieldState(u, t)

    def step(
        self,
        state: FieldState,
        control: FieldControl | None = None,
        params: dict[str, Any] | None = None,
    ) -> FieldState:
        """Advance by dt.

        Args:
            state: stream function and pressure.
            control: its `forcing` is the context, or adds to it.
            params: {"forcing": context (B or 1, 3, *cells)}.

        Raises:
            ConvergenceError: the sweeps did not converge; names a dt.
            InputError: no context, other bodies in each scene, net flow into an enclosed region.

        Differentiable in state, control and params. Source: module docstring.
        """
        given = [(params or {}).get("forcing"), getattr(control, "forcing", None)]
        fields = [f if f.ndim == 4 else f[None] for f in given if f is not None]
        if not fields:
            fix = 'Give params={"forcing": context} or a FieldControl'
            raise InputError(message("MacFlowSolver.step", "context (B, 3, *cells)", "none", fix))
        context, flow = sum(fields[1:], fields[0]), self.flow
        fluid, v_d, system = self._geometry(context)
        v0 = flow.velocity(state.u)
        v1 = self._root(v0, v_d.expand_as(v0), fluid, system)
        with torch.no_grad():
            self._tight(flow.divergence(torch.where(fluid, 0.0, v_d)), system)
        v1, psi = self._projected(v0, v1, v_d, fluid, system)
        p = psi * (flow.rho * flow.dx / flow.dt)
        a = self._stream(v1, state.u[:, 0, :1, :1])
        u = torch.stack((a, p), 1)
        check_finite("MacFlowSolver.step", u=u)
        return state.replace(u=u, t=state.t + flow.dt)

    def _projected(
        self, v0: Tensor, v1: Tensor, v_d: Tensor, fluid: Tensor, system: FaceSystem
    ) -> tuple[Tensor, Tensor]:
        """One sweep: v' from a guess of v', and ψ = Δt p / (ρ dx) [m/s]."""
        flow = self.flow
        mean = v0 + SCHEMES[flow.scheme] * (v1 - v0)
        push = flow.eta / flow.rho * flow._laplacian(mean) - flow._advection(mean)
        v = torch.where(fluid, v0 + flow.dt * push, v_d)
        rows = -(flow.divergence(v) * flow.dx * system.active).flatten(1)
        psi = system.solve_rows(rows).to(v).view_as(v[:, 0])
        slope = torch.stack((psi - psi.roll(1, -2), psi - psi.roll(1, -1)), 1)
        return torch.where(fluid, v - slope, v), psi

    def _root(self, v0: Tensor, v_d: Tensor, fluid: Tensor, system: FaceSystem) -> Tensor:
        """v' that a sweep leaves as it is."""

        def sweep(x: Tensor, theta: tuple[Tensor, Tensor]) -> Tensor:
            return self._projected(theta[0], x, theta[1], fluid, system)[0]

        tol = TOLERANCE[v0.dtype] if self.tol is None else self.tol
        bound = tol * (1e-3 + torch.where(fluid, v0, v_d).detach().flatten(1).norm(dim=1))

        h, nu = self.flow.dx, self.flow.eta / self.flow.rho
        return swept(
            "MacFlowSolver.step", sweep, v0.detach(), (v0, v_d), bound=bound, tol=tol, info=self.info,
            max_iterations=self.max_iterations, dt=self.flow.dt,
            rate=lambda: 2 * float(v0.detach().abs().max()) / h + 4 * nu / h**2,
        )  # fmt: skip

    def _geometry(self, context: Tensor) -> tuple[Tensor, Tensor, FaceSystem]:
        """Faces in fluid (1, 2, *cells) bool, v_d of the others, and the pressure system."""
        fluid, _, v_d = self.flow.faces(context)
        solid = context[:, 0].detach()
        if self._known is None or not _same(solid, self._known[0]):
            if not bool((solid == solid[:1]).all()):
                fix = "Run scenes with other bodies one after the other"
                got = "others in some scenes"
                raise InputError(message("MacFlowSolver.step", "equal bodies", got, fix))
            open_ = fluid[:1].detach()
            faces = (F.pad(open_[:, 0], (0, 0, 0, 1)), F.pad(open_[:, 1], (0, 1)))
            stencil = Stencil(self.flow.cells, (False, False), tuple(f.double() for f in faces))
            active = stencil.diagonal > 0
            system = FaceSystem(stencil, active, "direct", 1e-9)
            self._known = (solid[:1].clone(), open_ > 0.5, active, system)
        return self._known[1], v_d, self._known[3]

    def _tight(self, inflow: Tensor, system: FaceSystem) -> None:
        """Raise `InputError` when bodies and sides push net volume into an enclosed region."""
        rows = inflow.double().flatten(1) * self.flow.dx
        net, all_ = system.sums(rows).abs(), system.sums(rows.abs())
        if bool((system.closed & (net > LEAK * all_ + 1e-7)).any()):
            rate = float(net.max()) * self.flow.dx
            fix = "What enters a region has to leave it: balance speeds of sides and blowing"
            expected = "no net flow into enclosed regions"
            raise InputError(message("MacFlowSolver.step", expected, f"{rate:.3g} m²/s", fix))

    def _stream(self, v: Tensor, corner: Tensor) -> Tensor:
        """Stream function (B, *cells) of velocities without divergence, from its first value."""
        zero = torch.zeros_like(v[:, 0, :1, :1])
        bottom = torch.cat((zero, -v[:, 1, :-1, :1].cumsum(1)), 1)
        up = F.pad(v[:, 0, :, :-1].cumsum(2), (1, 0))
        return corner + self.flow.dx * (bottom + up)


def body_force(flow: MacFlow2D, u0: Tensor, u1: Tensor, context: Tensor) -> Tensor:
    """Force of the fluid on the bodies inside a box during a step, per length along y:

        F = −Σ dx² [ρ (Δv/Δt + (v̄·∇) v̄) + ∇p' − η ∇² v̄]     over faces that touch a body

    Pressures inside bodies cancel in the sum; what bodies hold inside is as heavy as the fluid, so a
    body that speeds up along a line pays for it (a turning one does not).

    Args:
        flow: the discretization.
        u0, u1: states before and after the step (B, 2, *cells).
        context: (B or 1, 3, *cells).

    Returns:
        Drag along x and lift along z [N/m], (B, 2). Differentiable in states and context.
    """
    R, _ = flow.residual(u0, u1, context)
    body = torch.zeros_like(context[:, 0])
    body[:, 2:-2, 2:-2] = context[:, 0, 2:-2, 2:-2].detach()
    touch = torch.stack([torch.maximum(body, body.roll(1, c - 2)) for c in (0, 1)], 1)
    return -(R[:, :2] * touch).sum((-2, -1)) * flow.dx**2


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape[1:] == b.shape[1:] and a.device == b.device and bool((a == b.to(a)).all())
