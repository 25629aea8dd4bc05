"""What the tasks with gel sensors share, so that each of them is a scene and an objective on one screen.

    class Press(TactileTask):
        Config = PressConfig                        a TactileConfig and the numbers of the scene

        def build(self, scene):                     gels, objects and plates
            scene.gel("finger", self.dome(), (0.0, 0.0, 0.0152), DOWN)
            scene.plate(Collider(Plane(), name="table"))

        def motions(self):                          what the actions move, and how far
            return (Axis("finger", "z", 0.1, 0.012, 0.02),)

        def tactile_terms(self, state, t): …        parts of the objective made of forces, each (B,)
        def state_terms(self, state, t): …          parts made of positions and angles
        def metrics(self, state): …                 SI units, angles in degrees
        def reached(self, state): …                 whether the goal is met; the thresholds

    ℓ = tactile Σ tactile_terms + state Σ state_terms + costs of ranges + Σ_sensors (|F|/0.9 F_max − 1)₊²

`tactile` and `state` are fields of the configuration, so that either half can be switched off. A task is
solved only if no sensor has carried more than F_max at the end of any step. Actions are velocities of
sensors, or of grippers of two sensors with the speed of their opening; doing nothing in a search means
the nominal command, `initial_actions`. Forces and moments are what the mounts carry of the elastic
gels. Starts are settled by simulation, once per configuration. All states are in float64.

Source: Si et al. 2024 (DiffTactile), scenes, nominal commands and kinds of objectives; SI units, rigid
bodies and hinges, whole gradients through time and success criteria are ours.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ...sim.fem import FEMConfig, FEMControl, FEMModel, FEMState, SolverFEM
from ...sim.tactile import GelMesh, dome, pad
from ..axes import Axis
from ..bodies import Kept
from ..watched import Watched, WatchedTask
from .scene import Scene, Touch
from .senses import Senses
from .starts import Starts
from .tools import Tools
from .worlds import VARIED, Worlds

__all__ = ["Axis", "TactileConfig", "TactileTask"]


POLICY = {"residual": True, "hidden": (32, 32), "pool": 64}
"""Policies correct the nominal command; starts settle once."""


@dataclasses.dataclass(frozen=True)
class TactileConfig:
    """Fields that every task with gel sensors has."""

    horizon: int = 60
    """Actions per episode."""
    dt: float = 5e-3
    """Step [s], one per action."""
    tactile: float = 1.0
    """Weight of the part of the objective that is made of forces [-]; 0 switches it off."""
    state: float = 1.0
    """Weight of the part made of positions and angles [-]; 0 switches it off."""
    material: str = "ecoflex_00_30"
    """Of gels, a name in `rheograd.assets.gels.GELS`."""
    nu: float = 0.45
    """Poisson's ratio of gels [-]; 0.49 costs Newton iterations and changes forces by some percent."""
    cuts: int = 6
    """Resolution of gels around, or along the sides of a pad."""
    layers: int = 2
    """Resolution of gels in depth."""
    order: int = 2
    """Of their cells; 1 is stiffer and faster."""
    d_hat: float = 2e-4
    """Distance at which contact begins [m]."""
    stiffness: float = 2e4
    """κ of contact [Pa]."""
    mu_gel: float = 0.8
    """Friction of gels [-]; silicone."""
    mu_plate: float = 0.4
    """Friction of objects on plates [-]."""
    speed: float = 0.1
    """Largest speed per axis [m/s]."""
    turn: float = 2.0
    """Largest angular speed per axis [rad/s]."""
    max_force: float = 5.0
    """Force a sensor may carry [N], F_max."""
    tol: float = 1e-6
    """Residual of a step [N]."""
    settle: int = 3
    """Damped steps at rest before the episode."""
    jitter: float = 0.0
    """Random shift in x and y of what `movable` names, before it settles [m]: up to this with seeds
    other than 0; to a policy, which knows its own way only, it is the objects that are shifted."""
    standoff: float = 0.0
    """Random way by which sensors outside of grippers start farther from what they touch [m]."""
    vary: float = 0.0
    """Largest |log| of random factors on the parameters that `varied` names [-], see `worlds`. Where
    jitter, standoff and this are 0, all seeds start alike."""
    varied: tuple[str, ...] = VARIED
    """Out of "gel", "object", "weight", "friction"."""
    markers: int = 9
    """Markers of every sensor that a policy sees; on pads a square number."""
    privileged: bool = False
    """Observations have places and velocities of objects, and the world, too."""


