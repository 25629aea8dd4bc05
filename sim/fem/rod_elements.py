"""Rods that twist, as terms: what holds markers beside their segments, and what bends and twists.

    Sections   Σ ½ (EA/ℓ_s) [ |p + q − a − b|²/4 + (ρ/2)² (|d|²/4ρ² − 1)² + (d·e/2ℓ_s)² ]
    Joints     Σ ½ (B/ℓ) |c|² + ½ (GJ/ℓ) (τ − τ_X − ℓ twist_ref)² + ½ (ηJ/ℓ Δt) (τ − τ_start)²

with d, τ and c of `twist.py`. Markers p and q are ordinary points of the scene at ±ρ from the middle of
the segment (a, b). `Sections` holds them as stiffly as the segment itself is stretched; `Joints` feels
nothing of what it resists, so in equilibrium it is zero, and a segment has one freedom more, the angle of
its section. Handles that grip a segment with its markers turn it. Each marker has the share r²/4ρ² of
the mass: the segment turns about its axis with the inertia ρ J ℓ_s, its centre of mass on the axis.

τ is known within (−π, π) about its value at rest: neighbours differ by less than half a turn from it, and
a step past that is not taken. ℓ is half of both segments: sections stand in the middle of segments.

Source: Bergou et al. 2008 and 2010 (Discrete Elastic Rods) for the energies; points in place of angles,
as rigid bodies are four points (Lan et al. 2022, Affine Body Dynamics).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.errors import InputError, StateError, message
from .elements import Element, Stencils
from .twist import (
    bend_curvature,
    bend_jacobian,
    bend_vector,
    components,
    directions,
    twist_angle,
    twist_curvature,
    twist_slopes,
)

__all__ = ["Joints", "Sections", "twist_coefficients", "twist_elements"]


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)


class _Vectors(Element):
    """Elements of vectors Σ_k J_vk x_k of their points: derivatives by vector, then by point."""

    ways: tuple[tuple[float, ...], ...]
    """J, a row per vector."""

    def _ways(self, x: Tensor) -> Tensor:
        return x.new_tensor(self.ways)

    def slopes(self, x: Tensor) -> Tensor:
        """∂E/∂vectors (B, S, V, 3)."""
        raise NotImplementedError

    def curvatures(self, x: Tensor, project: bool) -> Tensor:
        """∂²E/∂vectors² (B, S, 3 V, 3 V); without curvature of what is squared if `project`."""
        raise NotImplementedError

    def gradient(self, x):
        return self.rows(x), (self._ways(x).T @ self.slopes(x)).flatten(0, 1)

    def hessian(self, x, project=True):
        with torch.no_grad():
            turn = torch.kron(self._ways(x), torch.eye(3).to(x))
            return self.rows(x), turn.T @ self.curvatures(x, project).flatten(0, 1) @ turn


class Sections(_Vectors):
    """What holds markers beside their segments, stencils (S, 4): a, b, p, q.

    Args:
        stiffness: EA/ℓ_s [N/m], (1 or B, S).
        offset: ρ [m], likewise.
        length: ℓ_s [m], likewise.
    """

    ways = ((-0.5, -0.5, 0.5, 0.5), (-1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, -1.0))

    def __init__(
        self,
        stencils: Stencils,
        scenes: int,
        points: int,
        stiffness: Tensor,
        offset: Tensor,
        length: Tensor,
    ):
        super().__init__(stencils, scenes, points)
        self.stiffness, self.offset, self.length = stiffness, offset, length

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Shift of the middle, e and d (B, S, 3); 4 ρ, 2 ℓ_s; radial and axial way (B, S, 1)."""
        shift, e, d = (self._ways(x) @ self.local(x)).unbind(-2)
        wide, long = 4 * self.offset.unsqueeze(-1), 2 * self.length.unsqueeze(-1)
        radial = 0.5 * (d * d).sum(-1, keepdim=True) / wide - 0.125 * wide
        return shift, e, d, wide, long, radial, (e * d).sum(-1, keepdim=True) / long

    def energy(self, x):
        shift, *_, radial, axial = self._parts(x)
        way = shift.square().sum(-1) + (radial.square() + axial.square()).squeeze(-1)
        return 0.5 * (self.stiffness * way).sum(1)

    def slopes(self, x):
        shift, e, d, wide, long, radial, axial = self._parts(x)
        by_d = radial / wide * d + axial / long * e
        found = torch.stack((shift, axial / long * d, by_d), dim=-2)
        return self.stiffness[..., None, None] * found

    def curvatures(self, x, project):
        _, e, d, wide, long, radial, axial = self._parts(x)
        eye = torch.eye(3).to(x).expand(*e.shape, 3)
        zero, along, across = torch.zeros_like(eye), e / long, d / long
        dd = _outer(d / wide, d / wide) + _outer(along, along)
        de = _outer(along, across)
        if not project:
            de = de + (axial / long).unsqueeze(-1) * eye
            dd = dd + (radial / wide).unsqueeze(-1) * eye
        rows = ((eye, zero, zero), (zero, _outer(across, across), de.mT), (zero, de, dd))
        found = torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2)
        return self.stiffness[..., None, None] * found


