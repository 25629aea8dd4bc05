"""Errors, spreads and coverage of a trained model."""

from __future__ import annotations

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from .discrepancy import Discrepancy
from .model import DGNO
from .priors import Prior
from .problem import check_codes
from .sampling import normals, uniforms
from .scattered import Scattered

__all__ = [
    "coverage",
    "cross_correlation",
    "generate",
    "logistic_phases",
    "pixel_accuracy",
    "predict",
    "r_squared",
    "relative_error",
    "residual_rms",
]


def relative_error(found: Tensor, truth: Tensor) -> Tensor:
    """‖found − truth‖₂/‖truth‖₂ of each sample, (S, ...) twice → (S,); axes after the first may differ.

    Source: DGenNO's metric, without its 1e-8.
    """
    a, b = _pairs("relative_error", found, truth)
    return torch.linalg.vector_norm(a - b, dim=1) / torch.linalg.vector_norm(b, dim=1)


def pixel_accuracy(found: Tensor, truth: Tensor, middle: float) -> Tensor:
    """Share of cells on the right side of `middle`, (S, ...) → (S,). Source: GenPANIS."""
    a, b = _pairs("pixel_accuracy", found, truth)
    return ((a > middle) == (b > middle)).double().mean(1)


def cross_correlation(found: Tensor, truth: Tensor) -> Tensor:
    """I_corr = ⟨a, â⟩/(‖a‖ ‖â‖) of each sample, (S, ...) twice → (S,): 1 is perfect, also up to a factor.

    Means are not taken off, so positive fields are never near 0. Source: Zang & Koutsourelakis 2025
    (DGenNO).
    """
    a, b = _pairs("cross_correlation", found, truth)
    return torch.nn.functional.cosine_similarity(a, b, dim=1, eps=0.0)


def r_squared(found: Tensor, truth: Tensor) -> Tensor:
    """R² = 1 − Σ‖u − û‖²/Σ‖u − ū‖² over all samples, ū their mean field: (S, ...) twice → ().

    Raises:
        InputError: fewer than two samples.

    Source: GenPANIS.
    """
    a, b = _pairs("r_squared", found, truth)
    if len(b) < 2:
        raise InputError(message("r_squared", "two samples or more", len(b), "Give more"))
    return 1 - (a - b).square().sum() / (b - b.mean(0)).square().sum()


