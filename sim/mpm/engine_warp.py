"""The Warp engine: which kernels a substep and its adjoint launch, in which order, on which shard.

A substep has two barriers forward and four backward; between them every shard works on its own
particles or nodes, and what ends one substep and begins the next for a particle needs no barrier.
Adjoint launches follow the forward order in reverse and recompute the grid, so a stored substep costs
only its particle state. Shards go through their particles in blocks that fit a core's cache: what one
kernel writes, the next one reads from there, which is what lets a second core help although both share
one memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ..core.backend import Command
from .engine_bodies import BodyStages
from .engine_push import PushStages
from .model import MPMModel
from .scratch import Scratch

__all__ = ["Inputs", "WarpEngine"]

BLOCK = 8192
"""Particles per launch on a CPU: their state of about 300 B each fits a second-level cache."""


@dataclasses.dataclass
class Inputs:
    """What the substeps of one call share, as Warp arrays."""

    mass: Any
    thetas: list[Any]
    poses: list[Any]
    twists: list[Any]
    friction: Any
    softness: Any
    rho: Any


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive particles of one group, counted over all scenes."""

    shard: int
    group: int
    first: int
    """First particle of the group within a scene."""
    count: int
    """Particles of the group per scene."""
    stored_first: int
    alpha_first: int
    start: int
    dim: int


