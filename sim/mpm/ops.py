"""MPM substeps on the Warp engine as differentiable torch operations.

`run_substeps` runs whole steps with engine laws; `transfer` runs one substep without the law, so that
any torch function can sit between. Both keep the particle states a backward pass needs through
`save_for_backward`, so torch detects tensors modified in place, backward runs twice with the same
result, and `torch.utils.checkpoint` can drop and recompute them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..core.backend import as_array
from ..core.errors import StabilityError, StateError
from .engine_warp import Inputs, WarpEngine

__all__ = ["BODY_FIELDS", "FIELDS", "Call", "run_substeps", "transfer"]

FIELDS = ("x", "v", "C", "F", "J", "alpha")
MOVED = ("x", "v", "C")
BODY_FIELDS = ("body_pose", "body_twist")
"""Rows of scenes with rigid bodies, after FIELDS."""


@dataclasses.dataclass
class Call:
    """What the substeps of one call have in common, apart from tensors."""

    engine: WarpEngine
    first: int
    """Global index of the first substep."""
    count: int
    keep: bool
    """Whether a backward pass may come."""

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of what whole substeps advance."""
        return (*FIELDS, *BODY_FIELDS) if self.engine.bodies else FIELDS

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of what a transfer advances."""
        return (*MOVED, *BODY_FIELDS) if self.engine.bodies else MOVED


def run_substeps(
    call: Call, state: list[Tensor], shared: list[Tensor], thetas: list[Tensor]
) -> Any:
    """Advance particles and rigid bodies by `call.count` substeps with the engine's own laws.

    Args:
        call: Engine and counters.
        state: What `call.rows` names.
        shared: mass (B, N), poses (S + 1, B, K, 7), twists (S, B, K, 6), friction (K,), softness (K,);
            with rigid bodies also rho (R,).
        thetas: Law coefficients per group, (n_coefficients, B, n).

    Differentiable in everything in `state`, `shared` and `thetas`.
    """
    return _Substeps.apply(call, *state, *shared, *thetas)


def transfer(call: Call, state: list[Tensor], A: Tensor, shared: list[Tensor]) -> Any:
    """One substep of scatter, grid and gather, `(x, v, A, bodies) → (x', v', C', bodies')`.

    Args:
        call: Engine and counters, `count` is 1.
        state: What `call.moved` names.
        A: Affine momentum −dt V₀ (4/dx²) τ + m C [kg/s], (B, N, D, D); C itself is not read.
        shared: As in `run_substeps`, for one substep.

    Differentiable in the rest of `state`, in A and in everything in `shared`.
    """
    x, v, _, *bodies = state
    return _Transfer.apply(call, x, v, A, *bodies, *shared)


class _Substeps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> Any:
        engine, names, n = call.engine, call.rows, len(call.rows)
        tensors = tuple(t.detach().contiguous() for t in tensors)
        first = dict(zip(names, tensors[:n], strict=True))
        rows = _rows(first, call.count, call.keep)
        inputs = _inputs(engine, tensors[n:])
        boxes = _advance(call, rows, inputs)
        outputs = tuple(rows[-1][name] for name in names)
        if call.keep:
            inner = [row[name] for row in rows[1:-1] for name in names]
            ctx.save_for_backward(*tensors, *outputs, *inner)
            ctx.call, ctx.boxes, ctx.n_inputs = call, boxes, len(tensors)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        call, names, n = ctx.call, ctx.call.rows, len(ctx.call.rows)
        saved = ctx.saved_tensors
        tensors, rest = saved[: ctx.n_inputs], saved[ctx.n_inputs :]
        outputs, inner = rest[:n], rest[n:]
        flat = [tensors[:n], *(inner[i : i + n] for i in range(0, len(inner), n)), outputs]
        rows = [dict(zip(names, row, strict=True)) for row in flat]
        adj1 = {name: _seed(g, t) for name, g, t in zip(names, grads, outputs, strict=True)}
        adj, shared = _reverse(call, rows, adj1, tensors[n:], ctx.boxes)
        return None, *(adj[name] for name in names), *shared


class _Transfer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> Any:
        tensors = tuple(t.detach().contiguous() for t in tensors)
        engine, names = call.engine, call.moved
        n = len(names)
        engine.set_affine(tensors[2])
        # The gather copies C, here A, of particles not yet emitted.
        first = dict(zip(names, tensors[:n], strict=True))
        rows = [first, {name: torch.empty_like(t) for name, t in first.items()}]
        boxes = _advance(call, rows, _inputs(engine, tensors[n:]))
        if call.keep:
            ctx.save_for_backward(*tensors)
            ctx.call, ctx.boxes = call, boxes
        return tuple(rows[1][name] for name in names)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        call, tensors, names = ctx.call, ctx.saved_tensors, ctx.call.moved
        n = len(names)
        first = dict(zip(names, tensors, strict=False))
        call.engine.set_affine(first["C"])
        adj1 = {name: _seed(g, first[name]) for name, g in zip(names, grads, strict=True)}
        adj, shared = _reverse(call, [first, first], adj1, tensors[n:], ctx.boxes)
        adj["C"] = call.engine.take_affine_adjoint(first["C"].shape) + adj["C"]
        return None, *(adj[name] for name in names), *shared


def _seed(grad: Tensor | None, like: Tensor) -> Tensor:
    """A private copy: adjoint kernels consume their seeds."""
    if grad is None:
        return torch.zeros_like(like)
    return grad.detach().clone(memory_format=torch.contiguous_format)


def _rows(first: dict[str, Tensor], count: int, keep: bool) -> list[dict[str, Tensor]]:
    """State of every substep; without a backward pass two buffers take turns."""

    def empty() -> dict[str, Tensor]:
        return {name: torch.empty_like(t) for name, t in first.items()}

    if keep:
        return [first, *(empty() for _ in range(count))]
    last = empty()
    turns = [last, empty()] if count > 1 else [last]
    return [first, *(turns[(count - i) % 2] for i in range(1, count + 1))]


def _inputs(engine: WarpEngine, tensors: tuple[Tensor, ...]) -> Inputs:
    mass, poses, twists, friction, softness, *thetas = tensors
    real = engine.real
    rho = thetas.pop(0) if engine.bodies else None
    return Inputs(
        rho=None if rho is None else as_array(rho, real),
        mass=as_array(mass, real),
        thetas=[as_array(t, real, ndim=2) for t in thetas],
        poses=[as_array(p, real) for p in poses.unbind(0)],
        twists=[as_array(t, real) for t in twists.unbind(0)],
        friction=as_array(friction, real),
        softness=as_array(softness, real),
    )


def _advance(call: Call, rows: list[dict[str, Tensor]], inputs: Inputs) -> list[Any]:
    """Run the substeps; returns the node box of each for the backward pass."""
    engine = call.engine
    boxes = [engine.first_box(rows[0]["x"])]

    def check(s: int) -> None:
        if engine.cpu or s + 1 == call.count:  # on CUDA asking would stall the stream
            _raise_if_bad(call, rows, s)

    with engine.lock, engine.stream():
        done = False
        try:
            different = {id(row): row for row in rows}  # two, where no backward pass may come
            views = {key: engine.arrays(row) for key, row in different.items()}
            engine.clear_flags()
            engine.forward([views[id(row)] for row in rows], inputs, boxes, call.first, check)
            check(call.count - 1)
            done = True
        finally:
            if not done:
                engine.clear()
    return boxes


def _reverse(
    call: Call,
    rows: list[dict[str, Tensor]],
    adj1: dict[str, Tensor],
    tensors: tuple[Tensor, ...],
    boxes: list[Any],
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Adjoint of all substeps: of the first row, and of the shared inputs."""
    engine = call.engine
    engine.allocate_adjoint()
    if engine.stages is not None:
        engine.stages.allocate_adjoint()
    inputs = _inputs(engine, tensors)
    mass, *contact = tensors[: 6 if engine.bodies else 5]
    thetas = tensors[len(contact) + 1 :]
    adj_mass = torch.zeros_like(mass)
    adj_thetas = [torch.zeros_like(t) for t in thetas]
    # Many nodes add into one pose: every shard needs its own sum.
    private = [[torch.zeros_like(t) for t in contact] for _ in range(engine.shards)]
    adj_inputs = [_inputs(engine, (adj_mass, *own, *adj_thetas)) for own in private]
    adj = {name: torch.zeros_like(t) for name, t in adj1.items()}
    with engine.lock, engine.stream():
        done = False
        try:
            views = (engine.arrays(adj1), engine.arrays(adj))
            arrays = [engine.arrays(row) for row in rows]
            last = engine.backward(arrays, views, inputs, adj_inputs, boxes, call.first)
            done = True
        finally:
            if not done:
                engine.clear()
                if engine.stages is not None:
                    engine.stages.clear()
    shared = [adj_mass, *(torch.stack(parts).sum(0) for parts in zip(*private, strict=True))]
    return (adj1 if last is views[0] else adj), [*shared, *adj_thetas]


