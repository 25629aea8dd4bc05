"""What a neural law is compared with: classical laws fitted to motion, networks fitted to stress.

    fit_classical   min over material parameters of the position errors, through the simulator
    train_labeled   min over weights of ‖τ_θ − τ‖² and ‖ΔF_θ − ΔF‖², without a simulator

Source: Ma et al. 2023 (NCLaw), §4.1, baselines "sys-id" and "labeled".
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.backend import one_thread
from ...sim.core.errors import InputError, StabilityError, StateError
from ...sim.core.laws import Law
from ...sim.core.laws.decompositions import log_frame, polar_rotation, stretch_by
from ..train.annealing import annealed
from .data import Trajectory
from .train import segment_loss

__all__ = [
    "ClassicalFit",
    "FitConfig",
    "LabeledHistory",
    "blind_start",
    "fit_classical",
    "train_labeled",
]


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How to fit material parameters."""

    iterations: int = 20
    """L-BFGS iterations; each costs one or two passes over the segments."""
    horizon: int = 20
    """Length of the segments [steps]; long enough that a stress wave crosses a few particles."""
    segments: int = 8
    """Segments, spread evenly over the trajectory."""
    first_step: float = 0.5
    """Size of the first step in the transformed parameters [-]; 0.5 is a factor of 1.6."""
    attempts: int = 4
    """Searches at most; the next one starts, with a fourth of the first step, where a search met a
    material too stiff for the time step."""


@dataclasses.dataclass
class ClassicalFit:
    """Result of `fit_classical`."""

    values: dict[str, float]
    """Fitted parameters, SI."""
    history: list[dict[str, float]]
    """Parameters and "loss" (mean square of the acceleration error [m²/s⁴]) per evaluation."""
    seconds: float
    """Wall time [s]."""


@dataclasses.dataclass
class LabeledHistory:
    """Relative mean square errors per update of `train_labeled`."""

    stress: list[float] = dataclasses.field(default_factory=list)
    """‖τ_θ − τ‖²/‖τ‖² on the samples of the update [-]."""
    plastic: list[float] = dataclasses.field(default_factory=list)
    """‖ΔF_θ − ΔF‖²/‖ΔF‖² on the samples of the update [-]; see `train_labeled` for ΔF = 0."""
    volume: list[float] = dataclasses.field(default_factory=list)
    """Square error of det F₊ over that of its true change per step [-]."""


def blind_start(law: Law) -> dict[str, float]:
    """First guess of the parameters to identify, far from the law's own: moduli to the power 0.8,
    yield stress and friction angle times 0.8; Poisson's ratio is not among them.

    Source: Ma et al. 2023 (NCLaw), released configuration ("blind" initial guess: log E, σ_Y and φ
    times 0.8).
    """
    start = {}
    for name, value in law.parameters().items():
        if name in ("E", "bulk"):
            start[name] = float(value) ** 0.8
        elif name in ("yield_stress", "friction"):
            start[name] = 0.8 * float(value)
    return start


