"""What a cloud of particles looks like from a grid, a region or a point: measures without identity.

    density    ρ_k = Σ_p m_p w_k(x_p) / h^D        w the quadratic B-spline of the MPM, Σ_k w_k = 1
    mismatch   ∫ (ρ − ρ*)² dV / ∫ ρ*² dV
    inside     Σ_p a_p s(d(x_p)),  s a smooth step over a signed distance
    mixing     s² = Σ_k m_k (c_k − c̄)² / Σ_k m_k,  c_k the share of one liquid in cell k

A cell reaches 1.5 h to each side: measures on a coarse grid see particles before they arrive, and do not
change when particles swap places. Positions are (B, N, D), results (B,); all are differentiable in the
positions, with continuous first derivatives unless a function says otherwise.

Source: Steffen et al. 2008 (B-splines); Lacey 1954 and Danckwerts 1952 (mixing).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...sim.core import rotations
from ...sim.core.colliders import embed
from ...sim.core.errors import InputError, message
from ...sim.core.shape_base import Shape
from .losses import check_clouds, shares

__all__ = [
    "Cells",
    "attraction",
    "density",
    "density_mismatch",
    "fraction_inside",
    "lacey_index",
    "pair_distance",
    "probe",
    "segregation",
]


@dataclasses.dataclass(frozen=True)
class Cells:
    """Nodes of a regular grid: node k at lower + spacing · k."""

    lower: tuple[float, ...]
    """Position of node 0 [m], D numbers."""
    spacing: float
    """Distance of nodes h [m]; several particle spacings, or noise is all that is seen."""
    shape: tuple[int, ...]
    """Nodes along each axis, at least 3."""

    def __post_init__(self) -> None:
        good = len(self.lower) == len(self.shape) and 0 < self.spacing < math.inf
        if not good or min(self.shape, default=0) < 3:
            fix = "Cells.over(lower, upper, spacing) counts the nodes"
            raise InputError(message("Cells", "D origins, h > 0 m, D counts >= 3", f"{self}", fix))

    @classmethod
    def over(cls, lower: Sequence[float], upper: Sequence[float], spacing: float) -> Cells:
        """Nodes such that particles anywhere between two corners [m] have all their weights."""
        counts = [
            math.ceil((b - a) / spacing - 1e-9) + 2 for a, b in zip(lower, upper, strict=True)
        ]
        return cls(tuple(a - 0.5 * spacing for a in lower), float(spacing), tuple(counts))

    @property
    def volume(self) -> float:
        """Volume of a cell, h^D [m^D]."""
        return self.spacing ** len(self.shape)


def density(x: Tensor, cells: Cells, mass: Tensor | None = None) -> Tensor:
    """Density of particles on a grid, ρ_k = Σ_p m_p w_k(x_p)/h^D.

    Args:
        x: Positions [m], (B, N, D), D = 1, 2 or 3.
        cells: Grid; every particle lies half a spacing or more inside its outermost nodes.
        mass: Masses [kg], (N,) or (B, N); default shares 1/N, total 1.

    Returns:
        ρ [kg/m^D], (B, *cells.shape); its sum times h^D is the total mass.

    Raises:
        InputError: wrong shapes, or particles outside the grid.

    Differentiable in x and mass. Source: Steffen et al. 2008, Eq. 20.
    """
    index, w = _weights("density", x, cells)
    m = shares("density", None, x) if mass is None else _per_particle("density", mass, x)
    return _splat(index, w * m.unsqueeze(-1), cells).unflatten(1, cells.shape) / cells.volume


def density_mismatch(
    x: Tensor,
    target: Tensor,
    cells: Cells,
    mass: Tensor | None = None,
    target_mass: Tensor | None = None,
) -> Tensor:
    """∫ (ρ − ρ*)² dV / ∫ ρ*² dV of two clouds: 0 for equal densities, 2 for equal blobs far apart.

    Unlike transport it has no gradient between clouds that share no cell, so grids go from coarse to
    fine. Arguments as in `density`, for x (B, N, D) and target (B, M, D).

    Returns:
        Mismatch [-], (B,).

    Differentiable in both clouds and masses.
    """
    check_clouds("density_mismatch", x, target)
    ours, theirs = density(x, cells, mass), density(target, cells, target_mass)
    return (ours - theirs).square().flatten(1).sum(1) / theirs.square().flatten(1).sum(1)


def fraction_inside(
    x: Tensor,
    shape: Shape,
    width: float,
    position: Sequence[float] = (0.0, 0.0, 0.0),
    orientation: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    weights: Tensor | None = None,
) -> Tensor:
    """Share of particles in a region, counted smoothly: Σ a_p s(½ − d_p/w), s(u) = u³(10 − 15u + 6u²).

    A particle deeper than w/2 counts fully, one w/2 outside not at all, so w is also how far from the
    region its gradient reaches.

    Args:
        x: Positions [m], (B, N, D), D = 2 or 3.
        shape: Region; in 2-D its section y = 0.
        width: Width w of the step [m].
        position: Place of the region [m], (3,); (x, 0, z) in 2-D.
        orientation: Quaternion (w, x, y, z) of the region [-].
        weights: Masses, (N,) or (B, N); default equal.

    Returns:
        Share [-] in [0, 1], (B,).

    Raises:
        InputError: wrong shapes, or width not positive.

    Differentiable in x and weights, twice continuously where d is smooth.
    """
    where = "fraction_inside"
    check_clouds(where, x)
    if not 0 < width < math.inf:
        raise InputError(message(where, "width > 0 m", width, "Take a few particle spacings"))
    points = embed(x)
    local = rotations.rotate_inverse(
        points.new_tensor(orientation), points - points.new_tensor(position)
    )
    u = (0.5 - shape.signed_distance(local)[0] / width).clamp(0, 1)
    return (shares(where, weights, x) * (u**3 * (10 - 15 * u + 6 * u * u))).sum(-1)


def attraction(x: Tensor, anchor: Tensor, k: int) -> Tensor:
    """Mean squared distance of the k particles nearest to an anchor, (1/k) Σ |x_p − anchor|².

    Particles that no objective touches yet have no gradient; pulled towards one that has, or towards
    the object they should push, they come within reach (FluidLab's gradient sharing).

    Args:
        x: Positions [m], (B, N, D).
        anchor: Where to [m], (D,) or (B, D); detach it where it should not be pulled back.
        k: Number of particles, 1 … N; N pulls all.

    Returns:
        Mean [m²], (B,).

    Raises:
        InputError: wrong shapes or k.

    Differentiable in x and anchor; the derivative jumps where the k-th particle changes, the value not.
    Source: Xian et al. 2023 (FluidLab), tasks Pouring and Transporting.
    """
    check_clouds("attraction", x)
    B, N, D = x.shape
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= N:
        raise InputError(message("attraction", f"k in 1 … {N}", k, "Ask for particles that exist"))
    if anchor.shape not in ((D,), (B, D)):
        raise InputError(message("attraction", f"anchor ({D},) or ({B}, {D}) [m]", anchor))
    distance = (x - anchor.expand(B, D).unsqueeze(1)).square().sum(-1)
    return distance.topk(k, dim=-1, largest=False).values.mean(-1)


def pair_distance(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Mean distance of particles: between two clouds, or of all ordered pairs within one.

    FluidLab rewards the second for milk that spreads. Its derivative at equal positions is set to zero.

    Args:
        x: Positions [m], (B, N, D).
        y: Positions [m], (B, M, D); default x, where a particle's distance to itself is left out.

    Returns:
        Mean [m], (B,); 0 for a single particle.

    Differentiable in x and y. Memory N·M numbers per scene.
    Source: Xian et al. 2023 (FluidLab), task Mixing.
    """
    check_clouds("pair_distance", x, *([] if y is None else [y]))
    other = x if y is None else y
    squared = (x.unsqueeze(2) - other.unsqueeze(1)).square().sum(-1)
    apart = squared > 0
    distance = torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0).sum((-1, -2))
    N, M = squared.shape[1:]
    return distance / (N * M if y is not None else max(1, N * (N - 1)))


