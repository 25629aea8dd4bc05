"""Linear maps v ↦ A(θ) v: the differentiable form, and the fast form that solvers iterate with."""

from __future__ import annotations

import abc
import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from .errors import InputError, message
from .trees import flatten

__all__ = ["LinearMap", "Operator", "SparseMatrix", "as_map", "as_operator", "vjp"]


@dataclasses.dataclass(frozen=True)
class SparseMatrix:
    """Sparse A with A[rows[k], cols[k]] += values[k]; entries named twice add up, as in assembly.

    Differentiable in `values`; the gradient lives on the pattern only.
    """

    values: Tensor
    """Entries, shape (K,), or (B, K) for B matrices with one pattern."""
    rows: Tensor
    """Row of each entry, integers (K,)."""
    cols: Tensor
    """Column of each entry, integers (K,)."""
    n: int
    """Number of rows and of columns."""

    def __matmul__(self, v: Tensor) -> Tensor:
        """A v for v of shape (..., n)."""
        terms = self.values * v[..., self.cols]
        out = torch.zeros(*terms.shape[:-1], self.n, dtype=terms.dtype, device=terms.device)
        return out.index_add(-1, self.rows, terms)

    @property
    def T(self) -> SparseMatrix:
        """The transpose, sharing the values."""
        return SparseMatrix(self.values, self.cols, self.rows, self.n)

    def scipy(self) -> scipy.sparse.csc_matrix:
        """As a scipy matrix (n, n), or block-diagonal (B n, B n) for batched values."""
        values = self.values.detach().cpu().numpy()
        rows, cols = self.rows.cpu().numpy(), self.cols.cpu().numpy()
        blocks = 1 if values.ndim == 1 else len(values)
        shift = self.n * np.repeat(np.arange(blocks), len(rows))
        at = (np.tile(rows, blocks) + shift, np.tile(cols, blocks) + shift)
        size = self.n * blocks
        return scipy.sparse.csc_matrix((values.reshape(-1), at), shape=(size, size))


@dataclasses.dataclass
class Operator:
    """A at fixed parameters, without graph, acting on rows (B, n)."""

    matvec: Callable[[Tensor], Tensor]
    """v ↦ A v on (B, n)."""
    rmatvec: Callable[[Tensor], Tensor]
    """v ↦ Aᵀ v on (B, n)."""
    like: Tensor
    """Any tensor with dtype, device and shape (B, n) of the right-hand sides."""
    make_dense: Callable[[], Tensor] | None = None
    """Dense A, (n, n) or (B, n, n), where there is a faster way than n products."""
    make_sparse: Callable[[], scipy.sparse.spmatrix] | None = None
    """scipy form of A, (n, n) or block-diagonal (B n, B n); None when A is not sparse."""

    def dense(self) -> Tensor:
        """A as a dense tensor, (n, n) or (B, n, n)."""
        if self.make_dense is not None:
            return self.make_dense()
        eye = torch.eye(self.like.shape[1], dtype=self.like.dtype, device=self.like.device)
        return torch.stack([self.matvec(e.expand_as(self.like)) for e in eye], dim=2)


class LinearMap(abc.ABC):
    """A(θ) as a function of v (B, n) and of the list of tensors θ, differentiable in both."""

    @abc.abstractmethod
    def matvec(self, v: Tensor, leaves: Sequence[Tensor]) -> Tensor:
        """A(θ) v."""

    def rmatvec(self, v: Tensor, leaves: Sequence[Tensor]) -> Tensor:
        """A(θ)ᵀ v."""
        return transpose(lambda w: self.matvec(w, leaves), v)

    def operator(self, like: Tensor, leaves: Sequence[Tensor]) -> Operator:
        """The fast form at these parameters."""
        leaves = [leaf.detach() for leaf in leaves]
        return _function_operator(lambda v: self.matvec(v, leaves), like)


