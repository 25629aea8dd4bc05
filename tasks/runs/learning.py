"""Training runs of neural constitutive laws, and their comparison on motions they have not seen.

The truth is simulated, the networks see positions only, and every number is measured on the spot:
prediction, untrained networks and the best classical law of another family run through the same
simulator from the same first state.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...operators.nclaw import (
    ClassicalFit,
    FitConfig,
    NeuralElastic,
    NeuralPlastic,
    ReferenceScene,
    TrainConfig,
    TrainHistory,
    Trajectory,
    fit_classical,
    metric_mse_every5,
    nclaw_scene,
    neural_law,
    random_throw,
    simulate_truth,
    train,
)
from ...sim import mpm
from ...sim.core.errors import StabilityError, StateError
from ...sim.core.laws import Law, TorchLaw, law_by_name
from ...sim.core.rollout import rollout
from ...sim.io import load_checkpoint, save_checkpoint
from .configs import UsageError, to_dict
from .devices import require_device
from .folder import Interrupted, RunFolder
from .learning_config import NclawConfig

__all__ = ["CLASSICAL", "best_classical", "make_networks", "throw", "train_nclaw", "training_scene"]

log = logging.getLogger(__name__)

CLASSICAL: dict[str, tuple[tuple[str, dict[str, float]], ...]] = {
    "jelly": (("neo_hookean", {"E": 4e4, "nu": 0.3}), ("hencky", {"E": 4e4, "nu": 0.3})),
    "plasticine": (
        ("neo_hookean", {"E": 1e5, "nu": 0.3}),
        ("drucker_prager", {"E": 1e5, "nu": 0.3, "friction": 30.0}),
    ),
    "sand": (
        ("neo_hookean", {"E": 1e5, "nu": 0.3}),
        ("von_mises", {"E": 1e5, "nu": 0.3, "yield_stress": 3e3}),
    ),
    "water": (
        ("neo_hookean", {"E": 1e4, "nu": 0.3}),
        ("hencky", {"E": 1e4, "nu": 0.3}),
    ),
}
"""Laws fitted for comparison, with first guesses: families other than that of the truth."""


def training_scene(config: NclawConfig) -> ReferenceScene:
    """The block that flies, turns and hits the walls."""
    return nclaw_scene(config.material, resolution=config.resolution)


def throw(config: NclawConfig, seed: int) -> ReferenceScene:
    """The same block thrown in a direction and with a spin that training has not seen."""
    unseen = random_throw(config.material, seed)
    return dataclasses.replace(
        training_scene(config), velocity=unseen.velocity, angular=unseen.angular
    )


def make_networks(config: NclawConfig) -> TorchLaw:
    """Untrained law; the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(config.seed)
    elastic = NeuralElastic(scale=config.scale or None, generator=generator).to(config.device)
    plastic = None
    if config.plastic:
        plastic = NeuralPlastic(gain=config.plastic_gain, generator=generator).to(config.device)
    return neural_law(elastic, plastic)


def recipe(config: NclawConfig) -> TrainConfig:
    """Training settings: the named recipe with what the configuration changes."""
    base = TrainConfig.paper() if config.recipe == "paper" else TrainConfig.fast()
    changes: dict[str, Any] = {
        name: value
        for name in ("updates", "budget", "lr_elastic", "lr_plastic", "clip")
        if (value := getattr(config, name)) is not None
    }
    first, last = base.horizon
    changes["horizon"] = (config.horizon_start or first, config.horizon_end or last)
    return dataclasses.replace(base, **changes)


def fit_networks(
    config: NclawConfig,
    law: TorchLaw,
    truth: Trajectory,
    *,
    folder: RunFolder | None = None,
    resume: bool = False,
    on_update: Callable[[int, int, float], None] | None = None,
) -> TrainHistory:
    """Train the networks of a law on a motion; with a folder, metrics and checkpoints go there.

    Args:
        config: The run.
        law: Law of `make_networks`; changed in place.
        truth: The motion.
        folder: Where to keep what is needed to go on.
        resume: Continue from the folder's checkpoint, if it has one.
        on_update: Called with (updates done, updates in all, loss).
    """
    settings = recipe(config)
    state = None
    if folder is not None and resume and folder.checkpoint.is_file():
        state = load_checkpoint(folder.checkpoint).optimizer_state
    metrics = folder.metrics(keep=state["update"] if state else 0) if folder is not None else None

    def report(update: int, history: TrainHistory) -> None:
        if metrics is not None:
            names = ("loss", "horizon", "seconds", "simulated")
            metrics.add(update=update, **{n: getattr(history, n)[-1] for n in names})
        if on_update is not None:
            on_update(update + 1, settings.updates, history.loss[-1])

    def keep(state: dict[str, Any]) -> None:
        if folder is not None:
            tensors = {
                f"{part}.{name}": value
                for part, values in state["modules"].items()
                for name, value in values.items()
            }
            save_checkpoint(folder.checkpoint, tensors, to_dict(config), optimizer=state)

    try:
        return train(
            training_scene(config).solver(mpm, law),
            truth,
            settings,
            generator=torch.Generator().manual_seed(config.seed),
            on_update=report,
            on_checkpoint=keep,
            checkpoint_every=config.checkpoint_every,
            resume=state,
        )
    except KeyboardInterrupt:
        if folder is None:
            raise
        kept = folder.path
        raise Interrupted(
            f"train: stopped; the checkpoint in {kept} is at most {config.checkpoint_every} "
            f"updates old. Continue with `rheograd train --resume {kept}`."
        ) from None
    finally:
        if metrics is not None:
            metrics.close()