def segregation(x: Tensor, kind: Tensor, cells: Cells, mass: Tensor | None = None) -> Tensor:
    """Danckwerts' intensity of segregation, s²/(c̄ (1 − c̄)): 1 for separate liquids, 0 when mixed.

    Cells that hold both along a clean interface count as mixed, so separate liquids stay below 1 by
    their share; random mixing stays above 0, see `lacey_index`.

    Args:
        x: Positions [m], (B, N, D).
        kind: Share of the first liquid in each particle, 0 … 1, (N,) or (B, N); usually 0 or 1.
        cells: Grid at whose scale mixing is judged.
        mass: Masses [kg], (N,) or (B, N); default equal.

    Returns:
        Intensity [-], (B,).

    Raises:
        InputError: wrong shapes, particles outside the grid, or one liquid alone.

    Differentiable in x, kind and mass. Source: Danckwerts 1952.
    """
    variance, separate, _ = _mixing("segregation", x, kind, cells, mass)
    return variance / separate


def lacey_index(x: Tensor, kind: Tensor, cells: Cells, mass: Tensor | None = None) -> Tensor:
    """Lacey's index (s₀² − s²)/(s₀² − s_r²): 0 for separate liquids, 1 for randomly mixed ones.

    s₀² = c̄ (1 − c̄); s_r² is the expectation of s² if the same particles carried their kinds in random
    order, s₀² (N Σ_k m_k Σ_p q_pk²/Σ m − 1)/(N − 1) with q_pk the share of particle p in cell k: exact
    for equal masses. Arguments and errors as in `segregation`.

    Returns:
        Index [-], (B,); above 1 for liquids mixed better than at random.

    Differentiable in x, kind and mass. Source: Lacey 1954, with the variance of weighted samples.
    """
    variance, separate, shuffled = _mixing("lacey_index", x, kind, cells, mass)
    if not bool((shuffled < 0.9 * separate).all()):
        share = float((shuffled / separate).max())
        fix = "Use larger cells or more particles"
        got = f"{share:.0%} of all variance left by random order"
        raise InputError(message("lacey_index", "several particles per cell", got, fix))
    return (separate - variance) / (separate - shuffled)


