"""Posterior of the latent code from sparse noisy observations: MAP, Laplace, Hamiltonian samples.

With β = T(z), z ~ N(0, I) by the prior, everything is a sum of squares,

    −log p(z | data) = ½ |ρ(z)|²,   ρ = [ (û_i − u_i)/σ_i ;  √(N/m) r_j/σ_r ;  z ]

r_j are the m residuals of the code with its own decoded input on fixed particles; N says for how many
independent observations they count. Decoders are frozen and evaluated at their points once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from .model import DGNO
from .priors import Prior
from .problem import Decode

__all__ = ["Observation", "Posterior", "Target", "noise_level", "sensors"]


def noise_level(u: Tensor, decibels: float) -> Tensor:
    """σ of white noise at a ratio SNR = 10 log10(mean u²/σ²), (S, n) → (S,). Source: DGenNO's code."""
    return (u.square().mean(-1) / 10 ** (decibels / 10)).sqrt()


def sensors(
    x: Tensor, u: Tensor, count: int, decibels: float, generator: torch.Generator | None = None
) -> Observation:
    """Noisy values at random ones of given points.

    Args:
        x: points (n, D).
        u: one solution there, (n,), or as cells.
        count: number of sensors.
        decibels: signal-to-noise ratio [dB].
        generator: of places and noise.

    Raises:
        InputError: more sensors than points, values at other points.
    """
    if u.numel() != len(x):
        fix = "Give one solution at these points"
        raise InputError(message("sensors", f"{len(x)} values", u, fix))
    u = u.flatten()
    if not 1 <= count <= len(x):
        raise InputError(message("sensors", f"a count in [1, {len(x)}]", count, "Lower it"))
    chosen = torch.randperm(len(x), generator=generator)[:count]
    sigma = float(noise_level(u[None], decibels))
    noise = sigma * torch.randn(count, generator=generator).to(u)
    return Observation(x[chosen], u[chosen] + noise, sigma)


@dataclasses.dataclass(frozen=True)
class Observation:
    """Values of one field at points."""

    x: Tensor
    """Points (n, D); of the input's own domain where `of` is "input"."""
    value: Tensor
    """(n,), or (C·n,) of a solution of C components, one component after the other."""
    sigma: float | Tensor
    """Standard deviation of the noise, the error of the decoder included; one, or one for each value."""
    of: str = "solution"
    """"solution", "input", or another one of the problem's observables, such as "p" or "s"."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A wanted or measured number of the decoded fields: a mean, a flux through a line, a design goal.

    Source: Zang & Koutsourelakis 2026 (Design-GenNO): inputs with given properties.
    """

    function: Callable[[Decode], Tensor]
    """Fields of a batch of codes ↦ numbers (B, m); differentiable, also forwards."""
    value: Tensor
    """(m,)."""
    sigma: float
    """How far off it may be."""


