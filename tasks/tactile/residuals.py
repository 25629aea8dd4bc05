"""Identification as least squares: parameters without bounds, residuals in units of their noise.

    r(u) = ((pixels(p) − seen)/σ_px, (force(p) − felt)/σ_N, (colours(p) − picture)/σ_c),    ℓ = |r|²/2R
    u = log(p/p⁰) / log s       and for ν, with 2ν/(1 − 2ν) in the place of p

so |u| ≤ 1 is everything within a factor s of the guess, whatever the unit, and ν stays below ½.
What was not measured is not counted. R is the number of entries.

Differentiable in u.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...sim.core.errors import InputError, RheogradError, message
from .probe import Probe, Seen

__all__ = ["Evaluation", "Noise", "Residuals"]

SOURCES = ("markers", "force", "pictures")


@dataclasses.dataclass(frozen=True)
class Noise:
    """Standard deviations of what is measured: the weights of the residuals."""

    pixels: float = 0.1
    """Of a marker along u or v [px]; centres of blobs are found to about that."""
    newtons: float = 5e-3
    """Of a component of the force [N]; small six-axis cells resolve 3 to 6 mN."""
    colour: float = 0.01
    """Of a colour of a pixel [-], 1 is white."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A candidate that was simulated."""

    simulations: int
    """Candidates that were simulated so far, this one included; one is all motions once."""
    gradients: int
    """How many of them were differentiated backwards."""
    loss: float
    """ℓ [-]; ½ where only noise is left; infinite where the simulation broke."""
    pixels: float
    """Root mean square distance between markers and where they were seen [px]."""
    newtons: float
    """Root mean square force error [N]."""
    values: dict[str, float]
    """Parameters, SI."""