def probe(field: Tensor, points: Tensor, lower: Sequence[float], spacing: float) -> Tensor:
    """Values of a field on grid nodes at points in between, multilinear: thermometers in a room.

    Args:
        field: Values at nodes, (B, *shape), shape of D axes, any unit.
        points: Probes [m], (P, D) or (B, P, D).
        lower: Position of node 0 [m], D numbers.
        spacing: Distance of nodes [m].

    Returns:
        Values, (B, P), in the unit of the field.

    Raises:
        InputError: wrong shapes, or probes outside the nodes.

    Differentiable in field and points; the derivative in the points jumps at cell borders.
    """
    D, B = field.ndim - 1, field.shape[0]
    if points.ndim not in (2, 3) or points.shape[-1] != D or len(lower) != D or not spacing > 0:
        expected = f"points (P, {D}) or (B, P, {D}) [m], {D} origins and spacing > 0 m"
        raise InputError(message("probe", expected, points, "One coordinate per axis of the field"))
    points = points.expand(B, *points.shape[-2:])
    count = points.new_tensor(field.shape[1:])
    u = (points - points.new_tensor(lower)) / spacing
    inside = (u.detach() >= 0).all() & (u.detach() <= count - 1).all()
    if not bool(inside):
        upper = [a + spacing * (n - 1) for a, n in zip(lower, field.shape[1:], strict=True)]
        fix = "Move the probes into the grid"
        raise InputError(
            message("probe", f"probes in {tuple(lower)} … {tuple(upper)} m", points, fix)
        )
    base = torch.minimum(u.detach().floor(), count - 2)
    t = u - base
    scene = torch.arange(B, device=field.device).unsqueeze(-1)
    total = torch.zeros(points.shape[:-1], dtype=field.dtype, device=field.device)
    for offset in itertools.product((0, 1), repeat=D):
        o = points.new_tensor(offset)
        weight = (o * t + (1 - o) * (1 - t)).prod(-1)
        total = total + weight * field[(scene, *(base + o).long().unbind(-1))]
    return total


