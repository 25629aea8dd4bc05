"""Scenes that a neural law is judged on: longer, faster, other shapes, slopes, several bodies.

One entry per scene of the paper, each small (`nano`, seconds), in the paper's size (`full`), and in
between (`medium`, minutes on one core): where full has more than ten thousand particles, the same
bodies with half as many along each axis, on at least 32 cells. Shapes are ours, since the paper's meshes
are not free; any mesh may take their place (`mesh`).

    law trained on one motion ↦ evaluate(law, "contact", "jelly")

The paper's axes (z, x, y) are our (x, y, z): the last one is up.

Source: Ma et al. 2023 (NCLaw), §4.3–4.5 and released configurations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from ...operators.nclaw import THROW_SEEDS, ReferenceScene, nclaw_scene, random_throw
from ...operators.nclaw.data import MATERIALS
from ...sim.core.errors import InputError
from ...sim.core.shapes import Box, Capsule, Shape, Sphere, Torus
from ...sim.io.mesh import mesh_shape
from .scene import Body, Scene, Size

__all__ = ["SCENES", "make_scene", "training_scene"]

UPRIGHT = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)
"""Quaternion that turns the z axis of a shape to a horizontal one: a wheel, a lying capsule."""


def make_scene(
    name: str,
    material: str | None = None,
    size: Size = "nano",
    *,
    mesh: str | Path | None = None,
) -> Scene:
    """A scene of the paper with one material, or with the materials it has by itself.

    Args:
        name: one of `SCENES`.
        material: "jelly", "plasticine", "sand" or "water", default jelly; `pool` has its own, and in
            `melting` it is the solid before: jelly, otherwise plasticine.
        size: "nano" for seconds, "medium" for minutes, "full" for the paper's size.
        mesh: watertight surface file, for the scene `mesh`.

    Raises:
        InputError: unknown scene, material or size; a mesh where none is wanted or none is given.
    """
    if material is None:
        material = "plasticine" if name == "melting" else "jelly"
    if name not in SCENES or material not in MATERIALS or size not in get_args(Size):
        raise InputError(
            f"make_scene: a scene out of {sorted(SCENES)}, a material out of {sorted(MATERIALS)} "
            f"and a size of {get_args(Size)}; got {name!r}, {material!r}, {size!r}. Correct it."
        )
    if (name == "mesh") != (mesh is not None):
        raise InputError(
            f"make_scene: mesh = a surface file for the scene 'mesh' alone; got {mesh} for "
            f"{name!r}. Give one with it, or leave it out."
        )
    if mesh is not None:
        shape = mesh_shape(mesh, size=0.4 if size == "nano" else 0.7)
        return _geometry(shape)(material, size, name)
    return SCENES[name](material, size, name)


def training_scene(material: str, size: Size = "full") -> ReferenceScene:
    """The motion that laws are trained on: the paper's block, nano a small one near the floor."""
    return _block(nclaw_scene(material), size)


Builder = Callable[[str, Size, str], Scene]


def _of(size: Size, nano: Any, medium: Any, full: Any) -> Any:
    """The value for a size."""
    return {"nano": nano, "medium": medium, "full": full}[size]


def _block(scene: ReferenceScene, size: Size) -> ReferenceScene:
    """The block of a reference scene; small: 5³ particles a hand's breadth above the floor."""
    if size != "nano":
        return scene
    small = nclaw_scene("jelly", resolution=5)
    return dataclasses.replace(scene, x=small.x - small.x.new_tensor([0.0, 0.0, 0.25]))


def _reference(scene: ReferenceScene, name: str, material: str, steps: int) -> Scene:
    body = Body(material, scene.x, scene.volume, scene.velocity, scene.angular)
    return Scene(name, (body,), steps)


def _cube(steps: Callable[[str], int], nano: int) -> Builder:
    """The training scene, longer or not; nano: a smaller block for fewer steps."""

    def build(material: str, size: Size, name: str) -> Scene:
        scene = training_scene(material, size)
        full = steps(material)
        return _reference(scene, name, material, _of(size, nano, full, full))

    return build


def _throw(seed: int) -> Builder:
    def build(material: str, size: Size, name: str) -> Scene:
        scene = _block(random_throw(material, seed), size)
        return _reference(scene, name, material, _of(size, 200, 1000, 1000))

    return build


def _geometry(shape: Shape) -> Builder:
    """Another shape, thrown and turning, on a finer grid. The paper's meshes have sides of 0.7 to
    0.8 m and 50 to 80 particles along them."""

    def build(material: str, size: Size, name: str) -> Scene:
        lower, upper = shape.bounds()
        longest = max(b - a for a, b in zip(lower, upper, strict=True))
        body = Body.of(
            material,
            shape,
            (0.5, 0.5, 0.5),
            longest / _of(size, 14, 25, 50),
            velocity=(-1.5, 1.0, -1.5),
            angular=(1.0, 1.0, 1.0),
        )
        return Scene(name, (body,), _of(size, 200, 1000, 2000), 32)

    return build


