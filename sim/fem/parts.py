"""Parts of a scene: solids of tetrahedra, sheets of triangles, rods of segments.

A part names its material and its cells, and turns parameters and rest positions X into what its
elements read. Parameters are numbers or tensors that broadcast to (B, S), one per cell.

    Sheet: membrane energy h ψ; bending energy D/2 [(1 − ν) tr Λ² + ν (tr Λ)²] per area,
           D = k_bend E h³ / 12(1 − ν²), with the curvature Λ of a triangle from its three hinges
    Rod:   circular section of radius r, EA = E π r², B = k_bend E π r⁴ / 4, and where it twists
           GJ = k_twist E π r⁴ / 4(1 + ν), see `rod_elements.py`
    all:   lumped masses ρ V/(d + 1) per corner (ten nodes: `quadratic.py`); viscous stress 2 η ε̇ (a
           sheet also bends viscously)

Differentiable in all parameters and in X.
Source: Grinspun et al. 2006 (discrete shape operators, the one without extra unknowns) for Λ;
Bergou et al. 2008 for rods; Sifakis & Barbič 2012.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import InputError, message
from .bending import hinge_angle
from .densities import DENSITIES, lame
from .elements import Bends, Element, Plates, Simplices, Stencils
from .quadratic import MASS_SHARES, quadratic_gradients
from .rod_elements import twist_coefficients, twist_elements
from .topology import bends_of, hinges_of, layout_of

__all__ = ["Part", "Rod", "Sheet", "Solid"]

Values = dict[str, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Base: cells of dimension d and k points each over the points of the scene."""

    name: str
    """Key in `params`."""
    cells: Tensor
    """Points of every cell, integers (S, k), k = d + 1 but for `Solid(order=2)`."""
    E: float | Tensor
    """Young's modulus [Pa]."""
    rho: float | Tensor
    """Density [kg/m³]."""
    eta: float | Tensor = 0.0
    """Viscosity [Pa s]; none."""
    law: str = ""
    """Energy density, a name in `DENSITIES`."""

    dim: ClassVar[int]
    names: ClassVar[tuple[str, ...]]
    """Parameters."""
    plastic: ClassVar[bool] = False
    """Whether its hinges take new rest angles, `flow`; see `sim/shell/creases.py`."""
    positive: ClassVar[tuple[str, ...]] = ("E", "rho", "h", "r")
    signed: ClassVar[tuple[str, ...]] = ("nu", "twist_ref")

    def __post_init__(self) -> None:
        cells = torch.as_tensor(self.cells)
        object.__setattr__(self, "cells", cells)
        width = len(self.mass_shares)
        fits = cells.ndim == 2 and cells.shape[0] > 0 and cells.shape[1] == width
        if not fits or cells.is_floating_point():
            expected = f"cells: integers (S, {width})"
            raise InputError(message(self.where, expected, cells, "Give points per cell"))
        object.__setattr__(self, "cells", cells.long())
        known = [name for name, law in DENSITIES.items() if self.dim in law.dims]
        if self.law not in known:
            raise InputError(message(self.where, f"law out of {known}", self.law, "Choose one"))

    @property
    def where(self) -> str:
        return f"{type(self).__name__} {self.name!r}"

    @property
    def mass_shares(self) -> tuple[float, ...]:
        """Part of the mass of a cell that each of its points has."""
        return (1 / (self.dim + 1),) * (self.dim + 1)

    @functools.cached_property
    def stencils(self) -> Stencils:
        return Stencils(self.cells)

    def default_params(self) -> dict[str, Any]:
        """Parameters by name."""
        return {name: getattr(self, name) for name in self.names}

    def validate(self, p: Values) -> None:
        """Raise `InputError` for values without meaning."""
        for name, value in p.items():
            low = -math.inf if name in self.signed else 0.0
            bad = value <= low if name in self.positive or name == "nu" else value < low
            if name == "nu":
                bad = (value <= -1) | (value >= (0.5 if self.dim == 3 else 1.0))
            if bool(bad.any()) or not bool(torch.isfinite(value).all()):
                want = {"nu": f"-1 < nu < {0.5 if self.dim == 3 else 1.0}"}
                want = want.get(name, f"{name} {'>' if name in self.positive else '>='} {low}")
                got = value[bad][0] if bool(bad.any()) else "a value that is not finite"
                raise InputError(message(f"params of {self.where}", want, got, "Correct it"))

    def prepare(self, p: Values, X: Tensor) -> Values:
        """What elements read, each (1 or B, ...), from parameters (1 or B, S) and X (1 or B, N, 3).

        Always holds "measure", the rest measure of cells (1 or B, S), and "density", mass per measure.
        """
        raise NotImplementedError

    def terms(
        self, c: Values, scenes: int, points: int, tau: float, x_start: Tensor, bent: Tensor | None
    ) -> list[Element]:
        """Elements with coefficients c; `bent` (B, H) replaces the rest angles of hinges."""
        raise NotImplementedError

    def flow(self, c: Values, x: Tensor, bent: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Rest angles and hardening (B, H) after a step to x (B, N, 3); only where `plastic`."""
        raise NotImplementedError

    def shape_gradients(self, X: Tensor) -> Values:
        """Of the cells: "shape", G [1/m] (b, S, Q, k, d), "weight" (b, S, Q), "measure" (b, S), its sum.

        Raises:
            InputError: a cell without, or (tetrahedra) with negative measure.
        """
        corners = X[:, self.cells.to(X.device)]
        shape, weight = self._gradients(corners)
        size = (corners - corners[..., :1, :]).detach().square().sum((-2, -1)).sqrt() ** self.dim
        bad = ~(weight > 1e-12 * size.unsqueeze(-1)).all(-1)
        if bool(bad.any()):
            first = int(bad.nonzero()[0, 1])
            got = f"{int(bad.sum())} without, the first is cell {first} ({self.cells[first].tolist()})"
            fix = "Order corners so that the determinant is positive, and remove degenerate cells"
            raise InputError(message(self.where, "cells of positive rest measure", got, fix))
        return {"shape": shape, "weight": weight, "measure": weight.sum(-1)}

    def _gradients(self, corners: Tensor) -> tuple[Tensor, Tensor]:
        """G and weights of cells (b, S, k, 3)."""
        D = (corners[..., 1:, :] - corners[..., :1, :]).mT  # columns are edges
        if self.dim < 3:
            D = _flatten(D)
        ratio = torch.linalg.det(D)
        # A degenerate cell is reported by its measure.
        flat = torch.where((ratio.detach() == 0)[..., None, None], torch.eye(self.dim).to(D), D)
        inner = torch.linalg.inv(flat)
        shape = torch.cat((-inner.sum(-2, keepdim=True), inner), dim=-2)
        return shape.unsqueeze(2), (ratio / math.factorial(self.dim)).unsqueeze(-1)

    def simplices(
        self, c: Values, scenes: int, points: int, tau: float, x_start: Tensor
    ) -> Simplices:
        """The term of the cells themselves."""
        names = ("EA",) if self.dim == 1 else ("mu", "lam")
        rate = c["eta"] / tau if "eta" in c else None
        return Simplices(
            self.stencils, scenes, points, self.law, c["weight"], c["shape"],
            {name: c[name] for name in names}, rate, x_start,
        )  # fmt: skip


def _flatten(D: Tensor) -> Tensor:
    """Edges (..., 3, d) in coordinates of their own span, upper triangular (..., d, d), d = 1, 2."""
    first = D[..., 0]
    length = first.square().sum(-1).sqrt()
    if D.shape[-1] == 1:
        return length[..., None, None]
    along = first / length.unsqueeze(-1)
    second = D[..., 1]
    across = torch.linalg.cross(along, second).square().sum(-1)
    # The root of zero has no derivative; a degenerate triangle is reported by its measure.
    across = torch.where(across > 0, across, torch.finfo(D.dtype).tiny).sqrt()
    rows = (length, (along * second).sum(-1), torch.zeros_like(length), across)
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 2))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Solid(Part):
    """Tetrahedra of an elastic material, linear or with ten nodes."""

    nu: float | Tensor
    """Poisson's ratio [-], below 0.5."""
    law: str = "stable_neo_hookean"
    order: int = 1
    """1: cells (S, 4), too stiff in bending and near nu = 0.5; 2: (S, 10), see `quadratic`."""

    dim: ClassVar[int] = 3
    names: ClassVar[tuple[str, ...]] = ("E", "nu", "rho", "eta")

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            got = f"{self.order}"
            raise InputError(message(self.where, "order 1 or 2", got, "See `quadratic` for 2"))
        super().__post_init__()

    @property
    def mass_shares(self) -> tuple[float, ...]:
        return MASS_SHARES if self.order == 2 else super().mass_shares

    def _gradients(self, corners):
        return quadratic_gradients(corners) if self.order == 2 else super()._gradients(corners)

    def prepare(self, p, X):
        c = self.shape_gradients(X) | {"density": p["rho"]} | lame(p["E"], p["nu"], 3)
        return c | ({"eta": p["eta"]} if _used(p["eta"]) else {})

    def terms(self, c, scenes, points, tau, x_start, bent):
        return [self.simplices(c, scenes, points, tau, x_start)]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sheet(Part):
    """Triangles of a thin plate: membrane, and bending by the hinges of each triangle."""

    nu: float | Tensor
    """Poisson's ratio [-]."""
    h: float | Tensor
    """Thickness [m]."""
    k_bend: float | Tensor = 1.0
    """Rigidity relative to that of a plate of this thickness [-]: paper is not homogeneous."""
    law: str = "st_venant"
    bending: bool = True
    """Whether edges between triangles are hinges."""

    dim: ClassVar[int] = 2
    names: ClassVar[tuple[str, ...]] = ("E", "nu", "h", "rho", "k_bend", "eta")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bending:
            object.__setattr__(self, "hinges", hinges_of(self.where, self.cells))
            object.__setattr__(self, "layout", layout_of(self.cells, *self.hinges))

    hinges: Any = dataclasses.field(default=None, init=False, repr=False)
    """Points (H, 4): ends of the edge, then the corner to its left and to its right; and the two
    triangles (H, 2)."""
    layout: Any = dataclasses.field(default=None, init=False, repr=False)
    """`PlateLayout` of the hinges."""

    @property
    def hinge_count(self) -> int:
        return len(self.hinges[0]) if self.bending else 0

    def prepare(self, p, X):
        c = self.shape_gradients(X)
        h, area = p["h"], c["measure"]
        plane = {name: h * value for name, value in lame(p["E"], p["nu"], 2).items()}
        c |= {"density": p["rho"] * h} | plane
        used = _used(p["eta"])
        if used:
            c["eta"] = h * p["eta"]
        if not self.hinge_count:
            return c
        c["angle"] = hinge_angle(X[:, self.hinges[0].to(X.device)])
        bend, nu = p["k_bend"] * h**3 / 12, p["nu"]
        c["k_plate"] = self._plates(X, area, bend * p["E"] / (1 - nu**2), nu)
        if used:
            c["eta_plate"] = self._plates(X, area, 2 * bend * p["eta"], torch.zeros_like(nu))
        return c

    def _plates(self, X: Tensor, area: Tensor, D: Tensor, nu: Tensor) -> Tensor:
        """K (b, S, 3, 3) with ½ θ·K θ = A D/2 [(1 − ν) tr Λ² + ν (tr Λ)²], Λ = Σ θ_i |e_i| n_i n_iᵀ / 2A.

        n_i is the normal of side i in the plane of the triangle. A border has no hinge: its angle is
        what makes the energy least, so no moment acts across it, as on free and pinned edges.
        """
        corners = X[:, self.cells.to(X.device)]
        sides = corners.roll(-2, -2) - corners.roll(-1, -2)
        gram = sides @ sides.mT  # the angles between normals are those between sides
        length = gram.diagonal(dim1=-2, dim2=-1).sqrt()
        lengths = length.unsqueeze(-1) * length.unsqueeze(-2)
        nu, D, area = (t[..., None, None] for t in (nu, D, area))
        K = D / (4 * area) * ((1 - nu) * gram**2 / lengths + nu * lengths)
        inside = self.layout.sides.to(X.device) < self.hinge_count
        for i in range(3):
            own, row = K[..., i : i + 1, i : i + 1], K[..., i : i + 1, :]
            K = torch.where(inside[:, i, None, None], K, K - row.mT * row / own)
        used = inside.to(X)  # what was eliminated is zero but for rounding
        return K * used.unsqueeze(-1) * used.unsqueeze(-2)

    def terms(self, c, scenes, points, tau, x_start, bent):
        terms: list[Element] = [self.simplices(c, scenes, points, tau, x_start)]
        if self.hinge_count:
            rate = c["eta_plate"] / tau if "eta_plate" in c else None
            angle = c["angle"] if bent is None else bent
            plates = self.layout, scenes, points
            terms.append(Plates(*plates, c["k_plate"], angle, rate, x_start))
        return terms


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rod(Part):
    """Segments of an elastic rod, chained where they share a point."""

    r: float | Tensor
    """Radius of the section [m]."""
    k_bend: float | Tensor = 1.0
    """Rigidity relative to that of a full section [-]: ropes have less."""
    twist: bool = False
    """Whether sections turn, and resist it; cells (S, 4) then have two markers more, see `sections`."""
    nu: float | Tensor | None = None
    """Poisson's ratio [-]; this and the next ones only where it twists."""
    k_twist: float | Tensor = 1.0
    """Torsional stiffness relative to that of a full section [-]."""
    twist_ref: float | Tensor = 0.0
    """Twist at rest besides that of X [rad/m], positive for a right-handed screw."""
    law: str = "spring"

    dim: ClassVar[int] = 1
    names: ClassVar[tuple[str, ...]] = ("E", "r", "rho", "k_bend", "eta")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.twist != (self.nu is not None):
            got, fix = f"twist={self.twist}, nu={self.nu}", "Give both, or neither"
            raise InputError(message(self.where, "nu where, and only where, it twists", got, fix))
        object.__setattr__(self, "bends", bends_of(self.where, self.cells[:, :2]))

    bends: Any = dataclasses.field(default=None, init=False, repr=False)
    """Points in a row (H, 3), and their segments (H, 2)."""

    @property
    def mass_shares(self) -> tuple[float, ...]:
        return (0.25,) * 4 if self.twist else super().mass_shares

    @functools.cached_property
    def joints(self) -> Tensor:
        """Points in a row with the markers of their segments, (H, 7), for `twist_angle`."""
        points, segments = self.bends
        return torch.cat((points, self.cells[segments, 2:].flatten(1)), dim=1)

    @functools.cached_property
    def stencils(self) -> Stencils:
        return Stencils(self.cells[:, :2])

    @functools.cached_property
    def bend_stencils(self) -> Stencils:
        return Stencils(self.bends[0])

    @functools.cached_property
    def twist_stencils(self) -> tuple[Stencils, Stencils]:
        return Stencils(self.cells), Stencils(self.joints)

    def default_params(self):
        names = (*self.names, "nu", "k_twist", "twist_ref") if self.twist else self.names
        return {name: getattr(self, name) for name in names}

    def _gradients(self, corners):
        return super()._gradients(corners[..., :2, :])

    def prepare(self, p, X):
        c = self.shape_gradients(X)
        length, section = c["measure"], math.pi * p["r"] ** 2
        c["density"] = p["rho"] * section
        c["EA"] = p["E"] * section
        if _used(p["eta"]):
            c["eta"] = 1.5 * section * p["eta"]  # uniaxial stress is 3 η ε̇
        points, segments = (t.to(X.device) for t in self.bends)
        if len(points):
            B = p["k_bend"] * p["E"] * section**2 / (4 * math.pi)
            total = length[:, segments].sum(-1)
            mean = (B * length)[:, segments].sum(-1) / total
            c["k_bend"] = 2 * mean / total
            if not self.twist:
                c["curvature"] = _rest_curvature(X[:, points])
        if self.twist:
            cells, joints = self.cells.to(X.device), self.joints.to(X.device)
            c |= twist_coefficients(self.where, cells, joints, segments, p, X)
        return c

    def terms(self, c, scenes, points, tau, x_start, bent):
        terms: list[Element] = [self.simplices(c, scenes, points, tau, x_start)]
        if self.twist:
            return terms + twist_elements(self.twist_stencils, c, scenes, points, tau, x_start)
        if "k_bend" in c:
            terms.append(Bends(self.bend_stencils, scenes, points, c["k_bend"], c["curvature"]))
        return terms


def _rest_curvature(x: Tensor) -> Tensor:
    """2 tan(φ/2) of rest stencils; exactly 0 below 1e-6, where its root is not differentiable."""
    e, f = (x[..., i + 1, :] - x[..., i, :] for i in (0, 1))
    e, f = (v / v.square().sum(-1, keepdim=True).sqrt() for v in (e, f))
    gap = 0.5 * (e - f).square().sum(-1)
    straight = gap < 1e-12
    q = torch.where(straight, 1.0, 4 * gap / (2 - gap))
    return torch.where(straight, 0.0, q.sqrt())


def _used(value: Tensor) -> bool:
    """Whether a process takes place: not zero, or differentiated at zero."""
    return value.requires_grad or bool((value != 0).any())
