"""How many iterations and how much time do learned directions need, against CG, IC, multigrid and AMG?

iterations: −Δu = f (and −∇·(k ∇u) = f) in walls, to 1e-4 and 1e-6 of the right-hand side, from rest, for
every solver in one run, on domains that no network was trained on; set-up and solve in CPU seconds.
loop: history of the published network: none, two directions, all.
sampler: time and memory of training vectors.
training: iterations of the published network in 3-D after equal times of several recipes.
smoke: a simulation with moving obstacles, `dcdm_smoke.py`.
training (--train NAME --out FOLDER): one of RECIPES, with the shipped JSON beside the weights.

Times are CPU times of one thread, so that a busy machine counts less. Rows that the file holds are
kept, so a run that was stopped goes on; --again measures them anew.

    python benchmarks/repro_dcdm.py [--quick] [--again] [--only iterations] [--sizes 64 128] [--dim 2]
    python benchmarks/repro_dcdm.py --train symmetric-2d --out assets/dcdm
    python benchmarks/repro_dcdm.py --picture docs/images/dcdm-smoke.png
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import torch
from dcdm_smoke import Rows, draw, measure_driven, measure_replay
from dcdm_volume import draw_volumes
from deflation import Deflated
from results import machine, parser, peak_memory, reset_peak
from rheograd.operators.dcdm import (
    DCDM,
    DCDMNet,
    DCDMTraining,
    LinearMultigrid,
    SpectralSampler,
    SymmetricMultigrid,
    load_net,
    net_names,
    random_domain,
    save_net,
    train_direction,
)
from rheograd.sim.grid.poisson import IncompleteCholesky, PoissonProblem, PoissonSystem

MIXED = ("neumann", {"x-": "neumann", "z+": "neumann"})
RECIPES = {
    "dcdm-2d": (
        lambda g: DCDMNet(2, 64, generator=g),
        DCDMTraining(
            domains=("empty",), loss="one_step", batch=32, lr=1e-3, seconds=200, replay=0.0
        ),
    ),
    "linear-2d": (
        lambda g: LinearMultigrid(2, noise=0.005, generator=g),
        DCDMTraining(domains=("obstacles", "porous"), sides=MIXED, batch=8, lr=2e-3, seconds=40),
    ),
    "linear-3d": (
        lambda g: LinearMultigrid(3, noise=0.005, generator=g),
        DCDMTraining(
            dim=3,
            sizes=(16,),
            domains=("obstacles", "porous"),
            sides=MIXED,
            batch=4,
            lr=2e-3,
            seconds=40,
            geometries=24,
        ),
    ),
    "dcdm-3d": (
        lambda g: DCDMNet(3, 64, generator=g, scaled=True),
        DCDMTraining(
            dim=3,
            sizes=(16, 24, 32),
            domains=("empty", "obstacles"),
            loss="energy",
            slope=2.0,
            cells=32768,
            lr=1e-3,
            seconds=450,
            geometries=48,
            half=True,
        ),
    ),
    "symmetric-2d": (
        lambda g: SymmetricMultigrid(2, smooth=True, generator=g),
        DCDMTraining(
            sizes=(32, 64),
            domains=("obstacles", "porous", "layers"),
            sides=MIXED,
            batch=8,
            lr=1e-2,
            seconds=50,
        ),
    ),
    "symmetric-3d": (
        lambda g: SymmetricMultigrid(2, smooth=True, generator=g),
        DCDMTraining(
            dim=3,
            sizes=(16, 24),
            domains=("obstacles", "porous", "layers"),
            sides=MIXED,
            batch=4,
            lr=1e-2,
            seconds=30,
            geometries=24,
        ),
    ),
}
"""The published recipe: Adam 1e-4, batch 10, 20 000 stored vectors, 1000 passes; these are short."""

CLASSICAL = {name: name for name in ("cg", "jacobi", "ic", "multigrid", "amg")} | {
    "mic": lambda system: IncompleteCholesky(system.stencil, 0.97),
    "deflated": Deflated,
}
"""mic: modified incomplete Cholesky, the habit of computer graphics (Bridson 2015)."""
SLOW = {"cg": 512, "jacobi": 256, "ic": 512, "mic": 512, "deflated": 256, "dcdm": 128}
"""Largest number of cells per axis that a method is measured at in 2-D: minutes beyond."""
SLOW_3D = {"cg": 128, "jacobi": 32, "ic": 128, "mic": 128, "deflated": 64, "dcdm": 64}


def coordinates(n: int, dim: int) -> torch.Tensor:
    at = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return torch.stack(torch.meshgrid(*[at] * dim, indexing="ij"), -1)


def domain(name: str, n: int, dim: int) -> PoissonProblem:
    """A box of walls with what the name says; none of these were trained on."""
    x, cells = coordinates(n, dim), (n,) * dim
    box = PoissonProblem(cells, 1.0, "neumann")
    mask = torch.ones(cells, dtype=torch.bool)
    wall = (x[..., 0] - 0.5).abs() < 1.01 / 64
    if name == "circle":
        mask = (x - 0.45).norm(dim=-1) > 0.18
    elif name == "two":
        for centre, radius in ((0.3, 0.12), (0.7, 0.15)):
            mask &= (x - centre).norm(dim=-1) > radius
        mask &= ~(wall & (x[..., -1] > 0.25) & (x[..., -1] < 0.9))
    elif name == "maze":
        width = 1 / 64 if n >= 64 else 1 / n
        for i in range(1, 8):
            slit = x[..., 1] < 7 / 8 if i % 2 else x[..., 1] > 1 / 8
            mask &= ~(slit & (x[..., 0] >= i / 8) & (x[..., 0] < i / 8 + width))
    elif name == "porous":
        generator = torch.Generator().manual_seed(1)
        solid = torch.rand((n // 4,) * dim, generator=generator) < 0.3
        for a in range(dim):
            solid = solid.repeat_interleave(4, a)
        mask = ~solid
    elif name == "grains":
        generator = torch.Generator().manual_seed(2)
        solid = torch.rand((16 if dim == 2 else 8,) * dim, generator=generator) < 0.3
        for a in range(dim):
            solid = solid.repeat_interleave(n // solid.shape[a], a)
        mask = ~solid
    elif name == "blocks":
        generator = torch.Generator().manual_seed(1)
        k = 1000.0 ** (torch.rand((16,) * dim, generator=generator) < 0.5).double()
        for a in range(dim):
            k = k.repeat_interleave(n // 16, a)
        return dataclasses.replace(box, k=k[None])
    elif name == "layers":
        generator = torch.Generator().manual_seed(1)
        return random_domain("layers", box, 1, generator)
    return box if name == "empty" else dataclasses.replace(box, mask=mask)


def source(n: int, dim: int) -> torch.Tensor:
    """A plume: a warm spot below, a sink above, and 2 % of noise."""
    x, generator = coordinates(n, dim), torch.Generator().manual_seed(0)
    low, high = torch.full((dim,), 0.5).double(), torch.full((dim,), 0.5).double()
    low[-1], high[-1] = 0.2, 0.8
    b = torch.exp(-((x - low).norm(dim=-1) ** 2) / 0.01)
    b = b - 0.7 * torch.exp(-((x - high).norm(dim=-1) ** 2) / 0.02)
    return b + 0.02 * b.std() * torch.randn(b.shape, generator=generator, dtype=b.dtype)


def methods(names: list[str], dim: int) -> dict:
    """Names to methods: classical ones, and the networks that ship for this dimension."""
    found: dict = dict(CLASSICAL)
    for name in names:
        if not name.endswith(f"{dim}d"):
            continue
        kind = name.split("-")[0]
        found[kind] = DCDM(load_net(name), fallback=False, patience=200)
    return found


def solve(problem: PoissonProblem, b: torch.Tensor, method, tol: float, limit: int = 5000) -> dict:
    clock = time.process_time()
    system = PoissonSystem(problem, method, tol, limit, like=b)
    setup, clock = time.process_time() - clock, time.process_time()
    try:
        found = system.solve(b, inconsistent="project")
    except (RuntimeError, ValueError) as error:
        return {"failed": str(error).split(".")[0][:120]}
    seconds = time.process_time() - clock
    row = {"iterations": int(found.iterations.max()), "residual": float(found.residual.max())}
    return row | {"setup_cpu_seconds": setup, "cpu_seconds": seconds}


def measure_iterations(
    results: Rows,
    dim: int,
    sizes: list[int],
    names: list[str],
    only: list[str] | None,
    domains: list[str] | None = None,
) -> None:
    """Small grids on every domain and to both tolerances; large ones on four domains, to 1e-6."""
    limits = SLOW if dim == 2 else SLOW_3D
    for n in sizes:
        b = source(n, dim)
        small = n <= (128 if dim == 2 else 32)
        shapes = ["empty", "circle", "two", "grains", "maze", "porous", "layers", "blocks"]
        for shape in shapes if small else ["two", "grains", "empty", "porous"]:
            if (dim == 3 and shape == "maze") or (domains and shape not in domains):
                continue
            problem = domain(shape, n, dim)
            for name, method in methods(names, dim).items():
                fixed = shape in ("layers", "blocks") and name in ("dcdm", "linear")
                if n > limits.get(name, 10**6) or fixed or (only and name not in only):
                    continue
                for tol in (1e-4, 1e-6) if small else (1e-6,):
                    where = {"measure": f"iterations {dim}-D", "engine": name, "cells": n}
                    where |= {"domain": shape, "tol": tol}
                    if not results.has(**where):
                        results.add(**where, **solve(problem, b, method, tol))


def measure_loop(results: Rows, dims: list[int], sizes: list[int], names: list[str]) -> None:
    """A4 and A5: what orthogonal directions bring, at 1e-4; in 3-D at 32³ only."""
    for name in names:
        dim = 3 if name.endswith("3d") else 2
        if dim not in dims or name.startswith("symmetric"):
            continue
        net = load_net(name)
        for n in sizes if dim == 2 else [32]:
            for shape in ("empty", "circle", "two"):
                where = {"measure": "loop", "engine": name, "cells": n, "domain": shape}
                if results.has(**where):
                    continue
                problem, b, row = domain(shape, n, dim), source(n, dim), {}
                for label, history in (("two", 2), ("all", None), ("none", 0)):
                    method = DCDM(net, history, fallback=False, patience=200, plain=False)
                    found = solve(problem, b, method, 1e-4, 300)
                    row[label] = found.get("iterations", "> 300")
                row["cg"] = solve(problem, b, "cg", 1e-4)["iterations"]
                results.add(**where, **row)


def measure_sampler(results: Rows, count: int) -> None:
    """A6: vectors of 64³."""
    if results.has(measure="sampler", cells=64):
        return
    sampler = SpectralSampler(PoissonProblem((64, 64, 64), 1.0, "neumann"))
    generator = torch.Generator().manual_seed(0)
    reset_peak()
    before, clock = peak_memory(), time.process_time()
    for _ in range(count // 10):
        sampler(10, generator)
    seconds = time.process_time() - clock
    row = {"vectors": count, "cells": 64, "cpu_seconds": seconds}
    results.add(measure="sampler", **row, peak_mib=peak_memory(), before_mib=before)


def measure_training(results: Rows, seconds: float, only: list[str] | None) -> None:
    """What it takes to train the published network in 3-D: parts of the recipe, at equal CPU time."""
    recipe = dataclasses.replace(RECIPES["dcdm-3d"][1], seconds=seconds, steps=10**6)
    box = {"sizes": (16,), "domains": ("empty",), "loss": "one_step", "slope": 0.0, "replay": 0.0}
    published = dataclasses.replace(recipe, **box)
    cases = {"published": (False, published), "published, scaled": (True, published)}
    cases |= {"ours": (True, recipe), "ours, not scaled": (False, recipe)}
    measure = "training 3-D" if seconds <= 30 else f"training 3-D, {seconds:g} s"
    for name, (scaled, used) in cases.items():
        skip = only is not None and name not in only
        if skip or results.has(measure=measure, engine=name, cells=32):
            continue
        net = DCDMNet(3, 64, generator=torch.Generator().manual_seed(0), scaled=scaled)
        row = {"updates": train_direction(net, used)["updates"], "training_cpu_seconds": seconds}
        for shape in ("empty", "two"):
            method = DCDM(net, 2, fallback=False, patience=200)
            found = solve(domain(shape, 32, 3), source(32, 3), method, 1e-4, 150)
            row[shape] = found.get("iterations", "> 150")
        results.add(measure=measure, engine=name, cells=32, **row)


def measure_smoke(results: Rows, dim: int, quick: bool, names: list[str]) -> None:
    """Moving obstacles; the paper's network keeps more directions, and CG may help it out."""
    n, frames, replayed = {2: (96, 40, 20), 3: (32, 20, 10)}[dim]
    n, frames, replayed = (32 if dim == 2 else 16, 4, 2) if quick else (n, frames, replayed)
    nets = {
        name.split("-")[0]: DCDM(load_net(name), 8 if name.startswith("dcdm") else 2)
        for name in names
        if name.endswith(f"{dim}d")
    }
    measure_driven(results, n, dim, frames, nets | {"multigrid": "multigrid", "ic": "ic"})
    others = dict(CLASSICAL) | ({"direct": "direct"} if dim == 2 else {})
    measure_replay(results, n, dim, replayed, others | nets)


