"""Scenes as data: bodies, tools and a box, each field open to the command line.

A scene is a function from the dimension to plain values of `SimulateConfig`; `build` in
`tasks/runs/simulation.py` turns the configuration into a simulator. Loads no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from .configs import UsageError, nearest

__all__ = [
    "MATERIALS", "SCENES", "BodyConfig", "Material", "SimulateConfig", "ToolConfig",
    "scene_defaults",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BodyConfig:
    """Something made of particles."""

    material: str = "jelly"
    """Material or law, see `rheograd list`."""
    params: dict[str, float] = dataclasses.field(default_factory=dict)
    """Parameters of its law [SI] that differ from the material's, e.g. E or eta."""
    shape: Literal["box", "sphere", "cylinder", "capsule", "torus", "mesh", "emitter"] = "box"
    """Form; emitter: a jet from a round opening."""
    size: tuple[float, ...] = (0.2,)
    """[m] box: sides; sphere, emitter: radius; cylinder, capsule: radius, length; torus: both
    radii; mesh: longest side."""
    mesh: str | None = None
    """Mesh file of shape mesh (.stl, .obj, .ply, …); the surface must be closed."""
    position: tuple[float, ...] = ()
    """Middle [m]; default the middle of the box."""
    rotation: tuple[float, ...] = ()
    """Turn [deg]: about y in 2-D, rotation vector in 3-D; default none."""
    velocity: tuple[float, ...] = ()
    """Initial velocity [m/s]; of an emitter its jet; default at rest."""
    angular_velocity: tuple[float, ...] = ()
    """Initial spin [rad/s]: about y in 2-D, vector in 3-D; default none."""
    start: float = 0.0
    """First particle of an emitter [s]."""
    stop: float | None = None
    """Last particle of an emitter [s]; default the end of the run."""


@dataclasses.dataclass(frozen=True)
class ToolConfig:
    """A rigid collider on a prescribed path; with a density, a rigid body that moves freely."""

    shape: Literal["box", "sphere", "cylinder", "capsule", "torus", "mesh"] = "sphere"
    """Form."""
    size: tuple[float, ...] = (0.1,)
    """As for bodies; a box has three sides in 2-D too, or two for the plane."""
    mesh: str | None = None
    """Mesh file of shape mesh."""
    position: tuple[float, ...] = ()
    """Middle [m]; default the middle of the box."""
    rotation: tuple[float, ...] = ()
    """Turn [deg], as for bodies."""
    velocity: tuple[float, ...] = ()
    """Velocity [m/s] between start and stop; default standing still."""
    angular_velocity: tuple[float, ...] = ()
    """Spin about its middle [rad/s] between start and stop, as for bodies."""
    start: float = 0.0
    """When it begins to move [s]."""
    stop: float | None = None
    """When it stops [s]; default never."""
    friction: float = 0.3
    """Coulomb coefficient [-]; dry plastic on wet matter."""
    softness: float = 0.0
    """Rate at which contact decays outside the shape [1/m]; 0: hard, right for watching."""
    contact: Literal["separate", "slip", "sticky"] = "separate"
    """What contact removes: approach, normal motion, all motion."""
    rho: float | None = None
    """Density [kg/m³]: a rigid body, pushed by gravity and what it touches, whose velocities are initial
    ones; default a tool that moves as prescribed."""
    path: str | None = None
    """File of `rheograd export`: the tool moves as its namesake there, or as the only one, and stands
    still after the end; instead of position, rotation, velocities, start and stop."""


