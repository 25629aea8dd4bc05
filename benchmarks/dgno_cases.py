"""Cases of `repro_dgno.py`: problems, data, and a training that goes on after a break."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rheograd.operators.dgno import (
    DGNO,
    Bounded,
    Burgers1D,
    Darcy2D,
    DGNOConfig,
    NormalPrior,
    RealNVP,
    StokesCylinder,
    StokesReference,
    burgers_inputs,
    burgers_solutions,
    darcy_inputs,
    darcy_solutions,
    inflows,
    noise_level,
)
from rheograd.operators.dgno.problem import Problem
from rheograd.operators.train import TrainerConfig
from rheograd.sim.io.checkpoint import load_checkpoint, save_checkpoint

PHASES = (5.0, 10.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclasses.dataclass
class Data:
    """Inputs to train on, unseen inputs with references, and such for calibration."""

    train: torch.Tensor
    unseen: torch.Tensor
    u: torch.Tensor
    calibration: torch.Tensor
    u_calibration: torch.Tensor
    labels: torch.Tensor | None = None
    """Solutions of the first training inputs."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One training."""

    problem: Callable[[], Problem]
    data: str
    config: DGNOConfig
    lr: float = 3e-3
    labelled: int = 0
    batch: int = 25
    optimizer: str = "adam"
    fresh: bool = False
    """New inputs in every update, in place of a thousand: without labels they cost nothing."""


def _phases(form: str, **options) -> Callable[[], Problem]:
    return lambda: Darcy2D((32, 32), form, PHASES, **{"count": 150} | options)


def _smooth(form: str, **options) -> Callable[[], Problem]:
    return lambda: Darcy2D((32, 32), form, **{"count": 150} | options)