class Joints(_Vectors):
    """Bending and twist between neighbours, stencils (H, 7): three points in a row, then p, q, p′, q′.

    Args:
        bend: B/ℓ [J], (1 or B, H).
        natural: `components` of the curvature at rest [-], (1 or B, H, 2, 2).
        twist: GJ/ℓ [J], (1 or B, H).
        rest: τ_X [rad], likewise.
        turn: ℓ twist_ref [rad], likewise.
        rate: ηJ/ℓ over time step [J], likewise, and `x_start` (B, N, 3); None: none.
    """

    ways = (
        (-1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, -1.0),
    )

    def __init__(
        self,
        stencils: Stencils,
        scenes: int,
        points: int,
        bend: Tensor,
        natural: Tensor,
        twist: Tensor,
        rest: Tensor,
        turn: Tensor,
        rate: Tensor | None = None,
        x_start: Tensor | None = None,
    ):
        super().__init__(stencils, scenes, points)
        self.bend, self.natural, self.twist, self.rest, self.turn = bend, natural, twist, rest, turn
        self.rate = rate
        self.start = None if rate is None or x_start is None else self.angle(x_start)

    def angle(self, x: Tensor) -> Tensor:
        """τ − τ_X (B, H), in [−π, π]."""
        away = twist_angle(self.local(x)) - self.rest
        return away - 2 * math.pi * (away.detach() / (2 * math.pi)).round()

    def _bent(self, x: Tensor) -> Tensor:
        return self.once(x, "bent", lambda x: bend_vector(self.local(x), self.natural))

    def _bends(self, x: Tensor) -> Tensor:
        return self.once(x, "bends", lambda x: bend_jacobian(self.local(x), self.natural))

    def _turns(self, x: Tensor) -> Tensor:
        return self.once(x, "turns", lambda x: twist_slopes(self.local(x)))

    def _moment(self, x: Tensor) -> Tensor:
        return self.once(x, "moment", lambda x: self._twisted(x)[1])

    def _twisted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of twist, and its derivative in the angles [N m], (B, H)."""
        angle = self.angle(x)
        change = angle - self.turn
        moment = self.twist * change
        energy = change * moment
        if self.rate is not None and self.start is not None:
            change = angle - self.start
            drag = self.rate * change
            moment, energy = moment + drag, energy + change * drag
        return 0.5 * energy, moment

    def energy(self, x):
        bent = self._bent(x).square().sum(-1)
        return (0.5 * self.bend * bent + self._twisted(x)[0]).sum(1)

    def slopes(self, x):
        pull = (self.bend.unsqueeze(-1) * self._bent(x)).unsqueeze(-2) @ self._bends(x)
        turned = self._moment(x)[..., None, None] * self._turns(x)
        return pull.squeeze(-2).unflatten(-1, (4, 3)) + turned

    def curvatures(self, x, project):
        jacobian, turns = self._bends(x), self._turns(x).flatten(2)
        stiffness = self.twist if self.rate is None else self.twist + self.rate
        found = stiffness[..., None, None] * _outer(turns, turns)
        found = found + self.bend[..., None, None] * (jacobian.mT @ jacobian)
        if not project:
            local, pull = self.local(x), self.bend.unsqueeze(-1) * self._bent(x)
            found = found + self._moment(x)[..., None, None] * twist_curvature(local)
            found = found + bend_curvature(local, self.natural, pull)
        return found

    @torch.no_grad()
    def max_step(self, x, dx):
        """Half of the step, again and again, until nothing turns by a right angle or past half a turn."""
        share = x.new_ones(self.scenes)
        angle, here = self.angle(x), directions(self.local(x))
        for _ in range(20):
            trial = x + share.repeat_interleave(self.points)[:, None] * dx
            there = directions(self.local(trial))
            turned = ~((here * there).sum(-1) > 0).flatten(1).all(1)
            passed = ~((self.angle(trial) - angle).abs() < math.pi).all(1)
            wrong = turned | passed
            if not bool(wrong.any()):
                return share
            share = torch.where(wrong, 0.5 * share, share)
        scene = int(wrong.nonzero()[0])
        joint = int(angle[scene].abs().argmax())
        got = f"{float(angle[scene, joint]):.3f} rad at joint {joint} of scene {scene}"
        fix = "Give the rod more segments, or turn it less"
        raise StateError(message("Rod", "less than half a turn between neighbours", got, fix))


def twist_coefficients(
    where: str, cells: Tensor, joints: Tensor, segments: Tensor, p: dict[str, Tensor], X: Tensor
) -> dict[str, Tensor]:
    """What `Sections` and `Joints` read, but B/ℓ; and "shares", the part of a segment's mass per point.

    Args:
        where: for messages.
        cells: (S, 4).
        joints: (H, 7).
        segments: of each joint, (H, 2).
        p: parameters, (1 or B, S).
        X: rest positions [m], (1 or B, N, 3).

    Raises:
        InputError: markers that do not stand beside their segment, or inside of r/√2.

    Differentiable in p and X.
    """
    a, b, m, n = X[:, cells].unbind(-2)
    e, d, shift = b - a, m - n, 0.5 * (m + n - a - b)
    length, across, away = (v.square().sum(-1).sqrt() for v in (e, d, shift.detach()))
    bad = (away > 0.2 * across) | ((e * d).sum(-1).abs() > 0.4 * length * across)
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 1])
        expected = "markers on both sides of the middle of each segment, across it"
        fix = "Make points and cells by `sections(X, segments, r)`"
        raise InputError(message(where, expected, f"segment {first} without", fix))
    offset = 0.5 * across
    share = (0.5 * p["r"] / offset).square()
    if bool((share >= 0.5).any()):
        worst = float((offset / p["r"]).min())
        expected, got = "markers at more than r/√2 from the axis", f"{worst:.3g} r"
        raise InputError(message(where, expected, got, "Make them with r or more"))
    c = {
        "shares": torch.stack((0.5 - share, 0.5 - share, share, share), dim=-1),
        "k_hold": p["E"] * math.pi * p["r"] ** 2 / length,
        "offset": offset,
    }
    if len(joints):
        J = 0.5 * math.pi * p["r"] ** 4
        half = 0.5 * length
        c["k_twist"] = _series(0.5 * p["k_twist"] * p["E"] / (1 + p["nu"]) * J / half, segments)
        c["eta_twist"] = _series(p["eta"] * J / half, segments)
        c["turn"] = (half * p["twist_ref"])[:, segments].sum(-1)
        c["twist"], c["natural"] = twist_angle(X[:, joints]), components(X[:, joints])
    return c


def _series(k: Tensor, segments: Tensor) -> Tensor:
    """Stiffness (b, H) of two halves k (b, S) in a row, as in a stepped shaft; 0 where one is."""
    first, second = k[:, segments].unbind(-1)
    total = first + second
    return first * second / torch.where(total > 0, total, 1.0)


def twist_elements(
    stencils: tuple[Stencils, Stencils],
    c: dict[str, Tensor],
    scenes: int,
    points: int,
    tau: float,
    x_start: Tensor | None,
) -> list[Element]:
    """The terms of a rod that twists, stencils (S, 4) and (H, 7)."""
    hold = c["k_hold"], c["offset"], c["measure"]
    terms: list[Element] = [Sections(stencils[0], scenes, points, *hold)]
    if "k_twist" in c:
        rate = c["eta_twist"] / tau if "eta" in c else None
        bend, twist = (c["k_bend"], c["natural"]), (c["k_twist"], c["twist"], c["turn"])
        terms.append(Joints(stencils[1], scenes, points, *bend, *twist, rate, x_start))
    return terms