def train_nclaw(
    config: NclawConfig,
    folder: RunFolder,
    *,
    resume: bool = False,
    on_update: Callable[[int, int, float], None] | None = None,
) -> dict[str, Any]:
    """Train a neural law on a simulated motion and measure it on an unseen throw.

    Returns:
        Summary: losses, errors of truth, learned and untrained law [m²], wall time [s].

    Raises:
        Interrupted: on Ctrl-C; the folder continues with `resume`.
    """
    if config.steps < 5:
        raise UsageError(f"train: steps ≥ 5; got {config.steps}. Give a longer motion.")
    require_device("train", config.device)
    began = time.perf_counter()
    truth = simulate_truth(training_scene(config).solver(mpm), config.steps).to(config.device)
    law = make_networks(config)
    history = fit_networks(
        config, law, truth, folder=folder, resume=resume, on_update=on_update
    )
    scene = throw(config, config.throw_seed)
    unseen = simulate_truth(scene.solver(mpm), config.steps).to(config.device)
    summary = {
        "updates": len(history.loss),
        "loss, first": history.loss[0],
        "loss, last": history.loss[-1],
        "scene steps simulated": history.simulated[-1],
    }
    for name, one in (("learned", law), ("untrained", make_networks(config))):
        x = predict_far(scene.solver(mpm, one), unseen)
        error = metric_mse_every5(x, unseen.x)
        key = f"error on an unseen throw, {name} [m²]"
        summary[key] = error if error == error else "broke the simulation"
    return {**summary, "wall time [s]": time.perf_counter() - began}


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A classical law after fitting."""

    name: str
    """Registered name of its family."""
    law: Law
    """The law with the fitted parameters."""
    fit: ClassicalFit
    """How the fit went."""
    error: float
    """Mean square error on the training motion [m²]."""


def best_classical(
    config: NclawConfig,
    truth: Trajectory,
    candidates: Sequence[tuple[str, dict[str, float]]] | None = None,
    *,
    fit: FitConfig | None = None,
    on_fit: Callable[[int, int], None] | None = None,
) -> list[Fitted]:
    """Classical laws of other families fitted to the motion, best on it first.

    Args:
        config: The run.
        truth: The motion.
        candidates: (family, first guess) pairs; default `CLASSICAL`.
        fit: Settings of the fit.
        on_fit: Called with (laws done, laws in all).
    """
    scene, found = training_scene(config), []
    candidates = CLASSICAL[config.material] if candidates is None else candidates
    for index, (name, start) in enumerate(candidates):
        law = law_by_name(name)(**start)
        result = fit_classical(scene.solver(mpm, law), truth, start, fit)
        law = dataclasses.replace(law, **result.values)
        x = predict_far(scene.solver(mpm, law), truth)
        found.append(Fitted(name, law, result, metric_mse_every5(x, truth.x)))
        if on_fit is not None:
            on_fit(index + 1, len(candidates))
    # NaN, a law that broke the simulation, comes last.
    return sorted(found, key=lambda f: (f.error != f.error, f.error))


@torch.no_grad()
def predict_far(solver: Any, truth: Trajectory) -> Tensor:
    """Positions of a free rollout (T + 1, N, 3) [m], NaN from where the law breaks the simulation.

    Args:
        solver: The scene with the law.
        truth: The motion; its first state is the start.
    """
    x = torch.full_like(truth.x, float("nan"))
    x[0] = truth.x[0]

    def keep(t: int, state: Any) -> None:
        x[t + 1] = state.x[0]

    start = truth.states(solver.model.initial_state(dtype=truth.x.dtype), [0])
    try:
        rollout(solver, start, truth.steps, save_every=truth.steps, on_step=keep)
    except (StateError, StabilityError) as error:
        log.info("the law broke the simulation: %s", error)
    return x


def error_over_time(x: Tensor, truth: Tensor) -> Tensor:
    """Root mean square distance of the particles from the truth over time [m], (T + 1,)."""
    return (x - truth).square().sum(-1).mean(-1).sqrt()
