"""Rotation-invariant features of F and the equivariant outputs of a law, as torch operations.

Source: Ma et al. 2023 (NCLaw), §3.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...sim.core.backend import CPU_THREADS, Workers, as_array, real_type, warp
from .kernels import invariant_kernels

__all__ = ["FEATURES", "invariants", "kirchhoff_stress", "plastic_update"]

FEATURES = 13
"""Numbers per particle: 3 stretches, 9 entries of FᵀF − I, det F − 1."""

_SHARE = 2048
"""Particles per thread below which a second thread does not pay."""

_loaded: set[Any] = set()


def invariants(F: Tensor) -> tuple[Tensor, Tensor]:
    """Invariants h = [s − 1, vec(FᵀF − I), det F − 1] and rotation R = U Vᵀ of F = U diag(s) Vᵀ.

    h(QF) = h(F) and R(QF) = Q R(F) for rotations Q; h(I) = 0 exactly.

    Args:
        F: deformation gradient [-], shape (…, 3, 3).

    Returns:
        h [-], shape (…, 13), s in descending order, the last one negative where det F < 0; and R,
        shape (…, 3, 3), det R = 1.

    Differentiable in F, once. The derivative of R is exact for repeated stretches and singular only
    where s₁ + s₂ = 0, in an inverted particle; s, being sorted, has a one-sided derivative where
    stretches meet.
    Source: Ma et al. 2023 (NCLaw), §3.2; Chen & Wheeler 1993.
    """
    return _Invariants.apply(F)


def kirchhoff_stress(y: Tensor, R: Tensor, F: Tensor) -> Tensor:
    """τ = P Fᵀ with P = R Y and Y = ½ (y + yᵀ).

    Args:
        y: network output [Pa], shape (…, 3, 3).
        R: rotation of F, shape (…, 3, 3).
        F: deformation gradient [-], shape (…, 3, 3).

    Returns:
        Kirchhoff stress τ [Pa], shape (…, 3, 3).

    Differentiable in y, R and F, once.
    Source: Ma et al. 2023 (NCLaw), §3.2.
    """
    return _Stress.apply(y, R, F)


def plastic_update(y: Tensor, R: Tensor, F: Tensor, alpha: float) -> Tensor:
    """F₊ = F + α R Y with Y = ½ (y + yᵀ).

    Args:
        y: network output [-], shape (…, 3, 3).
        R: rotation of F, shape (…, 3, 3).
        F: trial deformation gradient [-], shape (…, 3, 3).
        alpha: size of one correction [-].

    Differentiable in y, R and F, once.
    Source: Ma et al. 2023 (NCLaw), §3.2.
    """
    return _Plastic.apply(y, R, F, alpha)


class _Invariants(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, F: Tensor) -> tuple[Tensor, Tensor]:
        F = F.detach().contiguous()
        k, m = _kernels(F)
        h, R, V = F.new_empty(*F.shape[:-2], FEATURES), torch.empty_like(F), torch.empty_like(F)
        _launch(k.features, F, (m(F), as_array(h, k.vec13), m(R), m(V)))
        ctx.save_for_backward(F, R, V)
        return h, R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, adj_h: Tensor, adj_R: Tensor) -> Tensor:
        F, R, V = ctx.saved_tensors
        k, m = _kernels(F)
        adj_h, adj_R, adj_F = adj_h.contiguous(), adj_R.contiguous(), torch.empty_like(F)
        args = (m(F), m(R), m(V), as_array(adj_h, k.vec13), m(adj_R), m(adj_F))
        _launch(k.features_adjoint, F, args)
        return adj_F


class _Stress(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, R: Tensor, F: Tensor) -> Tensor:
        y, R, F = (t.detach().contiguous() for t in (y, R, F))
        k, m = _kernels(F)
        tau = torch.empty_like(F)
        _launch(k.elastic, F, (m(y), m(R), m(F), m(tau)))
        ctx.save_for_backward(y, R, F)
        return tau

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        y, R, F = ctx.saved_tensors
        k, m = _kernels(F)
        grad = grad.contiguous()
        out = [torch.empty_like(F) for _ in range(3)]
        _launch(k.elastic_adjoint, F, (m(y), m(R), m(F), m(grad), *map(m, out)))
        return tuple(out)


class _Plastic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, R: Tensor, F: Tensor, alpha: float) -> Tensor:
        y, R, F = (t.detach().contiguous() for t in (y, R, F))
        k, m = _kernels(F)
        F1 = torch.empty_like(F)
        _launch(k.plastic, F, (alpha, m(y), m(R), m(F), m(F1)))
        ctx.save_for_backward(y, R)
        ctx.alpha = alpha
        return F1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, R = ctx.saved_tensors
        k, m = _kernels(R)
        grad = grad.contiguous()
        out = [torch.empty_like(R) for _ in range(2)]
        _launch(k.plastic_adjoint, R, (ctx.alpha, m(y), m(R), m(grad), *map(m, out)))
        return *out, grad, None


def _kernels(like: Tensor) -> tuple[Any, Any]:
    k = invariant_kernels(real_type(like.dtype))
    return k, lambda tensor: as_array(tensor, k.mat33)


def _launch(kernel: Any, like: Tensor, args: tuple[Any, ...]) -> None:
    """Run a kernel on all particles; on a CPU several threads share a large batch."""
    wp, count = warp(), like.numel() // 9
    cpu = like.device.type == "cpu"
    device = "cpu" if cpu else wp.device_from_torch(like.device)
    shards = max(1, min(CPU_THREADS, count // _SHARE)) if cpu else 1

    def task(shard: int) -> None:
        start = count * shard // shards
        dim = count * (shard + 1) // shards - start
        wp.launch(kernel, dim=dim, inputs=[start, *args], device=device)

    # Loading a kernel in two threads at once crashes Warp.
    if kernel in _loaded:
        Workers(shards).run(task)
        return
    for shard in range(shards):
        task(shard)
    _loaded.add(kernel)
