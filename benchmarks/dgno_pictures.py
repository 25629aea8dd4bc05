"""Pictures of shipped latent models: a field found from sensors, a flow past a disc.

python benchmarks/dgno_pictures.py [--out docs/images]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from dgno_cases import PHASES, generator, inputs, reference
from PIL import Image
from rheograd.assets import card
from rheograd.operators.dgno import (
    Observation,
    Posterior,
    StokesReference,
    hamiltonian,
    load_dgno,
    noise_level,
)
from rheograd.viz.plots import figure, save_figure
from rheograd.viz.theme import LIGHT
from strips import save_small


def panels(size: tuple[float, float], count: int) -> tuple:
    fig, axes = figure(size=size)
    axes.remove()
    return fig, fig.subplots(count // 3, 3)


def draw(axes, field: torch.Tensor, title: str, extent, name: str = "viridis", **options) -> None:
    """A field (nx, ny) over its box, with a bar of its values."""
    shown = axes.imshow(field.T, origin="lower", extent=extent, cmap=name, **options)
    axes.set_title(title, loc="left", fontsize=9, color=LIGHT.text)
    axes.tick_params(labelsize=7, colors=LIGHT.text)
    bar = axes.figure.colorbar(shown, ax=axes, fraction=0.046 * extent[3] / extent[1], pad=0.03)
    bar.ax.tick_params(labelsize=7, colors=LIGHT.text)
    bar.outline.set_visible(False)


@torch.no_grad()
def phases(out: Path, sensors: int = 100, decibels: float = 25.0) -> None:
    """Truth, what is seen, and what the posterior says."""
    model, g = load_dgno("darcy-phases-32").requires_grad_(False), generator(7)
    delta = card("dgno", "darcy-phases-32")["metrics"]["rms error of u"]
    problem, prior = model.problem, model.prior
    a = inputs("phases", 1, 23)
    u, x = reference("phases", a)[0], problem.points(a)
    noise = float(noise_level(u[None], decibels))
    at = torch.randperm(len(x), generator=g)[:sensors]
    value = u[at] + noise * torch.randn(sensors, generator=g)
    posterior = Posterior(model, prior, [Observation(x[at], value, math.hypot(noise, delta))])
    z = posterior.maximize(0.5 * torch.randn(3, prior.latent, generator=g), 25)
    best = z[posterior.energy(z).argmin()]
    root = posterior.laplace(best)
    begin = best + 0.5 * torch.randn(6, prior.latent, generator=g) @ root.mT
    codes = prior.code(hamiltonian(posterior.slope, begin, 60, 60, root=root, generator=g).flat())
    fields = problem.inputs(model.decode(codes), x)
    low, high = PHASES
    chance = ((fields - low) / (high - low)).mean(0).view(32, 32)
    straight = model(a).view(32, 32)
    fig, rows = panels((9.0, 5.6), 6)
    box = (0, 1, 0, 1)
    draw(rows[0, 0], a[0, 0], "Permeability", box, "Greys", vmin=low, vmax=high)
    draw(rows[0, 1], u.view(32, 32), "Solution of the solver", box)
    draw(rows[0, 2], straight - u.view(32, 32), "Network − solver", box, "RdBu_r",
         vmin=-0.05 * float(u.max()), vmax=0.05 * float(u.max()))  # fmt: skip
    rows[1, 0].scatter(*x[at].mT, c=value, s=14, vmin=0, vmax=float(u.max()))
    rows[1, 0].set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    rows[1, 0].set_title(
        f"{sensors} sensors, {decibels:g} dB", loc="left", fontsize=9, color=LIGHT.text
    )
    rows[1, 0].tick_params(labelsize=7, colors=LIGHT.text)
    draw(rows[1, 1], chance, "Chance of the upper phase", box, "Greys", vmin=0, vmax=1)
    draw(rows[1, 2], fields.std(0).view(32, 32), "Its spread in a", box, "magma_r", vmin=0)
    save_figure(fig, out / "dgno-phases.png")
    print("error of u", float((straight.flatten() - u).norm() / u.norm()))


@torch.no_grad()
def stokes(out: Path, cells: int = 48) -> None:
    """Speed and pressure of the network and of the solver on cells of 1/48 m."""
    model = load_dgno("stokes-cylinder").requires_grad_(False)
    problem, a = model.problem, inputs("stokes", 1, 23)
    v, p = (f[0].float() for f in StokesReference(problem, cells).solve(a))
    x = torch.cartesian_prod(*((torch.arange(n) + 0.5) / cells for n in (2 * cells, cells)))
    away = problem.distance(x).view(2 * cells, cells) > 0
    decode = model.decode(model.encode(a))
    found = problem.solution(decode, x)[0].view(2, 2 * cells, cells)
    pressure = problem.pressure(decode, x)[0].view(2 * cells, cells)
    hide = torch.where(away, 0.0, torch.nan)
    fig, rows = panels((12.0, 4.2), 6)
    box = (0, 2, 0, 1)
    for row, (mine, truth, name, color) in enumerate((
        (found.norm(dim=0), v.norm(dim=0), "speed [m/s]", "viridis"),
        (pressure, p, "pressure [Pa]", "magma"),
    )):  # fmt: skip
        low, high = float(truth[away].min()), float(truth[away].max())
        size = 0.02 * (high - low)
        draw(rows[row, 0], mine + hide, f"Network: {name}", box, color, vmin=low, vmax=high)
        draw(rows[row, 1], truth + hide, "Solver", box, color, vmin=low, vmax=high)
        draw(
            rows[row, 2],
            mine - truth + hide,
            "Network − solver",
            box,
            "RdBu_r",
            vmin=-size,
            vmax=size,
        )
    at = [(torch.arange(n) + 0.5).numpy() / cells for n in (2 * cells, cells)]
    rows[0, 0].streamplot(
        *at,
        *(f.T.numpy() for f in (found + hide)),
        color="white",
        linewidth=0.5,
        density=0.6,
        arrowsize=0.6,
    )
    rows[0, 0].set(xlim=(0, 2), ylim=(0, 1))
    save_figure(fig, out / "dgno-stokes.png")
    force = problem.load(decode, x)[0]
    print("force", force[:2].tolist(), "N/m, torque", float(force[2]), "N")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=Path("docs/images"))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    for name, picture in (("phases", phases), ("stokes", stokes)):
        picture(given.out)
        file = given.out / f"dgno-{name}.png"
        save_small(np.asarray(Image.open(file).convert("RGB")), file)


if __name__ == "__main__":
    main()
