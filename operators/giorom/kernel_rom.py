"""Learned full-field maps: the published kernel, and a correction of an interpolation.

`KernelROM` averages the sensors' displacements on a grid and decodes positions from them.
`SplineCorrection` adds to `reconstruct.LocalSpline` a learned mean of the residuals of an affine fit;
it starts at zero and never changes an affine motion.

Source: Viswanath et al., arXiv 2407.03925, version of 2026 (kernel); the correction is an addition.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...sim.core.errors import InputError, message
from .reconstruct import AffineMLS, LocalSpline

__all__ = ["KernelROM", "SplineCorrection"]

EMPTY = 1e-5
"""Density of splatted sensors up to which a place counts as empty and reads 0; the source's value."""


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """Layer with weights U(±1/√inputs), torch's default, from a generator."""
    layer = nn.Linear(inputs, outputs)
    bound = inputs**-0.5
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def _perceptron(*sizes: int, zero: bool, generator: torch.Generator | None) -> nn.Sequential:
    """Linear layers with GELU between them, the last one zero if asked."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [_linear(a, b, generator), nn.GELU()]
    if zero:
        for parameter in layers[-2].parameters():
            nn.init.zeros_(parameter)
    return nn.Sequential(*layers[:-1])


class KernelROM(nn.Module):
    """Positions from displacements that are splatted to a grid, blurred, and decoded.

        s = (x − lower) / (upper − lower),   u_j = s_j − S_j,   c_j = (GELU(W u_j), 1, u_j)
        (f, ρ, u)(q) = E over ε of Σ_j c_j Λ(S_j, q + σ ε),   f ← f / ρ, u ← u / ρ   (0 where ρ ≤ 10⁻⁵)
        s_q = u + decoder(f, u, sin 2ⁱπS_q, cos 2ⁱπS_q)  [+ S_q],   i = 0, 1, 2

    Λ is the product of a splat and a look-up with linear weights on a grid of G nodes per axis, S are
    reference positions. 5,967 parameters in 3-D. The source also clips s_q to [0.001, 0.999]; that
    hides errors and stops gradients, and is left out.

    Args:
        dim: D, 2 or 3.
        grid: nodes per axis G.
        lower: smallest coordinate of the data set [m], one number for all axes.
        upper: largest coordinate [m].
        sigma: width of the blur σ [cells].
        samples: normal draws ε per query; None: a separable Gaussian blur of the grid, which is their
            mean over many draws and needs no randomness.
        absolute: decode positions, as the source; False: decode what is to add to S_q + u, with the
            decoder's last layer zero at the start.
        hidden: width of the decoder.
        generator: source of the initial weights.

    Raises:
        InputError: a value out of its range.
    """

    def __init__(
        self,
        dim: int = 3,
        *,
        grid: int = 64,
        lower: float = 0.0,
        upper: float = 1.0,
        sigma: float = 0.8,
        samples: int | None = 8,
        absolute: bool = True,
        hidden: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        positive = sigma > 0 and (samples is None or samples > 0)
        if dim not in (2, 3) or grid < 2 or not lower < upper or not positive:
            expected = "dim 2 or 3, grid ≥ 2, lower < upper, sigma > 0, samples ≥ 1 or None"
            got = f"{dim}, {grid}, [{lower}, {upper}], {sigma}, {samples}"
            raise InputError(message("KernelROM", expected, got))
        self.dim, self.grid, self.sigma, self.samples = dim, grid, sigma, samples
        self.lower, self.scale, self.absolute = lower, upper - lower, absolute
        self.lift = _linear(dim, dim, generator)
        sizes = (8 * dim, hidden, hidden, dim)
        self.decoder = _perceptron(*sizes, zero=not absolute, generator=generator)

    def forward(
        self,
        reference_sensors: Tensor,
        sensors: Tensor,
        reference_queries: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Positions of the queries [m], (..., N, D).

        Args:
            reference_sensors: X_j [m], (n, D).
            sensors: current positions x_j [m], (..., n, D).
            reference_queries: X_q [m], (N, D).
            generator: source of ε, on the device of the model.

        Raises:
            InputError: shapes that do not fit, or reference positions outside [lower, upper].

        Differentiable in `sensors` and the weights.
        """
        X, Q = reference_sensors, reference_queries
        if X.ndim != 2 or sensors.shape[-2:] != X.shape or Q.shape[-1:] != X.shape[-1:]:
            shapes = f"{tuple(X.shape)}, {tuple(sensors.shape)}, {tuple(Q.shape)}"
            raise InputError(message("KernelROM", "(n, D), (..., n, D) and (N, D)", shapes))
        u = (sensors - X) / self.scale
        values = torch.cat([functional.gelu(self.lift(u)), u], -1)
        smooth = self.interpolate(X, values, Q, generator)
        S = self._unit(Q)
        angles = torch.cat([2**i * math.pi * S for i in range(3)], -1)
        place = torch.cat([angles.sin(), angles.cos()], -1)
        place = place.expand(*smooth.shape[:-1], place.shape[-1])
        out = smooth[..., self.dim :] + self.decoder(torch.cat([smooth, place], -1))
        if not self.absolute:
            out = out + S
        return self.lower + self.scale * out

    def interpolate(
        self,
        reference_sensors: Tensor,
        values: Tensor,
        reference_queries: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Blurred mean of values (..., n, C) of the sensors at the queries, (..., N, C); no learning."""
        G, D, lead = self.grid, self.dim, values.shape[:-2]
        flat = values.reshape(lead.numel(), *values.shape[-2:]).transpose(0, 1).flatten(1)
        flat = torch.cat([flat, flat.new_ones(len(flat), 1)], 1)
        node, weight = self._corners(self._unit(reference_sensors) * (G - 1))
        splat = (weight[..., None] * flat[:, None]).flatten(0, 1)
        table = flat.new_zeros(G**D, flat.shape[1]).index_add(0, node.flatten(), splat)
        q = self._unit(reference_queries) * (G - 1)
        if self.samples is None:
            table = self._blur(table)
        else:
            shape = (len(q), self.samples, D)
            noise = torch.randn(shape, generator=generator, dtype=q.dtype, device=q.device)
            # Outside the grid its border counts, as in the source.
            q = (q[:, None] + self.sigma * noise).clamp(0, G - 1)
        node, weight = self._corners(q)
        rows, share = node.reshape(len(q), -1), weight.reshape(len(q), -1) / (self.samples or 1)
        out = functional.embedding_bag(rows, table, mode="sum", per_sample_weights=share)
        density = out[:, -1:]
        full = density > EMPTY
        mean = torch.where(full, out[:, :-1] / torch.where(full, density, 1.0), 0.0)
        mean = mean.unflatten(1, (lead.numel(), values.shape[-1])).transpose(0, 1)
        return mean.reshape(*lead, len(q), values.shape[-1])

    def _unit(self, x: Tensor) -> Tensor:
        """Coordinates in [0, 1]."""
        s = (x - self.lower) / self.scale
        # Room for the rounding of the data set's own extremes.
        if bool((s < -1e-6).any()) or bool((s > 1 + 1e-6).any()):
            limits = f"[{self.lower}, {self.lower + self.scale}] m"
            got = f"{float(x.min()):.6g} … {float(x.max()):.6g}"
            raise InputError(message("KernelROM", f"reference positions in {limits}", got))
        return s

    def _corners(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes (..., 2^D) around places in cell units and their linear weights."""
        G, D = self.grid, self.dim
        base = cell.detach().floor().clamp(0, G - 2)
        part = cell - base
        corner = torch.tensor(list(itertools.product((0, 1), repeat=D)), device=cell.device)
        weight = torch.where(corner.bool(), part[..., None, :], 1 - part[..., None, :]).prod(-1)
        stride = torch.tensor([G ** (D - 1 - a) for a in range(D)], device=cell.device)
        return ((base.long()[..., None, :] + corner) * stride).sum(-1), weight

    def _blur(self, table: Tensor) -> Tensor:
        """Gaussian blur of nodal values (G^D, C), zero outside."""
        cell = torch.arange(self.grid).to(table)
        kernel = ((cell[:, None] - cell) / self.sigma).square().div(-2).exp()
        kernel = kernel / (self.sigma * math.sqrt(2 * math.pi))
        for axis in range(self.dim):
            lines = table.reshape(self.grid**axis, self.grid, -1)
            table = (kernel @ lines).reshape(table.shape)
        return table


class SplineCorrection(nn.Module):
    """Learned correction of a local spline: a kernel on what the neighbours do beyond an affine motion.

        x_q = spline + Σ_j α_j r_j,    r_j = u_j − a − B (X_j − X_q)       residuals of `AffineMLS`
        α_j = net(m_j, mean_i m_i),    m_j = net(ξ_j, |ξ_j|, φ_j, |r_j| / ρ, |x_j − x_q| / h)

    over the neighbours j of the affine fit, with ξ_j = (X_j − X_q) / h, h the distance of the farthest
    one, φ_j the spline's weight and ρ² = mean |r_j|². The network knows no place, no scale and no
    direction of the motion, so x_q turns with the sensors, and affine motions stay exact, whatever its
    weights are. The last layer is zero at the start.

    On unseen throws (`benchmarks/bench_reconstruct.py`) it takes 2 to 3 % off the spline's error on jelly
    for every choice of sensors, and nothing dependable on water: compare before using it.

    Args:
        dim: D, 2 or 3.
        hidden: width of both networks.
        generator: source of the initial weights.
    """

    def __init__(
        self, dim: int = 3, *, hidden: int = 32, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        sizes = (dim + 4, hidden, hidden)
        self.message = _perceptron(*sizes, zero=False, generator=generator)
        self.weight = _perceptron(2 * hidden, hidden, 1, zero=True, generator=generator)

    def forward(self, spline: LocalSpline, affine: AffineMLS, sensors: Tensor) -> Tensor:
        """Positions of the queries [m], (..., *scenes, N, D).

        Args:
            spline: interpolation to correct.
            affine: affine fit of the same sensors and queries, with at most as many neighbours.
            sensors: current positions x_j [m], (..., *scenes, n, D).

        Raises:
            InputError: maps of different sensors or queries, or more neighbours in the affine fit.

        Differentiable in `sensors` and the weights, once.
        """
        pairs = ((affine.sensors, spline.sensors), (affine.queries, spline.queries))
        k = affine.index.shape[1]
        if k > spline.index.shape[1] or not all(torch.equal(*pair) for pair in pairs):
            expected = "maps with the same reference positions, k of affine ≤ k of spline"
            raise InputError(message("SplineCorrection", expected, "others"))
        X, Q, D = affine.sensors.flatten(0, -2), affine.queries.flatten(0, -2), sensors.shape[-1]
        lead = sensors.shape[: sensors.ndim - affine.sensors.ndim]

        def rows(x: Tensor, *tail: int) -> Tensor:
            return x.reshape(lead.numel(), len(Q), *tail)

        x_j = sensors.reshape(lead.numel(), len(X), D)[:, affine.index]
        offset = X[affine.index] - Q[:, None]
        distance = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
        h = distance.amax(1, keepdim=True)
        out = rows(spline.reconstruct(sensors), D)
        fit = rows(affine.reconstruct(sensors), D)
        F = rows(affine.deformation_gradient(sensors), D, D)
        r = x_j - fit[:, :, None] - (F[:, :, None] @ offset[..., None])[..., 0]
        # Lengths are smoothed at 10⁻⁶ h, where they have no derivative.
        size = (r.square().sum(-1, keepdim=True) + (1e-6 * h).square()).sqrt()
        rho = size.square().mean(2, keepdim=True).sqrt()
        now = ((x_j - out[:, :, None]).square().sum(-1, keepdim=True) / h**2 + 1e-12).sqrt()
        # Both maps list neighbours by distance: the first k of the spline are those of the fit.
        fixed = torch.cat([offset / h, distance / h, spline.weights[:, :k, None]], -1)
        m = self.message(torch.cat([fixed.expand(*r.shape[:-1], D + 2), size / rho, now], -1))
        mean = m.mean(2, keepdim=True).expand_as(m)
        out = out + (self.weight(torch.cat([m, mean], -1)) * r).sum(2)
        return out.reshape(*lead, *affine.queries.shape)
