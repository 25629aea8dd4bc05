"""Training of every compared law on the one motion of a material, resumable, saved with its numbers.

    FOLDER/METHOD-MATERIAL[-nano]-SEED.safetensors    weights or parameters, and how to build the law
    FOLDER/METHOD-MATERIAL[-nano]-SEED.json           command, seed, settings, time, losses

Source: Ma et al. 2023 (NCLaw), §4.1; the recipes are ours.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...operators.nclaw import (
    FitConfig,
    ReferenceScene,
    TrainConfig,
    TrainHistory,
    Trajectory,
    blind_start,
    fit_classical,
    simulate_truth,
    train,
    train_labeled,
)
from ...sim import mpm
from ...sim.core.laws import Law, TorchLaw
from ...sim.io.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .laws import classical_law, law_tensors, load_law, load_weights, make_law, method_of
from .scene import Size
from .scenes import training_scene

__all__ = ["TrainedLaw", "recipe", "train_law"]


@dataclasses.dataclass(frozen=True)
class TrainedLaw:
    """A law and how it came about."""

    law: Law
    """Ready for a `Group`, `Scene.solver` or `evaluate`."""
    path: Path
    """Its checkpoint, for `load_law`."""
    report: dict[str, Any]
    """What its JSON file says."""


def recipe(method: str, material: str, size: Size = "full") -> tuple[TrainConfig, ...]:
    """Stages of the training through the simulator, per method and material.

    Return maps (isotropic, energy): first the stress alone, since one step from a true state depends
    on nothing else, and hundreds of such segments cost little; then flow alone, while segments grow
    to 16 steps and the surface widens from the softest material to the true one, which would spoil
    the stress; then both, on segments of up to 100 steps, stress slowly, since it would make up for
    what flow still lacks; at last both on segments of up to 400 steps, where small faults add up.

    Other networks: `TrainConfig.fast` with twice the work, then segments of up to 200 steps, as long
    as the paper's; fewer of them for the small laws of earlier work, which then still take half as
    much time again as return maps. The same for all materials: what differs between them is left to
    the networks.
    """
    fast = TrainConfig.fast()
    if method in ("isotropic", "energy"):
        stages = (
            dataclasses.replace(fast, updates=200, horizon=(1, 1)),
            dataclasses.replace(
                fast, updates=300, horizon=(2, 16), lr_elastic=0.0, lr_plastic=1e-2, plastic_from=2
            ),
            dataclasses.replace(
                fast, updates=200, horizon=(8, 100), budget=32, lr_elastic=2e-4, lr_plastic=3e-3
            ),
            dataclasses.replace(
                fast, updates=100, horizon=(60, 400), budget=400, lr_elastic=5e-4, lr_plastic=1e-3
            ),
        )
    else:
        updates = 20 if method in ("spline", "neural") else 100
        last = dataclasses.replace(
            fast,
            updates=updates,
            horizon=(25, 200),
            budget=200,
            lr_elastic=1e-3,
            lr_plastic=3e-4,
        )
        stages = (dataclasses.replace(fast, updates=600), last)
        if method == "warm":
            stages = (dataclasses.replace(last, updates=50, lr_elastic=3e-4, lr_plastic=1e-4),)
    if size != "nano":
        return stages
    return tuple(
        dataclasses.replace(
            stage, updates=20, horizon=(stage.horizon[0] // 8 + 1, 8), budget=8, plastic_from=2
        )
        if stage.horizon[1] > 1
        else dataclasses.replace(stage, updates=40, budget=8)
        for stage in stages
    )


def train_law(
    method: str,
    material: str,
    folder: str | os.PathLike[str],
    *,
    size: Size = "full",
    seed: int = 0,
    device: str | torch.device = "cpu",
    config: Sequence[TrainConfig] | None = None,
    command: str = "",
    on_update: Callable[[int, int, float], None] | None = None,
) -> TrainedLaw:
    """Train a law, go on where an interrupted training stopped, or load a finished one.

    Args:
        method: one of `METHODS`.
        material: "jelly", "plasticine", "sand" or "water", the truth that moves.
        folder: where its files are.
        size: "nano": 125 particles and 200 steps, to see the machinery; else 1000 and 1000.
        seed: seed of weights and samples.
        device: device of the training.
        config: stages; default `recipe`. A resumed training must have the same.
        command: what was typed, for the report.
        on_update: called with (updates done, updates in all, loss).

    Raises:
        InputError: unknown names. StateError: a training that broke down.
    """
    source = method_of(method).learns_from
    size = "nano" if size == "nano" else "full"
    path = (
        Path(folder) / f"{method}-{material}{'-nano' if size == 'nano' else ''}-{seed}.safetensors"
    )
    report_file = path.with_suffix(".json")
    if path.is_file() and report_file.is_file():
        return TrainedLaw(load_law(path, device), path, json.loads(report_file.read_text("utf-8")))
    built = {"method": method, "material": material, "size": size, "seed": seed}
    report: dict[str, Any] = {**built, "command": command, "device": str(device)}
    began, cpu = time.perf_counter(), time.process_time()
    scene = training_scene(material, size)
    truth = simulate_truth(scene.solver(mpm), 1000 if size == "full" else 200)
    truth = truth.to(device)
    if source == "classical":
        law, values = _identify(method, material, scene, truth, report)
    else:
        law, values = make_law(method, seed), None
        for module in (law.elastic, law.plastic):
            if isinstance(module, nn.Module):
                module.to(device)
        saved = load_checkpoint(path) if path.is_file() else None
        if "labels" in source and saved is None:
            _label(law, scene, truth, built, report)
        if "motion" in source:
            stages = tuple(config or recipe(method, material, size))
            found = _through_simulator(
                law, scene, truth, stages, path, built, saved, seed, on_update
            )
            report["recipe"] = [dataclasses.asdict(stage) for stage in stages]
            report["loss"] = [[h.loss[0], h.loss[-1]] for h in found]
            report["simulated_steps"] = sum(h.simulated[-1] for h in found)
    report["seconds"] = time.perf_counter() - began
    report["cpu_seconds"] = time.process_time() - cpu
    if source != "motion" and source != "labels then motion":
        save_checkpoint(path, law_tensors(law, values), built)
    report_file.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return TrainedLaw(law, path, report)


def _through_simulator(
    law: TorchLaw,
    scene: ReferenceScene,
    truth: Trajectory,
    stages: tuple[TrainConfig, ...],
    path: Path,
    built: dict[str, Any],
    saved: Checkpoint | None,
    seed: int,
    on_update: Callable[[int, int, float], None] | None,
) -> list[TrainHistory]:
    """All stages of `train`, with one checkpoint file that an interruption leaves whole.

    Returns:
        History per stage, from the one where a resumed training stood.
    """
    first, state = 0, None
    if saved is not None:
        load_weights(law, saved.tensors)
        first, state = saved.config["stage"], saved.optimizer_state
    total = sum(stage.updates for stage in stages)
    histories = []
    for number in range(first, len(stages)):
        done = sum(stage.updates for stage in stages[:number])

        def keep(state: dict[str, Any], number: int = number) -> None:
            save_checkpoint(path, law_tensors(law), {**built, "stage": number}, optimizer=state)

        def tell(update: int, history: TrainHistory, done: int = done) -> None:
            if on_update is not None:
                on_update(done + update + 1, total, history.loss[-1])

        history = train(
            scene.solver(mpm, law),
            truth,
            stages[number],
            generator=torch.Generator().manual_seed(seed + number),
            on_update=tell,
            on_checkpoint=keep,
            resume=state if number == first else None,
        )
        histories.append(history)
    return histories


def _label(
    law: TorchLaw,
    scene: ReferenceScene,
    truth: Trajectory,
    built: dict[str, Any],
    report: dict[str, Any],
) -> None:
    full = built["size"] == "full"
    # Return maps have few weights and learn their surface from states far beyond it.
    returns = built["method"] == "labeled-isotropic"
    every = 10 if built["method"] == "warm" else 5
    history = train_labeled(
        law.elastic,
        law.plastic,
        truth,
        scene.law,
        dt=scene.dt,
        updates=(1000 if returns else 5000) if full else 200,
        lr=1e-2 if returns else 3e-3,
        amplify=1.0 if returns else 0.0,
        every=every,
        generator=torch.Generator().manual_seed(built["seed"]),
    )
    for name in ("stress", "plastic", "volume"):
        report[f"{name}_relative_square_error"] = getattr(history, name)[-1]


def _identify(
    method: str, material: str, scene: ReferenceScene, truth: Trajectory, report: dict[str, Any]
) -> tuple[Law, dict[str, float]]:
    """Fit the parameters of an analytic law from a first guess far off."""
    law = classical_law(method, material)
    start = blind_start(law)
    guess = classical_law(method, material, start)
    fit = fit_classical(scene.solver(mpm, guess), truth, start, FitConfig())
    report.update(
        start=start, values=fit.values, loss=[fit.history[0]["loss"], fit.history[-1]["loss"]]
    )
    return classical_law(method, material, fit.values), fit.values