class WarpEngine(Scratch):
    """Launches for one model, batch size, precision and device; scratch is in the base class."""

    def __init__(self, model: MPMModel, **options: Any) -> None:
        super().__init__(model, **options)
        self.stages = BodyStages(self) if self.bodies else None
        self.push = PushStages(self) if any(c.push_out for c in model.colliders) else None
        first = model.bodies.index[0] if self.bodies else len(self.tools)
        self._before_bodies = range(first)

    def forward(
        self,
        rows: list[dict],
        inputs: Inputs,
        boxes: list[Any],
        first: int,
        check: Callable[[int], None],
    ) -> None:
        """Substeps from `rows[0]` to `rows[-1]`.

        Args:
            rows: Arrays of every instant.
            inputs: Shared by the substeps.
            boxes: Node box of the first substep; those of the others are appended.
            first: Global index of the first substep.
            check: Called on the calling thread with the index of a finished substep; may raise.
        """
        count = len(rows) - 1

        def to_grid(block: Block, s: int) -> None:
            if self.fused:
                self._stress(block, rows[s], inputs)
            self._scatter(block, rows[s], inputs.mass, first + s)

        def particles(shard: int) -> None:
            for block in self._blocks(shard):
                to_grid(block, 0)

        def nodes(s: int, shard: int) -> None:
            box = self.next_box() if s else boxes[0]
            if s and shard == 0:
                check(s - 1)
                boxes.append(box)
            self._update_grid(shard, box, inputs, s)

        def back(s: int, shard: int) -> None:
            self.reset_status(shard)
            for block in self._blocks(shard):
                if self.push is None:
                    self._gather(block, rows[s], rows[s + 1], first + s, self.a["status"])
                else:
                    self.push.forward(block, s, rows[s], rows[s + 1], inputs, first + s)
                if self.fused:
                    self._flow(block, rows[s], rows[s + 1], inputs)
                if s + 1 < count:
                    to_grid(block, s + 1)

        stages: list[Callable[[int], None]] = [particles]
        for s in range(count):
            stages.append(partial(nodes, s))
            if self.stages is not None:
                box = partial(boxes.__getitem__, s)
                stages += self.stages.forward(s, box, rows[s], rows[s + 1], inputs)
            stages.append(partial(back, s))
        self._run("forward", stages)

    def backward(
        self,
        rows: list[dict],
        adjoints: tuple[dict, dict],
        inputs: Inputs,
        adj_inputs: list[Inputs],
        boxes: list[Any],
        first: int,
    ) -> dict:
        """Adjoint of `forward`; returns the one of `adjoints` that holds the adjoint of `rows[0]`.

        Args:
            rows, inputs, boxes, first: As in `forward`.
            adjoints: The seed of `rows[-1]`, and zeros; both are consumed.
            adj_inputs: One entry per shard, because many nodes add into one pose.
        """
        count = len(rows) - 1

        def of(s: int) -> dict:
            return adjoints[(count - s) % 2]

        def particles(s: int, shard: int) -> None:
            own = adj_inputs[shard]
            if self.push is not None:
                self.push.clear_adjoint(shard)
            for block in self._blocks(shard):
                if s + 1 < count:
                    row, adj = rows[s + 1], of(s + 1)
                    self._scatter_adjoint(block, row, adj, inputs, own, first + s + 1)
                    if self.fused:
                        self._stress_adjoint(block, row, adj, inputs, own)
                if s >= 0:
                    if self.fused:
                        self._flow_adjoint(
                            block, rows[s], rows[s + 1], of(s), of(s + 1), inputs, own
                        )
                        self._stress(block, rows[s], inputs)
                    self._scatter(block, rows[s], inputs.mass, first + s)

        def nodes(s: int, shard: int) -> None:
            self._update_grid(shard, boxes[s], inputs, s)

        def gather(s: int, shard: int) -> None:
            own = adj_inputs[shard]
            for block in self._blocks(shard):
                if self.push is None:
                    self._gather_adjoint(block, rows[s], of(s), of(s + 1), first + s)
                else:
                    given = (rows[s], of(s), of(s + 1), inputs, own)
                    self.push.backward(block, s, *given, first + s)

        def nodes_adjoint(s: int, shard: int) -> None:
            self._update_grid_adjoint(shard, boxes[s], inputs, adj_inputs[shard], s)
            if self.stages is not None:
                self.stages.masses_adjoint(shard, boxes[s])
            # x and v of the next substep are overwritten; the other adjoints are summed into.
            adj1 = of(s + 1)
            for name in adj1.keys() - {"x", "v"}:
                start, length = self._share(adj1[name].shape[0], shard)
                if length:
                    adj1[name][start : start + length].zero_()

        stages: list[Callable[[int], None]] = []
        for s in reversed(range(count)):
            through: tuple[list[Any], ...] = ([], [], [])
            if self.stages is not None:
                box = partial(boxes.__getitem__, s)
                again = self.stages.forward(s, box, rows[s], self.stages.moved, inputs)
                reverse = (rows[s], of(s), of(s + 1), inputs, adj_inputs)
                through = (again, *self.stages.backward(s, boxes[s], *reverse))
            stages += [partial(particles, s), partial(nodes, s), *through[0], partial(gather, s)]
            stages += [*through[1], *through[2], partial(nodes_adjoint, s)]
        stages.append(partial(particles, -1))
        self._run("backward", stages)
        return of(0)

    def _run(self, what: str, stages: Sequence[Callable[[int], None]]) -> None:
        """Stages on all shards. The first time they take turns: loading a kernel in two threads at
        once crashes Warp."""
        if what in self._ready:
            self.workers.run(*stages)
            return
        for stage in stages:
            for shard in range(self.shards):
                stage(shard)
        self._ready.add(what)

    def _blocks(self, shard: int) -> Iterator[Block]:
        size = BLOCK if self.cpu else 1 << 30
        for index, (first, count, stored, hard) in enumerate(self.groups):
            start, length = self._share(self.B * count, shard)
            for offset in range(0, length, size):
                dim = min(size, length - offset)
                yield Block(shard, index, first, count, stored, hard, start + offset, dim)

    def _share(self, count: int, shard: int) -> tuple[int, int]:
        """Start and length of one shard's part of `count` items."""
        start = count * shard // self.shards
        return start, count * (shard + 1) // self.shards - start

    def _copy_offset(self, shard: int) -> int:
        return shard * self.stride if self.copies > 1 else 0

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

    # Law kernels: the leading arguments say where the block's particles are stored.

    def _law_args(self, b: Block, theta: Any) -> list[Any]:
        storage = self.model.groups[b.group].law.storage
        return [
            *(self.model.particle_count, b.first, b.count, b.start),
            *(self.axis_length[storage], b.stored_first),
            *(self.axis_length["alpha"], b.alpha_first, theta),
        ]

    def _stress_args(self, b: Block, row: dict, theta: Any, mass: Any, A: Any) -> list[Any]:
        args = [*self._law_args(b, theta), self.dt, self._scale, self.a["volume"], mass]
        return [*args, row[self.laws[b.group].storage], row["C"], A]

    def _stress(self, b: Block, row: dict, inputs: Inputs) -> None:
        args = self._stress_args(b, row, inputs.thetas[b.group], inputs.mass, self.a["A"])
        self._launch(("stress", b.group, b.shard), self.laws[b.group].stress, b.dim, args)

    def _stress_adjoint(self, b: Block, row: dict, adj: dict, inputs: Inputs, own: Inputs) -> None:
        args = self._stress_args(b, row, inputs.thetas[b.group], inputs.mass, self.a["A"])
        adjoint = self._stress_args(b, adj, own.thetas[b.group], own.mass, self.a["adj_A"])
        adjoint[11] = self.none[self.real]  # rest volume: geometry, not a parameter
        law = self.laws[b.group]
        self._launch(("stress*", b.group, b.shard), law.stress, b.dim, args, adjoint)

    def _flow_args(self, b: Block, row: dict, row1: dict, theta: Any) -> list[Any]:
        storage = self.laws[b.group].storage
        args = [*self._law_args(b, theta), self.dt, row[storage], row["alpha"]]
        return [*args, row1["C"], row1[storage], row1["alpha"]]

    def _flow(self, b: Block, row: dict, row1: dict, inputs: Inputs) -> None:
        args = self._flow_args(b, row, row1, inputs.thetas[b.group])
        self._launch(("flow", b.group, b.shard), self.laws[b.group].flow, b.dim, args)

    def _flow_adjoint(
        self, b: Block, row: dict, row1: dict, adj: dict, adj1: dict, inputs: Inputs, own: Inputs
    ) -> None:
        args = self._flow_args(b, row, row1, inputs.thetas[b.group])
        adjoint = self._flow_args(b, adj, adj1, own.thetas[b.group])
        law = self.laws[b.group]
        self._launch(("flow*", b.group, b.shard), law.flow, b.dim, args, adjoint)

    # Transfers.

    def _place(self, b: Block, step: int) -> list[Any]:
        return [self.space, b.first, b.count, b.start, step]

    def _scatter(self, b: Block, row: dict, mass: Any, step: int) -> None:
        args = [*self._place(b, step), row["x"], row["v"], self.a["A"], mass, self.a["birth"]]
        args += [self._copy_offset(b.shard), self.a["grid"]]
        self._launch(("scatter", b.group, b.shard), self.k.scatter, b.dim, args)

    def _scatter_adjoint(
        self, b: Block, row: dict, adj: dict, inputs: Inputs, own: Inputs, step: int
    ) -> None:
        args = [*self._place(b, step), row["x"], row["v"], self.a["A"], inputs.mass]
        args += [self.a["birth"], self.a["adj_total"]]
        args += [adj["x"], adj["v"], self.a["adj_A"], own.mass]
        self._launch(("scatter*", b.group, b.shard), self.k.scatter_adjoint, b.dim, args)

    def _gather(self, b: Block, row: dict, row1: dict, step: int, status: Any) -> None:
        args = [*self._place(b, step), row["x"], row["v"], row["C"], self.a["birth"]]
        args += [self.velocity[-1], row1["x"], row1["v"], row1["C"], b.shard, status]
        self._launch(("gather", b.group, b.shard), self.k.gather, b.dim, args)

    def _gather_adjoint(self, b: Block, row: dict, adj: dict, adj1: dict, step: int) -> None:
        args = [*self._place(b, step), row["x"], self.a["birth"], self.velocity[-1]]
        args += [adj1["x"], adj1["v"], adj1["C"]]
        args += [self._copy_offset(b.shard), self.a["adj_private"], adj["x"], adj["v"], adj["C"]]
        self._launch(("gather*", b.group, b.shard), self.k.gather_adjoint, b.dim, args)

    # Grid.

    def _update_grid(self, shard: int, box: Any, inputs: Inputs, s: int) -> None:
        start, dim = self._share(self.B * box.volume, shard)
        args = [self.space, box, start, self.copies, self.stride, self.a["gravity"]]
        args += [self.a["grid"], self.a["total"], self.velocity[0]]
        self._launch(("update", shard), self.g.update, dim, args)
        self._collide(self._before_bodies, shard, box, inputs, s)

    def _collide(self, tools: range, shard: int, box: Any, inputs: Inputs, s: int) -> None:
        start, dim = self._share(self.B * box.volume, shard)
        for tool in tools:
            args = self._collide_args(tool, box, start, inputs, s)
            self._launch(("collide", tool, shard), self.g.collide, dim, args)

    def _update_grid_adjoint(
        self, shard: int, box: Any, inputs: Inputs, own: Inputs, s: int
    ) -> None:
        if self.stages is None:
            self._sum_adjoint(shard, box)
        self._collide_adjoint(self._before_bodies, shard, box, inputs, own, s)
        start, dim = self._share(self.B * box.volume, shard)
        args = [self.space, box, start, self.a["gravity"], self.a["total"]]
        args += [self.adj_velocity[0], self.a["adj_total"]]
        self._launch(("update*", shard), self.g.update_adjoint, dim, args)

    def _sum_adjoint(self, shard: int, box: Any) -> None:
        start, dim = self._share(self.B * box.volume, shard)
        args = [self.space, box, start, self.copies, self.stride]
        args += [self.a["adj_private"], self.adj_velocity[-1]]
        self._launch(("sum*", shard), self.g.sum_adjoint, dim, args)

    def _clear_adjoint(self, tool: int, shard: int, box: Any) -> None:
        start, dim = self._share(self.B * box.volume, shard)
        args = [self.space, box, start, self.adj_velocity[tool]]
        self._launch(("clear*", tool, shard), self.g.clear, dim, args)

    def _collide_adjoint(
        self, tools: range, shard: int, box: Any, inputs: Inputs, own: Inputs, s: int
    ) -> None:
        start, dim = self._share(self.B * box.volume, shard)
        for tool in reversed(tools):
            self._clear_adjoint(tool, shard, box)
            args = self._collide_args(tool, box, start, inputs, s)
            adjoint = [*args[:3], self.none[self.k.node], self.adj_velocity[tool], *args[5:7]]
            adjoint += [self.no_volume, *args[8:12]]
            adjoint += [own.poses[s], own.twists[s], own.friction, own.softness]
            adjoint.append(self.adj_velocity[tool + 1])
            self._launch(("collide*", tool, shard), self.g.collide, dim, args, adjoint)

    def _collide_args(self, tool: int, box: Any, start: int, inputs: Inputs, s: int) -> list[Any]:
        t = self.tools[tool]
        args = [self.space, box, start, self.a["total"], self.velocity[tool]]
        args += [t.kind, t.size, t.volume, t.origin, t.dx, tool, len(self.tools)]
        args += [inputs.poses[s], inputs.twists[s], inputs.friction, inputs.softness]
        return [*args, self.velocity[tool + 1]]