def _mixing(
    where: str, x: Tensor, kind: Tensor, cells: Cells, mass: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """s², s₀² and s_r² of the docstrings above, each (B,)."""
    index, w = _weights(where, x, cells)
    a = shares(where, mass, x)
    c = _per_particle(where, kind, x)
    if bool(((c.detach() < 0) | (c.detach() > 1)).any()):
        raise InputError(
            message(where, "kind in 0 … 1", kind, "Give the share of the first liquid")
        )
    mean = (a * c).sum(-1, keepdim=True)
    separate = (mean * (1 - mean))[:, 0]
    if not bool((separate.detach() > 0).all()):
        raise InputError(message(where, "two liquids", "one alone", "Mark both kinds of particles"))
    m = w * a.unsqueeze(-1)
    total = _splat(index, m, cells)
    some = total.detach() > 1e-12 * total.detach().amax(-1, keepdim=True)
    safe = torch.where(some, total, 1.0)

    def over_cells(values: Tensor) -> Tensor:
        return torch.where(some, values / safe, 0.0).sum(-1)

    excess = _splat(index, m * (c - mean).unsqueeze(-1), cells)
    alone = over_cells(_splat(index, m * m, cells))
    N = x.shape[1]
    return over_cells(excess * excess), separate, separate * (N * alone - 1) / max(N - 1, 1)


def _weights(where: str, x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """Flat node numbers and B-spline weights of particles, both (B, N, 3^D)."""
    check_clouds(where, x)
    D = x.shape[-1]
    if len(cells.shape) != D:
        raise InputError(message(where, f"cells of {D} axes", f"{cells}", "Drop or add an axis"))
    u = (x - x.new_tensor(cells.lower)) / cells.spacing
    count = x.new_tensor(cells.shape)
    base = (u.detach() - 0.5).floor()
    outside = ((base < 0) | (base + 2 > count - 1)).any(-1)
    # The last place still has three nodes when it is reached by round-off or exactly.
    edge = (u.detach() >= 0.5 - 1e-5) & (u.detach() <= count - 1.5 + 1e-5)
    if bool((outside & ~edge.all(-1)).any()):
        fix = "Use Cells.over with the corners of the domain"
        got = f"{int((outside & ~edge.all(-1)).sum())} particles outside"
        raise InputError(message(where, f"all particles inside {cells}", got, fix))
    base = torch.minimum(base.clamp(min=0), count - 3)
    fx = u - base
    axis = torch.stack(
        (0.5 * (1.5 - fx).square(), 0.75 - (fx - 1).square(), 0.5 * (fx - 0.5).square()), dim=-1
    )  # (B, N, D, 3)
    weight = torch.ones_like(x[..., :1])
    index = torch.zeros_like(x[..., :1], dtype=torch.int64)
    steps = torch.arange(3, device=x.device)
    for d in range(D):
        weight = (weight.unsqueeze(-1) * axis[:, :, d].unsqueeze(-2)).flatten(-2)
        nodes = base[..., d, None].long() + steps
        index = (index.unsqueeze(-1) * cells.shape[d] + nodes.unsqueeze(-2)).flatten(-2)
    return index, weight


def _splat(index: Tensor, values: Tensor, cells: Cells) -> Tensor:
    """Sums of values (B, N, 3^D) over their nodes, (B, nodes)."""
    total = values.new_zeros(values.shape[0], math.prod(cells.shape))
    return total.scatter_add(1, index.flatten(1), values.flatten(1))


def _per_particle(where: str, values: Tensor, x: Tensor) -> Tensor:
    """Values (N,) or (B, N) as (B, N) of the type of x."""
    values = torch.as_tensor(values).to(dtype=x.dtype, device=x.device)
    if values.shape not in (x.shape[1:2], x.shape[:2]):
        expected = f"({x.shape[1]},) or {tuple(x.shape[:2])}"
        raise InputError(message(where, f"one value per particle, {expected}", values, "Expand it"))
    return values.expand(x.shape[:2])
