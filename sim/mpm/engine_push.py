"""Push-out on the Warp engine: what happens between the gather and the law, collider by collider."""

from __future__ import annotations

from typing import Any

import torch

from ..core.backend import as_array, warp
from .push_kernels import push_kernels

__all__ = ["PushStages"]


class PushStages:
    """Launches and buffers for the colliders of a `WarpEngine` that push particles out.

    Args:
        engine: The engine whose particles and launches they use.
    """

    def __init__(self, engine: Any) -> None:
        model = engine.model
        self.engine = engine
        self.tools = [k for k, c in enumerate(model.colliders) if c.push_out]
        self.k = push_kernels(engine.real, model.dim, engine.cpu)
        total, D = engine.B * model.particle_count, model.dim
        options: dict[str, Any] = {"dtype": engine.dtype, "device": engine.device}
        vec, P = engine.k.vec, len(self.tools)
        # Positions and velocities before each collider, and their adjoints.
        self._adj = torch.zeros(2 * P, total, D, **options)
        before = torch.zeros(2 * P, total, D, **options)
        self.x, self.v = ([as_array(t, vec) for t in part] for part in before.split(P))
        self.adj_x, self.adj_v = ([as_array(t, vec) for t in part] for part in self._adj.split(P))
        self.C = as_array(torch.zeros(total, D * D, **options), engine.k.mat)
        self.status = as_array(torch.zeros_like(engine._status), warp().int32, ndim=2)
        self.no_integers = warp().empty(0, dtype=warp().int32, device=engine.wp_device)

    def forward(self, b: Any, s: int, row: dict, row1: dict, inputs: Any, step: int) -> None:
        """Gather of a block, then the push-out, into `row1`."""
        e = self.engine
        first = {"x": self.x[0], "v": self.v[0], "C": row1["C"]}
        e._gather(b, row, first, step, e.a["status"])
        poses = (row.get("body_pose"), row1.get("body_pose"))
        for j in range(len(self.tools)):
            self._push(b, j, s, row, row1, inputs, poses, step)
        args = [e.space, b.first, b.count, b.start, row1["x"], b.shard, e.a["status"]]
        e._launch(("bounds", b.group, b.shard), self.k.bounds, b.dim, args)

    def backward(
        self, b: Any, s: int, row: dict, adj: dict, adj1: dict, inputs: Any, own: Any, step: int
    ) -> None:
        """Adjoint of `forward`, which is computed again up to the last collider."""
        e, last = self.engine, len(self.tools) - 1
        e._gather(b, row, {"x": self.x[0], "v": self.v[0], "C": self.C}, step, self.status)
        stages = e.stages
        pose1 = stages.moved["body_pose"] if stages is not None else None
        poses = (row.get("body_pose"), pose1)
        for j in range(last):
            self._push(b, j, s, row, {}, inputs, poses, step)
        for j in reversed(range(last + 1)):
            # What the kernel stored is not read again, so any arrays of the right size do.
            args = self._args(b, j, s, row, {"x": self.x[j], "v": self.v[j]}, inputs, poses, step)
            adjoint = list(args)
            adjoint[5], adjoint[6] = self.no_integers, e.none[e.k.vec]
            adjoint[7:9] = [self.adj_x[j], self.adj_v[j]]
            adjoint[11] = e.no_volume
            adjoint[19] = e.none[e.real]
            free = adjoint[18]
            adjoint[20] = stages.adj[b.shard]["moved"] if free else own.poses[s + 1]
            adjoint[21:23] = [own.twists[s], own.friction]
            if j == last:
                adjoint[23:] = [adj1["x"], adj1["v"]]
            else:
                adjoint[23:] = [self.adj_x[j + 1], self.adj_v[j + 1]]
            e._launch(("push*", j, b.group, b.shard), self.k.push, b.dim, args, adjoint)
        seed = {"x": self.adj_x[0], "v": self.adj_v[0], "C": adj1["C"]}
        e._gather_adjoint(b, row, adj, seed, step)

    def clear_adjoint(self, shard: int) -> None:
        """Empty one shard's part of the adjoints before a substep's backward stage."""
        start, length = self.engine._share(self._adj.shape[1], shard)
        self._adj[:, start : start + length] = 0

    def _push(
        self, b: Any, j: int, s: int, row: dict, row1: dict, inputs: Any, poses: Any, step: int
    ) -> None:
        last = j == len(self.tools) - 1
        after = row1 if last else {"x": self.x[j + 1], "v": self.v[j + 1]}
        args = self._args(b, j, s, row, after, inputs, poses, step)
        self.engine._launch(("push", j, b.group, b.shard), self.k.push, b.dim, args)

    def _args(
        self, b: Any, j: int, s: int, row: dict, after: dict, inputs: Any, poses: Any, step: int
    ) -> list[Any]:
        e, tool = self.engine, self.tools[j]
        t, K = e.tools[tool], len(e.tools)
        body = e.model.bodies.rows.get(tool)
        args = [*e._place(b, step), e.a["birth"], row["x"], self.x[j], self.v[j]]
        args += [t.kind, t.size, t.volume, t.origin, t.dx, tool, K]
        if body is None:
            args += [tool, K, 0, inputs.poses[s], inputs.poses[s + 1]]
        else:
            args += [body, len(e.model.bodies.index), 1, *poses]
        return [*args, inputs.twists[s], inputs.friction, after["x"], after["v"]]
