"""From a scene's configuration to a simulator: shapes, laws, particles, tools and the substep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...sim.core import laws
from ...sim.core.backend import CPU_THREADS
from ...sim.core.colliders import Collider
from ...sim.core.colliders_rigid import RigidBody
from ...sim.core.poses import in_space
from ...sim.core.sampling import sample_shape
from ...sim.core.shapes import Box, Capsule, Cylinder, Shape, Sphere, Torus
from ...sim.io.trajectory import ToolTrajectory, read_trajectory, resample
from ...sim.mpm import Emitter, Grid, Group, MPMConfig, MPMControl, MPMModel, MPMState, SolverMPM
from .configs import UsageError, nearest
from .devices import require_device
from .scenes import MATERIALS, BodyConfig, SimulateConfig, ToolConfig

__all__ = ["Simulation", "build", "material_law", "stable_dt"]


@dataclasses.dataclass(frozen=True)
class Simulation:
    """A scene ready to run."""

    config: SimulateConfig
    """Its configuration, with everything automatic filled in."""
    solver: SolverMPM
    """One step of it is one stored frame."""
    state: MPMState
    """Initial state, one scene."""
    control: Callable[[MPMState], MPMControl]
    """Inputs of the step that starts in a state."""
    frame_count: int
    """Stored frames including the initial one."""


def material_law(name: str, params: Mapping[str, float] | None = None) -> laws.Law:
    """Law of a named material, or of a registered law, with some parameters changed.

    Args:
        name: Name out of `MATERIALS` or `LAWS`.
        params: Parameters of the law [SI].

    Raises:
        UsageError: unknown material or parameter, with the nearest name.
        InputError: a parameter out of its range.
    """
    known = {*MATERIALS, *laws.LAWS}
    if name not in known:
        raise UsageError(f"material: a known material or law; got {name!r}. {nearest(name, known)}")
    given = dict(params or {})
    if name in MATERIALS:
        entry = MATERIALS[name]
        preset = entry.law.isupper()
        law = getattr(laws, entry.law) if preset else laws.law_by_name(entry.law)(**entry.params)
    else:
        law = laws.law_by_name(name)()
    for key in given:
        if key not in law.parameters():
            raise UsageError(
                f"params: parameters of {name!r}; got {key!r}. {nearest(key, law.parameters())}"
            )
    law = dataclasses.replace(law, **given) if given else law
    law.validate()
    return law


def stable_dt(model: MPMModel, cfl: float = 0.4) -> float:
    """Largest substep [s] that sound and viscosity allow in every group, times a safety share.

        dt = min over groups of  cfl · dx/√(M/ρ),  cfl · dx² ρ/(D η)

    Args:
        model: The scene; laws with tensor parameters count with their least favorable value.
        cfl: Share [-]; the solver accepts up to 0.6 of dx/c and 0.5 of dx² ρ/(D η) by default.

    Returns:
        The substep; infinite for matter without stiffness.

    Source: Courant, Friedrichs & Lewy 1928; von Neumann's bound of explicit diffusion.
    """
    dx, bound = model.grid.dx, math.inf
    for group in model.groups:
        values = group.law.values()
        c, rho = group.law.coefficients(values), values["rho"]
        speed = float((group.law.wave_modulus(c) / rho).max()) ** 0.5
        diffusivity = float((group.law.viscosity(c) / rho).max())
        if speed > 0:
            bound = min(bound, cfl * dx / speed)
        if diffusivity > 0:
            bound = min(bound, min(cfl, 0.5) * dx**2 / (model.dim * diffusivity))
    return bound


def build(config: SimulateConfig) -> Simulation:
    """A simulator of a scene.

    Raises:
        UsageError: names, sizes or positions that make no scene.
        InputError, StabilityError: from the simulator.
    """
    D = config.dim
    lower, upper = config.lower or (0.0,) * D, config.upper or (1.0,) * D
    _numbers("lower", lower, D)
    _numbers("upper", upper, D)
    if not config.bodies:
        raise UsageError("simulate: at least one body; got none. Give --bodies.NAME.shape box.")
    if not (config.duration > 0 and config.fps > 0 and config.resolution >= 4):
        raise UsageError(
            "simulate: duration > 0 s, fps > 0 and resolution ≥ 4; got "
            f"{config.duration}, {config.fps}, {config.resolution}. Correct them."
        )
    require_device("simulate", config.device)
    dx = max(b - a for a, b in zip(lower, upper, strict=True)) / config.resolution
    middle = tuple(0.5 * (a + b) for a, b in zip(lower, upper, strict=True))
    generator = torch.Generator().manual_seed(config.seed)
    groups = [
        _group(name, body, config, dx, middle, generator) for name, body in config.bodies.items()
    ]
    paths = {name: _path(name, tool, D) for name, tool in config.tools.items() if tool.path}
    tools = [_tool(name, tool, D, middle, paths.get(name)) for name, tool in config.tools.items()]
    model = MPMModel(
        Grid(lower, upper, dx), groups, gravity=config.gravity, walls=config.walls, colliders=tools
    )
    frame_time = 1.0 / config.fps
    dt = config.dt or stable_dt(model, config.cfl)
    substeps = max(1, math.ceil(frame_time / dt - 1e-9))
    config = dataclasses.replace(config, threads=config.threads or CPU_THREADS)
    solver = SolverMPM(
        model,
        MPMConfig(
            dt=frame_time / substeps,
            substeps=substeps,
            engine=config.engine,
            cfl=max(0.6, config.cfl),
            threads=config.threads,
        ),
    )
    dtype = getattr(torch, config.precision)
    state = model.initial_state(dtype=dtype, device=config.device)
    return Simulation(
        config=config,
        solver=solver,
        state=state,
        control=_driver(config.tools, paths, D, solver),
        frame_count=round(config.duration * config.fps) + 1,
    )


def _group(
    name: str, body: BodyConfig, config: SimulateConfig, dx: float, middle: Sequence[float],
    generator: torch.Generator,
) -> Group:  # fmt: skip
    D, where = config.dim, f"bodies.{name}"
    law = material_law(body.material, body.params)
    spacing = dx / config.particles_per_cell
    position = body.position or tuple(middle)
    velocity = body.velocity or (0.0,) * D
    _numbers(f"{where}.position", position, D)
    _numbers(f"{where}.velocity", velocity, D)
    dtype = getattr(torch, config.precision)
    if body.shape == "emitter":
        return _emitter(name, body, law, config, spacing, position)
    shape = _shape(where, body, D)
    turn = _quaternion(where, body.rotation, D)
    x, volume = sample_shape(
        shape, spacing, position=position, orientation=turn, mode=config.sampling,
        generator=generator, dim=D, dtype=dtype,
    )  # fmt: skip
    v = torch.tensor(velocity, dtype=dtype).expand_as(x)
    if body.angular_velocity:
        spin = torch.tensor(_vector(f"{where}.angular_velocity", body.angular_velocity, D))
        arm = in_space(x - torch.tensor(position, dtype=dtype))
        turned = torch.linalg.cross(spin.to(dtype).expand_as(arm), arm)
        v = v + (turned if D == 3 else turned[:, ::2])
    return Group(name, law, x, volume, v)


def _emitter(
    name: str, body: BodyConfig, law: laws.Law, config: SimulateConfig, spacing: float,
    position: Sequence[float],
) -> Group:  # fmt: skip
    D, radius = config.dim, _sizes(f"bodies.{name}", body, 1)[0]
    speed = math.hypot(*body.velocity)
    if speed == 0:
        raise UsageError(
            f"bodies.{name}.velocity: the velocity of the jet, not zero; got {body.velocity}. "
            f"Give --bodies.{name}.velocity with {D} numbers."
        )
    opening = math.pi * radius**2 if D == 3 else 2 * radius
    rate = opening * speed / spacing**D
    stop = min(config.duration, config.duration if body.stop is None else body.stop)
    count = max(1, math.floor((stop - body.start) * rate))
    emitter = Emitter(
        tuple(position), tuple(body.velocity), radius, rate, start=body.start, seed=config.seed
    )
    x = torch.tensor(position, dtype=getattr(torch, config.precision)).repeat(count, 1)
    return Group(name, law, x, spacing**D, body.velocity, emitter=emitter)


def _tool(
    name: str, tool: ToolConfig, D: int, middle: Sequence[float], path: ToolTrajectory | None
) -> Collider:
    where = f"tools.{name}"
    position = tool.position or tuple(middle)
    _numbers(f"{where}.position", position, D)
    options: dict[str, Any] = {
        "position": _lifted(position, D), "orientation": _quaternion(where, tool.rotation, D),
        "name": name, "friction": tool.friction, "softness": tool.softness, "contact": tool.contact,
    }  # fmt: skip
    if path is not None:
        options["position"], options["orientation"] = (
            tuple(part.tolist()) for part in path.pose[0, 0].split((3, 4))
        )
    if tool.rho is None:
        return Collider(_shape(where, tool, D), **options)
    if tool.start or tool.stop is not None or path is not None:
        raise UsageError(
            f"{where}: a rigid body without start, stop and path, since it moves freely; got rho = "
            f"{tool.rho}. Leave out rho or these."
        )
    linear, spin = _motion(where, tool, D)
    return RigidBody(
        _shape(where, tool, D), rho=tool.rho, velocity=linear, angular_velocity=spin, **options
    )


def _path(name: str, tool: ToolConfig, D: int) -> ToolTrajectory:
    """The motion in a tool's file, as its only tool."""
    where = f"tools.{name}.path"
    others = ("position", "rotation", "velocity", "angular_velocity", "start", "stop")
    given = [n for n in others if getattr(tool, n) not in ((), 0.0, None)]
    if given:
        raise UsageError(f"{where}: the only source of motion; got also {given}. Leave them out.")
    path = read_trajectory(str(tool.path))
    if name not in path.names and len(path.names) > 1:
        raise UsageError(
            f"{where}: a file about {name!r} or one tool; got {', '.join(path.names)}. Rename the tool."
        )
    path = path.of(name if name in path.names else path.names[0])
    across = float(path.pose[..., [1, 4, 6]].abs().max())
    if D == 2 and across > 1e-6:
        raise UsageError(
            f"{where}: a motion in the plane y = 0 of a 2-D scene; got {across:.3g} beside it. Pass "
            "--dim 3."
        )
    return path


