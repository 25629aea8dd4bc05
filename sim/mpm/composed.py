"""Substeps composed in torch: any torch law between any engine's transfers.

    τ = law.stress(F, L) → A → transfers (Warp, Taichi or torch) → F' = law.flow((I + dt C') F)

The Warp engine does the grid itself; the Taichi and torch engines scatter and gather, and the grid in
between is the torch code of this module. That makes them independent oracles of the fused path.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.colliders import collide
from ..core.errors import StateError
from .bodies import Motion, advance, begin, couple
from .model import MPMModel, MPMState
from .ops import BODY_FIELDS, FIELDS, Call, transfer
from .push_out import push_out

__all__ = ["compose_substeps", "embed_gradient", "grid_velocity", "node_positions"]


def compose_substeps(
    solver: Any,
    state: MPMState,
    fields: list[Tensor],
    shared: list[Tensor],
    coefficients: list[Tensor],
) -> list[Tensor]:
    """All substeps of one step of a `SolverMPM`; arguments as in `ops.run_substeps`."""
    model, config = solver.model, solver.config
    engine = solver.engine(state)
    names = [*FIELDS, *BODY_FIELDS][: len(fields)]
    values = dict(zip(names, fields, strict=True))
    mass, poses, twists, friction, softness, *rho = shared
    bodies = model.bodies
    scale = -config.dt * 4.0 / model.grid.dx**2 * model.volumes(mass.dtype, mass.device)
    keep = torch.is_grad_enabled()
    for s in range(config.substeps):
        step = state.substep + s
        A = mass[..., None, None] * values["C"] + scale[:, None, None] * _stress(
            model, values, coefficients
        )
        if config.engine == "warp":
            call = Call(engine, step, 1, keep)
            rows = [mass, poses[s : s + 2], twists[s : s + 1], friction, softness, *rho]
            after = transfer(call, [values[n] for n in call.moved], A, rows)
            moved = dict(zip(call.moved, after, strict=True))
            # The engine copied A, not C, of particles not yet emitted.
            born = (solver.births.to(mass.device) <= step)[:, None, None]
            moved["C"] = torch.where(born, moved["C"], values["C"])
            values.update(moved)
        else:
            born = solver.births.to(mass.device) <= step
            live = mass * born
            nodes = engine.scatter(values["x"], values["v"], A * born[:, None, None], live)
            pose, motion = poses[s], None
            if rho:
                place = torch.tensor(bodies.index, device=mass.device)
                pose = pose.index_copy(1, place, values["body_pose"])
                motion = begin(bodies, values["body_pose"], values["body_twist"], rho[0], config.dt)
            u, motion = grid_velocity(
                model, nodes, config.dt, pose, twists[s], friction, softness, motion
            )
            u_p, C = engine.gather(values["x"], u)
            mask = born[:, None]
            x = torch.where(mask, values["x"] + config.dt * u_p, values["x"])
            v = torch.where(mask, u_p, values["v"])
            C = torch.where(mask[..., None], C, values["C"])
            _check(model, x, v, step)
            pose1 = poses[s + 1]
            if motion is not None:
                new = advance(bodies, motion, pose, twists[s], friction, config.dt, model.dim)
                pose1 = pose1.index_copy(1, place, new[0])
                values.update(zip(BODY_FIELDS, new, strict=True))
            if any(c.push_out for c in model.colliders):
                pushed = push_out(model, values["x"], x, v, pose, pose1, twists[s], friction)
                x, v = (
                    torch.where(mask, new, old) for new, old in zip(pushed, (x, v), strict=True)
                )
            values.update(x=x, v=v, C=C)
        _flow(model, values, coefficients, config.dt)
    return [values[name] for name in names]


def embed_gradient(C: Tensor) -> Tensor:
    """Velocity gradient as 3×3: in 2-D the plane (x, z) of plane strain."""
    if C.shape[-1] == 3:
        return C
    zero = torch.zeros_like(C[..., 0, 0])
    rows = [C[..., 0, 0], zero, C[..., 0, 1], zero, zero, zero, C[..., 1, 0], zero, C[..., 1, 1]]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _stress(model: MPMModel, values: dict[str, Tensor], coefficients: list[Tensor]) -> Tensor:
    """Kirchhoff stress of all particles, (B, N, D, D)."""
    slices, storage = model.slices(), model.storage_slices()
    parts = []
    for group, c in zip(model.groups, coefficients, strict=True):
        law = group.law
        stored = values[law.storage][:, storage[law.storage][group.name]]
        L = embed_gradient(values["C"][:, slices[group.name]])
        tau = law.stress(stored, L, c)
        if model.dim == 2:
            tau = tau[..., ::2, ::2]
        parts.append(tau)
    return torch.cat(parts, dim=1)


def _flow(
    model: MPMModel, values: dict[str, Tensor], coefficients: list[Tensor], dt: float
) -> None:
    """Update F, J and alpha from the new velocity gradient."""
    slices, storage = model.slices(), model.storage_slices()
    parts: dict[str, list[Tensor]] = {"F": [], "J": [], "alpha": []}
    for group, c in zip(model.groups, coefficients, strict=True):
        law = group.law
        stored = values[law.storage][:, storage[law.storage][group.name]]
        C = values["C"][:, slices[group.name]]
        if law.storage == "J":
            parts["J"].append((1 + dt * C.diagonal(dim1=-2, dim2=-1).sum(-1)) * stored)
            continue
        trial = stored + dt * embed_gradient(C) @ stored
        alpha = None
        if law.hardening:
            alpha = values["alpha"][:, storage["alpha"][group.name]]
        new, alpha = law.flow(trial, alpha, c, dt)
        parts["F"].append(new)
        if law.hardening:
            parts["alpha"].append(alpha)
    for name, tensors in parts.items():
        if tensors:
            values[name] = torch.cat(tensors, dim=1)


def node_positions(model: MPMModel, like: Tensor) -> Tensor:
    """Positions of all nodes [m], (G, D)."""
    axes = [
        lo + model.grid.dx * torch.arange(n, dtype=like.dtype, device=like.device)
        for lo, n in zip(model.grid.origin, model.grid.shape, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def grid_velocity(
    model: MPMModel,
    nodes: Tensor,
    dt: float,
    pose: Tensor,
    twist: Tensor,
    friction: Tensor,
    softness: Tensor,
    motion: Motion | None = None,
) -> tuple[Tensor, Motion | None]:
    """Node velocities after gravity, walls and colliders; and the bodies after what they receive.

    Args:
        model: The scene.
        nodes: Momentum [kg m/s] and mass [kg] per node, (B, G, D + 1).
        dt: Substep [s].
        pose: Collider poses, (B, K, 7).
        twist: Collider twists, (B, K, 6).
        friction: (K,) [-].
        softness: (K,) [1/m].
        motion: Rigid bodies of the scene at the start of the substep.

    Returns:
        Velocity [m/s], (B, G, D), 0 on empty nodes; and the motion of the bodies.

    Differentiable in nodes, pose, twist, friction, softness and motion.
    """
    D = model.dim
    empty = empty_mass(model, nodes.dtype)
    mass = nodes[..., D:]
    filled = mass > empty
    safe = torch.where(filled, mass, torch.ones_like(mass))
    v = nodes[..., :D] / safe + dt * torch.tensor(model.gravity, dtype=nodes.dtype).to(nodes.device)
    v = _walls(model, torch.where(filled, v, torch.zeros_like(v)))
    if model.colliders:
        x = node_positions(model, nodes)
        for k in range(len(model.colliders)):
            one = slice(k, k + 1)
            body = model.bodies.rows.get(k)
            if body is None:
                hit = collide(
                    *(v, x, model.colliders[one], pose[:, one], twist[:, one]),
                    *(friction[one], softness[one]),
                )
            else:
                assert motion is not None
                live = torch.where(filled, mass, torch.zeros_like(mass))[..., 0]
                hit, motion = couple(model.bodies, body, motion, v, x, live, friction, softness)
            v = _walls(model, torch.where(filled, hit, torch.zeros_like(v)))
    return v, motion


def empty_mass(model: MPMModel, dtype: torch.dtype) -> float:
    """Node mass [kg] below which a node takes no part; far below any sum that matters."""
    smallest = float(model.volumes(torch.float64, "cpu").min()) * 1e-3
    return smallest * (1e-10 if dtype == torch.float32 else 1e-20)


def _walls(model: MPMModel, v: Tensor) -> Tensor:
    """Zero the velocity components that the walls forbid."""
    D, padding, codes = model.dim, model.grid.padding, model.wall_codes()
    grid = v.unflatten(1, model.grid.shape)
    keep = torch.ones_like(grid)
    for axis in range(D):
        n = model.grid.shape[axis]
        index = torch.arange(n, device=v.device).reshape([-1 if a == axis else 1 for a in range(D)])
        for side in range(2):
            hit = index <= padding if side == 0 else index >= n - 1 - padding
            code = codes[2 * axis + side]
            component = grid[..., axis]
            inward = component < 0 if side == 0 else component > 0
            stop = hit & (inward if code == 0 else torch.ones_like(inward))
            if code == 2:
                keep = keep * (~stop)[..., None]
            else:
                factor = torch.ones_like(grid)
                factor[..., axis] = (~stop).to(grid.dtype)
                keep = keep * factor
    return (grid * keep).flatten(1, D)


def _check(model: MPMModel, x: Tensor, v: Tensor, step: int) -> None:
    """The torch form of the checks that the Warp gather makes."""
    with torch.no_grad():
        if not bool(torch.isfinite(x).all() & torch.isfinite(v).all()):
            field = "v" if bool(torch.isfinite(x).all()) else "x"
            raise StateError(
                f"SolverMPM.step: a finite state; got a non-finite {field} after substep {step}. "
                "Lower dt, or check the parameters and the law for large deformations.",
                step=step,
                field=field,
            )
        origin = torch.tensor(model.grid.origin, dtype=x.dtype, device=x.device)
        limit = torch.tensor(model.grid.shape, dtype=x.dtype, device=x.device) - 2
        cells = (x - origin) / model.grid.dx - 0.5
        if bool(((cells < 0) | (cells >= limit)).any()):
            raise StateError(
                f"SolverMPM.step: particles on the grid; got particles beyond the padding of the "
                f"walls after substep {step}. Lower dt, raise Grid.padding, or slow the body down.",
                step=step,
                field="x",
            )
