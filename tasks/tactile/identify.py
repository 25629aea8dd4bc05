"""Identification of a gel sensor and its contact from what its camera and its mount report.

    min ℓ(u)    by Gauss–Newton steps, by L-BFGS through the rollouts, by CMA-ES, by a Gaussian process

    rheograd.tasks.tactile.probe          motions, and what they show
    rheograd.tasks.tactile.residuals      ℓ and r, counted
    rheograd.tasks.tactile.identifiability    which parameters the data can tell at all

Source: Si et al. 2024 (DiffTactile), system identification; Moré 1978 and Branch et al. 1999 for bounded
trust regions; Byrd et al. 1995 (L-BFGS-B); Hansen 2016 (CMA-ES); Jones et al. 1998 (EGO).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import least_squares, minimize
from torch import Tensor

from ...sim.core.errors import InputError, RheogradError, message
from .bayes import bayesian_search
from .identifiability import Identifiability, from_jacobian
from .probe import Probe, Seen
from .residuals import Evaluation, Noise, Residuals

__all__ = ["METHODS", "Identified", "identify"]

METHODS = ("gauss-newton", "lbfgs", "cma", "bayes")


@dataclasses.dataclass(frozen=True)
class Identified:
    """Result of `identify`."""

    values: dict[str, float]
    """Parameters with the least loss, SI."""
    loss: float
    """ℓ there [-]; ½ where only noise is left."""
    pixels: float
    """Root mean square distance between markers and where they were seen [px]."""
    newtons: float
    """Root mean square force error [N]."""
    simulations: int
    """How many candidates were simulated; one is all motions once."""
    gradients: int
    """How many of them were differentiated backwards."""
    seconds: float
    """Wall time [s]."""
    cpu_seconds: float
    """Time of the processor [s]."""
    stopped: str
    """Why the search ended."""
    history: tuple[Evaluation, ...]
    """All candidates in their order."""
    certainty: Identifiability | None = None
    """Standard deviations and correlations at the result, of "gauss-newton"."""

    def errors(self, truth: Mapping[str, float]) -> dict[str, float]:
        """Relative errors of the parameters [-]."""
        return {k: v / truth[k] - 1 for k, v in self.values.items()}

    def cost_to(self, truth: Mapping[str, float], tol: float | Mapping[str, float] = 0.05) -> Any:
        """The evaluation from which on the best candidate so far is within `tol` of the truth, or None.

        Args:
            truth: parameters by name; those that are not named do not count.
            tol: relative error [-], one or by name.
        """
        reached, least = None, math.inf
        for row in self.history:
            if not row.loss < least:
                continue
            least = row.loss
            limits = {k: tol[k] if isinstance(tol, Mapping) else tol for k in truth}
            good = all(abs(row.values[k] / truth[k] - 1) <= limits[k] for k in truth)
            reached = (reached or row) if good else None
        return reached

    def cost_of_pixels(self, pixels: float) -> Any:
        """The first evaluation with a marker error of at most `pixels`, or None."""
        return next((row for row in self.history if row.pixels <= pixels), None)


def identify(
    probe: Probe,
    seen: Seen,
    guess: Mapping[str, float],
    *,
    known: Mapping[str, float] | None = None,
    method: Literal["gauss-newton", "lbfgs", "cma", "bayes"] = "gauss-newton",
    use: Sequence[str] = ("markers", "force"),
    noise: Noise | None = None,
    span: float = 10.0,
    budget: int = 200,
    seed: int = 0,
    tol: float = 1e-3,
    on_evaluation: Callable[[Evaluation], None] | None = None,
) -> Identified:
    """Find the parameters with which a simulated sensor shows what a sensor showed.

    Args:
        probe: sensor and motions.
        seen: what was measured; NaN where nothing was.
        guess: parameters to find, and where to begin: "E", "nu", "stiffness", "friction", "rho", "eta",
            "gap".
        known: others that differ from what the probe was built with.
        method: "gauss-newton", trust region, differences of residuals along the batch axis; "lbfgs",
            gradients through the rollouts; "cma" (library `cma`); "bayes", a baseline.
        use: data to explain, out of "markers", "force" and "pictures".
        noise: standard deviations of the data, the weights.
        span: largest factor between a parameter and its guess [-].
        budget: simulations; a search stops before it exceeds them, but for the end of a generation.
        seed: of "cma" and "bayes".
        tol: "gauss-newton" stops at steps this small against u, "lbfgs" when ℓ falls by less than its
            cube, both relatively [-].
        on_evaluation: called with every candidate when it has been simulated.

    Returns:
        The best candidate, and what it took.

    Raises:
        InputError: as `Residuals`, and an unknown method.
        ConvergenceError, StateError: a guess that cannot be simulated.
        ImportError: "cma" without the extra `opt`.
    """
    if method not in METHODS or budget < 1:
        got = f"{method!r}, budget {budget}"
        expected = f"a method out of {METHODS}, and budget >= 1"
        raise InputError(message("identify", expected, got, "Correct it"))
    residuals = Residuals(probe, seen, guess, known=known, use=use, noise=noise, span=span,
                          on_evaluation=on_evaluation)  # fmt: skip
    wall, cpu = time.perf_counter(), time.process_time()
    certainty = None
    if method == "gauss-newton":
        stopped, certainty = _gauss_newton(residuals, budget, tol)
    elif method == "lbfgs":
        stopped = _lbfgs(residuals, budget, tol)
    elif method == "cma":
        stopped = _cma(residuals, budget, seed)
    else:
        bayesian_search(residuals.losses, len(residuals.names), budget, seed=seed)
        stopped = "budget"
    best = min(residuals.history, key=lambda row: row.loss)
    if not math.isfinite(best.loss):
        got = f"none of {residuals.simulations}"
        fix = "Start nearer, or make the steps of the motions smaller"
        raise InputError(message("identify", "a candidate that simulates", got, fix))
    return Identified(
        best.values, best.loss, best.pixels, best.newtons, residuals.simulations, residuals.gradients,
        time.perf_counter() - wall, time.process_time() - cpu, stopped, tuple(residuals.history),
        certainty,
    )  # fmt: skip


class _Spent(Exception):
    """The budget does not allow what comes next."""


def _gauss_newton(r: Residuals, budget: int, tol: float) -> tuple[str, Identifiability | None]:
    """Bounded trust region on r; returns why it ended, and what the last derivative says."""
    known: dict[bytes, np.ndarray] = {}
    last: list[tuple[np.ndarray, Tensor]] = []
    width = len(r.names) + 1

    def value(u: np.ndarray) -> np.ndarray:
        if u.tobytes() not in known:
            if r.simulations + 1 > budget and last:
                raise _Spent
            rows = r(_row(u)) if not last else r.rows(_row(u))  # a guess that breaks is an error
            known[u.tobytes()] = rows[0].numpy()
        return known[u.tobytes()] / math.sqrt(r.count)

    def slope(u: np.ndarray) -> np.ndarray:
        if r.simulations + width - 1 > budget and last:
            raise _Spent
        J = r.jacobian(_row(u)[0], base=torch.from_numpy(known[u.tobytes()]))
        last.append((u.copy(), J))
        return J.numpy() / math.sqrt(r.count)

    with torch.no_grad():
        start = np.zeros(width - 1)
        try:
            end = least_squares(
                value, start, slope, bounds=(-1, 1), xtol=tol, ftol=1e-12, gtol=1e-12
            )
            stopped = end.message.strip("`.").replace("`", "")
        except _Spent:
            stopped = "budget"
    u, J = last[-1]
    return stopped, from_jacobian(r, torch.from_numpy(u), J)


def _lbfgs(r: Residuals, budget: int, tol: float) -> str:
    """L-BFGS-B on ℓ; candidates that break the simulation are a wall about the best one."""
    best: list[Any] = [math.inf, np.zeros(len(r.names))]

    def both(u: np.ndarray) -> tuple[float, np.ndarray]:
        if r.simulations + 1 > budget:
            raise _Spent
        try:
            loss, gradient = r.loss_and_gradient(_row(u)[0])
        except RheogradError:
            if not math.isfinite(best[0]):
                raise
            away = u - best[1]
            return best[0] * (2 + 1e3 * float(away @ away)), best[0] * 2e3 * away
        if loss < best[0]:
            best[:] = loss, u.copy()
        return loss, gradient.numpy()

    start, box = np.zeros(len(r.names)), [(-1.0, 1.0)] * len(r.names)
    options = {"maxfun": 10 * budget, "maxiter": 10 * budget, "ftol": tol**3, "gtol": 1e-10}
    try:
        end = minimize(both, start, jac=True, method="L-BFGS-B", bounds=box, options=options)
    except _Spent:
        return "budget"
    return str(end.message)


def _cma(r: Residuals, budget: int, seed: int) -> str:
    """CMA-ES from the guess, a generation per launch."""
    try:
        import cma
    except ImportError as error:
        raise ImportError(
            'identify: method "cma" needs the library cma. Run pip install "rheograd[opt]".'
        ) from error
    # One number more where there is one: the library wants two. Nothing depends on it.
    size = max(len(r.names), 2)
    options = {
        "bounds": [-1, 1], "randn": np.random.RandomState(seed).randn, "seed": math.nan, "verbose": -9,
        "verb_log": 0, "tolfun": 0, "tolfunhist": 0, "tolx": 1e-8,
    }  # fmt: skip
    es = cma.CMAEvolutionStrategy(np.zeros(size), 0.3, options)
    while not es.stop():
        if r.simulations + es.popsize > budget:
            return "budget"
        points = es.ask()
        losses = r.losses(torch.from_numpy(np.stack(points))[:, : len(r.names)])
        worst = max((v for v in losses if math.isfinite(v)), default=1.0)
        es.tell(points, [v if math.isfinite(v) else 2 * worst for v in losses])
    return ", ".join(es.stop())


def _row(u: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(u, dtype=np.float64))[None]