def _motion(where: str, tool: ToolConfig, D: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Linear and angular velocity as 3-D vectors."""
    linear = tool.velocity or (0.0,) * D
    _numbers(f"{where}.velocity", linear, D)
    spin = tool.angular_velocity or (0.0,) * (2 * D - 3)
    return _lifted(linear, D), _vector(f"{where}.angular_velocity", spin, D)


def _lifted(values: Sequence[float], D: int) -> tuple[float, ...]:
    return tuple(values) if D == 3 else (values[0], 0.0, values[1])


def _driver(
    tools: Mapping[str, ToolConfig], paths: Mapping[str, ToolTrajectory], D: int, solver: SolverMPM
) -> Callable[[MPMState], MPMControl]:
    """Twists of all tools at the time of a state."""
    rows = [sum(_motion(f"tools.{name}", tool, D), ()) for name, tool in tools.items()]
    spans = [(t.start, math.inf if t.stop is None else t.stop) for t in tools.values()]
    names = list(tools)
    driven = {names.index(n): resample(p, solver.step_time).twist[:, 0] for n, p in paths.items()}
    dt, substeps = solver.config.dt, solver.config.substeps

    def control(state: MPMState) -> MPMControl:
        if not rows:
            return MPMControl()
        time = state.substep * dt + 1e-9
        moving = [start <= time < stop for start, stop in spans]
        twist = state.x.new_tensor(rows) * state.x.new_tensor(moving)[:, None]
        frame = state.substep // substeps
        for k, path in driven.items():
            if frame < len(path):
                twist[k] = path[frame].to(twist)
        return MPMControl(tool_twist=twist.expand(state.batch_size, -1, -1))

    return control


def _shape(where: str, item: BodyConfig | ToolConfig, D: int) -> Shape:
    kind = item.shape
    if kind == "mesh":
        from ...sim.io.mesh import mesh_shape

        if not item.mesh:
            raise UsageError(f"{where}.mesh: a mesh file; got none. Give --{where}.mesh FILE.")
        return mesh_shape(item.mesh, size=_sizes(where, item, 1)[0])
    if kind == "box":
        n = len(item.size)
        sides = _sizes(where, item, D if n not in (1, 3) else n)
        sides = sides * D if n == 1 else sides
        if len(sides) == 2:
            sides = (sides[0], 1.0, sides[1])
        return Box(tuple(0.5 * s for s in sides))
    if kind == "sphere":
        return Sphere(_sizes(where, item, 1)[0])
    first, second = _sizes(where, item, 2)
    if kind == "cylinder":
        return Cylinder(first, 0.5 * second)
    return Capsule(first, 0.5 * second) if kind == "capsule" else Torus(first, second)


def _sizes(where: str, item: BodyConfig | ToolConfig, count: int) -> tuple[float, ...]:
    if len(item.size) != count or not all(0 < s < math.inf for s in item.size):
        raise UsageError(
            f"{where}.size: {count} positive lengths [m] for a {item.shape}; got {item.size}. "
            "See `rheograd simulate --help`."
        )
    return tuple(item.size)


def _numbers(where: str, values: Sequence[float], count: int) -> None:
    if len(values) != count or not all(map(math.isfinite, values)):
        raise UsageError(
            f"{where}: {count} finite numbers in {count}-D; got {tuple(values)}. Correct it."
        )


def _vector(where: str, values: Sequence[float], D: int) -> tuple[float, float, float]:
    """A rotation or spin as a 3-D vector: one number about y in 2-D."""
    _numbers(where, values, 3 if D == 3 else 1)
    return tuple(values) if D == 3 else (0.0, values[0], 0.0)


def _quaternion(where: str, degrees: Sequence[float], D: int) -> tuple[float, float, float, float]:
    if not degrees:
        return (1.0, 0.0, 0.0, 0.0)
    vector = _vector(f"{where}.rotation", degrees, D)
    angle = math.hypot(*vector)
    if angle == 0:
        return (1.0, 0.0, 0.0, 0.0)
    half = 0.5 * math.radians(angle)
    return (math.cos(half), *(math.sin(half) * c / angle for c in vector))