class TactileTask(Senses, Starts, WatchedTask[Any]):
    """Base of tasks in which gel sensors move; the module docstring says what a subclass gives.

    Raises:
        InputError: a configuration that does not describe a scene.
    """

    config: Any
    solver: Any
    search_defaults = {
        **WatchedTask.search_defaults,
        "apg": POLICY,
        "shac": POLICY,
        "ppo": {**POLICY, "evaluate_every": 2, "log_std": -1.5, "batches": 2},
        "sac": POLICY,
    }
    gravity: ClassVar[float] = 9.81
    """[m/s²]."""
    scheme: ClassVar[Any] = "euler"
    """Of the time steps, see `FEMConfig`."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        c = self.config
        if c.horizon < 1 or min(c.jitter, c.standoff, c.settle) < 0 or not c.max_force > 0:
            raise InputError(
                f"{type(self).__name__}: horizon ≥ 1, jitter, standoff, settle ≥ 0 and max_force > 0; "
                f"got {c.horizon}, {c.jitter}, {c.standoff}, {c.settle} and {c.max_force}. "
                "Correct them."
            )
        if c.tactile < 0 or c.state < 0 or c.tactile + c.state == 0:
            raise InputError(
                f"{type(self).__name__}: weights tactile ≥ 0 and state ≥ 0, not both 0; got "
                f"{c.tactile} and {c.state}. Switch one on."
            )
        self.scene = Scene()
        self.build(self.scene)
        self.model: FEMModel = self.scene.model(self.touch(), self.gravity)
        self.fem = SolverFEM(self.model, FEMConfig(dt=c.dt, tol=c.tol, scheme=self.scheme))
        self.handles = {h.name: k for k, h in enumerate(self.model.handles)}
        self._sensors = [self.handles[name] for name in self.scene.gels]
        # batches of worlds, in the form that the solver reads
        self._ready = Kept(8)
        self._start: dict[str, Any] = {}
        self.solver = Watched(self.make_solver(), self._watch, self.ready)
        defaults = self.solver.solver.default_params()
        self.worlds = Worlds(defaults, self.scene.kinds, c.varied, c.vary)
        self._paint()
        if not self.random:
            # One start is all there is.
            alike = {"envs": 1, "validation": 1, "tests": 1}
            own = {m: {**self.search_defaults[m], **alike} for m in ("apg", "shac")}
            own["ppo"] = {**self.search_defaults["ppo"], "validation": 1, "tests": 1}
            self.search_defaults = {**self.search_defaults, **own}
        self.tools = Tools(self.model, list(self.scene.gels), self.grippers())
        self._drive(self.motions(), self.tools.names)

    @abc.abstractmethod
    def build(self, scene: Scene) -> None:
        """Add all bodies."""

    @abc.abstractmethod
    def motions(self) -> tuple[Axis, ...]:
        """What the actions move, and how far. The tools are gels, grippers, and "NAME opening" of a
        gripper, whose "x" is half the distance of its mounts."""

    @abc.abstractmethod
    def tactile_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        """Parts of the objective made of forces, each (B,)."""

    @abc.abstractmethod
    def state_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        """Parts of the objective made of positions and angles, each (B,)."""

    def make_solver(self) -> Any:
        """What steps the scene; the implicit solver."""
        return self.fem

    def touch(self) -> Touch:
        """Contact of the scene."""
        c = self.config
        return Touch(c.d_hat, c.stiffness, gel=c.mu_gel, plate=c.mu_plate)

    def dome(self) -> GelMesh:
        """A sensor of 15 mm radius."""
        c = self.config
        return dome(cuts=c.cuts, layers=c.layers, order=c.order)

    def pad(self, size: Sequence[float]) -> GelMesh:
        """A flat sensor of given sides and thickness [m]."""
        c = self.config
        return pad(size, (c.cuts, c.cuts, c.layers), order=c.order)

    def error(self, state: Any) -> Tensor:
        """What adds up in squares over the episode, (B,); nothing."""
        return self.bodies(state).x.new_zeros(state.batch_size)

    def bodies(self, state: Any) -> FEMState:
        """The part of a state that the implicit solver steps."""
        return state

    @torch.no_grad()
    def _watch(self, state: Any) -> Tensor:
        force = self.wrenches(state.detach())[..., :3].norm(dim=-1).amax(1)
        return torch.stack((self.error(state.detach()), force), -1)

    def points(self, state: Any, name: str) -> Tensor:
        """Positions of a body [m], (B, n, 3). Differentiable."""
        return self.bodies(state).x[:, self.scene.spans[name]]

    def wrenches(self, state: Any) -> Tensor:
        """Force [N] and moment about its origin [N m] on the mount of every sensor, (B, S, 6): what it
        carries of the elastic gel. Differentiable in the state."""
        bodies, rows = self.bodies(state), []
        ready = self.ready(state)
        found = self.fem.forces(bodies, getattr(ready, "fem", ready))
        for k in self._sensors:
            held = self.model.handle_points[k].to(found.device)
            f = found[:, held]
            arm = bodies.x[:, held] - bodies.pose[:, k, None, :3]
            rows.append(torch.cat((f.sum(1), torch.linalg.cross(arm, f).sum(1)), -1))
        return torch.stack(rows, 1)

    def terms(self, state: Any, t: int) -> dict[str, Tensor]:
        """Tactile and state terms that are switched on, and the cost of force, each (B,)."""
        c, out = self.config, {}
        if c.tactile:
            out |= {k: c.tactile * v for k, v in self.tactile_terms(state, t).items()}
        if c.state:
            out |= {k: c.state * v for k, v in self.state_terms(state, t).items()}
        force = (self.wrenches(state)[..., :3].square().sum(-1) + 1e-12).sqrt()
        out["force"] = (force / (0.9 * c.max_force) - 1).clamp(min=0).square().sum(-1)
        return out

    def poses(self, state: Any) -> Tensor:
        """Of sensors and grippers, then openings, see `Tools.poses`, (B, K, 7)."""
        return self.tools.poses(self.bodies(state).pose)

    def control(self, state: Any, action: Tensor) -> Any:
        """Twists of all handles for an action (B, A), cut at the mechanical stops."""
        poses = self.bodies(state).pose
        moves = super().control(state, action.to(poses))
        return self.with_handles(self.tools.twists(poses, moves, self.config.dt))

    def with_handles(self, twist: Tensor) -> Any:
        """Solver control that moves the handles with a twist (B, H, 6)."""
        return FEMControl(twist=twist)

    def picture(self, state: Any) -> Any:
        """The first scene of a state, for a renderer."""
        x = self.bodies(state).x[:1].detach().cpu()
        poses = {name: body.pose(x)[0] for name, body in self.scene.bodies.items()}
        return self.scene.picture(x[0], poses)