def fit_classical(
    solver: Any,
    trajectory: Trajectory,
    start: Mapping[str, float],
    config: FitConfig | None = None,
) -> ClassicalFit:
    """Identify material parameters of an analytic law from positions.

        min_p  Σ ‖x_k(p) − x_k‖²

    A parameter bounded on both sides is optimized through the logit of its place in the interval,
    one bounded below through its logarithm.

    Args:
        solver: a solver with one group of the analytic law and one substep per step.
        trajectory: the motion; its states start the segments.
        start: first guess of the parameters to fit, SI; all others keep the law's values.
        config: the recipe.

    Raises:
        InputError: a parameter that the law does not have.
        StateError: a gradient that is not finite.
        StabilityError: a first guess, or trials of all attempts, too stiff for the time step.

    Source: Ma et al. 2023 (NCLaw), §4.1 ("sys-id").
    """
    config = config or FitConfig()
    group = solver.model.groups[0]
    rules = {f.name: f.metadata for f in dataclasses.fields(group.law)}
    unknown = sorted(set(start) - set(group.law.parameters()))
    if unknown or not start:
        raise InputError(
            f"fit_classical: parameters out of {sorted(group.law.parameters())}; got "
            f"{unknown or 'none'}. Correct the names."
        )
    dtype, T = trajectory.x.dtype, trajectory.steps
    horizon = min(config.horizon, T)
    free = {
        name: _to_free(torch.tensor(float(value), dtype=dtype), rules[name]).requires_grad_()
        for name, value in start.items()
    }
    scale = 1 / (0.5 * horizon**2 * solver.step_time**2) ** 2
    places = torch.linspace(0, T - horizon, config.segments).round().to(torch.int64).unique()
    segments = [(b, horizon) for b in places.tolist()]
    weights = [scale / (horizon * len(segments))] * len(segments)
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}

    def evaluate() -> Tensor:
        values = {name: _from_free(t, rules[name]) for name, t in free.items()}
        loss = segment_loss(solver, trajectory, segments, weights, {group.name: values})
        for t in free.values():
            t.grad = None
        loss.backward()
        for name, t in free.items():
            if t.grad is None or not bool(torch.isfinite(t.grad)):
                raise StateError(
                    f"fit_classical: a finite gradient in {name}; got {t.grad} in evaluation "
                    f"{len(history)}. Start nearer, or shorten the horizon.",
                    step=len(history),
                    field=name,
                )
        numbers = {name: float(value.detach()) for name, value in values.items()}
        if not history or float(loss.detach()) <= min(row["loss"] for row in history):
            best.update({name: t.detach().clone() for name, t in free.items()})
        history.append({**numbers, "loss": float(loss.detach())})
        return loss

    def search(first_step: float) -> None:
        torch.optim.LBFGS(
            list(free.values()),
            lr=first_step,
            max_iter=config.iterations,
            tolerance_change=1e-6,
            line_search_fn="strong_wolfe",
        ).step(evaluate)

    began = time.perf_counter()
    with one_thread():
        for attempt in range(config.attempts):
            try:
                search(config.first_step / 4**attempt)
                break
            except StabilityError:
                # The line search tried a material too stiff for the step: go on from the best one.
                if not best or attempt == config.attempts - 1:
                    raise
                with torch.no_grad():
                    for name, t in free.items():
                        t.copy_(best[name])
    with torch.no_grad():
        for name, t in free.items():
            t.copy_(best[name])
    final = {name: float(_from_free(t, rules[name]).detach()) for name, t in free.items()}
    return ClassicalFit(final, history, time.perf_counter() - began)


