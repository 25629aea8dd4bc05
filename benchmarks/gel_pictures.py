"""What does a gel sensor feel and see? Draws docs/images/tactile-force.png and tactile-markers.png.

    python benchmarks/gel_pictures.py [--quick] [--machine NAME]

Forces come from results/gel.<machine>.json (`bench_gel.py`); the flow of the markers and the forces
beside it are simulated here: a dome that presses, twists, rolls and slides on a table. `--quick`: a
coarse gel, no files.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from bench_gel import RADIUS, layered_hertz
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from results import FOLDER, machine, parser
from rheograd.tasks.tactile.probe import dome_probe
from rheograd.viz.plots import save_figure, style_axes
from rheograd.viz.theme import PALETTE, theme_of

DOCS = Path(__file__).parent.parent / "docs/images"
MOTIONS = ("press", "twist", "roll", "slide")
THEME = theme_of("light")


def figure(columns: int, rows: int = 1, high: float = 3.2) -> tuple[Figure, list]:
    """A figure of panels."""
    fig = Figure(figsize=(3.6 * columns, high * rows), dpi=130, layout="constrained",
                 facecolor=THEME.background)  # fmt: skip
    FigureCanvasAgg(fig)
    panels = [fig.add_subplot(rows, columns, k + 1) for k in range(rows * columns)]
    for axes in panels:
        style_axes(axes, THEME)
    return fig, panels


def titled(axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=THEME.text)
    axes.set_xlabel(x, color=THEME.text, fontsize=9)
    axes.set_ylabel(y, color=THEME.text, fontsize=9)


def draw_forces(rows: list[dict], path: Path) -> None:
    """Force over depth, place by moments, and the loop of stick and slip."""
    fig, (left, middle, right) = figure(3)
    depths = [r for r in rows if r["measure"] == "depth"]
    line = np.linspace(0, 8.2e-4, 60)
    left.plot(1e3 * line, [layered_hertz(RADIUS, d) for d in line], color=THEME.edge, lw=1.2,
              label="Hertz, with the layer")  # fmt: skip
    for k, cells in enumerate(dict.fromkeys(tuple(r["cells"]) for r in depths)):
        own = [r for r in depths if tuple(r["cells"]) == cells]
        count = "–".join(str(own[i]["touching"]) for i in (0, -1))
        left.plot([1e3 * r["depth_m"] for r in own], [r["force_N"] for r in own], "os^"[k], ms=5,
                  mfc="none", color=PALETTE[k], label=f"{count} points touch")  # fmt: skip
    titled(left, "A ball of 60 mm on a block", "depth [mm]", "force [N]")
    left.legend(frameon=False, fontsize=8, labelcolor=THEME.text)
    places = [r for r in rows if r["measure"] == "torque"]
    at = [1e3 * r["x_m"] for r in places]
    middle.plot([0, max(at)], [0, max(at)], color=THEME.edge, lw=1.2)
    middle.plot([0, max(at)], [0, -max(at) / 2], color=THEME.edge, lw=1.2)
    for k, axis in enumerate("xy"):
        found = [1e3 * r[f"found_{axis}_m"] for r in places]
        middle.plot(at, found, "os"[k], ms=5, mfc="none", color=PALETTE[k], label=axis)
    titled(
        middle, "A ball pressed beside the axis", "x of the ball [mm]", "from force and moment [mm]"
    )
    middle.legend(frameon=False, fontsize=8, labelcolor=THEME.text)
    for k, r in enumerate(r for r in rows if r["measure"] == "slip"):
        right.plot([0, *(1e3 * w for w in r["way_m"])], [0, *r["ratio"]], color=PALETTE[k], lw=1.6,
                   label=f"μ = {r['mu']:g}")  # fmt: skip
        for sign in (1, -1):
            right.axhline(sign * r["mu"], color=PALETTE[k], lw=0.8, ls=":")
    titled(right, "A plate dragged there and back", "way [mm]", "side force / normal force")
    right.legend(frameon=False, fontsize=8, labelcolor=THEME.text)
    save_figure(fig, path)


def draw_markers(cuts: int, path: Path) -> None:
    """Flow of 136 markers at the end of four motions; the forces on their way."""
    probe = dome_probe(cuts, press_steps=4, move_steps=6)
    sensor, camera, markers = probe.sensor, probe.camera, probe.markers
    seen = probe.observe({})
    start = markers.project(camera, sensor.mesh.X[None]).uv[0].numpy()
    fig, panels = figure(4, 2, 3.3)
    most = float(seen.force.abs().max())
    for k, name in enumerate(MOTIONS):
        axes, pressed = panels[k], seen.markers[k, 3].numpy()
        way = seen.markers[k, -1].numpy() - (pressed if k else start)
        axes.scatter(start[:, 0], start[:, 1], s=4, color=THEME.edge, linewidths=0)
        size = np.linalg.norm(way, axis=1)
        gain = max(1, round(40 / size.max()))
        drawn = axes.quiver(
            start[:, 0], start[:, 1], gain * way[:, 0], gain * way[:, 1], size, angles="xy",
            scale_units="xy", scale=1, width=0.006, cmap="viridis",
        )  # fmt: skip
        axes.set_aspect("equal")
        axes.set_xlim(332 - 225, 332 + 225)
        axes.set_ylim(240 + 225, 240 - 225)
        since = " since the press" if k else ""
        titled(axes, f"{name}: flow{since} × {gain}", "u [px]", "v [px]")
        bar = fig.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02)
        bar.ax.tick_params(colors=THEME.text, labelsize=7)
        times = 1e3 * sensor.dt * np.arange(seen.force.shape[1] + 1)
        axes = panels[4 + k]
        for i, axis in enumerate("xyz"):
            force = np.concatenate(([0.0], seen.force[k, :, i].numpy()))
            axes.plot(times, force, "o-", ms=3, color=PALETTE[i], lw=1.4, label=f"F{axis}")
        axes.axvline(times[4], color=THEME.edge, lw=0.8, ls=":")
        axes.set_ylim(-0.5 * most, 1.1 * most)
        titled(axes, f"{name}: force on the mount", "time [ms]", "force [N]")
        axes.legend(frameon=False, fontsize=8, labelcolor=THEME.text, loc="upper left")
    save_figure(fig, path)


def main() -> None:
    given = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp()) if given.quick else DOCS
    file = FOLDER / f"gel.{given.machine or machine()}.json"
    if file.exists():
        draw_forces(json.loads(file.read_text("utf-8"))["rows"], folder / "tactile-force.png")
    draw_markers(2 if given.quick else 4, folder / "tactile-markers.png")


if __name__ == "__main__":
    main()
