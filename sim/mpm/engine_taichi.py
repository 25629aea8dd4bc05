"""Transfers in Taichi: an independent oracle of the Warp engine, and a way to GPUs without CUDA.

Scatter and gather are `autograd.Function`s over kernels with hand-written adjoints; the grid and
the laws between them are the torch code of `composed`. Taichi's own differentiation is never used.

Source: Hu et al. 2018 (MLS-MPM), Alg. 1 and Eq. 16–17; Jiang et al. 2015 (APIC), Eq. 8–9.
"""

from __future__ import annotations

import logging
import math
import threading
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..core.backend import CPU_THREADS, taichi
from ..core.errors import InputError
from .model import MPMModel
from .taichi_kernels import transfer_kernels

__all__ = ["TaichiTransfers"]

MIN_PARTICLES_PER_SHARD = 4096
"""Below this a second copy of the nodes costs more than a second thread brings."""

log = logging.getLogger(__name__)

_launching = threading.Lock()


class TaichiTransfers:
    """Scatter and gather of one model as Taichi kernels; keeps no state between calls.

    Tensors are handed over without a copy where torch and Taichi share the device. On a CPU every
    thread adds into its own copy of the nodes, so results repeat bit by bit for a fixed number of
    threads; on a GPU atomics add in any order and runs differ by rounding.

    The kernels run on Taichi's device of this process: the one the first engine asked for, the one
    of a program that called `ti.init` before, or the one named by the environment variable TI_ARCH
    (vulkan, metal, …; then tensors are copied to and fro). Only CPU devices are tested.

    Processes: Taichi does not survive a fork. In a worker forked after Taichi started (DataLoader's
    default on Linux) it would hang; this class raises instead. Start such workers with
    `multiprocessing_context="spawn"`, or use engine="warp".

    Args:
        model: The scene.
        batch_size: Scenes B; for the interface, each call takes B from its tensors.
        dtype: torch.float32 or torch.float64.
        device: Where the tensors live.
        dt: Substep [s]; for the interface, no kernel depends on it.
        births: For the interface; unborn particles come with mass 0 and A = 0.
        threads: Copies of the nodes on a CPU; None: one per core. Fix it where runs must agree bit
            by bit between machines.

    Raises:
        ImportError: Taichi is not installed.
        InputError: dtype neither float32 nor float64.
    """

    def __init__(
        self,
        model: MPMModel,
        *,
        batch_size: int,
        dtype: torch.dtype,
        device: torch.device,
        dt: float,
        births: Tensor,
        threads: int | None = None,
    ) -> None:
        grid = model.grid
        if dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"TaichiTransfers: float32 or float64; got {dtype}. Convert with state.to()."
            )
        self.dim, self.dx, self.node_count = grid.dim, grid.dx, grid.node_count
        self.dtype = dtype
        self._threads = threads or CPU_THREADS
        self._ti = ti = taichi(torch.device(device).type)
        self._atomic = ti.cfg.arch not in (ti.x64, ti.arm64)
        if torch.device(device).type != "cpu" and ti.cfg.arch in (ti.x64, ti.arm64):
            log.warning(
                "TaichiTransfers: tensors on %s are copied to the CPU and back in every substep, "
                "because Taichi was started there. Start Taichi on the GPU first, or set TI_ARCH.",
                device,
            )
        self._kernels = transfer_kernels(dtype, grid.dim, self._atomic)
        self._origin, self._shape = grid.origin, grid.shape
        self._space = (ti.Vector(list(grid.origin)), grid.dx, ti.Vector(list(grid.shape)))
        self._spare: Tensor | None = None

    def scatter(self, x: Tensor, v: Tensor, A: Tensor, mass: Tensor) -> Tensor:
        """Momentum and mass on the nodes, Σ w (m v + A d) and Σ w m.

        Args:
            x: Positions [m], (B, N, D).
            v: Velocities [m/s], (B, N, D).
            A: Affine momentum [kg/s], (B, N, D, D).
            mass: [kg], (B, N).

        Returns:
            (B, G, D + 1). Differentiable once in all arguments.

        Raises:
            InputError: shapes or dtypes that do not match.
        """
        B, N = self._check_particles("scatter", x)
        D = self.dim
        self._check("scatter", "v", v, (B, N, D))
        self._check("scatter", "A", A, (B, N, D, D))
        self._check("scatter", "mass", mass, (B, N))
        return _Scatter.apply(self, x, v, A, mass)

    def gather(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Particle velocity and its gradient, Σ w u and (4/dx²) Σ w u dᵀ.

        Args:
            x: Positions [m], (B, N, D).
            u: Node velocities [m/s], (B, G, D).

        Returns:
            v (B, N, D) and C (B, N, D, D). Differentiable once in both arguments.

        Raises:
            InputError: shapes or dtypes that do not match.
        """
        B, _ = self._check_particles("gather", x)
        self._check("gather", "u", u, (B, self.node_count, self.dim))
        return _Gather.apply(self, x, u)

    def _check_particles(self, where: str, x: Tensor) -> tuple[int, int]:
        if x.ndim != 3:
            raise InputError(
                f"TaichiTransfers.{where}: x of shape (B, N, {self.dim}); got {tuple(x.shape)}. "
                "Add the batch axis."
            )
        B, N = x.shape[:2]
        self._check(where, "x", x, (B, N, self.dim))
        return B, N

    def _check(self, where: str, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        """Kernels see bare memory: another shape or dtype would be read as garbage."""
        if tuple(tensor.shape) != shape or tensor.dtype != self.dtype:
            raise InputError(
                f"TaichiTransfers.{where}: {name} of shape {shape} in {self.dtype}; got "
                f"{tuple(tensor.shape)} in {tensor.dtype}. Start from model.initial_state()."
            )

    def _shards(self, B: int, N: int) -> int:
        """Copies of the nodes that threads add into; 1 on GPUs and for few particles."""
        entries = B * self.node_count * (self.dim + 1)
        limit = 2**31 - 1  # Taichi's indices are 32 bits wide
        if max(entries, B * N * self.dim**2) > limit:
            raise InputError(
                f"TaichiTransfers: fewer than 2³¹ values per array; got {B} scenes of "
                f'{self.node_count} nodes and {N} particles. Use engine="warp" or smaller batches.'
            )
        if self._atomic:
            return 1
        return max(1, min(self._threads, B * N // MIN_PARTICLES_PER_SHARD, limit // entries))

    def _launch(self, name: str, tensors: list[Tensor]) -> None:
        """Run a kernel over plain tensors, the first of them the positions, seen as flat arrays."""
        B, N = tensors[0].shape[:2]
        self._shards(B, N)
        with _launching:
            self._run(name, tensors, B, N)

    def _launch_into(self, name: str, tensors: list[Tensor], components: int) -> Tensor:
        """The same for a kernel that adds to nodes; returns the sums, (B, G, components)."""
        x = tensors[0]
        B, N = x.shape[:2]
        shards = self._shards(B, N)
        total = x.new_zeros(B, self.node_count, components)
        if shards == 1:
            with _launching:
                self._run(name, [*tensors, total], B, N, shards)
            return total
        touched = self._touched(x)
        with _launching:
            # Kept empty between calls: filling and summing whole grids would take longer than the
            # particles do. Given back only after success, so an interrupt leaves no dirt behind.
            spare, self._spare = self._spare, None
            size = shards * total.numel()
            if spare is None or spare.numel() < size:
                spare = x.new_zeros(shards * B * self.node_count * (self.dim + 1))
            copies = spare[:size].view(shards, *total.shape)
            self._run(name, [*tensors, copies], B, N, shards)
            torch.sum(copies[:, :, touched], dim=0, out=total[:, touched])
            copies[:, :, touched] = 0
            self._spare = spare
        return total

    def _touched(self, x: Tensor) -> slice:
        """Range of nodes that the particles reach, in whole planes of the first axis."""
        planes = self._shape[0]
        lower, upper = ((e - self._origin[0]) / self.dx for e in map(float, x[..., 0].aminmax()))
        first, last = 0, planes
        if math.isfinite(lower) and math.isfinite(upper):
            # The stencil of base node b covers b … b + 2; one more on each side for rounding.
            first = min(max(math.floor(lower - 0.5) - 1, 0), planes - 4)
            last = max(min(math.floor(upper - 0.5) + 4, planes), 4)
        plane = self.node_count // planes
        return slice(first * plane, last * plane)

    def _run(self, name: str, tensors: list[Tensor], B: int, N: int, *shards: int) -> None:
        taichi()  # raises in a forked process, where a launch would hang
        if B * N == 0:
            return
        on_cuda = tensors[0].device.type == "cuda"
        if on_cuda:
            # Taichi launches on its own stream and does not know torch's.
            torch.cuda.current_stream(tensors[0].device).synchronize()
        flat = [t.view(-1) for t in tensors]
        getattr(self._kernels, name)(*flat, *self._space, B, N, self.node_count, *shards)
        if on_cuda:
            self._ti.sync()


def _plain(*tensors: Tensor) -> list[Tensor]:
    """As Taichi may see them: it would install `.grad` on leaves and refuses strides."""
    return [t.detach().contiguous() for t in tensors]


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, engine: TaichiTransfers, x: Tensor, v: Tensor, A: Tensor, mass: Tensor
    ) -> Tensor:
        ctx.engine = engine
        ctx.save_for_backward(x, v, A, mass)
        return engine._launch_into("scatter", _plain(x, v, A, mass), engine.dim + 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, adj_nodes: Tensor) -> tuple[Tensor | None, ...]:
        inputs = _plain(*ctx.saved_tensors)
        adjoints = [torch.empty_like(t) for t in inputs]
        ctx.engine._launch("scatter_adjoint", [*inputs, *_plain(adj_nodes), *adjoints])
        return None, *adjoints


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, engine: TaichiTransfers, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        ctx.engine = engine
        ctx.save_for_backward(x, u)
        B, N, D = x.shape
        v, C = x.new_empty(B, N, D), x.new_empty(B, N, D, D)
        engine._launch("gather", [*_plain(x, u), v, C])
        return v, C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, adj_v: Tensor, adj_C: Tensor) -> tuple[Tensor | None, ...]:
        x, u = _plain(*ctx.saved_tensors)
        adj_x = torch.empty_like(x)
        tensors = [x, u, *_plain(adj_v, adj_C), adj_x]
        adj_u = ctx.engine._launch_into("gather_adjoint", tensors, ctx.engine.dim)
        return None, adj_x, adj_u