@one_thread()
def train_labeled(
    elastic: nn.Module,
    plastic: nn.Module | None,
    trajectory: Trajectory,
    law: Law,
    *,
    dt: float,
    updates: int = 5000,
    batch: int = 1024,
    lr: float = 3e-3,
    every: int = 5,
    amplify: float = 0.0,
    generator: torch.Generator | None = None,
) -> LabeledHistory:
    """Regress stress and plastic return of a known law on the strains of a trajectory; an oracle.

        L = ‖τ_θ − τ‖²/‖τ‖²                         over states F and trial states F_trial
          + ‖F_θ − F₊‖²/(‖F₊ − F_trial‖² + ε²)       with F_θ = P_θ(F_trial)
          + ‖det F_θ − det F₊‖²/‖det F_trial − det F‖²

    with F_trial = (I + dt C₊) F. ε = 10⁻⁵ per entry keeps the second term defined where nothing
    flows. A rollout with an imperfect plastic network leaves the strains of the trajectory in the
    direction of the trial states, so stress is learned there too. The third term counts what flow
    does to volume on the scale of its true change per step: it adds up over a rollout and becomes
    pressure, while the shear strain of a liquid has no consequence.

    Trial states are hardly beyond the yield surface, so a return map that became too wide would not
    learn of it. With `amplify` = a, a fourth term like the second one takes trial states whose strain
    deviators are multiplied by 1 + u, u uniform in (0, a), with labels of their own.

    Args:
        elastic: network of the stress; give it a `scale` of the order of the stress.
        plastic: network of the plastic return, or None.
        trajectory: source of F and C; liquids as F = J^⅓ I.
        law: true law, which labels the strains. Of a liquid F₊ = J^⅓ R with the rotation R of
            F_trial, since no frame-indifferent return can undo a rotation.
        dt: time step of the trajectory [s].
        updates: Adam steps, cosine-annealed.
        batch: samples per update, drawn with replacement.
        lr: learning rate.
        every: stride of the frames that give samples.
        amplify: a above, for `NeuralReturn`; 0: no such term.
        generator: source of the samples; default seed 0.

    Source: Ma et al. 2023 (NCLaw), §4.1 ("labeled"); trial states and the third term are ours.
    """
    generator = generator or torch.Generator().manual_seed(0)
    index = torch.arange(0, trajectory.steps, every, device=trajectory.F.device)
    F = trajectory.F[index].reshape(-1, 3, 3)
    trial = F + dt * trajectory.C[index + 1].reshape(-1, 3, 3) @ F
    after = returned_strain(law, trial, dt)
    strains = torch.cat([F, trial])
    tau, volume = _labels(law, strains), torch.linalg.det(after)
    stress_size = tau.square().mean()
    flow_size = (after - trial).square().mean() + 1e-10
    volume_size = (torch.linalg.det(trial) - torch.linalg.det(F)).square().mean()
    modules = nn.ModuleList([m for m in (elastic, plastic) if m is not None])
    # A return map starts with flow far too large. Adam's usual memory of squared gradients, a thousand
    # updates, would freeze it where it overshot.
    betas = (0.9, 0.99) if amplify > 0 else (0.9, 0.999)
    optimizer = torch.optim.Adam(modules.parameters(), lr=lr, betas=betas)
    history = LabeledHistory()
    for _ in annealed(optimizer, updates):
        pick = torch.randint(0, F.shape[0], (batch,), generator=generator).to(F.device)
        both = torch.where(torch.arange(batch, device=F.device) % 2 == 0, pick, pick + F.shape[0])
        stress = (elastic(strains[both]) - tau[both]).square().mean() / stress_size
        history.stress.append(float(stress.detach()))
        loss = stress
        if plastic is not None:
            found = plastic(trial[pick])
            flow = (found - after[pick]).square().mean() / flow_size
            drift = (torch.linalg.det(found) - volume[pick]).square().mean() / volume_size
            history.plastic.append(float(flow.detach()))
            history.volume.append(float(drift.detach()))
            loss = loss + flow + drift
            if amplify > 0:
                share = amplify * torch.rand(batch, generator=generator).to(trial)
                far = stretch_by(trial[pick], log_frame(trial[pick]), share, 0 * share)
                back = returned_strain(law, far, dt)
                size = (back - far).square().mean() + 1e-10
                loss = loss + (plastic(far) - back).square().mean() / size
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return history


@torch.no_grad()
def _labels(law: Law, F: Tensor) -> Tensor:
    """True Kirchhoff stress [Pa] of F, (M, 3, 3)."""
    c = law.coefficients().to(F)
    if law.storage == "F":
        return law.stress(F, torch.zeros_like(F), c)
    return law.stress(torch.linalg.det(F), torch.zeros_like(F), c)


@torch.no_grad()
def returned_strain(law: Law, trial: Tensor, dt: float) -> Tensor:
    """True F₊ of the trial F, (M, 3, 3)."""
    if law.storage == "F":
        return law.flow(trial, None, law.coefficients().to(trial), dt)[0]
    return torch.linalg.det(trial).pow(1 / 3)[..., None, None] * polar_rotation(trial)


def _to_free(value: Tensor, rule: Mapping[str, Any]) -> Tensor:
    """Unbounded variable of a bounded parameter."""
    low = max(rule.get("above", -math.inf), rule.get("at_least", -math.inf))
    high = rule.get("below", math.inf)
    if math.isfinite(low) and math.isfinite(high):
        return torch.logit((value - low) / (high - low))
    return torch.log(value - low) if math.isfinite(low) else value.clone()


def _from_free(free: Tensor, rule: Mapping[str, Any]) -> Tensor:
    """Inverse of `_to_free`."""
    low = max(rule.get("above", -math.inf), rule.get("at_least", -math.inf))
    high = rule.get("below", math.inf)
    if math.isfinite(low) and math.isfinite(high):
        return low + (high - low) * torch.sigmoid(free)
    return low + free.exp() if math.isfinite(low) else free
