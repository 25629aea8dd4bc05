"""Training of direction networks, in minutes on a CPU: vectors are made on the fly.

Source: Kaneda et al. 2023, section 5 (self-supervised loss, Adam); schedule, geometries, replay and the
loss over several steps are ours.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.poisson import PoissonProblem
from ..train.annealing import annealed
from .data import DOMAINS, Geometry, Replay, SpectralSampler, make_geometry, random_domain
from .losses import alignment_loss, energy_loss, one_step_loss, unrolled_loss
from .networks import DirectionNet

__all__ = ["DCDMTraining", "train_direction"]

LOSSES = ("one_step", "alignment", "energy", "unrolled")


@dataclasses.dataclass(frozen=True)
class DCDMTraining:
    """A recipe; the default is short and for linear networks."""

    sizes: tuple[int, ...] = (32,)
    """Cells per axis to train on, drawn at random."""
    dim: int = 2
    """Axes."""
    slope: float = 0.0
    """`SpectralSampler.slope`; 2 gives smooth vectors their share in 3-D."""
    sides: tuple[Any, ...] = ("neumann",)
    """`PoissonProblem.sides` to train on, drawn at random."""
    domains: tuple[str, ...] = ("obstacles",)
    """Out of `data.DOMAINS`, in equal parts; ("empty",) is the paper's."""
    loss: str = "unrolled"
    """"one_step" (the paper's), "alignment", "energy" or "unrolled" (several steps of the solver)."""
    unroll: int = 3
    """Steps of the unrolled loss."""
    history: int = 2
    """Directions that steps of the unrolled loss and of the replay are made orthogonal to."""
    steps: int = 1000
    """Updates at most."""
    seconds: float | None = None
    """CPU seconds at most [s]; the schedule follows whichever bound is nearer."""
    batch: int = 16
    """Vectors per update."""
    cells: int | None = None
    """Cells per update instead: small grids get more vectors, large ones at least two."""
    lr: float = 3e-3
    """Of Adam, falling to zero by a cosine."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    half: bool = False
    """Whether the network trains in bfloat16, twice as fast where the processor has it."""
    replay: float = 0.25
    """Share of updates that use residuals which the solver met."""
    geometries: int = 32
    """Batches of obstacles, made once."""
    seed: int = 0
    """Of everything random."""


def train_direction(
    net: DirectionNet,
    recipe: DCDMTraining,
    on_update: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train a network in place.

    Args:
        net: the network.
        recipe: how.
        on_update: sees the number of the update and its loss.

    Returns:
        {"updates", "cpu_seconds", "loss": mean of the last tenth, "losses": all of them}.

    Raises:
        InputError: unknown loss or domain, or a network of another dimension.

    Source: Kaneda et al. 2023, section 5.
    """
    if recipe.loss not in LOSSES:
        raise InputError(message("train_direction", f"loss out of {LOSSES}", recipe.loss))
    if set(recipe.domains) - set(DOMAINS):
        got = f"{recipe.domains}"
        raise InputError(message("train_direction", f"domains out of {DOMAINS}", got))
    made = getattr(net, "dim", recipe.dim)
    if made != recipe.dim:
        fix = f"Take DCDMTraining(dim={made})"
        expected = "a recipe of its dimension"
        raise InputError(message("train_direction", expected, f"dim={recipe.dim}", fix))
    generator = torch.Generator().manual_seed(recipe.seed)
    pool = _pool(recipe, generator)
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr)
    replay, losses = Replay(), []
    start = time.process_time()
    net.train()
    for update in annealed(optimizer, recipe.steps, recipe.seconds):
        draw = float(torch.rand((), generator=generator))
        if replay.items and draw < recipe.replay:
            geometry, r = replay.draw(generator)
        else:
            chosen = int(torch.randint(len(pool), (1,), generator=generator))
            sampler, geometry, count = pool[chosen]
            r = geometry.clean(sampler(count, generator))
        loss, met = _loss(net, geometry, r, recipe)
        optimizer.zero_grad()
        (loss + _penalty(net)).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimizer.step()
        if recipe.replay and update % 8 == 0:
            replay.add(geometry, met or _meet(net, geometry, r, recipe))
        losses.append(float(loss.detach()))
        if on_update is not None:
            on_update(update, losses[-1])
    net.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "updates": len(losses),
        "cpu_seconds": time.process_time() - start,
        "loss": sum(tail) / len(tail),
        "losses": losses,
    }


def _pool(
    recipe: DCDMTraining, generator: torch.Generator
) -> list[tuple[SpectralSampler, Geometry, int]]:
    """Samplers, geometries and numbers of vectors of every size and kind of sides."""
    kinds = list(itertools.product(recipe.sizes, recipe.sides, recipe.domains))
    pool = []
    for n, sides, domain in kinds:
        empty = PoissonProblem((n,) * recipe.dim, 1.0, sides)
        sampler = SpectralSampler(empty, slope=recipe.slope)
        count = recipe.batch if recipe.cells is None else max(2, recipe.cells // n**recipe.dim)
        copies = max(1, recipe.geometries // len(kinds))
        if domain == "empty":  # one is enough, drawn as often as the others
            box = (sampler, make_geometry(empty), count)
            pool += [box] * (1 if recipe.domains == ("empty",) else copies)
            continue
        for _ in range(copies):
            problem = random_domain(domain, empty, count, generator)
            pool.append((sampler, make_geometry(problem), count))
    return pool


def _direction(net: DirectionNet, geometry: Geometry, half: bool) -> Callable[[Tensor], Tensor]:
    prepared = net.prepare(geometry.system.stencil, geometry.system.active)

    def direction(r: Tensor) -> Tensor:
        with torch.autocast(r.device.type, torch.bfloat16, half):
            q = net(r, prepared)
        return geometry.system.centre(q.to(r).flatten(1)).reshape(r.shape)

    return direction


def _loss(
    net: DirectionNet, geometry: Geometry, r: Tensor, recipe: DCDMTraining
) -> tuple[Tensor, list[Tensor]]:
    direction = _direction(net, geometry, recipe.half)
    if recipe.loss == "unrolled":
        return unrolled_loss(r, direction, geometry.apply, recipe.unroll, recipe.history)
    losses = {"one_step": one_step_loss, "alignment": alignment_loss, "energy": energy_loss}
    return losses[recipe.loss](r, direction(r), geometry.apply), []


def _meet(net: DirectionNet, geometry: Geometry, r: Tensor, recipe: DCDMTraining) -> list[Tensor]:
    with torch.no_grad():
        direction = _direction(net, geometry, recipe.half)
        return unrolled_loss(r, direction, geometry.apply, 4, recipe.history)[1]


def _penalty(net: DirectionNet) -> Tensor | float:
    """Keeps the certificate of a symmetric network."""
    growth = getattr(net, "growth", None)
    return 0.0 if growth is None else 100.0 * (growth() - 0.95).clamp_min(0.0) ** 2