class _DenseMap(LinearMap):
    def matvec(self, v, leaves):
        return (leaves[0] @ v.unsqueeze(-1)).squeeze(-1)

    def rmatvec(self, v, leaves):
        return (leaves[0].mT @ v.unsqueeze(-1)).squeeze(-1)

    def operator(self, like, leaves):
        return as_operator(leaves[0].detach(), like)


@dataclasses.dataclass
class _SparseMap(LinearMap):
    pattern: SparseMatrix

    def matvec(self, v, leaves):
        return dataclasses.replace(self.pattern, values=leaves[0]) @ v

    def rmatvec(self, v, leaves):
        return dataclasses.replace(self.pattern, values=leaves[0]).T @ v

    def operator(self, like, leaves):
        return as_operator(dataclasses.replace(self.pattern, values=leaves[0].detach()), like)


@dataclasses.dataclass
class _FunctionMap(LinearMap):
    function: Callable[[Tensor, Any], Tensor]
    rebuild: Callable[[Any], Any]
    batched: bool

    def matvec(self, v, leaves):
        params = self.rebuild(leaves)
        if self.batched:
            return self.function(v, params)
        return self.function(v[0], params)[None]


def as_map(A: Any, params: Any = (), *, batched: bool = True) -> tuple[LinearMap, list[Tensor]]:
    """Split A into a map and the tensors it depends on differentiably.

    Args:
        A: dense tensor, sparse tensor, `SparseMatrix`, or function `(v, params) -> A v`.
        params: tree that a function A takes; ignored otherwise.
        batched: whether a function A takes v as (B, n) or as (n,).
    """
    if isinstance(A, Tensor) and A.layout == torch.strided:
        return _DenseMap(), [A]
    if isinstance(A, Tensor):
        if A.requires_grad:
            fix = "Pass SparseMatrix(values, rows, cols, n) and differentiate in values"
            raise InputError(message("linear_solve", "a sparse tensor without grad", A, fix))
        A = _from_torch(A)
    if isinstance(A, SparseMatrix):
        return _SparseMap(A), [A.values]
    if callable(A):
        tensors, rebuild = flatten(params)
        return _FunctionMap(A, rebuild, batched), list(tensors.values())
    expected = "A as a tensor, SparseMatrix or function (v, params) -> A v"
    raise InputError(message("linear_solve", expected, type(A).__name__))


def as_operator(A: Any, like: Tensor | None) -> Operator:
    """The fast form of any matrix that solvers accept; `like` as in `LinearSolver.factor`."""
    if isinstance(A, Operator):
        return A
    if isinstance(A, Tensor) and A.layout == torch.strided:
        A = A.detach()
        rows = A[..., 0].reshape(-1, A.shape[-1]) if like is None else _rows(like)
        return Operator(
            lambda v: (A @ v.unsqueeze(-1)).squeeze(-1),
            lambda v: (A.mT @ v.unsqueeze(-1)).squeeze(-1),
            rows,
            make_dense=lambda: A,
            make_sparse=None if A.dim() > 2 else lambda: scipy.sparse.csc_matrix(A.cpu().numpy()),
        )
    if isinstance(A, Tensor):
        A = _from_torch(A)
    if scipy.sparse.issparse(A):
        coo = A.tocoo()
        place = {} if like is None else {"dtype": like.dtype, "device": like.device}
        index = [
            torch.as_tensor(i, dtype=torch.long).to(place.get("device")) for i in (coo.row, coo.col)
        ]
        A = SparseMatrix(torch.as_tensor(coo.data).to(**place), *index, coo.shape[0])
    if isinstance(A, SparseMatrix):
        return _sparse_operator(A, like)
    if callable(A) and like is not None:
        if like.dim() == 1:
            return _function_operator(lambda v: A(v[0])[None], like[None])
        return _function_operator(A, like)
    expected = "A as a tensor, SparseMatrix, scipy matrix, or a function together with `like`"
    raise InputError(message("LinearSolver.factor", expected, type(A).__name__))


