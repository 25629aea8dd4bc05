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
from .discrepancy import Discrepancy, Learned
from .model import DGNO
from .priors import Prior
from .problem import Decode
from .sampling import normals

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
        u: one solution there, (n,), or as cells; of C components (C, n) or (C·n,): a sensor sees all.
        count: number of sensors.
        decibels: signal-to-noise ratio [dB].
        generator: of places and noise.

    Raises:
        InputError: more sensors than points, values at other points.
    """
    several = len(x) > 0 and u.ndim in (1, 2) and u.shape[-1] % len(x) == 0
    if u.numel() == 0 or (u.numel() != len(x) and not several):
        fix = "Give one solution at these points"
        raise InputError(message("sensors", f"{len(x)} values, or (C, {len(x)})", u, fix))
    u = u.reshape(-1, len(x))
    if not 1 <= count <= len(x):
        raise InputError(message("sensors", f"a count in [1, {len(x)}]", count, "Lower it"))
    place = "cpu" if generator is None else generator.device
    chosen = torch.randperm(len(x), generator=generator, device=place)[:count].to(x.device)
    sigma = float(noise_level(u.reshape(1, -1), decibels))
    noise = sigma * normals((len(u), count), u, generator)
    return Observation(x[chosen], (u[:, chosen] + noise).flatten(), sigma)


@dataclasses.dataclass(frozen=True)
class Observation:
    """Values of one field at points."""

    x: Tensor
    """Points (n, D); of the input's own domain where `of` is "input"."""
    value: Tensor
    """(n,), or (C·n,) of a solution of C components, one component after the other."""
    sigma: float | Tensor
    """Standard deviation of the noise: one, one for each value, or a root L of a covariance L Lᵀ, as many
    rows and columns as values. Where no `Discrepancy` is given it includes the error of the decoder."""
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
        discrepancy: what the decoder of an observable is off by, one or several: added to sensors of it
            and learned from them. Without it intervals are too narrow where sensors are precise, and
            with one number for all points, in sigma, they are too wide.
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
        discrepancy: Discrepancy | Sequence[Discrepancy] = (),
    ) -> None:
        if isinstance(observed, (Observation, Target)):
            observed = [observed]
        names = ("solution", "input", *model.problem.observables)
        if not observed:
            raise InputError(message("Posterior", "observations", "none", "Give one, or more"))
        for k, o in enumerate(observed):
            known = isinstance(o, Target) or o.of in names
            if not known or not bool((_deviations(o) > 0).all()):
                expected = f"observations with sigma > 0 of one of {names}"
                got = f"sigma {o.sigma}" if known else f"{o.of!r}"
                fix = f"Correct number {k + 1} of {len(observed)}"
                raise InputError(message("Posterior", expected, got, fix))
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
        self._learned: dict[str, tuple[Observation, Learned]] = {}
        one = isinstance(discrepancy, Discrepancy)
        self.discrepancies = [discrepancy] if one else list(discrepancy)
        for each in self.discrepancies:
            self._include(each)
        self._whitened = [_whitening(o) for o in self.observed]
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
        for o, white in zip(self.observed, self._whitened, strict=True):
            if isinstance(o, Target):
                found, what = o.function(decode), "the target"
            elif o.of == "input":
                found, what = problem.inputs(decode, o.x), f"{len(o.x)} points"
            else:
                found, what = self._observe(o, decode), f"{len(o.x)} points"
            found = found.reshape(len(z), -1)
            if found.shape[1] != o.value.numel():
                expected = f"{found.shape[1]} values for {what}"
                raise InputError(message("Posterior", expected, o.value, "Give one per component"))
            off = found - o.value.flatten()
            parts.append(off @ white.mT if white.ndim == 2 else off * white)
        if self.where is not None:
            r = torch.cat(list(self._equations.residuals(decode, self.where, None).values()), 1)
            count = self.prior.latent if self.residual_count is None else self.residual_count
            parts.append(r * (math.sqrt(count / r.shape[1]) / self.residual_sigma))
        return torch.cat([*parts, z], 1)

    def _observe(self, o: Observation, decode: Decode) -> Tensor:
        return self.model.problem.observe(_name(o), decode, o.x)

    def _include(self, one: Discrepancy) -> None:
        """Sensors of an observable become one observation, less the mean of what the decoder is off by,
        with all that sets them apart as its noise."""
        mine = [o for o in self.observed if isinstance(o, Observation) and _name(o) == one.of]
        if one.of not in self.model.problem.observables or one.of in self._learned:
            expected = f"discrepancies of different ones of {self.model.problem.observables}"
            raise InputError(message("Posterior", expected, one.of, "Correct `of`"))
        if not mine:
            return
        C, dtype = len(one.mean), mine[0].x.dtype
        for o in mine:
            if o.value.numel() != C * len(o.x):
                expected = f"{C * len(o.x)} values for {len(o.x)} points"
                raise InputError(message("Posterior", expected, o.value, "Give one per component"))
        blocks = torch.block_diag(*(_covariance(o) for o in mine))
        # Components go before points, also where several observations become one.
        order = torch.cat([torch.arange(o.value.numel()).reshape(C, -1) for o in mine], 1)
        first = torch.tensor([0, *(o.value.numel() for o in mine)])[:-1].cumsum(0)
        sizes = torch.tensor([len(o.x) for o in mine])
        order = (order + first.repeat_interleave(sizes)).flatten().to(blocks.device)
        x = torch.cat([o.x for o in mine])
        value = torch.cat([o.value.flatten() for o in mine])[order]
        learned = one.learned(x, blocks[order][:, order])
        joint = Observation(x, value - learned.mean.to(dtype), learned.root.to(dtype), one.of)
        self._learned[one.of] = (joint, learned)
        kept = [o for o in self.observed if all(o is not other for other in mine)]
        self.observed = [*kept, joint]

    @torch.no_grad()
    def predict(
        self,
        z: Tensor,
        x: Tensor | None = None,
        of: str = "u",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Samples of an observable, one for each sample of z: as decoded, and with a sample of what the
        decoder is off by, given the sensors, where there is a `Discrepancy` of it.

        Args:
            z: (B, dβ), such as `Samples.flat()`.
            x: points (n, D); default those of the problem.
            of: the observable.
            generator: source.

        Returns:
            (B, C, n).
        """
        decode, problem = self.decode(self.prior.code(z)), self.model.problem
        x = problem.points(z) if x is None else x.to(z)
        found = problem.observe(of, decode, x)
        one = next((d for d in self.discrepancies if d.of == of), None)
        if one is None:
            return found
        c = None
        if of in self._learned:
            seen, learned = self._learned[of]
            off = seen.value - self._observe(seen, decode).reshape(len(z), -1)
            c = off @ learned.gain.mT.to(z)
            c = c + normals(c.shape, c, generator) @ learned.spread.mT.to(z)
        return found + one.draw(x, (len(z),), generator, c)

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
    sigma, count = numbers.get("sigma"), numbers["value"].numel()
    if sigma is not None and sigma.numel() not in (1, count) and sigma.shape != (count, count):
        expected = "one sigma, one for each value, or a root (n, n)"
        raise InputError(message("Posterior", expected, sigma, "Correct"))
    return dataclasses.replace(o, **{k: v.to(like) for k, v in numbers.items()})


def _name(o: Observation) -> str:
    return "u" if o.of == "solution" else o.of


def _deviations(o: Observation | Target) -> Tensor:
    """What must be positive of its sigma."""
    sigma = torch.as_tensor(o.sigma)
    return sigma.diagonal() if _has_root(o) else sigma


def _has_root(o: Observation | Target) -> bool:
    count = o.value.numel()
    return count > 1 and isinstance(o.sigma, Tensor) and o.sigma.shape == (count, count)


def _covariance(o: Observation) -> Tensor:
    """Of the noise, in float64."""
    sigma = torch.as_tensor(o.sigma, dtype=torch.float64, device=o.x.device)
    if _has_root(o):
        return sigma @ sigma.mT
    return sigma.flatten().square().expand(o.value.numel()).diag()


def _whitening(o: Observation | Target) -> Tensor:
    """What makes noise white: a number for each value, or the inverse of the root."""
    sigma = torch.as_tensor(o.sigma, dtype=o.value.dtype, device=o.value.device)
    if not _has_root(o):
        return 1 / sigma.flatten()
    return torch.linalg.inv(sigma.double()).to(sigma)
