"""The term of `RigidContact`: gaps, their derivatives, friction, and how far a step may go.

Source: see `contact`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import rotations
from ..core.colliders import Collider
from ..core.errors import StateError, message
from ..fem.contact.barrier import wall
from ..fem.contact.ccd import KEEP, SLACK
from ..fem.contact.friction import Lag, friction_energy, friction_gradient, friction_hessian
from ..fem.contact.sweep import distance_field, field_hessian, passed_by, safe_share
from ..fem.terms import StepInput, Term
from .bodies import AffineBody
from .samples import Samples

__all__ = ["RigidTerm"]

Poses = tuple[Tensor, Tensor]
"""Of a collider at the start and the end of a step, (B, 7)."""
_REST = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
_ADVANCES = 200


@dataclass(frozen=True)
class _Gap:
    """Gaps of R rows of one pair; stencil of k = samples' points (and four of a body)."""

    row: Tensor
    """Sample of each row over all scenes, scene n + sample, (R,)."""
    stencil: Tensor
    """(R, k)."""
    d: Tensor
    """Gap [m], (R,)."""
    weights: Tensor
    """∂/∂q of y − x(Y), (R, k)."""
    slope: Tensor
    """s = ∇d in the world frame, (R, 3)."""


class _Pair:
    """Samples and one target, with the poses of a step bound."""

    def __init__(
        self,
        samples: Samples,
        target: AffineBody | Collider,
        friction: str | None,
        poses: Poses | None,
        shape: tuple[int, int],
        like: Tensor,
    ) -> None:
        self.samples, self.target, self.friction, self.poses = samples, target, friction, poses
        self.scenes, self.points = shape
        device = like.device
        shift = self.points * torch.arange(self.scenes, device=device)[:, None, None]
        self.stencil = (samples.stencil.to(device) + shift).flatten(0, 1)
        self.weights = samples.weights.to(like).repeat(self.scenes, 1)
        self.area = samples.area.to(like).repeat(self.scenes)
        self.radius = samples.radius.to(like).repeat(self.scenes)
        self.scene = torch.arange(self.scenes, device=device).repeat_interleave(len(samples))
        self.names = samples.name, target.name
        if isinstance(target, AffineBody):
            body = target.body
            self.shape = Collider(body.shape, name=body.name)
            own = torch.arange(target.first, target.first + 4, device=device)
            self.corners = own + self.points * torch.arange(self.scenes, device=device)[:, None]
            self.gradients = target.shape_gradients.to(like)
            self.Y = target.Y.to(like)

    def places(self, x: Tensor) -> Tensor:
        """Samples y (B n, 3) at points x (M, 3)."""
        return (self.weights[..., None] * x[self.stencil]).sum(1)

    def _affine(self, x: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Corner 0 (R, 3) and F⁻¹ (R, 3, 3) of the body of each row."""
        corners = x[self.corners]
        inverse = torch.linalg.inv(corners.mT @ self.gradients)
        scene = self.scene[row]
        return corners[scene, 0], inverse[scene]

    def _rest(self, row: Tensor) -> Tensor:
        return self.radius.new_tensor(_REST).expand(len(row), 7)

    def _pose(self, row: Tensor, end: bool = True) -> Tensor:
        assert self.poses is not None
        return self.poses[int(end)][self.scene[row]]

    def local(self, y: Tensor, x: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Places in the frame of the body (R, 3), and F⁻¹."""
        first, inverse = self._affine(x, row)
        return self.Y[0] + (inverse @ (y - first)[..., None])[..., 0], inverse

    def gap(self, x: Tensor, row: Tensor, end: bool = True) -> Tensor:
        """d (R,) only."""
        y = self.places(x)[row]
        if self.poses is not None:
            d = distance_field(y, self.target, self._pose(row, end), slope=False).d
        else:
            here = self.local(y, x, row)[0]
            d = distance_field(here, self.shape, self._rest(row), slope=False).d
        return d - self.radius[row]

    def near(self, x: Tensor, d_hat: float, end: bool = True) -> Tensor:
        """Rows with a gap below d̂."""
        with torch.no_grad():
            row = torch.arange(len(self.scene), device=x.device)
            return (self.gap(x, row, end) < d_hat).nonzero()[:, 0]

    def field(self, x: Tensor, row: Tensor, end: bool = True) -> _Gap:
        """Gaps and their first derivatives; differentiable in x."""
        y = self.places(x)[row]
        stencil, weights = self.stencil[row], self.weights[row]
        if self.poses is not None:
            found = distance_field(y, self.target, self._pose(row, end))
            return _Gap(row, stencil, found.d - self.radius[row], weights, found.slope)
        here, inverse = self.local(y, x, row)
        found = distance_field(here, self.shape, self._rest(row))
        slope = (inverse.mT @ found.slope[..., None])[..., 0]
        stencil = torch.cat((stencil, self.corners[self.scene[row]]), dim=1)
        weights = torch.cat((weights, -self._barycentric(here)), dim=1)
        return _Gap(row, stencil, found.d - self.radius[row], weights, slope)

    def _barycentric(self, here: Tensor) -> Tensor:
        away = (here - self.Y[0]) @ self.gradients.mT
        return torch.cat((1 + away[:, :1], away[:, 1:]), dim=1)

    def curvature(self, x: Tensor, row: Tensor) -> tuple[_Gap, Tensor]:
        """Gaps, and ∂²d/∂q² (R, k, 3, k, 3); without graph."""
        y = self.places(x)[row]
        stencil, weights = self.stencil[row], self.weights[row]
        if self.poses is not None:
            d, slope, bend = field_hessian(y, self.target, self._pose(row))
            H = torch.einsum("ri,rj,rab->riajb", weights, weights, bend)
            return _Gap(row, stencil, d - self.radius[row], weights, slope), H
        here, inverse = self.local(y, x, row)
        d, local, bend = field_hessian(here, self.shape, self._rest(row))
        slope = (inverse.mT @ local[..., None])[..., 0]
        k = stencil.shape[1]
        stencil = torch.cat((stencil, self.corners[self.scene[row]]), dim=1)
        weights = torch.cat((weights, -self._barycentric(here)), dim=1)
        h = self.gradients @ inverse  # spatial gradients of λ
        h = torch.cat((h.new_zeros(len(row), k, 3), h), dim=1)
        K = inverse.mT @ bend @ inverse
        H = torch.einsum("ri,rj,rab->riajb", weights, weights, K)
        cross = torch.einsum("ri,rja,rb->riajb", weights, h, slope)
        H = H - cross - cross.permute(0, 3, 4, 1, 2)
        return _Gap(row, stencil, d - self.radius[row], weights, slope), H

    def lag(
        self,
        x: Tensor,
        x_start: Tensor,
        end: bool,
        force: Callable[[_Gap], Tensor],
        d_hat: float,
    ) -> tuple[Lag, Tensor] | None:
        """Friction at lagged positions and the sample of each row; force(gap) gives μ λ over |s|."""
        if self.friction is None:
            return None
        row = self.near(x, d_hat, end)
        gap = self.field(x, row, end)
        bad = ~(gap.d.detach() > 0)
        if bool(bad.any()):
            first = int(bad.nonzero()[0, 0])
            depth = -float(gap.d[first])
            raise _inside(self.names, int(row[first]), len(self.samples), depth)
        length = gap.slope.square().sum(-1).sqrt()
        normal = gap.slope / length[:, None]
        weights, stencil = gap.weights, gap.stencil
        # What touches is the spot of the ball, which turns with the body of the sample.
        spot = self.places(x)[row] - self.radius[row][:, None] * normal
        own = self.samples.body
        if own is not None:
            weights = torch.cat((self._own(own, spot, x, row), weights[:, 4:]), dim=1)
        start = (weights[..., None] * x_start[stencil]).sum(1)
        if self.poses is not None:
            here, old, new = (
                self._pose(row, end), self._pose(row, False), self._pose(row, True),
            )  # fmt: skip
            material = rotations.rotate_inverse(here[:, 3:], spot - here[:, :3])
            moved = rotations.rotate(new[:, 3:], material) + new[:, :3]
            start = start + moved - rotations.rotate(old[:, 3:], material) - old[:, :3]
        return Lag(stencil, weights, normal, force(gap) * length, start), row

    def _own(self, body: AffineBody, spot: Tensor, x: Tensor, row: Tensor) -> Tensor:
        """λ of spots (R, 3) on the body that the samples belong to, (R, 4)."""
        corners = x.reshape(self.scenes, self.points, 3)[self.scene[row]]
        corners = corners[:, body.first : body.first + 4]
        gradients = body.shape_gradients.to(x)
        inverse = torch.linalg.inv(corners.mT @ gradients)
        here = (inverse @ (spot - corners[:, 0])[..., None])[..., 0] + body.Y[0].to(x)
        return body.weights(here)

    @torch.no_grad()
    def share(self, x: Tensor, dx: Tensor) -> Tensor:
        """Part of a step in which every sample keeps some of its gap, (B n,)."""
        row = torch.arange(len(self.scene), device=x.device)
        y, dy = self.places(x), self.places(dx)
        if self.poses is not None and not bool(self.radius.any()):
            pose = self._pose(row)
            return safe_share(y, dy, self.target, pose, pose)
        return self._advance(x, dx, y, dy, row)

    def _advance(self, x: Tensor, dx: Tensor, y: Tensor, dy: Tensor, row: Tensor) -> Tensor:
        """Conservative advancement with a bound of how fast gaps close, in the frame of the body."""
        if self.poses is not None:
            speed = dy.norm(dim=-1)
        else:
            move = dx[self.corners]
            mean = move.mean(1)
            turn = (move - mean[:, None]).norm(dim=-1).amax(1)[self.scene]
            # Σ|λ| where the sample is; F⁻¹ stays below √2 while the body turns by less than 90°.
            ends = (self.local(y, x, row)[0], self.local(y + dy, x + dx, row)[0])
            reach = torch.stack([self._barycentric(e).abs().sum(-1) for e in ends]).amax(0)
            speed = 1.5 * ((dy - mean[self.scene]).norm(dim=-1) + 1.5 * reach * turn)
        start = self.gap(x, row)
        time = torch.zeros_like(start)
        goal = KEEP * start.clamp(min=0)
        left = (start > 0).nonzero()[:, 0]
        d = start[left]
        for _ in range(_ADVANCES):
            ahead = (d - goal[left]) / speed[left].clamp(min=1e-300)
            new = time[left] + ahead
            done = new >= 1
            time[left] = torch.where(done, torch.ones_like(new), new)
            left = left[~done]
            if len(left) == 0:
                break
            # All rows at one time each: points along the line of every row's own scene.
            d = self._gap_at(x, dx, left, time[left])
            going = d > (1 + SLACK) * goal[left]
            left, d = left[going], d[going]
            if len(left) == 0:
                break
        return time

    def _gap_at(self, x: Tensor, dx: Tensor, row: Tensor, t: Tensor) -> Tensor:
        """Gaps of rows with every row at its own time."""
        y = self.places(x)[row] + t[:, None] * self.places(dx)[row]
        if self.poses is not None:
            d = distance_field(y, self.target, self._pose(row), slope=False).d
            return d - self.radius[row]
        scene = self.scene[row]
        corners = x[self.corners][scene] + t[:, None, None] * dx[self.corners][scene]
        inverse = torch.linalg.inv(corners.mT @ self.gradients)
        here = self.Y[0] + (inverse @ (y - corners[:, 0])[..., None])[..., 0]
        return distance_field(here, self.shape, self._rest(row), slope=False).d - self.radius[row]


class RigidTerm(Term):
    """`RigidContact` with parameters and the inputs of a step bound."""

    changing = True

    def __init__(
        self,
        pairs: Sequence[tuple[Samples, AffineBody | Collider, str | None, Poses | None]],
        d_hat: float,
        eps_v: float,
        params: Mapping[str, Tensor],
        step: StepInput,
    ) -> None:
        self.d_hat = d_hat
        self.scenes, self.points = step.x_start.shape[:2]
        self.stiffness = params["stiffness"].expand(self.scenes)
        self.eps = eps_v * step.dt
        shape = self.scenes, self.points
        self.pairs = [_Pair(*pair, shape, step.x_start) for pair in pairs]
        x_lag, x_start = step.x_lag.reshape(-1, 3), step.x_start.reshape(-1, 3)
        first = step.x_lag is step.x_start or torch.equal(step.x_lag, step.x_start)
        self.lags: list[tuple[Lag, Tensor] | None] = []
        for pair in self.pairs:
            self._check(pair, x_start.detach())
            mu = params[pair.friction].expand(self.scenes) if pair.friction else None

            def pull(gap: _Gap, pair: _Pair = pair, mu: Tensor | None = mu) -> Tensor:
                assert mu is not None
                push = -self._scale(pair, gap.row) * wall(gap.d, self.d_hat)[1]
                return mu[pair.scene[gap.row]] * push

            self.lags.append(pair.lag(x_lag, x_start, not first, pull, self.d_hat))

    def _scale(self, pair: _Pair, row: Tensor) -> Tensor:
        return self.stiffness[pair.scene[row]] * pair.area[row]

    def _check(self, pair: _Pair, x: Tensor) -> None:
        with torch.no_grad():
            row = torch.arange(len(pair.scene), device=x.device)
            d = pair.gap(x, row, end=False)
        inside = ~(d > 0)
        if bool(inside.any()):
            k = int(inside.nonzero()[0, 0])
            raise _inside(pair.names, k, len(pair.samples), -float(d[k]))
        if pair.poses is not None and not torch.equal(*pair.poses):
            poses = (p.detach()[pair.scene] for p in pair.poses)
            wrong = passed_by(pair.places(x), pair.target, *poses)
            if len(wrong):
                scene, k = divmod(int(wrong[0]), len(pair.samples))
                got = f"sample {k} of {pair.names[0]} passed by {pair.names[1]} in scene {scene}"
                fix = "Lower dt, or make the collider thicker than its way per step"
                expected = "colliders that push bodies ahead"
                raise StateError(message("RigidContact", expected, got, fix), field="x")

    def energy(self, x: Tensor) -> Tensor:
        out = x.new_zeros(self.scenes)
        for pair, lag in zip(self.pairs, self.lags, strict=True):
            row = pair.near(x, self.d_hat)
            if len(row):
                values = self._scale(pair, row) * wall(pair.gap(x, row), self.d_hat)[0]
                out = out.index_add(0, pair.scene[row], values)
            if lag is not None:
                slip = friction_energy(lag[0], x, self.eps)
                out = out.index_add(0, pair.scene[lag[1]], slip)
        return out

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        width = max(p.samples.stencil.shape[1] + (4 if p.poses is None else 0) for p in self.pairs)
        stencils, local = [], []
        for pair, lag in zip(self.pairs, self.lags, strict=True):
            for stencil, values in self._local(pair, lag and lag[0], x):
                more = width - stencil.shape[1]
                stencils.append(torch.cat((stencil, stencil[:, :1].expand(-1, more)), dim=1))
                local.append(torch.nn.functional.pad(values, (0, 0, 0, more)))
        return torch.cat(stencils), torch.cat(local)

    def _local(self, pair: _Pair, lag: Lag | None, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Stencils and gradients of one pair: normal contact, then friction."""
        gap = pair.field(x, pair.near(x, self.d_hat))
        first = self._scale(pair, gap.row) * wall(gap.d, self.d_hat)[1]
        normal = (first[:, None] * gap.weights)[..., None] * gap.slope[:, None]
        parts = [(gap.stencil, normal)]
        if lag is not None:
            parts.append((lag.stencil, friction_gradient(lag, x, self.eps)))
        return parts

    def forces(self, x: Tensor) -> dict[tuple[str, str], Tensor]:
        """Force on every sample [N], (B, n, 3), by pair."""
        flat, out = x.reshape(-1, 3), {}
        for pair, lag in zip(self.pairs, self.lags, strict=True):
            n = len(pair.samples)
            total = flat.new_zeros(self.scenes * n, 3)
            row = pair.near(flat, self.d_hat)
            gap = pair.field(flat, row)
            first = self._scale(pair, row) * wall(gap.d, self.d_hat)[1]
            total = total.index_add(0, row, -first[:, None] * gap.slope)
            if lag is not None:
                k = pair.stencil.shape[1]
                pull = friction_gradient(lag[0], flat, self.eps)[:, :k].sum(1)
                total = total.index_add(0, lag[1], -pull)
            out[pair.names] = total.reshape(self.scenes, n, 3)
        return out

    @torch.no_grad()
    def hessian(self, x: Tensor, project: bool = True) -> list[tuple[Tensor, Tensor]]:
        blocks = []
        for pair, lag in zip(self.pairs, self.lags, strict=True):
            gap, bend = pair.curvature(x, pair.near(x, self.d_hat))
            _, first, second = wall(gap.d, self.d_hat)
            scale = self._scale(pair, gap.row)
            push = (gap.weights[..., None] * gap.slope[:, None]).flatten(1)
            local = (scale * second)[:, None, None] * push[:, :, None] * push[:, None, :]
            if not project:  # the rest is what may be negative
                local = local + (scale * first)[:, None, None] * bend.flatten(3, 4).flatten(1, 2)
            blocks.append((gap.stencil, local))
            if lag is not None:
                blocks.append((lag[0].stencil, friction_hessian(lag[0], x, self.eps)))
        return blocks

    @torch.no_grad()
    def max_step(self, x: Tensor, dx: Tensor) -> Tensor:
        """Samples outside stay there; what a driven collider moved into gets out in small steps."""
        out = x.new_ones(self.scenes)
        for pair in self.pairs:
            time = pair.share(x, dx)
            inside = (time == 0).nonzero()[:, 0]
            if len(inside):
                room = pair.gap(x, inside).abs() + 2 * self.d_hat
                way = pair.places(dx)[inside].norm(dim=-1).clamp(min=1e-300)
                time[inside] = (room / way).clamp(max=1)
            out = torch.minimum(out, time.reshape(self.scenes, -1).amin(1))
        return out


def _inside(names: tuple[str, str], row: int, n: int, depth: float) -> StateError:
    got = f"sample {row % n} of {names[0]} {depth:.3g} m inside of {names[1]} in scene {row // n}"
    fix = "Start them apart; raise stiffness where forces press them in, or lower dt"
    return StateError(message("RigidContact", "samples outside of targets", got, fix), field="x")
