"""What the tasks with thin shells share, so that each of them is a scene and an objective on one
screen.

    class Tug(ShellTask):
        Config = TugConfig                          a ShellConfig and the numbers of the scene

        def build(self, scene):                     sheets, fingertips, blocks and plates
            scene.sheet("sheet", rectangle(…).placed(…))
            scene.tip("finger", self.fingertip(), (0.0, 0.0, 7.9e-3), down=True)

        def motions(self):                          what the actions move, and how far
            return (Axis("finger", "x", 0.2, -0.02, 0.02), …)

        def closing(self):                          how the fingers take hold before the episode
            return ((4, {"finger": (0.0, 0.0, -0.1)}),)

        def terms(self, state, t): …                what the objective adds up, each (B,)
        def metrics(self, state): …                 in millimetres, degrees, newtons: SI units
        def reached(self, state): …                 whether the goal is met, forces apart

Inherited are stops with a cost (`AxisTask`), grippers of several fingers that move as one body, the
start that is settled by simulation (once per configuration, kept in memory), seeds, observations, and
the costs

    Σ_fingers (|F|/0.9 F_max − 1)₊² + (|v|/v_max − 1)₊²

of the force that a finger carries and of its speed along a combination of axes. The force is a
constraint, too: a task is solved only if no finger has carried more than F_max at the end of any step of
the episode; its cost begins a tenth earlier, so that a search comes to rest within it. All states are
in float64, which contact needs; actions come in any precision.

Source: Wang et al. 2024 (ThinShellLab), scenes and fingertips; physical units, settled starts and costs
instead of clamps are ours.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ...sim.core.rotations import from_rotation_vector, inverse, multiply, rotate
from ...sim.fem import FEMConfig, FEMControl, FEMModel, FEMState, SolverFEM
from ...sim.fem.bodies import Body, fingertip
from ...sim.fem.prepare import PreparedFEM
from ..axes import Axis
from ..bodies import Kept, at_rest, settle
from ..core import Task
from ..watched import Watched, WatchedState, WatchedTask
from .scene import Scene, Touch

__all__ = ["Axis", "ShellBase", "ShellConfig", "ShellTask"]

STARTS = Kept(64)
"""Settled starts by class, configuration and seed."""


@dataclasses.dataclass(frozen=True)
class ShellConfig:
    """Fields that every task with sheets has."""

    horizon: int = 50
    """Actions per episode; 0.25 s."""
    dt: float = 5e-3
    """Step [s], one per action."""
    spacing: float = 4e-3
    """Distance of points of sheets [m]."""
    material: str = "paper"
    """Of sheets, a name in `rheograd.assets.sheets.SHEETS`."""
    tip_cuts: int = 6
    """Resolution of fingertips around, see `sim.fem.bodies.fingertip`."""
    tip_layers: int = 2
    """Resolution of fingertips in depth."""
    d_hat: float = 4e-4
    """Distance at which contact begins [m]."""
    mu_tip: float = 1.0
    """Friction of fingertips [-]; silicone rubber."""
    mu_sheet: float = 0.3
    """Friction between sheets [-]; paper on paper."""
    mu_block: float = 0.3
    """Friction of blocks on sheets [-]."""
    mu_plate: float = 0.3
    """Friction on plates [-]."""
    speed: float = 0.2
    """Largest speed per axis [m/s], v_max; 1 mm per step as in the original."""
    turn: float = 6.0
    """Largest angular speed per axis [rad/s]."""
    max_force: float = 10.0
    """Force a finger may carry [N], F_max; that of the original, which gave up beyond it."""
    tol: float = 1e-6
    """Residual of a step [N]."""
    settle: int = 4
    """Damped steps at rest before the episode."""
    jitter: float = 0.0
    """Random shift of fingers and blocks in x and y before they settle [m]: up to this with seeds other
    than 0; 0 starts every seed alike."""


class ShellBase(Task[FEMState]):
    """A scene of sheets with its start; base of `ShellTask` and of tasks whose actions are parameters.

    Raises:
        InputError: a configuration that does not describe a scene.
    """

    config: Any
    solver: Any
    folds: ClassVar[bool] = False
    """Whether sheets meet sheets, themselves included."""
    gravity: ClassVar[float] = 9.81
    """[m/s²]."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        c = self.config
        if c.horizon < 1 or c.jitter < 0 or c.settle < 0 or not c.max_force > 0:
            raise InputError(
                f"{type(self).__name__}: horizon ≥ 1, jitter ≥ 0, settle ≥ 0 and max_force > 0; got "
                f"{c.horizon}, {c.jitter}, {c.settle} and {c.max_force}. Correct them."
            )
        self.scene = Scene()
        self.build(self.scene)
        self.model: FEMModel = self.scene.model(self.touch(), self.gravity)
        self.fem = self.solver = SolverFEM(self.model, FEMConfig(dt=c.dt, tol=c.tol))
        self.spans = self.scene.spans
        self.handles = {h.name: k for k, h in enumerate(self.model.handles)}
        self._fingers = [k for k, h in enumerate(self.model.handles) if h.name in self.spans]
        self._ready: dict[Any, PreparedFEM] = {}
        self._samples = {name: _spread(mesh.X) for name, mesh in self.scene.meshes.items()}

    @abc.abstractmethod
    def build(self, scene: Scene) -> None:
        """Add all bodies."""

    def touch(self) -> Touch:
        """Contact of the scene."""
        c = self.config
        return Touch(
            c.d_hat, tip=c.mu_tip, sheet=c.mu_sheet, block=c.mu_block, plate=c.mu_plate,
            folds=self.folds,
        )  # fmt: skip

    def fingertip(self) -> Body:
        """Mesh of a fingertip: 15 mm across, with a cavity that is held."""
        return fingertip(cuts=self.config.tip_cuts, layers=self.config.tip_layers)

    def closing(self) -> Sequence[tuple[int, Mapping[str, Sequence[float]]]]:
        """Before the episode: numbers of steps, and velocities of handles [m/s] during them."""
        return ()

    def first(self) -> FEMState:
        """Before anything moves: the placed meshes, rest angles as their bending has made them."""
        state = self.model.initial_state(x=self.scene.x)
        if state.theta_ref is None:
            return state
        prepared, slices = self.prepared(state), self.model.hinge_slices()
        bent, alpha = state.theta_ref.clone(), state.alpha.clone()
        for part, values in zip(self.model.parts, prepared.parts, strict=True):
            if part.plastic:
                own = slices[part.name]
                old = state.theta_ref[:, own], state.alpha[:, own]
                bent[:, own], alpha[:, own] = part.flow(values, state.x, *old)
        return state.replace(theta_ref=bent, alpha=alpha)

    def reset(
        self,
        *,
        batch_size: int = 1,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> FEMState:
        """The settled scene, B times; with `jitter` and a seed other than 0, changed by the seed.

        Always in float64, whatever `dtype` says.
        """
        seed = seed if self.config.jitter else 0
        key = type(self), self.config, seed
        if key not in STARTS:
            STARTS[key] = self._settled(seed)
        state = STARTS[key].to(device=device)
        return state.repeat(batch_size)

    @torch.no_grad()
    def _settled(self, seed: int) -> FEMState:
        state = self.first()
        if seed:
            state = self._shifted(state, torch.Generator().manual_seed(seed))
        motions = (*self.closing(), (self.config.settle, {}))
        state = settle(self.fem, state, self.prepared(state), self.handles, motions)
        return at_rest(self.started(state))

    def started(self, state: FEMState) -> FEMState:
        """Last changes of the settled state, before it is at rest."""
        return state

    def _shifted(self, state: FEMState, generator: torch.Generator) -> FEMState:
        """Fingers and blocks elsewhere, see `jitter`; fingers of a gripper go together."""
        x, pose = state.x.clone(), state.pose.clone()
        for names in self.movable():
            unit = 2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1
            for name in names:
                x[:, self.spans[name], :2] += self.config.jitter * unit
                if name in self.handles:
                    pose[:, self.handles[name], :2] += self.config.jitter * unit
        return state.replace(x=x, x_prev=x.clone(), pose=pose)

    def movable(self) -> Sequence[Sequence[str]]:
        """Bodies that `jitter` shifts, in groups that stay together."""
        fixed = set(self.scene.meshes)
        return [(name,) for name in self.spans if name not in fixed]

    def prepared(self, state: FEMState) -> PreparedFEM:
        """The model's own parameters, ready for states of this batch size and device."""
        key = state.batch_size, str(state.x.device)
        if key not in self._ready:
            self._ready = {key: self.fem.prepare(None, state)}
        return self._ready[key]

    def picture(self, state: FEMState) -> Any:
        """The first scene of a state, for a renderer."""
        return self.scene.picture(state.x[0].detach().cpu())

    def points(self, state: FEMState, name: str) -> Tensor:
        """Positions of a body [m], (B, n, 3)."""
        return state.x[:, self.spans[name]]

    def center(self, state: FEMState, name: str) -> Tensor:
        """Mean position of the points of a body [m], (B, 3)."""
        return self.points(state, name).mean(1)

    def forces(self, state: FEMState) -> Tensor:
        """What each finger's handle carries of its elastic body [N], (B, K, 3). Differentiable."""
        found = self.fem.forces(state, self.prepared(state))
        points = self.model.handle_points
        return torch.stack([found[:, points[k].to(found.device)].sum(1) for k in self._fingers], 1)

    def force_now(self, state: FEMState) -> Tensor:
        """Largest force that a finger carries at present [N], (B,); no derivative."""
        return self.forces(state.detach()).norm(dim=-1).amax(1)

    def observation(self, state: FEMState) -> Tensor:
        """What a policy sees, (B, O): positions and velocities of 16 points of every sheet and of the
        middle of every block, and poses of the handles. Differentiable in the state."""
        parts = []
        for name, rows in self._samples.items():
            parts += [z[:, self.spans[name]][:, rows].flatten(1) for z in (state.x, state.v)]
        for name, span in self.spans.items():
            if name not in self._samples and name not in self.handles:
                parts += [z[:, span].mean(1) for z in (state.x, state.v)]
        return torch.cat([*parts, state.pose.flatten(1)], dim=-1).float()


class ShellTask(ShellBase, WatchedTask[FEMState]):
    """Base of tasks in which fingers move; the module docstring says what a subclass gives."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.solver = Watched(self.fem, self._watch, self.prepared)
        self._tools_of = {n: tuple(self.handles[h] for h in g) for n, g in self.grippers().items()}
        self._drive(self.motions(), list(self._tools_of))

    @abc.abstractmethod
    def motions(self) -> tuple[Axis, ...]:
        """What the actions move, and how far."""

    def _watch(self, state: FEMState) -> Tensor:
        force = self.force_now(state)
        return torch.stack((torch.zeros_like(force), force), -1)

    def reset(self, **options: Any) -> WatchedState:
        """The settled scene, as `ShellBase.reset`; what fingers carried before does not count."""
        state = super().reset(**options)
        return state.widened(WatchedState, seen=self._watch(state))

    def grippers(self) -> Mapping[str, Sequence[str]]:
        """What axes can move: names, and the handles that each moves as one rigid body."""
        return {name: (name,) for name in self.handles if name in self.spans}

    def movable(self) -> Sequence[Sequence[str]]:
        taken = [tuple(g) for g in self.grippers().values()]
        fixed = {name for g in taken for name in g} | set(self.scene.meshes)
        return [*taken, *((name,) for name in self.spans if name not in fixed)]

    def poses(self, state: FEMState) -> Tensor:
        """Middle of every gripper and its turn since the start of the model, (B, K, 7)."""
        rows = []
        for members in self._tools_of.values():
            pose = state.pose[:, list(members)]
            rest = pose.new_tensor(self.model.handles[members[0]].orientation)
            rows.append(
                torch.cat((pose[..., :3].mean(1), multiply(pose[:, 0, 3:], inverse(rest))), -1)
            )
        return torch.stack(rows, 1)

    def control(self, state: FEMState, action: Tensor) -> FEMControl:
        """Twists of all handles for an action (B, A), cut at the mechanical stops."""
        moves = super().control(state, action.to(state.x))
        dt, rows = self.config.dt, [torch.zeros_like(moves[:, 0])] * len(self.handles)
        for k, members in enumerate(self._tools_of.values()):
            v, w = moves[:, k, :3], moves[:, k, 3:]
            place = state.pose[:, list(members), :3]
            turn, middle = from_rotation_vector(w * dt), place.mean(1)
            for j, handle in enumerate(members):
                arm = place[:, j] - middle
                rows[handle] = torch.cat((v + (rotate(turn, arm) - arm) / dt, w), dim=-1)
        return FEMControl(twist=torch.stack(rows, 1))

    def costs(self, state: FEMState) -> dict[str, Tensor]:
        """Costs of forces and speeds beyond their limits, each (B,); 0 within them."""
        limit = 0.9 * self.config.max_force
        force = (self.forces(state).square().sum(-1) + 1e-12).sqrt() / limit
        speeds = []
        for k in self._fingers:
            points = self.model.handle_points[k].to(state.x.device)
            speeds.append(state.v[:, points].square().sum(-1).mean(1))
        speed = (torch.stack(speeds, 1) + 1e-12).sqrt() / (1.01 * self.config.speed)
        over = {"force": force, "speed": speed}
        return {name: (v - 1).clamp(min=0).square().sum(-1) for name, v in over.items()}

    def loss(self, state: FEMState, t: int) -> Tensor:
        """Terms, costs of leaving ranges, and those of forces and speeds, (B,)."""
        total = super().loss(state, t)
        if self._fingers:
            total = total + torch.stack(list(self.costs(state).values())).sum(0)
        return total


def _spread(X: Tensor, count: int = 4) -> Tensor:
    """Points of a sheet nearest to a grid of count² over its rest shape."""
    low, high = X.amin(0)[:2], X.amax(0)[:2]
    unit = (torch.arange(count, dtype=X.dtype) + 0.5) / count
    grid = torch.cartesian_prod(unit, unit) * (high - low) + low
    return (X[None, :, :2] - grid[:, None]).square().sum(-1).argmin(1)