class Posterior:
    """p(z | data) of one problem.

    Args:
        model: trained; frozen here.
        prior: of its codes.
        observed: observations of solution, input and other fields, and `Target`s; one alone may go
            without a list. They are brought to the model's precision and device.
        residual_sigma: σ_r, root mean square of the residuals of codes of training inputs; None leaves
            the residuals out.
        residual_count: N; default dβ.
        generator: of the particles.
        binary: the residuals see a decoded input of two phases as its nearest phase, with the slope of
            its chance (straight through). The energy then has jumps: `maximize` takes what lowers it, and
            samplers accept by it, so that draws are of this posterior; but with steps a hundred times
            smaller where residuals weigh much, too small to mix. For MAP estimates.

    Raises:
        InputError: nothing observed, values that are not finite or do not fit their points, a prior of
            other codes, an input without phases with `binary`.

    Differentiable in z. Source: Zang & Koutsourelakis 2025 (DGenNO) for the objective; samples in the
    space of the noise and σ_r are ours.
    """

    def __init__(
        self,
        model: DGNO,
        prior: Prior,
        observed: Sequence[Observation | Target] | Observation | Target,
        residual_sigma: float | None = None,
        residual_count: float | None = None,
        generator: torch.Generator | None = None,
        binary: bool = False,
    ) -> None:
        if isinstance(observed, (Observation, Target)):
            observed = [observed]
        names = ("solution", "input", *model.problem.observables)
        wrong = [o for o in observed if isinstance(o, Observation) and o.of not in names]
        if (
            not observed
            or wrong
            or any(not bool((torch.as_tensor(o.sigma) > 0).all()) for o in observed)
        ):
            expected = f"observations with sigma > 0 of one of {names}"
            raise InputError(message("Posterior", expected, f"{len(observed)} of them", "Correct"))
        if prior.latent != model.config.latent:
            expected, fix = (
                f"a prior of {model.config.latent} entries",
                "Give it the model's latent",
            )
            raise InputError(message("Posterior", expected, prior.latent, fix))
        self._equations = model.problem.binary() if binary else model.problem
        like = next(model.parameters())
        self.model, self.prior = model, prior
        self.observed = [_like(o, like) for o in observed]
        self.residual_sigma, self.residual_count = residual_sigma, residual_count
        self._frozen: dict = {}
        self.where = None
        if residual_sigma is not None:
            self.where = model.problem.sample(generator, like)
        self.rows(
            torch.zeros(1, prior.latent, dtype=like.dtype, device=like.device)
        )  # checks shapes

    def decode(self, beta: Tensor):
        """Decoders whose trunks are kept for points seen before."""

        def fields(x: Tensor, order: int, names: tuple[str, ...]):
            # Under `torch.func` tensors give up numbers only, so a number stands for the points.
            place = x.detach().double().flatten()
            number = place @ torch.sin(1.0 + torch.arange(len(place)).to(place))
            key = (x.shape, order, names, float(number))
            if key not in self._frozen:
                with torch.no_grad():
                    self._frozen[key] = self.model.at(x, order, names)
            return self._frozen[key](beta)

        return fields

    def rows(self, z: Tensor) -> Tensor:
        """ρ, (B, dβ) → (B, m)."""
        decode, problem = self.decode(self.prior.code(z)), self.model.problem
        parts = []
        for o in self.observed:
            if isinstance(o, Target):
                found, what = o.function(decode), "the target"
            elif o.of == "input":
                found, what = problem.inputs(decode, o.x), f"{len(o.x)} points"
            elif o.of == "solution":
                found, what = problem.solution(decode, o.x), f"{len(o.x)} points"
            else:
                found, what = problem.observe(o.of, decode, o.x), f"{len(o.x)} points"
            found = found.reshape(len(z), -1)
            if found.shape[1] != o.value.numel():
                expected = f"{found.shape[1]} values for {what}"
                raise InputError(message("Posterior", expected, o.value, "Give one per component"))
            sigma = o.sigma.flatten() if isinstance(o.sigma, Tensor) else o.sigma
            parts.append((found - o.value.flatten()) / sigma)
        if self.where is not None:
            r = torch.cat(list(self._equations.residuals(decode, self.where, None).values()), 1)
            count = self.prior.latent if self.residual_count is None else self.residual_count
            parts.append(r * (math.sqrt(count / r.shape[1]) / self.residual_sigma))
        return torch.cat([*parts, z], 1)

    def energy(self, z: Tensor) -> Tensor:
        """−log p(z | data) up to a constant, (B,)."""
        return 0.5 * self.rows(z).square().sum(1)

    def slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`energy` and its gradient, (B,), (B, dβ)."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            energy = self.energy(z)
            return energy.detach(), torch.autograd.grad(energy.sum(), z)[0]

    def jacobian(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """ρ and ∂ρ/∂z of each z, (B, m), (B, m, dβ), by forward derivatives."""

        def column(direction: Tensor) -> tuple[Tensor, Tensor]:
            return torch.func.jvp(self.rows, (z,), (direction.expand_as(z),))

        eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        rho, columns = torch.func.vmap(column, out_dims=(None, -1))(eye)
        return rho.detach(), columns.detach()

    def maximize(self, z: Tensor, iterations: int = 40, tol: float = 1e-5) -> Tensor:
        """MAP estimates from starts (B, dβ) by Levenberg–Marquardt, each start by itself.

        Args:
            z: starts; several, as the energy may have several minima.
            iterations: at most.
            tol: relative decrease of the energy that ends it.

        Returns:
            (B, dβ), in the order of the starts.

        Raises:
            InputError: starts of another shape.
        """
        if z.ndim != 2 or z.shape[1] != self.prior.latent:
            expected, fix = f"starts (B, {self.prior.latent})", "Begin at torch.zeros(1, latent)"
            raise InputError(message("Posterior.maximize", expected, z, fix))
        z = z.detach().clone()
        damping = torch.ones(len(z), 1, 1, dtype=z.dtype, device=z.device)
        eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        with torch.no_grad():
            for _ in range(iterations):
                rho, J = self.jacobian(z)
                H, g = J.mT @ J, (J.mT @ rho[..., None])[..., 0]
                before = 0.5 * rho.square().sum(1)
                step = torch.linalg.solve(H + damping * eye, g)
                after = self.energy(z - step)
                better = (after < before) & torch.isfinite(after)
                z = torch.where(better[:, None], z - step, z)
                factor = torch.where(better, 0.3, 4.0)[:, None, None]
                damping = (damping * factor).clamp(1e-4, 1e8)
                if bool((better & (before - after < tol * before)).all()):
                    break
        return z

    def laplace(self, z: Tensor) -> Tensor:
        """L with L Lᵀ = (∂ρᵀ∂ρ)⁻¹ at one point z (dβ,): the root of the posterior's covariance."""
        _, J = self.jacobian(z[None])
        H = (J[0].mT @ J[0]).double()
        root = torch.linalg.cholesky(H)
        eye = torch.eye(len(H), dtype=H.dtype, device=H.device)
        return torch.linalg.solve_triangular(root, eye, upper=False).mT.to(z.dtype)


def _like(o: Observation | Target, like: Tensor) -> Observation | Target:
    """What was observed, in the precision and on the device of a model."""
    numbers = {k: v for k, v in vars(o).items() if isinstance(v, Tensor)}
    bad = [k for k, v in numbers.items() if not bool(torch.isfinite(v.detach()).all())]
    if bad:
        fix = "Leave those sensors out"
        raise InputError(message("Posterior", f"finite {bad[0]}", "numbers that are not", fix))
    sigma = numbers.get("sigma")
    if sigma is not None and sigma.numel() not in (1, numbers["value"].numel()):
        raise InputError(message("Posterior", "one sigma, or one for each value", sigma, "Correct"))
    return dataclasses.replace(o, **{k: v.to(like) for k, v in numbers.items()})
