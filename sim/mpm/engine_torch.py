"""Transfers in plain torch: the reference the other engines are held against.

Vectorized over particles and the 3^D nodes of their stencils; differentiable any number of times, on
any torch device. About ten times slower than the Warp engine on a CPU.

Source: Hu et al. 2018 (MLS-MPM), Alg. 1 and Eq. 16–17.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .model import MPMModel

__all__ = ["TorchTransfers"]


class TorchTransfers:
    """Scatter and gather of one model; keeps no state."""

    def __init__(
        self,
        model: MPMModel,
        *,
        batch_size: int,
        dtype: torch.dtype,
        device: torch.device,
        dt: float,
        births: Tensor,
    ) -> None:
        grid = model.grid
        self.dim, self.dx, self.node_count = grid.dim, grid.dx, grid.node_count
        options = {"dtype": dtype, "device": device}
        self._origin = torch.tensor(grid.origin, **options)
        self._shape = torch.tensor(grid.shape, device=device)
        offsets = list(itertools.product(range(3), repeat=grid.dim))
        self._offsets = torch.tensor(offsets, device=device)
        strides = [1]
        for n in reversed(grid.shape[1:]):
            strides.insert(0, strides[0] * n)
        self._strides = torch.tensor(strides, device=device)

    def _stencil(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Node indices (B, N, 3^D), weights (B, N, 3^D) and offsets d (B, N, 3^D, D) [m]."""
        scaled = (x - self._origin) / self.dx
        with torch.no_grad():
            base = (scaled - 0.5).floor().to(torch.int64)
            limit = self._shape - 3
            base = torch.minimum(base.clamp(min=0), limit)  # memory safety; the caller checks x
        f = scaled - base
        w = torch.stack([0.5 * (1.5 - f) ** 2, 0.75 - (f - 1) ** 2, 0.5 * (f - 0.5) ** 2], dim=-1)
        weight = torch.ones_like(x[..., :1])
        for axis in range(self.dim):
            weight = weight * w[..., axis, self._offsets[:, axis]]
        nodes = ((base.unsqueeze(-2) + self._offsets) * self._strides).sum(-1)
        d = (self._offsets - f.unsqueeze(-2)) * self.dx
        return nodes, weight, d

    def scatter(self, x: Tensor, v: Tensor, A: Tensor, mass: Tensor) -> Tensor:
        """Momentum and mass on the nodes, Σ w (m v + A d) and Σ w m.

        Args:
            x: Positions [m], (B, N, D).
            v: Velocities [m/s], (B, N, D).
            A: Affine momentum [kg/s], (B, N, D, D).
            mass: [kg], (B, N).

        Returns:
            (B, G, D + 1). Differentiable in all arguments.
        """
        nodes, weight, d = self._stencil(x)
        momentum = (mass[..., None] * v).unsqueeze(-2) + d @ A.transpose(-1, -2)
        both = torch.cat([momentum, mass[..., None, None].expand_as(momentum[..., :1])], dim=-1)
        values = (weight[..., None] * both).flatten(1, 2)
        scene = torch.arange(x.shape[0], device=x.device)[:, None] * self.node_count
        flat = values.new_zeros(x.shape[0] * self.node_count, self.dim + 1)
        flat = flat.index_add(0, (nodes.flatten(1) + scene).flatten(), values.flatten(0, 1))
        return flat.unflatten(0, (x.shape[0], self.node_count))

    def gather(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Particle velocity and its gradient, Σ w u and (4/dx²) Σ w u dᵀ.

        Args:
            x: Positions [m], (B, N, D).
            u: Node velocities [m/s], (B, G, D).

        Returns:
            v (B, N, D) and C (B, N, D, D). Differentiable in both arguments.
        """
        nodes, weight, d = self._stencil(x)
        scene = torch.arange(x.shape[0], device=x.device)[:, None, None] * self.node_count
        local = weight[..., None] * u.flatten(0, 1)[nodes + scene]
        v = local.sum(-2)
        C = (4.0 / self.dx**2) * local.transpose(-1, -2) @ d
        return v, C