def _pairs(where: str, found: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    a, b = found.flatten(1), truth.flatten(1)
    if a.shape != b.shape:
        expected = f"fields of one size, {tuple(b.shape)}"
        raise InputError(message(where, expected, found, "Compare at the same points"))
    return a, b


def logistic_phases(
    chance: Tensor,
    phases: tuple[float, float],
    draws: int = 25,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Two-phase field as published code decodes it: low + (high − low) σ(mean_s[logit ε_s + logit p]).

    ε ~ U(0, 1). As the mean of many draws is near logit p, this is p with noise of deviation 1.8/√draws
    in its logit, neither phase; `pixel_accuracy` and the chance itself say more.

    Args:
        chance: p of the upper phase, any shape.
        phases: (low, high).
        draws: S.
        generator: source.

    p is taken between 1e-6 and 1 − 1e-6, as the logit has no end; differentiable in p inside. Source:
    released code of DGenNO (averaged logistic samples).
    """
    noise = torch.zeros_like(chance)
    for _ in range(draws):
        u = uniforms(chance.shape, chance, generator).clamp(1e-6, 1 - 1e-6)
        noise = noise + torch.logit(u)
    low, high = phases
    return low + (high - low) * torch.sigmoid(noise / draws + torch.logit(chance, 1e-6))


def coverage(samples: Tensor, truth: Tensor, level: float = 0.9) -> Tensor:
    """Share of truths inside the central interval of the samples, which should be `level`.

    Args:
        samples: (draws, ...).
        truth: (...), or the same numbers with the axes of points in one or in several.
        level: of the interval between the quantiles (1 ± level)/2.

    Raises:
        InputError: truths of other samples or points, a level out of (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(message("coverage", "a level in (0, 1)", level, "Give 0.9, not 90"))
    if samples.ndim < 1 or len(samples) == 0:
        raise InputError(message("coverage", "samples (draws, ...)", samples, "Draw some"))
    shape = samples.shape[1:]
    if truth.shape != shape:
        if truth.numel() != shape.numel() or truth.shape[:1] != shape[:1]:
            fix = "Compare at the same points"
            raise InputError(message("coverage", f"truths {tuple(shape)}", truth, fix))
        truth = truth.reshape(shape)
    ends = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=samples.dtype)
    low, high = torch.quantile(samples, ends.to(samples.device), dim=0)
    return ((truth >= low) & (truth <= high)).double().mean()


@torch.no_grad()
def predict(
    model: DGNO,
    a: Tensor | Scattered,
    x: Tensor | None = None,
    draws: int = 100,
    delta: Tensor | float | str | Discrepancy = 0.0,
    generator: torch.Generator | None = None,
    of: str = "u",
) -> Tensor:
    """Samples of the solutions of inputs, (draws, B, C, n): codes from q(β|a), and the decoder's error.

    Without `bayes` codes are points and all spread is `delta`'s. For inputs known at few sensors, with
    noise, sample a `Posterior` with an `Observation` of "input".

    Args:
        model: trained.
        a: inputs (B, 1, *cells), or `Scattered`.
        x: points (n, D); default those of the problem.
        draws: number of samples.
        delta: standard deviation of the decoder's error, a number or (C, n): root mean square of
            model(a) − u over a few references that training did not see; a `Discrepancy` of these, with
            its mean and its correlations; or "labels", the spread of labels that a model with `bayes`
            learned.
        generator: source.
        of: another one of the problem's observables.

    Raises:
        InputError: no draws, another delta, a discrepancy of another observable.
    """
    if draws < 1 or (isinstance(delta, str) and delta != "labels"):
        expected, fix = 'draws >= 1, delta a number, a `Discrepancy` or "labels"', "Correct them"
        raise InputError(message("predict", expected, f"{draws} and {delta}", fix))
    if isinstance(delta, Discrepancy) and delta.of != of:
        fix = "Fit one to this observable"
        raise InputError(message("predict", f'a discrepancy of "{of}"', delta.of, fix))
    x = model.points(a) if x is None else x
    check_codes("predict", model.encode(a))
    frozen = model.at(x, 0)

    def one() -> Tensor:
        beta = model.draw(a, generator)

        def decode(points: Tensor, order: int, names: tuple[str, ...]) -> dict[str, Tensor]:
            same = points is x and order == 0
            return frozen(beta) if same else model.at(points, order, names)(beta)

        u = model.problem.observe(of, decode, x)
        if isinstance(delta, Discrepancy):
            return u + delta.draw(x, (len(u),), generator)
        sigma = model.label_spread(u, of) if isinstance(delta, str) else delta
        return u + sigma * normals(u.shape, u, generator)

    return torch.stack([one() for _ in range(draws)])


@torch.no_grad()
def generate(
    model: DGNO,
    prior: Prior,
    count: int,
    x: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Inputs and solutions that belong together, from codes of a prior.

    Args:
        model: trained.
        prior: of its codes.
        count: B.
        x: points of the solutions (n, D); default those of the problem.
        generator: source.

    Returns:
        Inputs (B, 1, *cells) on the problem's grid (of two phases their means), solutions (B, C, n).

    Source: Zang & Koutsourelakis 2025 (DGenNO): p(a|β) p(u|β) p(β).
    """
    like = next(model.parameters())
    beta, problem = prior.sample(count, generator).to(like), model.problem
    decode, cells = model.decode(beta), problem.grid.cells
    a = problem.inputs(decode, problem.grid.points(like).reshape(-1, len(cells)))
    x = problem.points(like) if x is None else x
    return a.reshape(count, 1, *cells), problem.solution(decode, x)


@torch.no_grad()
def residual_rms(
    model: DGNO,
    a: Tensor,
    decoded: bool = True,
    generator: torch.Generator | None = None,
    binary: bool = False,
) -> float:
    """Root mean square of the residuals of inputs' codes: σ_r of a `Posterior`.

    Args:
        model: trained.
        a: inputs (S, 1, *cells).
        decoded: with the input decoded from the code, as an inversion sees it; else with `a`.
        generator: of the particles.
        binary: with decoded phases as a binary `Posterior` takes them.
    """
    beta = model.encode(a)
    if binary:
        problem = model.problem.binary()
        where = problem.sample(generator, beta)
        found = problem.residuals(model.decode(beta), where, None if decoded else a)
    else:
        found = model.residuals(beta, None if decoded else a, generator)
    return float(torch.cat(list(found.values()), 1).square().mean().sqrt())