def _raise_if_bad(call: Call, rows: list[dict[str, Tensor]], s: int) -> None:
    flags = call.engine.flags()
    if not any(flags):
        return
    step, row, row1 = call.first + s, rows[s], rows[s + 1]
    N = call.engine.model.particle_count
    non_finite, outside, fast = flags
    if non_finite:
        field = _first_bad_field(row, row1)
        raise StateError(
            f"SolverMPM.step: a finite state; got a non-finite {field} after substep {step} "
            f"(scene {(non_finite - 1) // N}, particle {(non_finite - 1) % N}). "
            "Lower dt, or check the parameters and the law for large deformations.",
            step=step,
            field=field,
        )
    code = outside or fast
    scene, particle = divmod(code - 1, N)
    position = row1["x"].reshape(-1, N, row1["x"].shape[-1])[scene, particle].tolist()
    place = f"particle {particle} of scene {scene} at {[round(p, 4) for p in position]} m"
    if outside:
        raise StateError(
            f"SolverMPM.step: particles on the grid; got {place} after substep {step}, beyond the "
            "padding of the walls. Lower dt, raise Grid.padding, or slow the body down.",
            step=step,
            field="x",
        )
    speed = row1["v"].reshape(-1, N, row1["v"].shape[-1])[scene, particle].abs().max().item()
    limit = float(call.engine.space.dx) / call.engine.dt
    raise StabilityError(
        f"SolverMPM.step: speed below dx/dt = {limit:.4g} m/s; got {speed:.4g} m/s for {place} after "
        f"substep {step}. Lower dt to {0.5 * call.engine.dt * limit / speed:.2g} s."
    )


def _first_bad_field(row: dict[str, Tensor], row1: dict[str, Tensor]) -> str:
    for fields, names in ((row, ("F", "J", "alpha", "C")), (row1, ("v", "C", "x", "F", "J"))):
        for name in names:
            if name in fields and not bool(torch.isfinite(fields[name]).all()):
                return name
    return "x"
