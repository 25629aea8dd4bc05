"""Buffers of the Warp engine: grids, node boxes, status flags and constants of one model.

Everything here is scratch that a substep fills and empties; no particle state outlives a call.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.backend import Command, Workers, as_array, real_type, warp
from ..core.colliders_warp import pack
from ..core.errors import StateError
from .grid_kernels import grid_kernels
from .kernels import transfer_kernels
from .law_kernels import law_kernels
from .model import MPMModel

__all__ = ["Scratch"]

MIN_PARTICLES_PER_SHARD = 4096
"""Below this the barriers cost more than a second thread brings."""


class Scratch:
    """Buffers, kernels and constants for one model, batch size, precision and device."""

    def __init__(
        self,
        model: MPMModel,
        *,
        batch_size: int,
        dtype: torch.dtype,
        device: torch.device,
        dt: float,
        births: Tensor,
        threads: int,
        fused: bool,
    ) -> None:
        wp = warp()
        self.model, self.B, self.dtype, self.device = model, batch_size, dtype, device
        self.real = real_type(dtype)
        self.cpu = device.type == "cpu"
        D = model.dim
        self.bodies = len(model.bodies.index)
        self.k = transfer_kernels(self.real, D, self.cpu)
        self.g = grid_kernels(self.real, D, self.cpu)
        self.mat33 = wp.types.matrix((3, 3), self.real)
        self.wp_device = "cpu" if self.cpu else wp.device_from_torch(device)
        self.fused = fused
        self.laws = [law_kernels(g.law, self.real, D) for g in model.groups] if fused else []

        total = batch_size * model.particle_count
        self.shards = 1
        if self.cpu:
            self.shards = max(1, min(threads, total // MIN_PARTICLES_PER_SHARD))
        self.workers = Workers(self.shards)
        # Shards that own whole scenes never meet in a grid, so they can share it.
        self.copies = 1 if batch_size % self.shards == 0 else self.shards

        G = model.grid.node_count * batch_size
        self.stride = G

        def buffer(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self._grid = buffer(self.copies * G, D + 1)
        self._total = buffer(G, D + 1)
        self._adj_total = buffer(G, D + 1)
        self._velocity = [buffer(G, D) for _ in range(len(model.colliders) + 1)]
        self._adj_velocity: list[Tensor] = []
        self._adj_private: Tensor | None = None
        self._A = buffer(total, D * D)
        self._adj_A = buffer(0)
        # A row fills a cache line, so that shards do not share one.
        self._status = torch.zeros(self.shards, 16, dtype=torch.int32, device=device)
        self._gravity = torch.tensor(model.gravity, dtype=dtype, device=device).repeat(
            batch_size, 1
        )
        self._volume = model.volumes(dtype, device)
        self._birth = births.to(device)

        k = self.k
        self.a = {
            "grid": as_array(self._grid, k.node),
            "total": as_array(self._total, k.node),
            "adj_total": as_array(self._adj_total, k.node),
            "A": as_array(self._A, k.mat),
            "gravity": as_array(self._gravity, k.vec),
            "volume": as_array(self._volume, self.real),
            "birth": as_array(self._birth, wp.int32),
            "status": as_array(self._status, wp.int32, ndim=2),
        }
        self.velocity = [as_array(v, k.vec) for v in self._velocity]
        self.tools = [pack(c, self.real, self.wp_device) for c in model.colliders]
        self.none = {
            t: wp.empty(0, dtype=t, device=self.wp_device)
            for t in (self.real, k.vec, k.mat, k.node, self.mat33)
        }
        self.no_volume = wp.empty((0, 0, 0), dtype=self.real, device=self.wp_device)

        grid = model.grid
        space = k.Space()
        space.origin = k.vec(*grid.origin)
        space.dx, space.dt = grid.dx, dt
        space.shape = k.ivec(*grid.shape)
        space.nodes, space.particles = grid.node_count, model.particle_count
        smallest = float(self._volume.min()) * 1e-3
        space.empty = smallest * (1e-10 if dtype == torch.float32 else 1e-20)
        self.space, self.dt = space, dt
        self._scale = 4.0 / grid.dx**2

        offsets, starts = model.storage_slices(), model.slices()
        self.groups = []
        for group in model.groups:
            storage = offsets[group.law.storage][group.name].start
            hard = offsets["alpha"][group.name].start if group.law.hardening else 0
            self.groups.append((starts[group.name].start, group.count, storage, hard))
        self.axis_length = {
            f: sum(s.stop - s.start for s in g.values()) for f, g in offsets.items()
        }
        self._commands: dict[Any, Command] = {}
        self._ready: set[str] = set()
        self._boxes: dict[tuple[int, ...], Any] = {}
        self._status_view = self._status.numpy() if self.cpu else None
        self._no_status = [0] * 3 + [1 << 30] * D + [-1] * D
        self.lock = threading.RLock()

    def arrays(self, row: dict[str, Tensor]) -> dict[str, Any]:
        """Warp views of the particle fields of one instant."""
        k, real = self.k, self.real
        types = {"x": k.vec, "v": k.vec, "C": k.mat, "F": self.mat33}
        return {name: as_array(tensor, types.get(name, real)) for name, tensor in row.items()}

    def box(self, lower: Sequence[int], upper: Sequence[int]) -> Any:
        """Node box that the stencils of base nodes `lower … upper` touch."""
        key = (*lower, *upper)
        box = self._boxes.get(key)
        if box is None:
            if len(self._boxes) > 4096:
                self._boxes.clear()
            box = self.g.Box()
            size = [hi - lo + 3 for lo, hi in zip(lower, upper, strict=True)]
            box.lower, box.size = self.k.ivec(*lower), self.k.ivec(*size)
            volume = 1
            for n in size:
                volume *= n
            box.volume = volume
            box.padding = self.model.grid.padding
            box.walls = self.g.walls_type(*self.model.wall_codes())
            self._boxes[key] = box
        return box

    def full_box(self) -> Any:
        return self.box([0] * self.model.dim, [n - 3 for n in self.model.grid.shape])

    def first_box(self, x: Tensor) -> Any:
        """Box of the given positions, which must lie on the grid.

        Raises:
            StateError: particles outside the grid, or not finite.
        """
        flat = x.flatten(0, -2)
        if self.cpu:  # numpy, because torch's threads keep spinning where the shards are to run
            extremes = torch.from_numpy(np.stack([flat.numpy().min(0), flat.numpy().max(0)]))
        else:
            extremes = torch.stack(torch.aminmax(flat, dim=0)).cpu()
        # In the precision of the kernels, which round to the same nodes.
        origin = torch.tensor(self.model.grid.origin, dtype=x.dtype)
        lower, upper = ((extremes - origin) / self.model.grid.dx - 0.5).tolist()
        if not all(math.isfinite(c) for c in (*lower, *upper)):
            raise StateError(
                "SolverMPM.step: finite positions; got NaN or infinity in x. "
                "Check the initial state.",
                field="x",
            )
        limits = [n - 2 for n in self.model.grid.shape]
        if min(lower) < 0 or any(c >= n for c, n in zip(upper, limits, strict=True)):
            raise StateError(
                f"SolverMPM.step: particles inside {self.model.grid.lower} … "
                f"{self.model.grid.upper} m; got positions "
                f"{[round(v, 4) for v in x.flatten(0, -2).amin(0).tolist()]} … "
                f"{[round(v, 4) for v in x.flatten(0, -2).amax(0).tolist()]} m. "
                "Move the bodies or enlarge the grid.",
                field="x",
            )
        return self.box([int(c) for c in lower], [int(c) for c in upper])

    def next_box(self) -> Any:
        """Box the last gather reported; the whole grid on CUDA, where asking would stall the stream."""
        if not self.cpu:
            return self.full_box()
        D = self.model.dim
        lower = self._status_view[:, 3 : 3 + D].min(0)
        upper = self._status_view[:, 3 + D : 3 + 2 * D].max(0)
        return self.box(lower.tolist(), upper.tolist())

    def stream(self) -> Any:
        """Context in which kernels run on torch's current CUDA stream; nothing on a CPU."""
        if self.cpu:
            return contextlib.nullcontext()
        wp = warp()
        return wp.ScopedStream(wp.stream_from_torch(torch.cuda.current_stream(self.device)))

    def reset_status(self, shard: int) -> None:
        """Forget one shard's faults and box before a gather; on CUDA nothing, since faults are read
        once per call and boxes never."""
        if self.cpu:
            self._status_view[shard, : len(self._no_status)] = self._no_status

    def clear_flags(self) -> None:
        self._status[:, :3] = 0

    def flags(self) -> list[int]:
        """Per kind of fault 1 + the index of a faulty particle, or 0."""
        return self._status[:, :3].amax(0).tolist()

    def set_affine(self, A: Tensor) -> None:
        self._A.copy_(A.reshape(self._A.shape))

    def take_affine_adjoint(self, shape: torch.Size) -> Tensor:
        result = self._adj_A.reshape(shape).clone()
        self._adj_A.zero_()
        return result

    def allocate_adjoint(self) -> None:
        if self._adj_velocity:
            return
        D, G = self.model.dim, self.stride
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        self._adj_velocity = [torch.zeros(G, D, **options) for _ in self._velocity]
        self._adj_private = torch.zeros(self.copies * G, D, **options)
        self._adj_A = torch.zeros_like(self._A)
        self.adj_velocity = [as_array(v, self.k.vec) for v in self._adj_velocity]
        self.a["adj_private"] = as_array(self._adj_private, self.k.vec)
        self.a["adj_A"] = as_array(self._adj_A, self.k.mat)

    def clear(self) -> None:
        """Empty the grids after an interrupted substep; they are otherwise emptied as they are read."""
        for tensor in (self._grid, self._adj_private, *self._adj_velocity):
            if tensor is not None:
                tensor.zero_()
