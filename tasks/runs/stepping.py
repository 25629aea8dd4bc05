"""Training runs of particle steppers (GIOROM, GNS) on data sets of `rheograd generate`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ...assets import weights
from ...operators.data import EpochBatches, ParticleBatch, ParticleWindows, Statistics
from ...operators.giorom import (
    GNS,
    ConstantVelocity,
    GioromConfig,
    GioromStepper,
    GNSConfig,
    StepperLoss,
    one_step_mse,
    rollout_mse,
)
from ...operators.giorom.base import ParticleStepper
from ...operators.train import Trainer, TrainerConfig, TrainerHistory
from ...sim.core.neighbors import nearest, radius_graph
from ...sim.io import load_checkpoint
from .configs import UsageError
from .devices import require_device
from .folder import RunFolder
from .learning_config import StepperConfig

__all__ = ["build_stepper", "load_stepper", "measure_stepper", "train_stepper"]


def windows(config: StepperConfig, split: str, **changes: Any) -> ParticleWindows:
    """The samples of one split, as the configuration wants them."""
    options: dict[str, Any] = {
        "sensors": config.sensors or None, "copies": config.copies if config.sensors else 1,
        "seed": config.seed, "targets": config.steps, "reference": config.reference,
    }  # fmt: skip
    return ParticleWindows.from_folder(config.data, split, **{**options, **changes})


def graph_radius(data: ParticleWindows, neighbors: int) -> float:
    """Mean distance to the k-th nearest sensor in the first frame of every trajectory [m]."""
    distances = []
    for trajectory in data.trajectories:
        x = data.trajectory(trajectory).positions[:, 0]
        distances.append(nearest(x, x, min(neighbors + 1, len(x)))[1][:, -1].mean())
    return float(torch.stack(distances).mean())


def graph_components(data: ParticleWindows, radius: float) -> int:
    """Most connected components of the graph in a trajectory's first frame.

    More than there are bodies: some sensors cannot learn what the others do, except through the grid.
    """
    most = 0
    for trajectory in data.trajectories:
        x = data.trajectory(trajectory).positions[:, 0]
        index = radius_graph(x, radius).numpy()
        graph = coo_matrix((np.ones(index.shape[1]), tuple(index)), (len(x), len(x)))
        most = max(most, connected_components(graph, directed=False)[0])
    return int(most)


def build_stepper(
    config: StepperConfig, statistics: Statistics, radius: float, dim: int
) -> ParticleStepper:
    """A new model, its weights drawn from the seed."""
    generator = torch.Generator().manual_seed(config.seed)
    if config.model == "gns":
        gns = GNSConfig() if config.size == "large" else GNSConfig.small()
        gns = dataclasses.replace(gns, reference=config.reference)
        return GNS(gns, statistics, radius, dim, generator=generator)
    if config.model == "giorom":
        sizes = GioromConfig() if config.size == "large" else GioromConfig.small()
    else:  # published: two layers on each side, with one attention block between them or no grid
        sizes = GioromConfig.paper()
        if config.size == "small":
            sizes = dataclasses.replace(GioromConfig.small(), layers_in=2, layers_out=2, blocks=1)
        bottleneck = "attention" if config.model == "attention" else "none"
        sizes = dataclasses.replace(sizes, bottleneck=bottleneck)
    changes = {"hidden": config.hidden, "layers_in": config.layers, "layers_out": config.layers}
    changes = {name: value for name, value in changes.items() if value is not None}
    sizes = dataclasses.replace(sizes, reference=config.reference, **changes)
    return GioromStepper(sizes, statistics, radius, dim, generator=generator)


def train_stepper(
    config: StepperConfig,
    folder: RunFolder,
    on_update: Callable[[int, TrainerHistory], None] | None = None,
) -> dict[str, Any]:
    """Train on the training trajectories, measure on the held-out ones.

    A folder with a checkpoint is continued from it.

    Args:
        config: The run.
        folder: Gets checkpoint, model.safetensors and metrics.jsonl.
        on_update: Called with (updates done, history).

    Returns:
        Summary of `measure_stepper`, with updates, parameters and the radius.

    Raises:
        UsageError: neither updates nor seconds.
        InputError, StateError, StoreError: data that do not fit, see `ParticleWindows` and `Trainer`.
        KeyboardInterrupt: after the checkpoint of the update that was running.
    """
    if config.updates is None and config.seconds is None:
        raise UsageError("train: --updates or --seconds; got neither. Give one.")
    require_device("train", config.device)
    data = windows(config, "train")
    statistics = data.statistics().with_noise(config.noise)
    radius = config.radius or graph_radius(data, config.neighbors)
    model = build_stepper(config, statistics, radius, data.dim).to(config.device)
    stored = {
        "model": config.model, "size": config.size, "hidden": config.hidden,
        "layers": config.layers, "reference": config.reference, "radius": radius,
        "dim": data.dim, "statistics": statistics.to_dict(), "frame_time": data.frame_time,
    }  # fmt: skip
    recipe = TrainerConfig(
        updates=config.updates, time_limit=config.seconds, optimizer="adamw", lr=config.lr,
        schedule="cosine", warmup=20, clip=config.clip, ema=config.ema, seed=config.seed,
        validate_every=10**9, keep_best=False, log_every=10,
    )  # fmt: skip
    loss = StepperLoss(noise=config.noise, steps=config.steps)
    batches = EpochBatches(data, config.batch, config.seed)
    trainer = Trainer(model, loss, recipe, folder.path, model_config=stored)
    history = trainer.fit(batches, on_update=on_update)
    return {
        "updates": history.updates,
        "parameters": sum(p.numel() for p in model.parameters()),
        "radius [m]": radius,
        "graph components": graph_components(data, radius),
        **measure_stepper(config, model.eval()),
    }


def load_stepper(path: str | Path) -> ParticleStepper:
    """A trained model in evaluation mode: of a run folder, a model.safetensors, or shipped by name."""
    path = weights("steppers", path)
    stored = load_checkpoint(path / "model.safetensors" if path.is_dir() else path)
    c = stored.config
    config = StepperConfig(
        **{name: c[name] for name in ("model", "size", "hidden", "layers", "reference")}
    )
    model = build_stepper(config, Statistics.from_dict(c["statistics"]), c["radius"], c["dim"])
    model.load_state_dict(stored.tensors)
    return model.eval()


@torch.no_grad()
def measure_stepper(
    config: StepperConfig, model: ParticleStepper, *, copies: int = 2, horizon: int = 100
) -> dict[str, float]:
    """Errors on the held-out trajectories, beside predictions without learning.

    Args:
        config: Data and sensors; their seed is another than in training.
        model: In evaluation mode.
        copies: Sensor sets per trajectory.
        horizon: Frames of the rollouts, at most.

    Returns:
        one step [m²/frame⁴] and rollout [m²], means over particles of squared norms; the first over
        that of no acceleration, the second over that of free flight.
    """
    dense = not config.sensors
    other = config.seed + 7
    samples = windows(config, "validation", seed=other, copies=1, stride=80 if dense else 10)
    few = [samples[i] for i in range(len(samples))]
    metadata = json.loads((Path(config.data) / "metadata.json").read_text("utf-8"))
    gravity = torch.tensor(metadata.get("gravity", [0.0] * model.dim)) * samples.frame_time**2
    runs = held_out(config, copies=1 if dense else copies, seed=other, horizon=horizon)
    runs = runs[:1] if dense else runs  # a dense rollout takes minutes

    def mean(measure: Callable, one: Any, batches: list[ParticleBatch]) -> float:
        return sum(float(measure(one, b.to(config.device))) for b in batches) / len(batches)

    step, rest = mean(one_step_mse, model, few), mean(one_step_mse, ConstantVelocity(), few)
    run = mean(rollout_mse, model, runs)
    free = mean(rollout_mse, ConstantVelocity(gravity), runs)
    return {
        "one step [m²/frame⁴]": step,
        "one step over no acceleration": step / rest,
        "rollout [m²]": run,
        "rollout over free flight": run / free,
    }


def held_out(
    config: StepperConfig, *, copies: int, seed: int, horizon: int, sensors: int | None = None
) -> list[ParticleBatch]:
    """First windows of the held-out trajectories with the frames that follow, per sensor set."""
    number = sensors or config.sensors or None
    data = windows(config, "validation", seed=seed, copies=copies, sensors=number)
    result = []
    for trajectory in data.trajectories:
        for copy in range(copies):
            batch = data.trajectory(trajectory, copy)
            assert batch.target is not None
            result.append(batch.replace(target=batch.target[:, :horizon]))
    return result
