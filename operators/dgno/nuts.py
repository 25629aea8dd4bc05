"""The no-U-turn sampler: Hamiltonian paths that end where they begin to come back."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from .sampling import Samples, Slope, StepSize, check_root, normals, split_rhat, uniforms

__all__ = ["nuts"]

DIVERGED = 1000.0
"""Energy above the start's at which a path has failed."""


@dataclasses.dataclass
class _Point:
    """Position, momentum, slope of the energy in whitened coordinates, and the energy's negative."""

    z: Tensor
    p: Tensor
    g: Tensor
    log: float


@dataclasses.dataclass
class _Tree:
    """A piece of a path."""

    left: _Point
    right: _Point
    chosen: _Point
    weight: float
    """log Σ e^{−H} of its points."""
    momentum: Tensor
    """Σ p of its points."""
    going: bool
    """Whether no part of it turned or diverged."""
    chance: float
    """Σ min(1, e^{H₀ − H})."""
    count: int


def nuts(
    slope: Slope,
    start: Tensor,
    draws: int = 200,
    warmup: int = 100,
    *,
    root: Tensor | None = None,
    step: float = 0.2,
    target: float = 0.8,
    depth: int = 6,
    generator: torch.Generator | None = None,
) -> Samples:
    """No-U-turn sampling, chain by chain; arguments and result as those of `hamiltonian`.

    Paths double forwards or backwards until their ends approach one another; the next draw is one of all
    points of the path, by its weight.

    Args:
        slope: energy −log p and its gradient, (C, d) → (C,), (C, d).
        start: one point per chain, (C, d).
        draws: kept per chain.
        warmup: not kept.
        root: (d, d) with z = root · q; default the identity.
        step: first step.
        target: acceptance to aim at.
        depth: doublings at most.
        generator: source.

    Raises:
        InputError: numbers out of range, or an energy that is not finite at the start.

    Source: Hoffman & Gelman 2014; Betancourt 2017 (weights, the criterion by Σ p).
    """
    shaped = start.ndim == 2 and len(start) > 0
    if not shaped or draws < 4 or warmup < 0 or depth < 1 or step <= 0:
        expected = "start (C >= 1, d), draws >= 4, warmup >= 0, depth >= 1, step > 0"
        got = f"{tuple(start.shape)}, {draws}, {warmup}, {depth}, {step}"
        raise InputError(message("nuts", expected, got, "Correct them"))
    check_root("nuts", root, start)
    eye = torch.eye(start.shape[1], dtype=start.dtype, device=start.device)
    R = eye if root is None else root
    chains, rates, sizes = [], [], []
    for z in start.detach():
        size = StepSize(step, target)
        energy, g = slope(z[None])
        if not math.isfinite(float(energy)):
            fix = "Start elsewhere"
            raise InputError(message("nuts", "a finite energy at the start", float(energy), fix))
        now, kept = _Point(z, z, g[0] @ R, -float(energy)), []
        for k in range(warmup + draws):
            if k == warmup:
                size.settle()
            now, rate = _draw(slope, R, now, size.value, depth, generator)
            if k < warmup:
                size.follow(rate)
            else:
                kept.append(now.z)
                rates.append(rate)
        chains.append(torch.stack(kept))
        sizes.append(size.value)
    found = torch.stack(chains, 1)
    return Samples(found, sum(rates) / len(rates), sum(sizes) / len(sizes), split_rhat(found))


def _draw(
    slope: Slope, R: Tensor, now: _Point, h: float, depth: int, generator: torch.Generator | None
) -> tuple[_Point, float]:
    """The next point of a chain and the mean acceptance along its path."""
    p = normals(now.z.shape, now.z, generator)
    begin = dataclasses.replace(now, p=p)
    level = now.log - 0.5 * float(p.square().sum())
    tree = _Tree(begin, begin, begin, 0.0, p, True, 0.0, 0)
    for k in range(depth):
        forwards = float(uniforms((), p, generator)) < 0.5
        end = tree.right if forwards else tree.left
        more = _grow(slope, R, end, h if forwards else -h, k, level, generator)
        tree.chance, tree.count = tree.chance + more.chance, tree.count + more.count
        if not more.going:
            break
        # A new half is preferred over the old one: long moves.
        chance = float(uniforms((), p, generator))
        if math.log(chance + 1e-300) < more.weight - tree.weight:
            tree.chosen = more.chosen
        tree = _joined(tree, more, forwards, tree.chosen)
        if not tree.going:
            break
    return tree.chosen, tree.chance / max(tree.count, 1)


def _grow(
    slope: Slope,
    R: Tensor,
    end: _Point,
    h: float,
    depth: int,
    level: float,
    generator: torch.Generator | None,
) -> _Tree:
    """A piece of 2^depth points that goes on from an end, in the direction of the sign of h."""
    if depth == 0:
        p = end.p - 0.5 * h * end.g
        z = end.z + h * R @ p
        energy, g = slope(z[None])
        force = g[0] @ R
        p = p - 0.5 * h * force
        log = -float(energy)
        weight = log - 0.5 * float(p.square().sum()) - level
        if not math.isfinite(weight):
            weight = -math.inf
        point = _Point(z, p, force, log)
        chance = math.exp(min(weight, 0.0))
        return _Tree(point, point, point, weight, p, weight > -DIVERGED, chance, 1)
    first = _grow(slope, R, end, h, depth - 1, level, generator)
    if not first.going:
        return first
    forwards = h > 0
    end = first.right if forwards else first.left
    second = _grow(slope, R, end, h, depth - 1, level, generator)
    total = _log_sum(first.weight, second.weight)
    share = math.exp(second.weight - total) if second.going else 0.0
    taken = float(uniforms((), end.z, generator)) < share
    chosen = second.chosen if taken else first.chosen
    tree = _joined(first, second, forwards, chosen)
    tree.chance, tree.count = first.chance + second.chance, first.count + second.count
    return tree


def _joined(old: _Tree, new: _Tree, forwards: bool, chosen: _Point) -> _Tree:
    left = old.left if forwards else new.left
    right = new.right if forwards else old.right
    p = old.momentum + new.momentum
    straight = float(left.p @ p) > 0 and float(right.p @ p) > 0
    weight = _log_sum(old.weight, new.weight)
    going = old.going and new.going and straight
    return _Tree(left, right, chosen, weight, p, going, old.chance, old.count)


def _log_sum(a: float, b: float) -> float:
    top = max(a, b)
    return top if top == -math.inf else top + math.log(math.exp(a - top) + math.exp(b - top))