def train(name: str, out: Path, seconds: float | None, seed: int) -> None:
    """Train one of RECIPES and write weights and their story."""
    make, recipe = RECIPES[name]
    recipe = dataclasses.replace(recipe, seed=seed, steps=100_000)
    recipe = recipe if seconds is None else dataclasses.replace(recipe, seconds=seconds)
    net = make(torch.Generator().manual_seed(seed))

    def show(update: int, loss: float) -> None:
        if update % 100 == 0:
            print(update, f"{loss:.4f}", flush=True)

    record = train_direction(net, recipe, show)
    record.pop("losses")
    save_net(out / f"{name}.safetensors", net)
    dim = 3 if name.endswith("3d") else 2
    method = DCDM(load_net(out / f"{name}.safetensors"), fallback=False, patience=200)
    counts = {}
    for n in (64, 128) if dim == 2 else (32, 48 if name.startswith("dcdm") else 64):
        for shape in ("empty", "circle", "two"):
            found = solve(domain(shape, n, dim), source(n, dim), method, 1e-6)
            counts[f"{shape} {n}"] = found.get("iterations", "failed")
    command = f"python benchmarks/repro_dcdm.py --train {name} --out assets/dcdm"
    story = {
        "name": name,
        "command": command + ("" if seconds is None else f" --seconds {seconds:g}"),
        "seed": seed,
        "machine": machine(),
        "settings": net.settings,
        "parameters": net.parameter_count(),
        "recipe": dataclasses.asdict(recipe),
        "training": {k: float(f"{v:.4g}") for k, v in record.items()},
        "iterations to 1e-6": counts,
    }
    if isinstance(net, SymmetricMultigrid):
        story["largest residual polynomial"] = float(f"{net.certified():.4g}")
    (out / f"{name}.json").write_text(json.dumps(story, indent=1) + "\n", "utf-8")
    print(json.dumps(story["training"]), json.dumps(counts), flush=True)


