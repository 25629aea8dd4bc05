"""SOAP: Adam in the eigenbases of a matrix's gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = ["Soap"]


class Soap(torch.optim.Optimizer):
    """Adam in the basis in which the gradient's entries are least correlated, for weights G (m, n):

        L ← s L + (1 − s) G Gᵀ,   R ← s R + (1 − s) Gᵀ G         their eigenvectors U, V
        W ← W − lr · U Adam(Uᵀ G V) Vᵀ

    Both running means, (β₁, β₂), are corrected for their start at zero; U and V follow by one step
    of orthogonal iteration every `every` updates. The first update only looks. Sides above `largest`
    keep their own basis; vectors and numbers get Adam. Further axes count as columns, complex numbers
    as pairs. Weights of one shape are one batch, so many small layers cost about as much as Adam in a
    loop. A missing gradient counts as zero.

    Where curvature mixes weights, as in residuals of PDEs, an update gains much more than the products
    cost: docs/dgno.md has numbers.

    Args:
        params: parameters or groups of them.
        lr: length of a step.
        betas: (β₁, β₂).
        eps: added to the root of the second moment.
        every: updates between those of the bases.
        shampoo: s.
        largest: longest side with a basis of its own.
        weight_decay: decoupled, as in AdamW.

    Raises:
        InputError: values out of range.

    The steps turn with the weights: U₀ W V₀ᵀ takes the steps U₀ ΔW V₀ᵀ (but for the first basis within
    equal eigenvalues). Source: Vyas et al. 2025 (SOAP); Gupta, Koren & Singer 2018 (Shampoo).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        every: int = 10,
        shampoo: float = 0.95,
        largest: int = 256,
        weight_decay: float = 0.0,
    ) -> None:
        shares = (*betas, shampoo)
        fine = all(0 <= b < 1 for b in shares) and min(every, largest) >= 1
        if not (fine and min(lr, eps, weight_decay) >= 0):
            expected = (
                "betas and shampoo in [0, 1), every, largest >= 1, lr, eps, weight_decay >= 0"
            )
            got = f"{betas}, {shampoo}, {every}, {largest}, {lr}, {eps}, {weight_decay}"
            raise InputError(message("Soap", expected, got, "Correct them"))
        options = {"lr": lr, "betas": betas, "eps": eps, "every": every, "shampoo": shampoo}
        super().__init__(params, options | {"largest": largest, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update; `closure` computes the loss anew, if given."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            sets: dict[Any, list[Tensor]] = {}
            for p in group["params"]:
                key = (p.shape if p.ndim > 1 else p.numel(), p.dtype, p.device)
                sets.setdefault(key, []).append(p)
            for weights in sets.values():
                if any(p.grad is not None for p in weights) or self.state[weights[0]]:
                    self._update(group, weights)
        return value

    def _update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        """Update weights of one shape, whose state is kept with the first of them."""
        G = torch.stack(
            [_matrix(torch.zeros_like(p) if p.grad is None else p.grad) for p in weights]
        )
        state, t = self.state[weights[0]], 1
        sides = [d for d in (1, 2) if min(G.shape[1:]) > 1 and G.shape[d] <= group["largest"]]
        if not state:
            state |= {"step": 1, "mean": G * (1 - group["betas"][0])}
            for d in sides:
                state[f"moment {d}"] = moment = (1 - group["shampoo"]) * _moment(G, d)
                state[f"basis {d}"] = torch.linalg.eigh(moment.double())[1].flip(-1).to(G)
            state["square"] = self._turn(state, sides, G).square() * (1 - group["betas"][1])
        else:
            state["step"] = t = state["step"] + 1
            state["mean"].lerp_(G, 1 - group["betas"][0])
            turned = self._turn(state, sides, G)
            state["square"].lerp_(turned.square(), 1 - group["betas"][1])
            for d in sides:
                state[f"moment {d}"].lerp_(_moment(G, d), 1 - group["shampoo"])
        first, second = (1 - b**t for b in group["betas"])
        if t > 1 or not sides:
            size = (state["square"] / second).sqrt_().add_(group["eps"])
            step = self._turn(state, sides, state["mean"]) / size
            step = self._turn(state, sides, step, back=True) * (group["lr"] / first)
            for p, row in zip(weights, step, strict=True):
                if group["weight_decay"] > 0:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                real = torch.view_as_real(p) if p.is_complex() else p
                real.sub_(row.view(real.shape))
        if t % group["every"] == 0:
            for d in sides:
                self._follow(state, d)

    @staticmethod
    def _turn(state: dict[str, Any], sides: list[int], G: Tensor, back: bool = False) -> Tensor:
        """Into the bases, or out of them."""
        for d in sides:
            Q = state[f"basis {d}"]
            if d == 1:
                G = (Q if back else Q.mT) @ G
            else:
                G = G @ (Q.mT if back else Q)
        return G

    @staticmethod
    def _follow(state: dict[str, Any], d: int) -> None:
        """One step of orthogonal iteration; columns in the order of their eigenvalues."""
        moment, Q = state[f"moment {d}"], state[f"basis {d}"]
        order = (Q * (moment @ Q)).sum(-2).argsort(-1, descending=True)
        Q = Q.gather(-1, order[:, None].expand_as(Q))
        index = order[:, :, None] if d == 1 else order[:, None]
        state["square"] = state["square"].gather(d, index.expand_as(state["square"]))
        state[f"basis {d}"] = torch.linalg.qr(moment @ Q)[0]


def _matrix(p: Tensor) -> Tensor:
    """As a real matrix; vectors as one row."""
    p = torch.view_as_real(p) if p.is_complex() else p
    return p.reshape(1, -1) if p.ndim < 2 else p.reshape(len(p), math.prod(p.shape[1:]))


def _moment(G: Tensor, d: int) -> Tensor:
    return G @ G.mT if d == 1 else G.mT @ G