@dataclasses.dataclass(frozen=True)
class SimulateConfig:
    """A simulation run."""

    scene: str = "jelly-drop"
    """Name of the scene the defaults come from."""
    dim: Literal[2, 3] = 2
    """Dimension; 2: the plane (x, z)."""
    duration: float = 2.0
    """Simulated time [s]."""
    fps: float = 25.0
    """Stored frames per second [1/s]; plays smoothly."""
    dt: float | None = None
    """Substep [s]; default the largest stable one, times cfl."""
    cfl: float = 0.4
    """Share of dx/c for an automatic substep [-]; the solver takes 0.6, compression stiffens."""
    resolution: int = 48
    """Grid cells along the longest side of the box."""
    particles_per_cell: float = 2.0
    """Particles per cell and axis [-]; 2 is the usual in MPM."""
    sampling: Literal["grid", "jitter", "random", "poisson"] = "grid"
    """How particles fill a shape; a lattice starts without noise."""
    lower: tuple[float, ...] = ()
    """Lower corner of the box [m]; default zero."""
    upper: tuple[float, ...] = ()
    """Upper corner of the box [m]; default one."""
    gravity: tuple[float, ...] = ()
    """[m/s²]; default 9.81 down."""
    walls: Literal["separate", "slip", "sticky"] = "separate"
    """What the walls of the box remove; separate lets matter lift off."""
    engine: Literal["warp", "taichi", "torch"] = "warp"
    """Where the kernels run; torch is the plain reference."""
    precision: Literal["float32", "float64"] = "float32"
    """Number type of the state."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int | None = None
    """CPU threads; default all. The run's config.toml keeps the number, for bitwise repetition."""
    seed: int = 0
    """Seed of sampling and emitters."""
    fields: tuple[str, ...] = ("x", "v")
    """Stored fields out of x, v, C, F, J, alpha; x always."""
    checkpoint_seconds: float = 10.0
    """Wall time between checkpoints [s]; a resumed run repeats at most this."""
    bodies: dict[str, BodyConfig] = dataclasses.field(default_factory=dict)
    """Bodies by name: --bodies.NAME.FIELD."""
    tools: dict[str, ToolConfig] = dataclasses.field(default_factory=dict)
    """Tools by name: --tools.NAME.FIELD."""


@dataclasses.dataclass(frozen=True)
class Material:
    """A named starting point: a law with parameters."""

    law: str
    """Registered law, or the name of a preset (upper case)."""
    params: Mapping[str, float]
    """What differs from the law's defaults [SI]."""
    about: str
    """One line."""


MATERIALS: dict[str, Material] = {
    "jelly": Material("JELLY", {}, "soft elastic gel"),
    "plasticine": Material("PLASTICINE", {}, "modeling clay, ideally plastic"),
    "sand": Material("SAND", {}, "dry sand without cohesion"),
    "water": Material("WATER", {}, "inviscid, softened to sound at 7.6 m/s"),
    "rubber": Material("neo_hookean", {"E": 1e6, "nu": 0.4, "rho": 1100.0}, "rubber of 1 MPa"),
    "honey": Material("liquid", {"eta": 5.0, "rho": 1400.0}, "viscous, 5 Pa s"),
    "mud": Material("herschel_bulkley", {"rho": 1500.0}, "yield-stress fluid, shear thinning"),
}
"""Materials by name; every registered law is a material too, with its default parameters."""


def scene_defaults(name: str, dim: int) -> dict[str, Any]:
    """Plain values of `SimulateConfig` for a scene.

    Raises:
        UsageError: unknown scene, naming the nearest.
    """
    if name not in SCENES:
        raise UsageError(f"simulate: a known scene; got {name!r}. {nearest(name, SCENES)}")
    return {"scene": name, "dim": dim, "resolution": 48 if dim == 2 else 32, **SCENES[name](dim)}


def _at(dim: int, x: float, z: float, y: float = 0.5) -> list[float]:
    return [x, z] if dim == 2 else [x, y, z]


def _jelly_drop(dim: int) -> dict[str, Any]:
    """A jelly cube falls on a ball."""
    spin = [2.0] if dim == 2 else [1.0, 2.0, 0.0]
    cube = {
        "material": "jelly", "size": [0.26] * dim, "position": _at(dim, 0.45, 0.7),
        "rotation": [25.0] if dim == 2 else [10.0, 25.0, 0.0], "angular_velocity": spin,
    }  # fmt: skip
    ball = {"shape": "sphere", "size": [0.12], "position": _at(dim, 0.52, 0.14)}
    return {"bodies": {"jelly": cube}, "tools": {"ball": ball}}


