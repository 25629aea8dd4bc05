"""The picture of smoke with moving obstacles in 3-D: volumes, divergence and iterations per frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from dcdm_smoke import DT, left, simulate
from rheograd.sim.grid import GasState
from rheograd.viz.theme import LIGHT, PALETTE

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
    """Three moments, and the divergence and the iterations of every frame."""
    import torch
    from PIL import Image
    from rheograd.viz.plots import figure, save_figure, style_axes

    def frames() -> Iterator:
        with torch.no_grad():
            yield from simulate(n, 3, count, method)

    moments = [round(count * share) for share in (0.4, 0.7, 1)]
    shown, before, after, iterations = [], [], [], []
    for i, (solver, state, system, b, _) in enumerate(frames(), 1):
        before.append(float(b.abs().max()) * n)
        after.append(left(solver, state, system, b) * before[-1])
        iterations.append(solver.info.iterations)
        if i in moments:
            shown.append((state.t, volume(state, solver.model.obstacles, (640, 720))))
    fig, axes = figure(size=(9.0, 5.6))
    axes.remove()
    grid = fig.add_gridspec(2, 6, height_ratios=(1.9, 1))
    for i, (t, image) in enumerate(shown):
        axes = fig.add_subplot(grid[0, 2 * i : 2 * i + 2])
        axes.imshow(image, interpolation="lanczos")
        axes.set_title(f"Smoke at {t:.1f} s, {n}³", loc="left", fontsize=10, color=LIGHT.text)
        axes.axis("off")
    at = [DT * i for i in range(1, count + 1)]
    axes = fig.add_subplot(grid[1, :3])
    style_axes(axes, LIGHT)
    axes.semilogy(at, before, color=PALETTE[0], label="before the projection")
    axes.semilogy(at, after, color=PALETTE[1], label="after")
    axes.set_title("Largest divergence [1/s]", loc="left", fontsize=10, color=LIGHT.text)
    axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("t [s]", fontsize=8)
    axes = fig.add_subplot(grid[1, 3:])
    style_axes(axes, LIGHT)
    axes.step(at, iterations, color=PALETTE[2], where="mid")
    axes.set_ylim(0, max(iterations) + 2)
    axes.set_title("Iterations per frame", loc="left", fontsize=10, color=LIGHT.text)
    axes.set_xlabel("t [s]", fontsize=8)
    save_figure(fig, path)
    Image.open(path).quantize(256).save(path, optimize=True)
    worst = max(a / b for a, b in zip(after, before, strict=True))
    print(f"divergence left at most {worst:.1e}; {min(iterations)} to {max(iterations)} iterations")
