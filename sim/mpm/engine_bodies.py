"""Rigid bodies on the Warp engine: the stages they add to a substep.

Stages over nodes run on all shards; everything that concerns bodies alone runs on shard 0 between two
barriers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .body_scratch import BodyScratch

__all__ = ["BodyStages"]

Stage = Callable[[int], None]


class BodyStages(BodyScratch):
    """What a `WarpEngine` does for the rigid bodies of its model; buffers are in the base class."""

    # Stages.

    def forward(
        self, s: int, box: Callable[[], Any], row: dict, row1: dict, inputs: Any
    ) -> list[Stage]:
        """Stages after the nodes have met the tools before the first body; the bodies move to `row1`."""
        stages: list[Stage] = [self._serial(partial(self._begin, row))]
        for r in range(self.R):
            for number in (0, 1):
                stages.append(partial(self._collect, r, number, box, row, inputs))
                solve = [partial(self._solve_nodes, r, number, row, inputs)]
                if r == self.R - 1 and number == 1:
                    solve.append(partial(self._contact, s, row, inputs))
                    solve.append(partial(self._move, row, row1))
                stages.append(self._serial(*solve))
            stages.append(partial(self._couple, s, r, box, row, inputs))
        return stages

    def backward(
        self, s: int, box: Any, row: dict, adj: dict, adj1: dict, inputs: Any, own: list[Any]
    ) -> tuple[list[Stage], list[Stage]]:
        """Adjoint stages of the motion, then those of the exchange with nodes from the last tool to the
        first body."""
        motion = self._serial(
            partial(self._move_adjoint, row, adj1),
            partial(self._contact_adjoint, s, row, inputs, own),
        )
        stages: list[Stage] = []
        for r in reversed(range(self.R)):
            stages.append(partial(self._couple_adjoint, s, r, box, row, inputs, own))
            for number in (1, 0):
                stages.append(
                    self._serial(partial(self._solve_adjoint, r, number, row, inputs, own))
                )
                stages.append(partial(self._collect_adjoint, r, number, box, row, inputs, own))
        stages.append(self._serial(partial(self._begin_adjoint, row, adj)))
        return [motion], stages

    def _serial(self, *steps: Callable[[], None]) -> Stage:
        def stage(shard: int) -> None:
            if shard == 0:
                for step in steps:
                    step()

        return stage

    def _launch(self, key: Any, kernel: Any, dim: int, args: list, adj: list | None = None) -> None:
        self.engine._launch(("body", *key), kernel, dim, args, adj)

    def _begin_args(self, row: dict, state: dict, centers: Any) -> list[Any]:
        args = [self.R, self.engine.dt, self.pull, centers, row["body_pose"], row["body_twist"]]
        return [*args, state["center"], state["V"][0]]

    def _begin(self, row: dict) -> None:
        args = self._begin_args(row, self.state, self.c["center"])
        self._launch(("begin",), self.k.begin, self.count, args)

    def _begin_adjoint(self, row: dict, adj: dict) -> None:
        self._reduce()
        args = self._begin_args(row, self.state, self.c["center"])
        adjoint = self._begin_args(adj, self.adj[0], self.none[self.k.vec3])
        self._launch(("begin*",), self.k.begin, self.count, args, adjoint)
        adj["body_pose"]._tensor.view(-1).add_(self.adj[0]["pose"]._tensor)
        self._adj.zero_()

    # Nodes.

    def _node_args(self, r: int, box: Any, start: int) -> list[Any]:
        e, tool = self.engine, self.bodies.index[r]
        t = e.tools[tool]
        args = [e.space, box, start, e.a["total"], e.velocity[tool]]
        return [*args, t.kind, t.size, t.volume, t.origin, t.dx, tool, r, self.R]

    def _collect_args(
        self, r: int, number: int, shard: int, box: Any, start: int, row: dict, inputs: Any
    ) -> list[Any]:
        V = self.state["V"]
        args = self._node_args(r, box, start)
        args += [shard * self.count, self.bounds[r], float(number)]
        args += [row["body_pose"], self.state["center"]]
        return [*args, V[0], V[number], inputs.friction, inputs.softness, *self.sums]

    def _collect(
        self, r: int, number: int, box: Callable[[], Any], row: dict, inputs: Any, shard: int
    ) -> None:
        e = self.engine
        self._clear_sums(self._sums, shard)
        start, dim = e._share(e.B * box().volume, shard)
        args = self._collect_args(r, number, shard, box(), start, row, inputs)
        self._launch(("collect", r, shard), self.k.collect, dim, args)

    def _collect_adjoint(
        self, r: int, number: int, box: Any, row: dict, inputs: Any, own: list[Any], shard: int
    ) -> None:
        e, tool = self.engine, self.bodies.index[r]
        start, dim = e._share(e.B * box.volume, shard)
        args = self._collect_args(r, number, shard, box, start, row, inputs)
        a = self.adj[shard]
        adjoint = [
            *args[:3],
            self.extra,
            e.adj_velocity[tool],
            *args[5:7],
            e.no_volume,
            *args[8:16],
        ]
        adjoint += [a["pose"], a["center"], a["V"][0], a["V"][number]]
        adjoint += [own[shard].friction, own[shard].softness, *self.adj_sums]
        self._launch(("collect*", r, shard), self.k.collect, dim, args, adjoint)

    def _couple_args(self, r: int, box: Any, start: int, row: dict, inputs: Any) -> list[Any]:
        V = self.state["V"]
        args = [*self._node_args(r, box, start), self.bounds[r], row["body_pose"]]
        args += [self.state["center"], V[1], V[2]]
        args += [inputs.friction, inputs.softness]
        return [*args, self.engine.velocity[self.bodies.index[r] + 1]]

    def _couple(
        self, s: int, r: int, box: Callable[[], Any], row: dict, inputs: Any, shard: int
    ) -> None:
        e = self.engine
        start, dim = e._share(e.B * box().volume, shard)
        args = self._couple_args(r, box(), start, row, inputs)
        self._launch(("couple", r, shard), self.k.couple, dim, args)
        e._collide(self.after[r], shard, box(), inputs, s)

    def _couple_adjoint(
        self, s: int, r: int, box: Any, row: dict, inputs: Any, own: list[Any], shard: int
    ) -> None:
        e, tool = self.engine, self.bodies.index[r]
        start, dim = e._share(e.B * box.volume, shard)
        if r == self.R - 1:
            e._sum_adjoint(shard, box)
        e._collide_adjoint(self.after[r], shard, box, inputs, own[shard], s)
        e._clear_adjoint(tool, shard, box)
        args = self._couple_args(r, box, start, row, inputs)
        a = self.adj[shard]
        adjoint = [*args[:3], e.none[e.k.node], e.adj_velocity[tool], *args[5:7], e.no_volume]
        adjoint += [*args[8:14], a["pose"], a["center"], a["V"][1], a["V"][2]]
        adjoint += [own[shard].friction, own[shard].softness, e.adj_velocity[tool + 1]]
        self._launch(("couple*", r, shard), self.k.couple, dim, args, adjoint)

    def masses_adjoint(self, shard: int, box: Any) -> None:
        """Add what the bodies felt of node masses; after the adjoint of the grid update."""
        e = self.engine
        start, dim = e._share(e.B * box.volume, shard)
        args = [e.space, box, start, self.extra, e.a["adj_total"]]
        self._launch(("mass*", shard), self.k.add_mass, dim, args)

    # Systems: 0 and 1 with the nodes, one per body; 2 and 3 of all bodies in contact.

    def _system_args(
        self, first: int, number: int, row: dict, rho: Any, sums: Any, systems: list[Any]
    ) -> list[Any]:
        nodes = number < 2
        args = [first, 1 if nodes else self.R, self.R, 6 if nodes else 6 * self.R]
        args += [self.shards if nodes else 0, self.count, self.c["volume"], self.c["moment"], rho]
        return [*args, row["body_pose"], *sums, *systems[0 if nodes else 2 :][:2]]

    def _system(self, first: int, number: int, row: dict, inputs: Any) -> None:
        B = self.engine.B
        args = self._system_args(first, number, row, inputs.rho, self.sums, self.systems)
        dim = B if number < 2 else self.count
        self._launch(("system", number), self.t.system, dim, args)

    def _system_adjoint(
        self, first: int, number: int, row: dict, inputs: Any, own: list[Any]
    ) -> None:
        args = self._system_args(first, number, row, inputs.rho, self.sums, self.systems)
        adj = {"body_pose": self.adj[0]["pose"]}
        adjoint = self._system_args(first, number, adj, own[0].rho, self.adj_sums, self.adj_systems)
        adjoint[6], adjoint[7] = self.none[self.engine.real], self.none[self.k.mat33]
        dim = self.engine.B if number < 2 else self.count
        self._launch(("system*", number), self.t.system, dim, args, adjoint)

    def _solve(self, first: int, number: int) -> None:
        nodes, V = number < 2, self.state["V"]
        n, stride = (6, self.R) if nodes else (6 * self.R, 1)
        args = [n, first, stride, *self.systems[0 if nodes else 2 :][:2], V[0 if nodes else 2]]
        args += [self.factors[number], V[number + 1]]
        self._launch(("solve", number), self.t.solve, self.engine.B, args)

    def _back_solve(self, first: int, number: int) -> None:
        nodes, V, adj = number < 2, self.state["V"], self.adj[0]["V"]
        n, stride = (6, self.R) if nodes else (6 * self.R, 1)
        base = 0 if nodes else 2
        args = [n, first, stride, self.factors[number], V[base], V[number + 1]]
        A, rhs = self.adj_systems[0 if nodes else 2 :][:2]
        args += [adj[number + 1], adj[base], rhs, A]
        self._launch(("solve*", number), self.t.solve_adjoint, self.engine.B, args)

    def _solve_nodes(self, r: int, number: int, row: dict, inputs: Any) -> None:
        self._systems[0].zero_()
        self._system(r, number, row, inputs)
        self._solve(r, number)

    def _solve_adjoint(self, r: int, number: int, row: dict, inputs: Any, own: list[Any]) -> None:
        self._reduce()
        self._systems[1].zero_()
        self._adj_sums.zero_()
        self._back_solve(r, number)
        self._system_adjoint(r, number, row, inputs, own)

    # Contact and motion.

    def _obstacles(self, s: int, poses: Any, twists: Any, pose: Any) -> list[tuple[Any, ...]]:
        """(key, planes, shape, tool, partner, first, stride, pose, twist) of walls and colliders."""
        K = len(self.engine.tools)
        walls = (-1, 2 * self.engine.model.dim, self.wall, -1, -1, 0, 0, self.c["walls"], self.none)
        result: list[tuple[Any, ...]] = [walls]
        for tool, packed in enumerate(self.engine.tools):
            partner = self.bodies.rows.get(tool, -1)
            if partner >= 0 and self.R == 1:
                continue
            if partner >= 0:
                place = (partner, self.R, pose, self.none)
            else:
                place = (tool, K, poses[s], twists[s])
            result.append((tool, 1, packed, tool, partner, *place))
        return result

    def _touch_args(
        self,
        number: int,
        obstacle: tuple[Any, ...],
        state: dict,
        pose: Any,
        inputs: Any,
        systems: Any,
    ) -> list[Any]:
        _, planes, t, tool, partner, first, stride, other_pose, other_twist = obstacle
        c, V = self.c, state["V"]
        none = self.none[self.engine.real]
        args = [
            self.R,
            self.points,
            planes,
            self.engine.dt,
            float(number - 2),
            c["own"],
            c["counts"],
        ]
        args += [c["points"], c["radii"], c["volume"], inputs.rho, inputs.friction, pose]
        args += [state["center"], V[2], V[number], t.kind, t.size, t.volume, t.origin, t.dx]
        args += [tool, partner, first, stride, other_pose]
        return [*args, none if other_twist is self.none else other_twist, *systems[2:]]

    def _contact(self, s: int, row: dict, inputs: Any) -> None:
        pose = row["body_pose"]
        for number in (2, 3):
            self._systems[0].zero_()
            self._system(0, number, row, inputs)
            for obstacle in self._obstacles(s, inputs.poses, inputs.twists, pose):
                args = self._touch_args(number, obstacle, self.state, pose, inputs, self.systems)
                dim = self.count * self.points * obstacle[1]
                self._launch(("touch", obstacle[0]), self.t.touch, dim, args)
            self._solve(0, number)

    def _contact_adjoint(self, s: int, row: dict, inputs: Any, own: list[Any]) -> None:
        pose, adj_pose, o = row["body_pose"], self.adj[0]["pose"], own[0]
        none, integers = self.none, self.no_integers
        for number in (3, 2):
            self._systems[1].zero_()
            self._back_solve(0, number)
            forward = self._obstacles(s, inputs.poses, inputs.twists, pose)
            reverse = self._obstacles(s, o.poses, o.twists, adj_pose)
            for obstacle, adj in zip(forward, reverse, strict=True):
                args = self._touch_args(number, obstacle, self.state, pose, inputs, self.systems)
                adjoint = self._touch_args(number, adj, self.adj[0], adj_pose, o, self.adj_systems)
                adjoint[5:10] = [
                    integers,
                    integers,
                    none[self.k.vec3],
                    *[none[self.engine.real]] * 2,
                ]
                adjoint[18] = self.engine.no_volume
                if obstacle[3] < 0:
                    adjoint[25] = none[self.engine.real]
                dim = self.count * self.points * obstacle[1]
                self._launch(("touch*", obstacle[0]), self.t.touch, dim, args, adjoint)
            self._system_adjoint(0, number, row, inputs, own)

    def _move_args(self, row: dict, row1: dict, state: dict) -> list[Any]:
        c = self.c
        args = [self.R, self.engine.dt, c["center"], c["moment"], c["inverse"], row["body_pose"]]
        return [*args, state["center"], state["V"][4], row1["body_pose"], row1["body_twist"]]

    def _move(self, row: dict, row1: dict) -> None:
        args = self._move_args(row, row1, self.state)
        self._launch(("move",), self.t.move, self.count, args)

    def _move_adjoint(self, row: dict, adj1: dict) -> None:
        # What the kernel stored is not read again, so any arrays of the right size do.
        self._reduce()
        adj1["body_pose"]._tensor.view(-1).add_(self.adj[0]["moved"]._tensor)
        args = self._move_args(row, row, self.state)
        adjoint = self._move_args({"body_pose": self.adj[0]["pose"]}, adj1, self.adj[0])
        adjoint[2:5] = [self.none[self.k.vec3], *[self.none[self.k.mat33]] * 2]
        self._launch(("move*",), self.t.move, self.count, args, adjoint)
