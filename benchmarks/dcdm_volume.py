"""The picture of smoke with moving obstacles in 3-D: volumes, divergence and iterations per frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dcdm_smoke import draw_course, simulate
from rheograd.sim.grid import GasState
from rheograd.viz.theme import LIGHT

COLORS = ("#c9613c", "#3d7fd9")
"""Blade and ball."""


def volume(state: GasState, obstacles, size: tuple[int, int]) -> np.ndarray:
    """One moment, (height, width, 3): smoke as a volume, obstacles as surfaces."""
    import pyvista as pv
    from rheograd.viz.draw import draw
    from rheograd.viz.frames import scene_camera, set_lights
    from rheograd.viz.scene import Scene, Tool

    pairs = zip(obstacles, state.tool_pose[0], COLORS, strict=True)
    tools = [Tool(c.shape, pose.numpy(), color) for c, pose, color in pairs]
    scene = Scene(lower=np.zeros(3), upper=np.ones(3), tools=tools)
    plotter = pv.Plotter(off_screen=True, window_size=size, lighting="none")
    plotter.set_background(LIGHT.background)
    set_lights(plotter)
    draw(plotter, scene)
    smoke = state.smoke[0].numpy()
    n = smoke.shape[0]
    grid = pv.ImageData(dimensions=smoke.shape, spacing=(1 / n,) * 3, origin=(0.5 / n,) * 3)
    grid["smoke"] = smoke.flatten(order="F")
    opacity = 0.9 * np.linspace(0, 1, 64) ** 1.3
    plotter.add_volume(
        grid,
        scalars="smoke",
        clim=(0.0, 0.9),
        cmap="magma_r",
        opacity=opacity,
        opacity_unit_distance=3.0 / n,
        show_scalar_bar=False,
        shade=False,
    )
    scene_camera(scene, size, azimuth=-62, elevation=14).apply(plotter)
    image = plotter.screenshot(return_img=True)
    plotter.close()
    return np.ascontiguousarray(image[..., :3])


def draw_volumes(path: Path, method, n: int = 48, count: int = 125) -> None:
    """Three moments in 3-D, see `draw_course`."""

    def panel(axes, image: np.ndarray, i: int, t: float) -> None:
        axes.imshow(image, interpolation="lanczos")
        axes.set_title(f"Smoke at {t:.1f} s, {n}³", loc="left", fontsize=10, color=LIGHT.text)
        axes.axis("off")

    draw_course(
        path, simulate(n, 3, count, method), n, [round(count * k) for k in (0.4, 0.7, 1)],
        lambda solver, state, system: volume(state, solver.model.obstacles, (640, 720)),
        panel, 1.9,
    )  # fmt: skip
