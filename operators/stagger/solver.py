"""A coarse network for each sub-field, all trained as one solver of the fine grid."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, StateError, message
from .groups import Factory, Group, damp_last
from .split import Offset, SpaceSplit, TimeSplit

__all__ = ["StaggerSolver"]

COUPLINGS = ("none", "halo", "stack")
FINISHES = (None, "mean", "band")
Finish = Callable[[Tensor], Tensor]


class StaggerSolver(nn.Module):
    """Steps of a PDE by networks that see coarse fields and are trained on the fine residual.

        û_k = u + k Δt scale net_k(split(u) / sigma, split(context)),      k = 1 … s_T

    `coupling` says what a sub-solver sees: "none" its own sub-field (the paper; any subset can run
    alone), "halo" also the 2^D − 1 sub-fields one fine cell ahead, "stack" all of them, as channels of
    one network. The result does not depend on how sub-solvers are executed.

    Args:
        backbone_factory: `(inputs, outputs) -> module` from (B, inputs, *cells) to (B, outputs,
            *cells), such as `lambda a, b: FNO(FNOConfig((8, 8), a, b))`; called once per sub-solver.
            Scales of a `GridOperator` are not used: `sigma` and `scale` are.
        split: sub-fields.
        tsplit: steps per call.
        coupling: "none", "halo" or "stack".
        channels: of the state.
        context: channels of what is given beside it: forcing, masks, values at boundaries.
        dt: fine step [s], that of the residual.
        sigma: size of the state, number or (C,); networks see u / sigma.
        scale: size of ∂u/∂t, number or (C,).
        context_sigma: size of the context, number or (K,).
        share: one set of weights for all sub-solvers, which then see their shift o/s as channels.
        shifted: whether they do; without, where a box is periodic and the context says all that
            varies in space, equal sub-fields have equal futures and no seams.
        drop: "stack": probability that training hides a sub-field; then subsets can run alone here too.
        periodic: whether the box is; else the halo repeats the last cells at its sides.
        execution: of sub-solvers with own weights, "vmap" or "loop".
        finish: what is done to every fine frame: None; "mean", take the mean over cells away; "band",
            that, and keep Fourier modes |m| < n/3 of periodic boxes, since seams between sub-fields are
            noise above; or a function of (N, C, *cells), such as `NavierStokes3D.project`.

    Raises:
        InputError: unknown words, numbers out of range, options that exclude each other.

    Source: Huang et al. 2023 (NeuralStagger). Ours: heads per offset, "halo", "stack", `drop`.
    """

    def __init__(
        self,
        backbone_factory: Factory,
        split: SpaceSplit,
        tsplit: TimeSplit | None = None,
        coupling: str = "none",
        *,
        dt: float,
        channels: int = 1,
        context: int = 0,
        sigma: float | Sequence[float] = 1.0,
        scale: float | Sequence[float] = 1.0,
        context_sigma: float | Sequence[float] = 1.0,
        share: bool = False,
        shifted: bool = True,
        drop: float = 0.0,
        periodic: bool = True,
        execution: str = "vmap",
        finish: str | Finish | None = None,
    ) -> None:
        super().__init__()
        tsplit = tsplit or TimeSplit()
        self.split, self.tsplit, self.coupling, self.dt = split, tsplit, coupling, float(dt)
        self.channels, self.context, self.share, self.drop = channels, context, share, drop
        self.periodic, self.finish, self.shifted = periodic, finish, shifted
        self._require(coupling in COUPLINGS, f"coupling out of {COUPLINGS}", coupling)
        self._require(dt > 0, "dt > 0 s", dt)
        self._require(channels >= 1 and context >= 0, "channels >= 1, context >= 0", channels)
        self._require(0 <= drop < 1, "drop in [0, 1)", drop)
        self._require(not drop or coupling == "stack", 'drop only with coupling="stack"', coupling)
        self._require(
            finish in FINISHES or callable(finish),
            f"finish out of {FINISHES} or a function",
            finish,
        )
        one = coupling == "stack"
        self._require(not (share and one), 'share with coupling "none" or "halo"', coupling)
        G, D = split.count, split.dims
        inputs, outputs = channels + context, channels * tsplit.heads
        if one:
            inputs, outputs = G * inputs + (G if drop else 0), G * outputs
        elif coupling == "halo":
            inputs *= 2**D
        inputs += D if share and shifted else 0
        self.inputs, self.outputs = inputs, outputs
        count = 1 if one or share else G
        self.nets = Group(
            [damp_last(backbone_factory(inputs, outputs)) for _ in range(count)], execution
        )
        sizes = {"sigma": sigma, "scale": scale, "context_sigma": context_sigma}
        for name, value in sizes.items():
            n = context if name == "context_sigma" else channels
            numbers = torch.as_tensor(value, dtype=torch.get_default_dtype()).reshape(-1)
            fine = len(numbers) in (1, n) and bool((numbers > 0).all())
            self._require(fine, f"{name} > 0, a number or {n}", str(value))
            self.register_buffer(name, numbers.expand(n).reshape(n, *[1] * D).clone())
        shifts = [[i / f for i, f in zip(o, split.s, strict=True)] for o in split.offsets]
        self.register_buffer("shifts", torch.tensor(shifts), persistent=False)
        steps = torch.arange(1, tsplit.s_T + 1.0)
        steps = steps if tsplit.mode == "multi" else torch.full_like(steps, tsplit.s_T)
        self.register_buffer("ahead", steps.reshape(-1, 1, *[1] * D), persistent=False)

    @property
    def step_time(self) -> float:
        """Duration of one call [s]."""
        return self.dt * self.tsplit.s_T

    def forward(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """The next s_T fine frames.

        Args:
            u: last frame (B, C, *cells); mode "chain": the last s_T frames (B, s_T, C, *cells).
            context: (B or 1, K, *cells), held for all s_T steps.

        Returns:
            (B, s_T, C, *cells). Differentiable in u, context and the weights.

        Raises:
            InputError: shapes, precision or values that do not fit.
        """
        window, context = self._checked(u, context)
        parts = self.split.split(window)
        beside = None if context is None else self.split.split(context)
        return self.finished(self.split.merge(self.advance(parts, beside)))

    def advance(
        self, parts: Tensor, beside: Tensor | None, rows: Sequence[int] | None = None
    ) -> Tensor:
        """The same on sub-fields, without checks and without `finish`.

        Args:
            parts: (G, B, W, C, *coarse), sub-fields of the last W frames.
            beside: (G, B, K, *coarse), sub-fields of the context.
            rows: which sub-fields these are, in the order of `split.offsets`; default all.

        Returns:
            (G, B, s_T, C, *coarse).
        """
        G, B, W = parts.shape[:3]
        x = parts / self.sigma
        if beside is not None:
            around = (beside / self.context_sigma)[:, :, None].expand(G, B, W, *beside.shape[2:])
            x = torch.cat([x, around], 3)
        x = x.flatten(1, 2)  # (G, B·W, C + K, *coarse)
        if self.coupling == "stack":
            y = self._stacked(x, B, W, rows)
        else:
            if self.coupling == "halo":
                x = self._with_halo(x)
            index = list(range(self.split.count)) if rows is None else list(rows)
            if self.share:
                if self.shifted:
                    where = self.shifts[index].to(x).view(G, 1, -1, *[1] * self.split.dims)
                    x = torch.cat([x, where.expand(*x.shape[:2], -1, *x.shape[3:])], 2)
                y = self.nets(x.flatten(0, 1)[None])[0].unflatten(0, (G, B * W))
            else:
                y = self.nets(x, index)
        y = y.unflatten(2, (self.tsplit.heads, self.channels)).unflatten(1, (B, W)).flatten(2, 3)
        return parts + (self.dt * self.scale) * self.ahead * y

    def rollout(
        self,
        u: Tensor,
        steps: int,
        context: Tensor | None = None,
        level: int | Sequence[int] | Sequence[Offset] | None = None,
    ) -> Tensor:
        """Many steps.

        Args:
            u: fine start, as in `forward`.
            steps: fine steps; the last call's surplus frames are cut off.
            context: (B or 1, K, *cells), constant.
            level: which sub-solvers run: None, all; a stride r, those of u[::r, ::r]; or a list of
                offsets. "none" gives the joint rollout's values there, as long as there is no
                `finish`, which subsets leave out.

        Returns:
            Frames 1 … steps (B, steps, C, *cells); on cells/r with a stride; with a list of offsets
            (G', B, steps, C, *coarse). Differentiable in u, context and the weights.

        Raises:
            InputError: as `forward`; a level that the coupling does not allow.
            StateError: values that are not finite, with the step.
        """
        self._require(steps >= 1, "steps >= 1", steps, "rollout")
        window, context = self._checked(u, context)
        rows, merge = self._level(level)
        parts = self.split.split(window)[rows]
        beside = None if context is None else self.split.split(context)[rows]
        W, frames = self.tsplit.window, []
        for _ in range(-(-steps // self.tsplit.s_T)):
            new = self.advance(parts, beside, rows)
            if self.finish is not None and level is None:
                new = self.split.split(self.finished(self.split.merge(new)))
            frames.append(new)
            parts = new[:, :, -W:]
        out = torch.cat(frames, 2)[:, :, :steps]
        finite = torch.isfinite(out.detach()).flatten(3).all(3).all(0).all(0)
        if not bool(finite.all()):
            step = int((~finite).nonzero()[0, 0]) + 1
            fix = "Train longer, lower s_T, or start from states like those of training"
            text = message("StaggerSolver.rollout", "finite frames", f"others at step {step}", fix)
            raise StateError(text, step=step, field="u")
        return out if merge is None else merge.merge(out)

    def step(self, state: Any, control: Any = None, params: Any = None) -> Any:
        """One call as a `Solver` of `rollout`: state with `u` and `t`, as of PDEs on grids.

        Args:
            state: `u` (B, C, *cells).
            control: its `forcing` (C_f, *cells) or (B, C_f, *cells) is the context, or adds to it.
            params: {"forcing": context}, or nothing.
        """
        given = [(params or {}).get("forcing"), getattr(control, "forcing", None)]
        fields = [f if f.ndim == state.u.ndim else f[None] for f in given if f is not None]
        frames = self(state.u, sum(fields) if fields else None)
        return state.replace(u=frames[:, -1], t=state.t + self.step_time)

    def finished(self, frames: Tensor) -> Tensor:
        """`finish` on fine frames (B, T, C, *cells)."""
        if self.finish is None:
            return frames
        if callable(self.finish):
            return self.finish(frames.flatten(0, 1)).view_as(frames)
        axes = list(range(-self.split.dims, 0))
        if self.finish == "mean":
            return frames - frames.mean(axes, keepdim=True)
        hat = torch.fft.rfftn(frames, dim=axes)
        for axis in axes:
            n, last = frames.shape[axis], axis == -1
            m = torch.fft.rfftfreq(n, 1 / n) if last else torch.fft.fftfreq(n, 1 / n)
            keep = (3 * m.abs() < n).to(frames)
            hat = hat * keep.view(-1, *[1] * (-1 - axis))
        hat[(..., *[0] * len(axes))] = 0.0
        return torch.fft.irfftn(hat, s=frames.shape[axes[0] :], dim=axes)

    def _stacked(self, x: Tensor, B: int, W: int, rows: Sequence[int] | None) -> Tensor:
        """Sub-fields (G, B·W, C + K, *coarse) as channels of one network, and back."""
        G, index = self.split.count, list(range(self.split.count)) if rows is None else list(rows)
        if self.drop:
            seen = x.new_zeros(G, B)
            seen[index] = 1.0
            if self.training:
                hidden = torch.rand(G, B, device=x.device) < self.drop
                keep = torch.randint(G, (B,), device=x.device)  # at least one is seen
                hidden[keep, torch.arange(B, device=x.device)] = False
                seen = seen * ~hidden
            seen = seen.repeat_interleave(W, 1).view(G, B * W, *[1] * (x.ndim - 2))
            full = x.new_zeros(G, *x.shape[1:])
            full[index] = x
            x = torch.cat([full * seen, seen.expand(G, B * W, 1, *x.shape[3:])], 2)
        stacked = x.movedim(0, 1).flatten(1, 2)
        y = self.nets(stacked[None])[0].unflatten(1, (G, -1)).movedim(1, 0)
        return y if len(index) == G else y[index]

    def _with_halo(self, x: Tensor) -> Tensor:
        """Each sub-field with those one fine cell ahead on any of the axes."""
        u, D = self.split.merge(x), self.split.dims
        shifted = []
        for ahead in itertools.product((0, 1), repeat=D):
            v = u
            for axis, by in enumerate(ahead, -D):
                if by and self.periodic:
                    v = v.roll(-1, axis)
                elif by:
                    n = v.shape[axis]
                    v = torch.cat([v.narrow(axis, 1, n - 1), v.narrow(axis, n - 1, 1)], axis)
            shifted.append(self.split.split(v))
        return torch.cat(shifted, 2)

    def _level(self, level: Any) -> tuple[list[int], SpaceSplit | None]:
        """Rows of the sub-fields that run, and how they are put together."""
        offsets, merge = self.split.offsets, self.split
        if level is None:
            return list(range(len(offsets))), merge
        if isinstance(level, int) or all(isinstance(r, int) for r in level):
            chosen, found = self.split.level(level), self.split.at_level(level)
        else:
            chosen, found = tuple(tuple(o) for o in level), None
        fix = f"Offsets are {offsets[0]} to {offsets[-1]}"
        self._require(
            chosen and all(o in offsets for o in chosen),
            "offsets of sub-fields",
            str(level),
            fix=fix,
        )
        if len(chosen) < len(offsets):
            free = self.coupling == "none" or self.drop > 0
            fix = 'Its networks read all sub-fields; train coupling="none", or "stack" with drop'
            self._require(free, f'level=None with coupling="{self.coupling}"', str(level), fix=fix)
        return [offsets.index(o) for o in chosen], found

    def _checked(self, u: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Window (B, W, C, *cells) and context (B, K, *cells), checked."""
        D, W, C, K = self.split.dims, self.tsplit.window, self.channels, self.context
        cells = ", ".join("n" * D)
        window = u[:, None] if u.ndim == D + 2 and W == 1 else u
        fits = window.ndim == D + 3 and tuple(window.shape[1:3]) == (W, C)
        shape = f"(B, {C}, {cells})" if W == 1 else f"(B, {W}, {C}, {cells})"
        fix = "Mode chain starts from as many frames; take them from the numerical solver"
        self._require(fits, f"frames {shape}", u, "forward", fix if W > 1 else "Correct the shape")
        fine = tuple(window.shape[3:])
        self.split.coarse(fine)
        self._require(
            (context is None) == (K == 0), f"context of {K} channels",
            "none" if context is None else context, "forward", "Build the solver with context=K",
        )  # fmt: skip
        fields = {"u": window}
        if context is not None:
            fits = (
                context.ndim == D + 2 and context.shape[1] == K and tuple(context.shape[2:]) == fine
            )
            fits = fits and len(context) in (1, len(window))
            shape = f"context (B, {K}, {', '.join(map(str, fine))})"
            self._require(fits, shape, context, "forward")
            context = context.expand(len(window), *context.shape[1:])
            fields["context"] = context
        for name, value in fields.items():
            fix = "Convert with .to(dtype)"
            self._require(
                value.dtype == self.sigma.dtype,
                f"{name} in {self.sigma.dtype}",
                value,
                "forward",
                fix,
            )
            finite = torch.isfinite(value.detach())
            if not bool(finite.all()):
                first = tuple((~finite).nonzero()[0].tolist())
                fix = f"Remove sample {first[0]} or repair it"
                self._require(
                    False, f"finite {name}", f"a value that is not at {first}", "forward", fix
                )
        return window, context

    def _require(
        self, fine: Any, expected: str, got: Any, where: str = "", fix: str = "Correct it"
    ) -> None:
        if not fine:
            place = f"StaggerSolver.{where}" if where else "StaggerSolver"
            raise InputError(message(place, expected, got, fix))