def vjp(
    function: Callable[[Sequence[Tensor]], Tensor],
    leaves: Sequence[Tensor],
    wanted: Sequence[bool],
    cotangent: Tensor,
) -> list[Tensor | None]:
    """Partial derivatives ⟨cotangent, ∂function/∂leaf⟩ of the wanted leaves, None for the rest.

    With gradients enabled the result carries a graph to the leaves and to the cotangent. The
    leaves enter through aliases, so that a leaf that depends on another one counts as constant.
    """
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [alias(t) if w else t for t, w in zip(leaves, wanted, strict=True)]
        if not any(wanted):
            return [None] * len(aliases)
        value = function(aliases)
        inputs = [a for a, w in zip(aliases, wanted, strict=True) if w]
        if not value.requires_grad:
            return [torch.zeros_like(t) if w else None for t, w in zip(leaves, wanted, strict=True)]
    grads = iter(
        torch.autograd.grad(value, inputs, cotangent, create_graph=create, allow_unused=True)
    )
    found = [next(grads) if w else None for w in wanted]
    triples = zip(found, leaves, wanted, strict=True)
    return [torch.zeros_like(t) if w and g is None else g for g, t, w in triples]


def alias(t: Tensor) -> Tensor:
    """A tensor equal to t to differentiate in, connected to t if t is part of a graph."""
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()


def transpose(function: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    """Aᵀ v for the linear function w ↦ A w, by one reverse pass at w = 0."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        zero = torch.zeros_like(v, requires_grad=True)
        value = function(zero)
    return torch.autograd.grad(value, zero, v, create_graph=create)[0]


def _function_operator(matvec: Callable[[Tensor], Tensor], like: Tensor) -> Operator:
    @functools.cache
    def tape() -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            zero = torch.zeros_like(like, requires_grad=True)
            value = matvec(zero)
        if not value.requires_grad:
            fix = "Write A in torch operations, or pass an Operator with its rmatvec"
            raise InputError(message("Operator.rmatvec", "a torch function", "one cut off", fix))
        return zero, value

    def rmatvec(v: Tensor) -> Tensor:
        zero, value = tape()
        return torch.autograd.grad(value, zero, v, retain_graph=True)[0]

    return Operator(matvec, rmatvec, like)


def _sparse_operator(A: SparseMatrix, like: Tensor | None) -> Operator:
    values = A.values.detach()
    blocks = 1 if values.dim() == 1 else len(values)
    shift = A.n * torch.arange(blocks, device=values.device).repeat_interleave(len(A.rows))
    rows, cols = A.rows.repeat(blocks) + shift, A.cols.repeat(blocks) + shift
    forward = _csr(rows, cols, values.reshape(-1), A.n * blocks)
    backward = _csr(cols, rows, values.reshape(-1), A.n * blocks)

    def product(matrix: Tensor, v: Tensor) -> Tensor:
        if values.dim() == 1:
            return (matrix @ v.T).T
        return (matrix @ v.reshape(-1, 1)).reshape(v.shape)

    return Operator(
        lambda v: product(forward, v),
        lambda v: product(backward, v),
        values.new_empty(blocks, A.n) if like is None else _rows(like),
        make_sparse=A.scipy,
        make_dense=lambda: _dense_from(A),
    )


def _dense_from(A: SparseMatrix) -> Tensor:
    values = A.values.detach()
    flat = values.new_zeros(*values.shape[:-1], A.n * A.n)
    return flat.index_add(-1, A.rows * A.n + A.cols, values).reshape(*values.shape[:-1], A.n, A.n)


def _csr(rows: Tensor, cols: Tensor, values: Tensor, n: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        index = torch.stack([rows, cols])
        coo = torch.sparse_coo_tensor(index, values, (n, n), check_invariants=True)
        return coo.to_sparse_csr()


def _from_torch(A: Tensor) -> SparseMatrix:
    coo = A.detach().to_sparse_coo().coalesce()
    return SparseMatrix(coo.values(), *coo.indices(), A.shape[-1])


def _rows(t: Tensor) -> Tensor:
    return t.reshape(-1, t.shape[-1])