FROM_ONE = DGNOConfig(weight_virtual=20.0)
WEIGHTED = DGNOConfig(weight_virtual=20.0, first_weight=0.0)
"""The published start of the sums over layers."""
LARGE = DGNOConfig(latent=128, width=100, weight_virtual=40.0)
"""Code and width as published."""
CASES = {
    "phases mixed": Case(_phases("mixed"), "phases", WEIGHTED),
    "phases mixed, published rule": Case(
        _phases("mixed", points=7, radius=1e-4, corrected=False, ends=True, count=100), "phases",
        WEIGHTED,
    ),
    "phases mixed, w from 1": Case(_phases("mixed"), "phases", FROM_ONE),
    "smooth primal, w from 1": Case(_smooth("primal"), "smooth", FROM_ONE),
    "burgers, w from 1": Case(lambda: Burgers1D(), "burgers", DGNOConfig(weight_input=20.0)),
    "phases PI-DeepONet": Case(
        _phases("strong", count=1000), "phases", DGNOConfig(kind="deep", weight_virtual=20.0)
    ),
    "phases PI-MultiONet": Case(_phases("strong", count=1000), "phases", WEIGHTED),
    "phases primal weak": Case(_phases("primal"), "phases", WEIGHTED),
    "phases labels": Case(
        _phases("mixed"), "phases", DGNOConfig(weight_virtual=0.0, weight_labels=20.0), labelled=100
    ),
    "phases labels and residuals": Case(
        _phases("mixed"), "phases", DGNOConfig(weight_virtual=20.0, weight_labels=20.0),
        labelled=100,
    ),
    "phases bayes": Case(_phases("mixed"), "phases", DGNOConfig(weight_virtual=20.0, bayes=True)),
    "smooth primal": Case(_smooth("primal"), "smooth", WEIGHTED),
    "smooth mixed": Case(_smooth("mixed"), "smooth", WEIGHTED),
    "smooth PI-DeepONet": Case(
        _smooth("strong", count=600), "smooth", DGNOConfig(kind="deep", weight_virtual=20.0)
    ),
    "smooth bayes": Case(
        _smooth("mixed"), "smooth",
        DGNOConfig(weight_input=100.0, weight_virtual=300.0, bayes=True),
    ),
    "burgers": Case(
        lambda: Burgers1D(), "burgers", DGNOConfig(weight_input=20.0, first_weight=0.0)
    ),
    "phases mixed, SOAP": Case(
        _phases("mixed", count=80), "phases", FROM_ONE, lr=6e-3, optimizer="soap"
    ),
    "smooth primal, SOAP": Case(
        _smooth("primal", count=80), "smooth", FROM_ONE, lr=6e-3, optimizer="soap"
    ),
    "burgers, SOAP": Case(
        lambda: Burgers1D(count=80), "burgers", DGNOConfig(weight_input=20.0), lr=1e-2, batch=50,
        optimizer="soap",
    ),
    "smooth mixed, SOAP": Case(
        _smooth("mixed", count=80), "smooth", FROM_ONE, lr=6e-3, optimizer="soap"
    ),
    "smooth mixed, SOAP, fresh inputs": Case(
        _smooth("mixed", count=80), "smooth", FROM_ONE, lr=6e-3, optimizer="soap", fresh=True
    ),
    "burgers, SOAP, fresh inputs": Case(
        lambda: Burgers1D(count=80), "burgers", DGNOConfig(weight_input=20.0), lr=1e-2, batch=50,
        optimizer="soap", fresh=True,
    ),
    "phases mixed, SOAP, fresh inputs": Case(
        _phases("mixed", count=80), "phases", FROM_ONE, lr=6e-3, optimizer="soap", fresh=True
    ),
    "phases energy": Case(
        _phases("energy", count=256), "phases", FROM_ONE, lr=6e-3, optimizer="soap", fresh=True
    ),
    "smooth energy": Case(
        _smooth("energy", count=256), "smooth", FROM_ONE, lr=6e-3, optimizer="soap", fresh=True
    ),
    "phases energy, large": Case(
        _phases("energy", count=256), "phases", LARGE, lr=6e-3, batch=50, optimizer="soap", fresh=True
    ),
    "smooth energy, large": Case(
        _smooth("energy", count=256), "smooth", LARGE, lr=6e-3, batch=50, optimizer="soap", fresh=True
    ),
    "stokes, SOAP": Case(
        lambda: StokesCylinder(weight_walls=300.0), "stokes", DGNOConfig(latent=16), lr=6e-3,
        batch=16, optimizer="soap",
    ),
    "stokes energy": Case(
        lambda: StokesCylinder(weight_walls=300.0, form="energy"), "stokes", DGNOConfig(latent=16),
        lr=6e-3, batch=16, optimizer="soap", fresh=True,
    ),
    "burgers relative": Case(
        lambda: Burgers1D(count=80, relative=True), "burgers", DGNOConfig(weight_input=20.0), lr=1e-2,
        batch=50, optimizer="soap", fresh=True,
    ),
    "burgers energy": Case(
        lambda: Burgers1D(count=100, relative=True, form="energy"), "burgers",
        DGNOConfig(weight_input=5.0), lr=1e-2, batch=50, optimizer="soap", fresh=True,
    ),
    "burgers energy, large": Case(
        lambda: Burgers1D(count=100, relative=True, form="energy"), "burgers",
        DGNOConfig(width=100, weight_input=5.0), lr=1e-2, batch=50, optimizer="soap", fresh=True,
    ),
    "burgers PI-DeepONet": Case(
        lambda: Burgers1D(), "burgers", DGNOConfig(weight_input=20.0, kind="deep")
    ),
    "stokes": Case(lambda: StokesCylinder(), "stokes", DGNOConfig(latent=16), batch=16),
    "stokes PI-DeepONet": Case(
        lambda: StokesCylinder(), "stokes", DGNOConfig(latent=16, kind="deep"), batch=16
    ),
}  # fmt: skip


def inputs(
    kind: str, count: int, seed: int | torch.Generator, fraction: float | None = None
) -> torch.Tensor:
    g = seed if isinstance(seed, torch.Generator) else generator(seed)
    if kind == "phases":
        return darcy_inputs(count, 32, PHASES, 0.15, fraction, g)
    if kind == "smooth":
        return darcy_inputs(count, 32, None, 0.3, generator=g)
    return burgers_inputs(count, 128, g) if kind == "burgers" else inflows(count, 64, g)


def reference(kind: str, a: torch.Tensor, quick: bool = False) -> torch.Tensor:
    """(S, C·n) at the problem's points."""
    if kind in ("phases", "smooth"):
        return darcy_solutions(a, smooth=kind == "smooth").flatten(1)
    if kind == "burgers":
        return burgers_solutions(a).flatten(1)
    problem = StokesCylinder()
    v, p = StokesReference(problem, 48).solve(a)
    x = torch.cartesian_prod((torch.arange(96) + 0.5) / 48, (torch.arange(48) + 0.5) / 48)
    near = problem.distance(x.double()) > 1 / 48
    return torch.cat([v.flatten(2)[:, :, near].flatten(1), p.flatten(1)[:, near]], 1).float()


