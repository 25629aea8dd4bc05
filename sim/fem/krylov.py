"""Conjugate gradients on a matrix of 3×3 blocks in Warp, on the CPU and on CUDA, for a batch of scenes.

    A x = b,   A = Σ blocks of elements and contact,   preconditioned by its inverse diagonal blocks

The matrix is block diagonal over the scenes; each has its own tolerance, all iterate until the last one
is done. Torch tensors are read and written in place. On CUDA ten iterations at a time are one graph.

Source: Hestenes & Stiefel 1952; `warp.optim.linear` for the iteration, `warp.sparse` for the product.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.backend import as_array, warp
from ..core.errors import ConvergenceError, message
from .pattern import Blocks, Pattern

__all__ = ["BlockMatrix"]

CHECK = 10
"""Iterations between looks at the residual."""


class BlockMatrix:
    """The Hessian on the free points of B scenes as a Warp matrix of 3×3 blocks.

    Args:
        blocks: local blocks and a diagonal, float64.
        pattern: which points are free.
    """

    def __init__(self, blocks: Blocks, pattern: Pattern):
        wp = warp()
        self.scenes, self.count, self.device = (
            len(blocks.diagonal),
            pattern.count,
            blocks.diagonal.device,
        )
        row, col, value = _triplets(blocks, pattern)
        rows = self.scenes * pattern.size
        with self._stream():
            pair = as_array(row, wp.int32), as_array(col, wp.int32)
            self.A = _module("sparse").bsr_from_triplets(
                rows, rows, *pair, as_array(value, wp.mat33d)
            )

    def product(self, v: Tensor) -> Tensor:
        """A v for v (B, n)."""
        wp, v = warp(), v.detach().contiguous()
        out = torch.zeros_like(v)
        with self._stream():
            _module("sparse").bsr_mv(self.A, as_array(v, wp.vec3d), as_array(out, wp.vec3d))
        return out

    def solve(self, b: Tensor, tol: float, max_iterations: int) -> tuple[Tensor, int]:
        """A x = b for b (B, n); x and the number of iterations, a multiple of `CHECK`.

        Raises:
            ConvergenceError: ‖b − A x‖ > 10 tol ‖b‖ in any scene, measured anew.
        """
        wp, linear, b = warp(), _module("optim.linear"), b.detach().contiguous()
        x = torch.zeros_like(b)
        ends = torch.arange(self.scenes + 1, dtype=torch.int32) * self.count
        with self._stream():
            offsets = as_array(ends.to(b.device), wp.int32)
            operator = linear.aslinearoperator(self.A, offsets, self.count)
            near = linear.preconditioner(self.A, "block_jacobi_sequential")
            arrays = as_array(b, wp.vec3d), as_array(x, wp.vec3d)
            # Without `atol` it would be `tol` itself, in newtons.
            iterations, _, _ = linear.cg(
                operator,
                *arrays,
                tol=tol,
                atol=0.0,
                maxiter=max_iterations,
                M=near,
                check_every=CHECK,
            )
        norm = b.norm(dim=1)
        rest = (b - self.product(x)).norm(dim=1) / torch.where(norm > 0, norm, 1.0)
        failed = ~(rest <= 10 * tol)
        if bool(failed.any()):
            worst = float(torch.where(rest.isnan(), torch.inf, rest).max())
            got = f"{worst:.3e} ‖b‖ in {int(failed.sum())} of {len(b)} scenes"
            got += f" after {iterations} iterations"
            fix = 'Take linear="sparse" or "dense", or lower dt: stiff sheets are ill-conditioned'
            where = 'SolverFEM, linear="cg"'
            raise ConvergenceError(
                message(where, f"‖b − A x‖ <= {tol:.1e} ‖b‖", got, fix),
                iterations=iterations,
                residual=worst,
                tol=tol,
            )
        return x, iterations

    @contextlib.contextmanager
    def _stream(self) -> Iterator[None]:
        """Warp's own stream between two of torch's work: the default one can not capture graphs."""
        if self.device.type != "cuda":
            yield
            return
        wp = warp()
        stream = wp.get_stream(wp.device_from_torch(self.device))
        torch.cuda.current_stream(self.device).synchronize()
        yield
        wp.synchronize_stream(stream)


def _triplets(blocks: Blocks, pattern: Pattern) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns (K,), int32, and 3×3 blocks (K, 3, 3); places may repeat."""
    device = blocks.diagonal.device
    number = torch.from_numpy(pattern.number).to(device)
    own = blocks.diagonal[:, pattern.free.to(device)].reshape(-1, 1, 1)
    every = torch.arange(len(own), device=device)
    rows, cols = [every], [every]
    values = [own * torch.eye(3, dtype=own.dtype, device=device)]
    for stencil, local in (*blocks.fixed, *blocks.moving):
        k = stencil.shape[1]
        place = number[stencil % pattern.points]
        scene = torch.div(stencil, pattern.points, rounding_mode="floor")
        place = torch.where(place < 0, place, place + scene * pattern.size)
        row, col = place[:, :, None].expand(-1, k, k), place[:, None, :].expand(-1, k, k)
        used = (row >= 0) & (col >= 0)
        rows.append(row[used])
        cols.append(col[used])
        values.append(local.reshape(-1, k, 3, k, 3).transpose(2, 3)[used])
    return torch.cat(rows).int(), torch.cat(cols).int(), torch.cat(values).contiguous()


@functools.cache
def _module(name: str) -> Any:
    """A part of Warp that is imported when it is needed."""
    warp()
    return importlib.import_module(f"warp.{name}")