class Residuals:
    """Residuals of a probe against what was seen, counted.

    Args:
        probe: simulates.
        seen: what was measured.
        guess: parameters to find, and where the search for them begins.
        known: others that differ from what the probe was built with.
        use: out of "markers", "force" and "pictures".
        noise: the weights.
        span: s, largest factor between a parameter and its guess [-].
        on_evaluation: called with every candidate when it has been simulated.

    Raises:
        InputError: unknown names, values without meaning, data of another shape.
    """

    def __init__(
        self,
        probe: Probe,
        seen: Seen,
        guess: Mapping[str, float],
        *,
        known: Mapping[str, float] | None = None,
        use: Sequence[str] = ("markers", "force"),
        noise: Noise | None = None,
        span: float = 10.0,
        on_evaluation: Callable[[Evaluation], None] | None = None,
    ) -> None:
        where = "Residuals"
        known = dict(known or {})
        unknown = sorted((set(guess) | set(known)) - set(probe.places))
        if set(known) & set(guess):
            got = f"{sorted(set(known) & set(guess))} in both"
            raise InputError(message(where, "parameters either known or to find", got, "Choose"))
        if unknown or not guess:
            expected = f"parameters out of {sorted(probe.places)}"
            raise InputError(message(where, expected, f"{unknown or 'none'}", "Correct the names"))
        bad = {k: v for k, v in guess.items() if not v > 0 or (k == "nu" and not v < 0.5)}
        if bad or not span > 1:
            got = f"{bad}, span {span:g}"
            raise InputError(message(where, "guesses > 0, nu < 0.5, span > 1", got, "Correct them"))
        if not use or not set(use) <= set(SOURCES):
            raise InputError(message(where, f"use out of {SOURCES}", f"{tuple(use)}", "Correct it"))
        self.probe, self.seen, self.noise, self.use = probe, seen, noise or Noise(), tuple(use)
        self.names, self.known, self.span = tuple(guess), known, span
        odds = [_odds(k, torch.tensor(float(v), dtype=torch.float64)) for k, v in guess.items()]
        self.origin = torch.stack(odds).log()
        self.simulations = self.gradients = 0
        self.on_evaluation = on_evaluation
        self.history: list[Evaluation] = []
        M, T = probe.twists.shape[:2]
        shapes = {"markers": (M, T, len(probe.markers), 2), "force": (M, T, 3)}
        for name in use:
            value = getattr(seen, name)
            if value is None or (name == "pictures" and probe.render is None):
                fix = "Give a renderer, and what it is to explain"
                raise InputError(message(where, f"{name} to compare with", "none", fix))
            if name in shapes and value.shape != shapes[name]:
                fix = "Give one row per motion and step"
                raise InputError(message(where, f"{name} of shape {shapes[name]}", value, fix))
        self.kept = {k: torch.isfinite(getattr(seen, k)) for k in use}
        """Which entries were measured, by source."""
        self.count = sum(int(k.sum()) for k in self.kept.values())
        """R."""
        if self.count < len(guess):
            got = f"{self.count} measured entries"
            raise InputError(message(where, "more data than parameters", got, "Check for NaN"))

    def values(self, u: Tensor) -> dict[str, Tensor]:
        """Parameters of points (S, P), each (S,), SI. Differentiable."""
        logs = self.origin + math.log(self.span) * u.double()
        return {k: _value(k, logs[:, i].exp()) for i, k in enumerate(self.names)}

    def point(self, values: Mapping[str, float]) -> Tensor:
        """The inverse for one candidate, (P,)."""
        odds = [_odds(k, torch.tensor(float(values[k]), dtype=torch.float64)) for k in self.names]
        return (torch.stack(odds).log() - self.origin) / math.log(self.span)

    def slopes(self, u: Tensor) -> Tensor:
        """dp/du of every parameter at a point (P,), (P,)."""
        with torch.enable_grad():
            leaf = u.detach().double().clone().requires_grad_()
            total = sum(v.sum() for v in self.values(leaf[None]).values())
            return torch.autograd.grad(total, leaf)[0]  # type: ignore[arg-type]

    def __call__(self, u: Tensor) -> Tensor:
        """Residuals of candidates (S, P), (S, R); raises what the simulation raises."""
        return self._compare(u, self._simulated(u))

    @torch.no_grad()
    def rows(self, u: Tensor) -> Tensor:
        """The same for candidates that may break the simulation: NaN there. No derivative."""
        try:
            return self(u)
        except RheogradError:
            if len(u) == 1:
                self._note(u, None)
                return u.new_full((1, self.count), math.nan)
            return torch.cat([self.rows(row[None]) for row in u])

    def losses(self, u: Tensor) -> list[float]:
        """ℓ of candidates (S, P); infinite where the simulation breaks. No derivative."""
        found = self.rows(u).square().sum(1) / (2 * self.count)
        return [v if math.isfinite(v) else math.inf for v in found.tolist()]

    def loss_and_gradient(self, u: Tensor) -> tuple[float, Tensor]:
        """ℓ and dℓ/du (P,) of a candidate (P,), by one backward pass.

        Raises:
            ConvergenceError, StateError: from the solver.
        """
        leaf = u.detach().double().clone().requires_grad_()
        loss = self(leaf[None]).square().sum() / (2 * self.count)
        self.gradients += 1
        self.history[-1] = dataclasses.replace(self.history[-1], gradients=self.gradients)
        (gradient,) = torch.autograd.grad(loss, leaf)
        return float(loss.detach()), gradient

    @torch.no_grad()
    def jacobian(self, u: Tensor, step: float = 1e-3, base: Tensor | None = None) -> Tensor:
        """dr/du (R, P) at a point (P,) by forward differences, all candidates in one launch.

        Args:
            u: the point.
            step: of a difference in u; what is left out is of that order, relatively.
            base: r (R,) there, if it is known; else one more candidate.

        Raises:
            ConvergenceError, StateError: from the solver.
        """
        u = u.double()
        signs = torch.where(u > 1 - step, -step, step)  # stays inside of the range
        moved = u + torch.diag(signs)
        if base is None:
            base, found = self(torch.cat((u[None], moved))).split((1, len(u)))
        else:
            found = self(moved)
        return ((found - base) / signs[:, None]).mT

    def _simulated(self, u: Tensor) -> Seen:
        self.simulations += len(u)
        return self.probe.simulate({**self.known, **self.values(u)})

    def _compare(self, u: Tensor, found: Seen) -> Tensor:
        sizes = {
            "markers": self.noise.pixels,
            "force": self.noise.newtons,
            "pictures": self.noise.colour,
        }
        parts = []
        for name in self.use:
            gap = getattr(found, name) - getattr(self.seen, name).to(found.force)
            parts.append(gap[:, self.kept[name]] / sizes[name])
        rows = torch.cat(parts, dim=1)
        self._note(u, found, rows.detach())
        return rows

    @torch.no_grad()
    def _note(self, u: Tensor, found: Seen | None, rows: Tensor | None = None) -> None:
        values = {k: v.tolist() for k, v in self.values(u.detach()).items()}
        for s in range(len(u)):
            loss = pixels = newtons = math.inf
            if found is not None and rows is not None:
                loss = float(rows[s].square().sum()) / (2 * self.count)
                away = (found.markers[s] - self.seen.markers.to(found.markers)).square().sum(-1)
                pixels = float(away.nanmean().sqrt())
                newtons = float((found.force[s] - self.seen.force).square().nanmean().sqrt())
            self.history.append(
                Evaluation(
                    self.simulations - len(u) + s + 1, self.gradients, loss, pixels, newtons,
                    {k: v[s] for k, v in values.items()},
                )
            )  # fmt: skip
            if self.on_evaluation is not None:
                self.on_evaluation(self.history[-1])


def _odds(name: str, value: Tensor) -> Tensor:
    return 2 * value / (1 - 2 * value) if name == "nu" else value


def _value(name: str, odds: Tensor) -> Tensor:
    return 0.5 * odds / (1 + odds) if name == "nu" else odds