def data(case: Case, folder: Path, quick: bool = False) -> Data:
    """References are computed once and kept."""
    kind = case.data
    sizes = (40, 4, 4) if quick else (1000, 60, 20)
    file = folder / f"{kind}-{'-'.join(map(str, sizes))}.pt"
    parts = [inputs(kind, n, seed) for n, seed in zip(sizes, (1, 2, 3), strict=True)]
    if file.exists():
        u, held = torch.load(file)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        u, held = reference(kind, parts[1]), reference(kind, parts[2])
        torch.save((u, held), file)
    found = Data(*parts[:2], u, parts[2], held)
    if case.labelled:
        found.labels = reference(kind, parts[0][: case.labelled])
    return found


def sensed(
    known: Data, k: int, count: int, decibels: float
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Points, values and noise of the sensors of an unseen field, the same for every method."""
    g, u = generator(1000 * count + k), known.u[k]
    noise = float(noise_level(u[None], decibels))
    at = torch.randperm(len(u), generator=g)[:count]
    return at, u[at] + noise * torch.randn(count, generator=g), noise


def make(case: Case, seed: int = 0) -> DGNO:
    torch.manual_seed(seed)
    prior = RealNVP(case.config.latent, 6, 64) if case.config.bayes else None
    return DGNO(case.problem(), case.config, prior)


def train(
    name: str,
    case: Case,
    known: Data,
    seconds: float,
    folder: Path,
    seed: int = 0,
    chunk: float = 5.0,
) -> tuple[DGNO, dict]:
    """For so many seconds of process time; the learning rate follows the clock.

    Goes on from `folder`, where it leaves the model every `chunk` seconds.
    """
    file = folder / f"{name.replace(' ', '-').replace(',', '')}-{seconds:g}-{seed}.safetensors"
    model = make(case, seed)
    model.fit_scales(known.train)
    optimizer = TrainerConfig(updates=1, optimizer=case.optimizer, lr=case.lr).make_optimizer(model)
    spent, updates = 0.0, 0
    if file.exists():
        config = load_checkpoint(file, model, optimizer).config
        spent, updates = config["spent"], config["updates"]
    saved = spent
    g = generator(1000 + updates)
    start = time.process_time() - spent
    share = spent / seconds
    while share < 1:
        rate = min(1.0, (updates + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        optimizer.param_groups[0]["lr"] = case.lr * rate
        optimizer.zero_grad()
        model.loss(batch(case, known, g), g)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        updates += 1
        spent = time.process_time() - start
        share = spent / seconds
        if spent - saved > chunk or share >= 1:
            saved = spent
            save_checkpoint(file, model, {"spent": spent, "updates": updates}, optimizer)
    return model.eval(), {"updates": updates, "process seconds": spent}


def batch(case: Case, known: Data, g: torch.Generator) -> dict[str, torch.Tensor]:
    if case.fresh:
        return {"a": inputs(case.data, case.batch, g)}
    if known.labels is None:
        return {"a": known.train[torch.randint(len(known.train), (case.batch,), generator=g)]}
    count = len(known.labels)
    labelled = torch.randint(count, (case.batch // 2,), generator=g)
    if case.config.weight_virtual == 0:
        return {"a": known.train[labelled], "u": known.labels[labelled]}
    free = torch.randint(len(known.train), (case.batch - len(labelled),), generator=g)
    u = torch.cat([known.labels[labelled], known.labels[:1].expand(len(free), -1)])
    share = torch.cat([torch.ones(len(labelled)), torch.zeros(len(free))])
    return {"a": known.train[torch.cat([labelled, free])], "u": u, "labelled": share}


@torch.no_grad()
def prior_of(model: DGNO, known: Data, kind: str):
    """Prior of a trained model's codes."""
    from rheograd.operators.dgno import fit_prior

    if kind == "joint":
        return model.prior
    g = generator(5)
    beta = model.encode(known.train)
    flow = NormalPrior(model.config.latent) if kind == "normal" else RealNVP(
        model.config.latent, 6, 64, g
    )  # fmt: skip
    prior = Bounded(flow) if not model.config.bayes else flow
    with torch.enable_grad():
        if kind == "flow":
            # Codes lie on a thin set: noise of a tenth of their spread gives a density.
            y = torch.atanh(beta.clamp(-1 + 1e-4, 1 - 1e-4))
            y = y + 0.1 * y.std(0) * torch.randn(y.shape, generator=g)
            fit_prior(flow, y, 400, 100, 2e-3, g)
        else:
            fit_prior(prior, beta)
    return prior
