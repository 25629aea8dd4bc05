"""Small random motions of particles and models of them, for the tests of learned steppers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from rheograd.operators.data import ParticleBatch, Statistics
from rheograd.operators.giorom import GNS, GioromConfig, GioromStepper, GNSConfig

SIGMA_V, SIGMA_A, RADIUS = 1e-2, 2e-3, 0.2
TINY = GioromConfig(
    hidden=16,
    layers_in=1,
    layers_out=1,
    grid=4,
    ball=1.25,
    channels=8,
    blocks=1,
    width=16,
    heads=2,
    dropout=0.0,
)
TINY_GNS = GNSConfig(hidden=16, steps=3)
KINDS = pytest.mark.parametrize("kind", ["convolution", "attention", "none", "gns", "reference"])
DIMS = pytest.mark.parametrize("dim", [2, 3])


def sample(n=40, dim=3, seed=0, dtype=torch.float64, steps=0):
    """A smooth random motion of a cloud in a box whose sides differ."""
    g = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.6 * torch.rand(n, 1, dim, generator=g, dtype=torch.float64)
    v = SIGMA_V * torch.randn(n, 1, dim, generator=g, dtype=torch.float64)
    t = torch.arange(6 + steps, dtype=torch.float64)[:, None]
    frames = x + v * t + 0.5 * SIGMA_A * torch.sin(40 * x) * t.square()
    low = torch.full((dim,), -0.1, dtype=torch.float64)
    high = 1 + 0.1 * torch.arange(dim, dtype=torch.float64)
    batch = ParticleBatch(
        positions=frames[:, :6],
        kind=torch.randint(5, 8, (n,), generator=g),
        scene=torch.zeros(n, dtype=torch.long),
        bounds=torch.stack([low, high], -1)[None],
        target=frames[:, 6:] if steps else None,
        reference=x[:, 0] + 0.02 * torch.randn(n, dim, generator=g, dtype=torch.float64),
    )
    return batch.to(dtype)


def statistics(dim=3):
    one = torch.ones(dim, dtype=torch.float64)
    return Statistics(0.1 * SIGMA_V * one, SIGMA_V * one, 0.1 * SIGMA_A * one, SIGMA_A * one)


def build(kind="convolution", dim=3, dtype=torch.float64, seed=0, **changes):
    g = torch.Generator().manual_seed(seed)
    if kind == "gns":
        model = GNS(TINY_GNS, statistics(dim), RADIUS, dim, generator=g, **changes)
    else:
        changed = {"reference": True} if kind == "reference" else {"bottleneck": kind}
        config = dataclasses.replace(TINY, **changed)
        model = GioromStepper(config, statistics(dim), RADIUS, dim, generator=g, **changes)
    return model.to(dtype)
