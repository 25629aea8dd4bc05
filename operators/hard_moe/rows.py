"""Rows of least-squares problems with few unknowns: what a residual reads, as functions of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.core.trees import flatten

__all__ = ["Residual", "Rows"]

Residual = Callable[..., Tensor]
"""ρ: (z (S, Q, M), params) -> (S, M), row by row, in torch operations."""


@dataclasses.dataclass
class Rows:
    """What S systems with N unknowns each are to fit."""

    terms: Tensor
    """T, (S, Q, M, N): each number the residual reads, as a linear function of the weights."""
    offset: Tensor
    """a, (S, Q, M): the same of the known part of the field."""
    linear: Tensor
    """C, (S, L, N): linear rows, such as initial and boundary values and a ridge; L may be 0."""
    target: Tensor
    """d, (S, L)."""
    params: Any = ()
    """Tree of tensors that ρ reads beside z. A first axis of length S counts systems."""

    def check(self, where: str, residual: Residual) -> None:
        """Raise `InputError` for shapes that do not fit, values not finite, and ill-posed residuals."""
        T, a = self.terms, self.offset
        S, Q, M, N = T.shape if T.ndim == 4 else (0, 0, 0, 0)
        if not S * Q * M * N:
            fix = "Stack the linear functionals of each basis function"
            raise InputError(message(where, "terms (S, Q, M, N), none of them 0", T, fix))
        if T.dtype not in (torch.float32, torch.float64):
            fix = "Convert the rows"
            raise InputError(message(where, "terms in float64 or float32", str(T.dtype), fix))
        L = self.linear.shape[1] if self.linear.ndim == 3 else -1
        for name, value, shape in (
            ("offset", a, (S, Q, M)), ("linear", self.linear, (S, L, N)),
            ("target", self.target, (S, L)),
        ):  # fmt: skip
            if tuple(value.shape) != shape or (value.dtype, value.device) != (T.dtype, T.device):
                kind = f"{T.dtype} on {T.device}"
                expected = f"{name} of shape {shape} in {kind}, as terms {tuple(T.shape)} ask for"
                raise InputError(message(where, expected, value, "Match it"))
        if M + L < N:
            got = f"{M} + {L}"
            fix = "Sample more points, add a ridge, or use fewer basis functions"
            raise InputError(message(where, f"at least {N} rows for {N} unknowns", got, fix))
        self.together(where)
        self.finite(where)
        self.probe(where, residual, S, M)

    def together(self, where: str) -> None:
        """Raise `InputError` for parameters elsewhere."""
        for name, value in flatten(self.params)[0].items():
            if value.ndim and value.device != self.terms.device:
                expected = f"params{name and '.' + name} on {self.terms.device}, as terms"
                raise InputError(message(where, expected, value, "Move one of them"))

    def finite(self, where: str) -> None:
        """Raise `InputError` for values that are not finite."""
        for name in ("terms", "offset", "linear", "target"):
            if not bool(torch.isfinite(getattr(self, name).detach().sum())):
                fix = "Lower the learning rate, or repair the input of the network"
                raise InputError(message(where, f"finite {name}", "values that are not", fix))

    def probe(self, where: str, residual: Residual, S: int, M: int) -> None:
        """Raise `InputError` unless the residual is one number a row, of that row's numbers."""
        params = self.detach().params
        with torch.enable_grad():
            z = self.known().detach().requires_grad_()
            r = residual(z, params)
            even = r[:, ::2].sum() if isinstance(r, Tensor) and r.shape == (S, M) else None
        if even is None or r.dtype != z.dtype:
            got = f"{tuple(r.shape)} {r.dtype}" if isinstance(r, Tensor) else type(r).__name__
            fix = "Return one number a row: z[:, q] has that shape"
            expected = f"a residual of shape {(S, M)} in {z.dtype}"
            raise InputError(message(where, expected, got, fix))
        if even.requires_grad:
            slope = torch.autograd.grad(even, z, allow_unused=True)[0]
        if not even.requires_grad or slope is None:
            fix = "Write it in torch operations on z"
            raise InputError(message(where, "a residual that depends on z", "a constant", fix))
        others = slope[:, :, 1::2]
        if bool(((others != 0) & torch.isfinite(others)).any()):
            fix = "Put what joins rows (means, differences) into terms, or into linear rows"
            got = "one that reads other rows too"
            raise InputError(message(where, "a residual of each row's own numbers", got, fix))

    def closed(self, where: str, residual: Residual) -> None:
        """Raise `InputError` if the residual closes over tensors to be differentiated in."""
        params = self.detach().params
        with torch.enable_grad():
            r = residual(self.known().detach(), params)
        if r.requires_grad:
            got, fix = "one that closes over a tensor with gradient", "Pass it in Rows.params"
            raise InputError(message(where, "a residual of z and params only", got, fix))

    @property
    def unknowns(self) -> int:
        """N."""
        return self.terms.shape[3]

    def known(self) -> Tensor:
        """z at w = 0, (S, Q, M)."""
        return self.offset

    def numbers(self, w: Tensor) -> Tensor:
        """z at weights w (S, N)."""
        S, Q, M, N = self.terms.shape
        return self.offset + (self.terms.reshape(S, Q * M, N) @ w[..., None]).reshape(S, Q, M)

    def excess(self, w: Tensor) -> Tensor:
        """What the linear rows miss by, (S, L)."""
        return (self.linear @ w[..., None])[..., 0] - self.target

    def combine(self, c: Tensor) -> Tensor:
        """J = Σ_q diag(c_q) T_q for c (S, Q, M)."""
        T = self.terms
        J = c[:, 0, :, None] * T[:, 0]
        for q in range(1, T.shape[1]):
            J = torch.addcmul(J, c[:, q, :, None], T[:, q])
        return J

    def gram(self, J: Tensor) -> Tensor:
        """JᵀJ + CᵀC, in a layout of `band`."""
        return J.mT @ J + self.linear.mT @ self.linear

    def cross(self, k: int, m: int, v: Tensor) -> Tensor:
        """T_kᵀ diag(v) T_m for v (S, M)."""
        return self.terms[:, k].mT @ (v[..., None] * self.terms[:, m])

    def pull(self, J: Tensor, r: Tensor, e: Tensor) -> Tensor:
        """Jᵀ r + Cᵀ e, (S, N)."""
        return (r[:, None] @ J + e[:, None] @ self.linear)[:, 0]

    def pull_terms(self, c: Tensor, e: Tensor) -> Tensor:
        """Σ_q T_qᵀ c_q + Cᵀ e for c (S, Q, M), without J."""
        S, Q, M, N = self.terms.shape
        flat = c.reshape(S, 1, Q * M) @ self.terms.reshape(S, Q * M, N)
        return (flat + e[:, None] @ self.linear)[:, 0]

    def projected(self) -> Tensor:
        """Weights that fit the linear rows alone, (S, N), without graph."""
        C, d = self.linear.detach(), self.target.detach()[..., None]
        if not bool((d != 0).any()):
            return self.terms.new_zeros(len(C), self.unknowns)
        return (torch.linalg.pinv(C) @ d)[..., 0]  # lstsq wants full rank on a GPU

    def triangles(self, J: Tensor) -> Tensor:
        """R of [J; C] = Q R, (S, 1, N, N)."""
        return torch.linalg.qr(torch.cat([J, self.linear], 1), mode="r").R[:, None]

    def turn(self, X: Tensor) -> Rows:
        """The same rows of weights v, where w = X v by blocks (S, K, n, n), here with K = 1."""
        return dataclasses.replace(self, terms=self.terms @ X, linear=self.linear @ X[:, 0])

    def select(self, index: Tensor) -> Rows:
        """Some of the systems; params are shared unless their first axis counts systems."""
        S = len(self.terms)
        tensors, rebuild = flatten(self.params)
        some = [t[index] if t.ndim and len(t) == S > 1 else t for t in tensors.values()]
        T, a, C, d = (v[index] for v in (self.terms, self.offset, self.linear, self.target))
        return dataclasses.replace(
            self, terms=T, offset=a, linear=C, target=d, params=rebuild(some)
        )

    def detach(self) -> Rows:
        """Without graph."""
        return self.map(Tensor.detach)

    def map(self, rule: Callable[[Tensor], Tensor]) -> Rows:
        """The same rows with every tensor changed."""
        tensors, rebuild = flatten(self.params)
        T, a, C, d = (rule(v) for v in (self.terms, self.offset, self.linear, self.target))
        params = rebuild([rule(t) for t in tensors.values()])
        return dataclasses.replace(self, terms=T, offset=a, linear=C, target=d, params=params)