def _sized(shape: Callable[[float], Shape]) -> Builder:
    """A shape of 0.7 m, nano 0.4 m."""

    def build(material: str, size: Size, name: str) -> Scene:
        return _geometry(shape(_of(size, 0.4, 0.7, 0.7)))(material, size, name)

    return build


def _slope(material: str, size: Size, name: str) -> Scene:
    """A small heavy body on a wall that gravity crosses at 49°."""
    cells, side = _of(size, (32, 0.2), (64, 0.1), (128, 0.1))
    shape, floor = Torus(0.35 * side, 0.15 * side), 2 / cells
    body = Body.of(
        material,
        shape,
        (0.3, 0.5, floor + side / 2),
        side / _of(size, 16, 30, 60),
        orientation=UPRIGHT,
        rho=5e3,
    )
    return Scene(name, (body,), _of(size, 200, 1500, 1500), cells, gravity=(0.866, 0.0, -1.0))


def _two(material: str, size: Size, name: str) -> Scene:
    """Two balls that meet in flight."""
    spacing = 1 / _of(size, 40, 64, 64)
    bodies = tuple(
        Body.of(material, Sphere(0.15), (x, 0.5, 0.5), spacing, velocity=(v, 0.0, 0.0))
        for x, v in ((0.3, 2.0), (0.7, -2.0))
    )
    return Scene(name, bodies, _of(size, 200, 1000, 1000), 32)


def _contact(material: str, size: Size, name: str) -> Scene:
    """Four bodies of 0.35 m thrown at each other at 2 m/s along both horizontal axes."""
    shapes = (Sphere(0.175), Torus(0.12, 0.055), Capsule(0.08, 0.095), Box((0.13, 0.13, 0.13)))
    places = ((0.28, 0.28), (0.72, 0.28), (0.28, 0.72), (0.72, 0.72))
    spacing = 0.35 / _of(size, 11, 20, 40)
    bodies = tuple(
        Body.of(
            material,
            shape,
            (x, y, 0.5),
            spacing,
            velocity=(math.copysign(2.0, 0.5 - x), math.copysign(2.0, 0.5 - y), 0.0),
        )
        for shape, (x, y) in zip(shapes, places, strict=True)
    )
    return Scene(name, bodies, _of(size, 150, 1000, 1000), 32)


def _pool(material: str, size: Size, name: str) -> Scene:
    """A jelly ring dropped on water of three times its density."""
    cells, side, spacing = _of(size, (20, 0.7, 1 / 24), (32, 0.85, 1 / 64), (64, 0.85, 1 / 128))
    floor, depth = 2 / cells, 0.3
    water = Body.of(
        "water",
        Box((side / 2, side / 2, depth / 2)),
        (0.5, 0.5, floor + depth / 2),
        spacing,
        mode=_of(size, "grid", "random", "random"),
        rho=3e3,
    )
    ring = Torus(0.12, 0.06)
    jelly = Body.of("jelly", ring, (0.5, 0.5, floor + depth + 0.2), min(spacing, 1 / 40))
    return Scene(name, (water, jelly), _of(size, 300, 1500, 3000), cells)


def _melting(material: str, size: Size, name: str) -> Scene:
    """A ball on a bar twice as dense, both jelly or plasticine at rest; sand from below upward."""
    cells, spacing = _of(size, (20, 1 / 24), (32, 1 / 64), (64, 1 / 128))
    before = "jelly" if material == "jelly" else "plasticine"
    floor, half, radius = 2 / cells, 0.08, 0.16
    solid = {"melts_to": "sand"}
    bar = Box((0.2, 0.2, half))
    bodies = (
        Body.of(before, bar, (0.5, 0.5, floor + half), spacing, rho=2e3, **solid),
        Body.of(before, Sphere(radius), (0.5, 0.5, floor + 2 * half + radius), spacing, **solid),
    )
    steps = _of(size, 200, 1000, 2000)
    return Scene(name, bodies, steps, cells, melting=(steps // 4, 3 * steps // 4))


def _large(material: str, size: Size, name: str) -> Scene:
    """About a million particles; nano a few thousand."""
    cells, count, steps = _of(size, (32, 24, 200), (64, 62, 2000), (64, 124, 10_000))
    ball = Body.of(material, Sphere(0.4), (0.5, 0.5, 0.5), 0.8 / count, velocity=(-1.5, 1.0, -1.5))
    return Scene(name, (ball,), steps, cells, every=50)


SCENES: dict[str, Builder] = {
    "reconstruction": _cube(lambda material: 1000, 200),
    "time": _cube(lambda material: 5000 if material == "water" else 2000, 400),
    **{f"velocity-{seed}": _throw(seed) for seed in THROW_SEEDS},
    "sphere": _sized(lambda side: Sphere(side / 2)),
    "torus": _sized(lambda side: Torus(0.35 * side, 0.15 * side)),
    "capsule": _sized(lambda side: Capsule(side / 4, side / 4)),
    "mesh": _sized(lambda side: Sphere(side / 2)),
    "slope": _slope,
    "two": _two,
    "contact": _contact,
    "pool": _pool,
    "melting": _melting,
    "large": _large,
}
"""Builders by name, called with material, size and name."""