KINDS = ("sampler", "loop", "training", "smoke", "iterations")


def main() -> None:
    arguments = parser(__doc__, again=True)
    arguments.add_argument("--only", nargs="*", choices=KINDS)
    arguments.add_argument("--dim", nargs="*", type=int, default=[2, 3])
    arguments.add_argument("--sizes", nargs="*", type=int, help="cells per axis in 2-D")
    arguments.add_argument("--sizes3", nargs="*", type=int, help="cells per axis in 3-D")
    only = "only these, such as multigrid symmetric; of trainings, such as published ours"
    arguments.add_argument("--methods", nargs="*", help=only)
    arguments.add_argument("--domains", nargs="*", help="only these, such as two grains")
    arguments.add_argument("--picture", type=Path, help="draw the smoke, not measure; 3-D: -3d")
    arguments.add_argument("--train", choices=sorted(RECIPES))
    arguments.add_argument("--out", type=Path, default=Path("assets/dcdm"))
    arguments.add_argument("--seconds", type=float, help="CPU seconds of training")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    if given.train:
        given.out.mkdir(parents=True, exist_ok=True)
        train(given.train, given.out, given.seconds, given.seed)
        return
    if given.picture:
        for dim in given.dim:
            name = f"{given.picture.stem}{'' if dim == 2 else '-3d'}{given.picture.suffix}"
            show = draw if dim == 2 else draw_volumes
            show(given.picture.with_name(name), DCDM(load_net(f"symmetric-{dim}d")))
        return
    results, names = Rows("repro_dcdm", given), net_names()
    kinds = given.only or KINDS
    if "sampler" in kinds:
        measure_sampler(results, 20 if given.quick else 1000)
    if "loop" in kinds:
        measure_loop(results, given.dim, [32] if given.quick else [32, 64, 128], names)
    if "training" in kinds:
        seconds = 2.0 if given.quick else given.seconds or 30.0
        measure_training(results, seconds, given.methods)
    if "smoke" in kinds:
        for dim in given.dim:
            measure_smoke(results, dim, given.quick, names)
    if "iterations" in kinds:
        sizes = {2: given.sizes or [64, 128, 256, 512], 3: given.sizes3 or [32, 64, 128]}
        for dim in given.dim:
            quick = [32] if dim == 2 else [16]
            chosen = quick if given.quick else sizes[dim]
            measure_iterations(results, dim, chosen, names, given.methods, given.domains)


if __name__ == "__main__":
    main()
