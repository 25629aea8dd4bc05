"""The Warp engine: buffers, shards and launch order of MPM substeps and their adjoints.

A substep has two barriers forward and four backward; between them every shard works on its own
particles or nodes. Adjoint launches follow the forward order in reverse and recompute the grid, so a
stored substep costs only its particle state.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.backend import Command, Workers, as_array, real_type, warp
from ..core.colliders_warp import pack
from ..core.errors import StateError
from .grid_kernels import grid_kernels
from .kernels import transfer_kernels
from .law_kernels import law_kernels
from .model import MPMModel

__all__ = ["Inputs", "WarpEngine"]

MIN_PARTICLES_PER_SHARD = 4096
"""Below this the barriers cost more than a second thread brings."""


@dataclasses.dataclass
class Inputs:
    """What the substeps of one call share, as Warp arrays; `adj` holds their adjoints per shard."""

    mass: Any
    thetas: list[Any]
    poses: list[Any]
    twists: list[Any]
    friction: Any
    softness: Any


class WarpEngine:
    """Scratch and launches for one model, batch size, precision and device."""

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
        self._status = torch.zeros(self.shards, 3 + 2 * D, dtype=torch.int32, device=device)
        self._gravity = torch.tensor(model.gravity, dtype=dtype, device=device).repeat(batch_size, 1)
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
        for index, group in enumerate(model.groups):
            storage = offsets[group.law.storage][group.name].start
            hard = offsets["alpha"][group.name].start if group.law.hardening else 0
            self.groups.append((index, starts[group.name].start, group.count, storage, hard))
        self.axis_length = {f: sum(s.stop - s.start for s in g.values()) for f, g in offsets.items()}
        self._commands: dict[Any, Command] = {}
        self._ready: set[str] = set()
        self._boxes: dict[tuple[int, ...], Any] = {}
        self._status_view = self._status.numpy() if self.cpu else None
        self.lock = threading.RLock()

    def arrays(self, row: dict[str, Tensor]) -> dict[str, Any]:
        """Warp views of the particle fields of one instant."""
        k, real = self.k, self.real
        types = {"x": k.vec, "v": k.vec, "C": k.mat, "F": self.mat33, "J": real, "alpha": real}
        return {name: as_array(tensor, types[name]) for name, tensor in row.items()}

    def _launch(
        self, key: Any, kernel: Any, dim: int, args: Sequence[Any], adj: Sequence[Any] | None = None
    ) -> None:
        if dim <= 0:
            return
        command = self._commands.get(key)
        if command is None:
            command = self._commands[key] = Command(
                kernel, dim, args, adjoint_args=adj, device=self.wp_device
            )
        command(args, adj or (), dim)

    def _run(self, stage: str, task: Callable[[int], None]) -> None:
        """One stage on all shards. The first time they take turns: loading a kernel in two threads at
        once crashes Warp."""
        if stage in self._ready:
            self.workers.run(task)
            return
        for shard in range(self.shards):
            task(shard)
        self._ready.add(stage)

    def _share(self, count: int, shard: int) -> tuple[int, int]:
        """Start and length of one shard's part of `count` items."""
        start = count * shard // self.shards
        return start, count * (shard + 1) // self.shards - start

    def _copy_offset(self, shard: int) -> int:
        return shard * self.stride if self.copies > 1 else 0

    def _law_args(self, index: int, start: int, row: dict, inputs: Inputs) -> list[Any]:
        _, first, count, storage, hard = self.groups[index]
        return [
            *(self.model.particle_count, first, count, start),
            *(self.axis_length[self.model.groups[index].law.storage], storage),
            *(self.axis_length["alpha"], hard),
            inputs.thetas[index],
        ]

    def _stress(self, shard: int, row: dict, inputs: Inputs) -> None:
        for index, _first, count, _storage, _hard in self.groups:
            start, dim = self._share(self.B * count, shard)
            law = self.laws[index]
            args = [
                *self._law_args(index, start, row, inputs),
                *(self.dt, self._scale, self.a["volume"], inputs.mass),
                *(row[law.storage], row["C"], self.a["A"]),
            ]
            self._launch(("stress", index, shard), law.stress, dim, args)

    def _flow_args(self, index: int, start: int, row: dict, row1: dict, inputs: Inputs) -> list[Any]:
        law = self.laws[index]
        args = [*self._law_args(index, start, row, inputs), self.dt, row[law.storage]]
        return [*args, row["alpha"], row1["C"], row1[law.storage], row1["alpha"]]

    def _flow(self, shard: int, row: dict, row1: dict, inputs: Inputs) -> None:
        for index, _first, count, _storage, _hard in self.groups:
            start, dim = self._share(self.B * count, shard)
            args = self._flow_args(index, start, row, row1, inputs)
            self._launch(("flow", index, shard), self.laws[index].flow, dim, args)

    def _scatter(self, shard: int, row: dict, mass: Any, step: int) -> None:
        for index, first, count, _storage, _hard in self.groups:
            start, dim = self._share(self.B * count, shard)
            args = [self.space, first, count, start, step, row["x"], row["v"], self.a["A"], mass]
            args += [self.a["birth"], self._copy_offset(shard), self.a["grid"]]
            self._launch(("scatter", index, shard), self.k.scatter, dim, args)

    def _grid_forward(self, shard: int, box: Any, inputs: Inputs, s: int) -> None:
        start, dim = self._share(self.B * box.volume, shard)
        args = [self.space, box, start, self.copies, self.stride, self.a["gravity"]]
        args += [self.a["grid"], self.a["total"], self.velocity[0]]
        self._launch(("update", shard), self.g.update, dim, args)
        for tool in range(len(self.tools)):
            args = self._collide_args(tool, box, start, inputs, s)
            self._launch(("collide", tool, shard), self.g.collide, dim, args)

    def _collide_args(self, tool: int, box: Any, start: int, inputs: Inputs, s: int) -> list[Any]:
        t = self.tools[tool]
        args = [self.space, box, start, self.a["total"], self.velocity[tool]]
        args += [t.kind, t.size, t.volume, t.origin, t.dx, tool, len(self.tools)]
        args += [inputs.poses[s], inputs.twists[s], inputs.friction, inputs.softness]
        return [*args, self.velocity[tool + 1]]

    def _gather(self, shard: int, row: dict, row1: dict, step: int) -> None:
        for index, first, count, _storage, _hard in self.groups:
            start, dim = self._share(self.B * count, shard)
            args = [self.space, first, count, start, step, row["x"], row["v"], row["C"]]
            args += [self.a["birth"], self.velocity[-1], row1["x"], row1["v"], row1["C"]]
            args += [shard, self.a["status"]]
            self._launch(("gather", index, shard), self.k.gather, dim, args)

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
        origin = torch.tensor(self.model.grid.origin, dtype=x.dtype, device=x.device)
        cells = ((x - origin) / self.model.grid.dx - 0.5).flatten(0, -2)
        lower, upper = (t.tolist() for t in torch.aminmax(cells, dim=0))
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
        upper = self._status_view[:, 3 + D :].max(0)
        return self.box(lower.tolist(), upper.tolist())

    def reset_status(self) -> None:
        D = self.model.dim
        self._status[:, :3] = 0
        self._status[:, 3 : 3 + D] = 1 << 30
        self._status[:, 3 + D :] = -1

    def flags(self) -> list[int]:
        """Per kind of fault 1 + the index of a faulty particle, or 0."""
        return self._status[:, :3].amax(0).tolist()

    def set_affine(self, A: Tensor) -> None:
        self._A.copy_(A.reshape(self._A.shape))

    def take_affine_adjoint(self, shape: torch.Size) -> Tensor:
        result = self._adj_A.reshape(shape).clone()
        self._adj_A.zero_()
        return result

    def forward(
        self, row: dict, row1: dict, inputs: Inputs, box: Any, step: int, s: int, moved: bool = True
    ) -> None:
        """One substep from `row` to `row1`; with `moved=False` only up to the grid velocity."""

        def particles(shard: int) -> None:
            if self.fused:
                self._stress(shard, row, inputs)
            self._scatter(shard, row, inputs.mass, step)

        def nodes(shard: int) -> None:
            self._grid_forward(shard, box, inputs, s)

        def back(shard: int) -> None:
            self._gather(shard, row, row1, step)
            if self.fused:
                self._flow(shard, row, row1, inputs)

        self._run("particles", particles)
        self._run("nodes", nodes)
        if moved:
            self._run("back", back)

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

    def backward(
        self,
        row: dict,
        row1: dict,
        adj: dict,
        adj1: dict,
        inputs: Inputs,
        adj_inputs: list[Inputs],
        box: Any,
        step: int,
        s: int,
    ) -> None:
        """Adjoint of one substep: consumes `adj1` (of `row1`) and fills `adj` (of `row`).

        `adj` must be zero in F, J, alpha and C; x and v are overwritten.
        """

        def flow_and_scatter(shard: int) -> None:
            if self.fused:
                self._flow_adjoint(shard, row, row1, adj, adj1, inputs, adj_inputs[shard])
                self._stress(shard, row, inputs)
            self._scatter(shard, row, inputs.mass, step)

        def nodes(shard: int) -> None:
            self._grid_forward(shard, box, inputs, s)

        def gather(shard: int) -> None:
            for index, first, count, _storage, _hard in self.groups:
                start, dim = self._share(self.B * count, shard)
                args = [self.space, first, count, start, step, row["x"], self.a["birth"]]
                args += [self.velocity[-1], adj1["x"], adj1["v"], adj1["C"]]
                args += [self._copy_offset(shard), self.a["adj_private"]]
                args += [adj["x"], adj["v"], adj["C"]]
                self._launch(("gather*", index, shard), self.k.gather_adjoint, dim, args)

        def nodes_adjoint(shard: int) -> None:
            start, dim = self._share(self.B * box.volume, shard)
            args = [self.space, box, start, self.copies, self.stride]
            args += [self.a["adj_private"], self.adj_velocity[-1]]
            self._launch(("sum*", shard), self.g.sum_adjoint, dim, args)
            for tool in reversed(range(len(self.tools))):
                args = [self.space, box, start, self.adj_velocity[tool]]
                self._launch(("clear*", tool, shard), self.g.clear, dim, args)
                args = self._collide_args(tool, box, start, inputs, s)
                own = adj_inputs[shard]
                adjoint = [*args[:3], self.none[self.k.node], self.adj_velocity[tool], *args[5:7]]
                adjoint += [self.no_volume, *args[8:12]]
                adjoint += [own.poses[s], own.twists[s], own.friction, own.softness]
                adjoint.append(self.adj_velocity[tool + 1])
                self._launch(("collide*", tool, shard), self.g.collide, dim, args, adjoint)
            args = [self.space, box, start, self.a["gravity"], self.a["total"]]
            args += [self.adj_velocity[0], self.a["adj_total"]]
            self._launch(("update*", shard), self.g.update_adjoint, dim, args)

        def scatter_and_stress(shard: int) -> None:
            for index, first, count, _storage, _hard in self.groups:
                start, dim = self._share(self.B * count, shard)
                args = [self.space, first, count, start, step, row["x"], row["v"], self.a["A"]]
                args += [inputs.mass, self.a["birth"], self.a["adj_total"]]
                args += [adj["x"], adj["v"], self.a["adj_A"], adj_inputs[shard].mass]
                self._launch(("scatter*", index, shard), self.k.scatter_adjoint, dim, args)
            if self.fused:
                self._stress_adjoint(shard, row, adj, inputs, adj_inputs[shard])

        self._run("flow_and_scatter", flow_and_scatter)
        self._run("nodes", nodes)
        self._run("gather*", gather)
        self._run("nodes*", nodes_adjoint)
        self._run("scatter*", scatter_and_stress)

    def _stress_adjoint(self, shard: int, row: dict, adj: dict, inputs: Inputs, own: Inputs) -> None:
        for index, _first, count, _storage, _hard in self.groups:
            start, dim = self._share(self.B * count, shard)
            law = self.laws[index]
            head = self._law_args(index, start, row, inputs)
            args = [*head, self.dt, self._scale, self.a["volume"], inputs.mass]
            args += [row[law.storage], row["C"], self.a["A"]]
            adjoint = [*head[:-1], own.thetas[index], self.dt, self._scale, self.none[self.real]]
            adjoint += [own.mass, adj[law.storage], adj["C"], self.a["adj_A"]]
            self._launch(("stress*", index, shard), law.stress, dim, args, adjoint)

    def _flow_adjoint(
        self, shard: int, row: dict, row1: dict, adj: dict, adj1: dict, inputs: Inputs, own: Inputs
    ) -> None:
        for index, _first, count, _storage, _hard in self.groups:
            start, dim = self._share(self.B * count, shard)
            law = self.laws[index]
            args = self._flow_args(index, start, row, row1, inputs)
            head = self._law_args(index, start, row, inputs)
            adjoint = [*head[:-1], own.thetas[index], self.dt, adj[law.storage], adj["alpha"]]
            adjoint += [adj1["C"], adj1[law.storage], adj1["alpha"]]
            self._launch(("flow*", index, shard), law.flow, dim, args, adjoint)