def _dam_break(dim: int) -> dict[str, Any]:
    """A column of water breaks against a post."""
    water = {"material": "water", "size": _at(dim, 0.3, 0.5, 1.0), "position": _at(dim, 0.15, 0.25)}
    post = {
        "shape": "cylinder" if dim == 3 else "box",
        "size": [0.06, 0.3] if dim == 3 else [0.08, 0.3],
        "position": _at(dim, 0.65, 0.1),
    }
    return {"bodies": {"water": water}, "tools": {"post": post}}


def _jelly_and_water(dim: int) -> dict[str, Any]:
    """A light jelly ball splashes into a pool."""
    ball = {
        "material": "jelly", "params": {"rho": 600.0}, "shape": "sphere", "size": [0.12],
        "position": _at(dim, 0.42, 0.72), "velocity": _at(dim, 0.5, -2.0, 0.0),
    }  # fmt: skip
    pool = {"material": "water", "size": _at(dim, 1.0, 0.3, 1.0), "position": _at(dim, 0.5, 0.15)}
    return {"bodies": {"water": pool, "jelly": ball}}


def _sand_column(dim: int) -> dict[str, Any]:
    """A column of sand collapses to a heap."""
    column = {
        "material": "sand", "shape": "box" if dim == 2 else "cylinder",
        "size": [0.3, 0.5] if dim == 2 else [0.15, 0.5], "position": _at(dim, 0.5, 0.25),
    }  # fmt: skip
    return {"bodies": {"sand": column}, "walls": "sticky"}


def _clay_throw(dim: int) -> dict[str, Any]:
    """A block of modeling clay is thrown against the wall."""
    block = {
        "material": "plasticine", "size": [0.22] * dim, "position": _at(dim, 0.3, 0.55),
        "velocity": _at(dim, 4.0, 1.0, 0.0),
        "angular_velocity": [6.0] if dim == 2 else [0.0, 6.0, 2.0],
    }  # fmt: skip
    return {"bodies": {"clay": block}, "walls": "sticky", "duration": 1.0}


def _fountain(dim: int) -> dict[str, Any]:
    """A jet rises under a ball and falls back."""
    jet = {
        "material": "water", "shape": "emitter", "size": [0.05], "position": _at(dim, 0.5, 0.06),
        "velocity": _at(dim, 0.15, 3.6, 0.0), "stop": 1.2,
    }  # fmt: skip
    ball = {"shape": "sphere", "size": [0.1], "position": _at(dim, 0.56, 0.58)}
    return {"bodies": {"water": jet}, "tools": {"ball": ball}}


def _raft(dim: int) -> dict[str, Any]:
    """A wooden block falls into a pool and floats."""
    pool = {"material": "water", "size": _at(dim, 1.0, 0.3, 1.0), "position": _at(dim, 0.5, 0.15)}
    raft = {
        "shape": "box", "size": _at(dim, 0.3, 0.12, 0.25), "position": _at(dim, 0.5, 0.5),
        "rotation": [20.0] if dim == 2 else [5.0, 20.0, 0.0], "rho": 600.0,
        "softness": 100.0 if dim == 2 else 70.0, "friction": 0.2,
    }  # fmt: skip
    return {"bodies": {"water": pool}, "tools": {"raft": raft}}


def _stir(dim: int) -> dict[str, Any]:
    """A paddle turns in mud."""
    pool = {"material": "mud", "size": _at(dim, 1.0, 0.35, 1.0), "position": _at(dim, 0.5, 0.175)}
    paddle = {
        "shape": "box", "size": _at(dim, 0.36, 0.05, 0.3), "position": _at(dim, 0.5, 0.24),
        "angular_velocity": [5.0] if dim == 2 else [0.0, 5.0, 0.0],
    }  # fmt: skip
    return {"bodies": {"mud": pool}, "tools": {"paddle": paddle}}


SCENES: dict[str, Callable[[int], dict[str, Any]]] = {
    "clay-throw": _clay_throw,
    "dam-break": _dam_break,
    "fountain": _fountain,
    "jelly-and-water": _jelly_and_water,
    "jelly-drop": _jelly_drop,
    "raft": _raft,
    "sand-column": _sand_column,
    "stir": _stir,
}
"""Built-in scenes: name → function from the dimension to configuration values."""
