"""The demonstration: simulate, learn, plan, look. Every number is computed in the run.

    1  simulate a jelly ball that splashes into a pool (3-D)
    2  train a neural law on the motion of a block of jelly, from positions alone
    3  fit classical laws of other families to the same motion, keep the best
    4  throw the block as training never did; run truth and all laws over the trained horizon
    5  optimize the paddle of a pool by gradients through time
    6  draw, film and report

Stages are run folders of the other commands, so an interrupted demonstration resumes inside them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...operators.nclaw import FitConfig, simulate_truth
from ...sim import mpm
from ...sim.io import Metrics, RolloutWriter, write_whole
from ...viz import model_config
from ..core import Task
from ..optim import OptimResult
from ..runs.building import build
from ..runs.configs import from_dict, merge, to_dict
from ..runs.folder import RunFolder
from ..runs.learning import (
    Fitted,
    best_classical,
    error_over_time,
    fit_networks,
    make_networks,
    predict_far,
    throw,
    training_scene,
)
from ..runs.learning_config import DemoConfig, NclawConfig, PlanConfig
from ..runs.planning import make_task, plan
from ..runs.scenes import SimulateConfig, scene_defaults
from ..runs.simulation import resume_simulation, simulate
from .report import write_report

__all__ = ["STAGES", "Demo", "run_demo"]

STAGES = (
    "simulate jelly and water",
    "train a neural law",
    "fit classical laws",
    "predict an unseen throw",
    "optimize the paddle",
    "draw and film",
)
Update = Callable[..., None]
"""`update(done, total, note="")` of one stage."""


@dataclasses.dataclass
class Demo:
    """Everything that the report shows."""

    config: DemoConfig
    folder: Path
    splash: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Summary of the simulation."""
    training: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Metrics of the training, one row per update."""
    fitted: list[Fitted] = dataclasses.field(default_factory=list)
    """Classical laws, best on the training motion first."""
    training_errors: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Distance from the truth over time on the training motion [m], (T + 1,)."""
    errors: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """The same on the unseen throw."""
    throw_files: dict[str, Path] = dataclasses.field(default_factory=dict)
    """Rollout of truth and every law on the unseen throw."""
    frame_time: float = 5e-4
    """Time step of these [s]."""
    task: Task | None = None
    plan: OptimResult | None = None
    distance_before: float = 0.0
    """Distance of the block from the target at the end if the paddle stands still [m]."""
    gradient_norm: Tensor | None = None
    """‖∂J/∂(x, v)‖ of the state before the last k actions, k = 0 … T."""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Wall time per stage [s]."""

    def mean_error(self, name: str, *, training: bool = False) -> float:
        """Root mean square distance from the truth [m] over the motion, or as far as it went."""
        errors = (self.training_errors if training else self.errors)[name]
        return float(errors[errors.isfinite()].square().mean().sqrt())

    def lasted(self, name: str, *, training: bool = False) -> float:
        """How long the simulation with a law went [s]; less than the motion if it broke."""
        errors = (self.training_errors if training else self.errors)[name]
        return (int(errors.isfinite().sum()) - 1) * self.frame_time

    def numbers(self) -> dict[str, Any]:
        """What the command prints."""
        assert self.plan is not None
        shown: dict[str, Any] = {}
        for name in self.errors:
            shown[f"unseen throw, {name}: error [mm]"] = 1e3 * self.mean_error(name)
            last = float(self.errors[name][-1])
            shown[f"unseen throw, {name}: error at the end [mm]"] = (
                1e3 * last if last == last else f"broke after {1e3 * self.lasted(name):.0f} ms"
            )
        shown["paddle at rest: distance left [mm]"] = 1e3 * self.distance_before
        shown["paddle optimized: distance left [mm]"] = 1e3 * self.plan.distance
        shown["task solved"] = "yes" if self.plan.success else "no"
        shown["wall time [s]"] = sum(self.seconds.values())
        return shown


def run_demo(
    config: DemoConfig, folder: RunFolder, stage: Callable[[str], Update]
) -> tuple[Demo, Path]:
    """Run all stages and write report.html.

    Args:
        config: Sizes.
        folder: Run folder; stages that it holds already are not repeated.
        stage: Called with the name of each stage as it begins; returns its progress callback.

    Returns:
        The numbers and the path of the report.

    Raises:
        Interrupted: on Ctrl-C, from the stage that was running.
    """
    demo = Demo(config, folder.path)
    works = (_splash, _train, _fit, _predict, _plan, _draw)
    context: dict[str, Any] = {"law": _law_config(config)}
    report = folder.path / "report.html"
    for name, work in zip(STAGES, works, strict=True):
        update, began = stage(name), time.perf_counter()
        try:
            work(demo, context, update)
        finally:  # an interrupted stage counts too
            with folder.metrics() as metrics:
                metrics.add(stage=name, seconds=time.perf_counter() - began)
    for row in Metrics.read(folder.path / "metrics.jsonl"):
        demo.seconds[row["stage"]] = demo.seconds.get(row["stage"], 0.0) + row["seconds"]
    write_report(demo, report)
    write_whole(folder.path / "summary.json", json.dumps(demo.numbers(), indent=1) + "\n")
    return demo, report


def _law_config(config: DemoConfig) -> NclawConfig:
    return NclawConfig(
        material=config.material, steps=config.steps, resolution=config.particles,
        updates=config.updates, seed=config.seed, throw_seed=config.seed + 1,
    )  # fmt: skip


def _stage_folder(demo: Demo, name: str, command: str, config: Any) -> tuple[RunFolder, bool]:
    """The run folder of a stage, and whether it was there before."""
    path = demo.folder / name
    if (path / "config.toml").is_file():
        return RunFolder.open(path, command), True
    return RunFolder(path, command, to_dict(config)), False


def _splash(demo: Demo, context: dict[str, Any], update: Update) -> None:
    c = demo.config
    values = {"resolution": c.resolution, "duration": c.duration, "seed": c.seed}
    config = from_dict(SimulateConfig, merge(scene_defaults("jelly-and-water", 3), values))
    run = build(config)
    folder, again = _stage_folder(demo, "jelly-and-water", "simulate", run.config)
    demo.splash = resume_simulation(folder, update) if again else simulate(run, folder, update)


def _train(demo: Demo, context: dict[str, Any], update: Update) -> None:
    config: NclawConfig = context["law"]
    update(0, config.updates, "simulate the motion")
    truth = simulate_truth(training_scene(config).solver(mpm), config.steps)
    law = make_networks(config)
    folder, again = _stage_folder(demo, "neural-law", "train", config)

    def report(done: int, total: int, loss: float) -> None:
        update(done, total, f"loss {loss:.3g}")

    fit_networks(config, law, truth, folder=folder, resume=again, on_update=report)
    demo.training = Metrics.read(folder.path / "metrics.jsonl")
    context |= {"truth": truth, "learned": law}


def _fit(demo: Demo, context: dict[str, Any], update: Update) -> None:
    fit = FitConfig(iterations=demo.config.fit_iterations)
    demo.fitted = best_classical(context["law"], context["truth"], fit=fit, on_fit=update)


def _predict(demo: Demo, context: dict[str, Any], update: Update) -> None:
    config: NclawConfig = context["law"]
    best = demo.fitted[0]
    laws = {
        "learned": context["learned"],
        "untrained": make_networks(config),
        f"classical ({best.name})": best.law,
    }
    seen, unseen = training_scene(config), throw(config, config.throw_seed)
    truth = simulate_truth(unseen.solver(mpm), config.steps)
    demo.frame_time = unseen.dt
    total, done = 2 * len(laws) - 1, 0
    _store_throw(demo, "truth", unseen, truth.x)
    for name, law in laws.items():
        for scene, motion, errors in (
            (seen, context["truth"], demo.training_errors),
            (unseen, truth, demo.errors),
        ):
            if name == "untrained" and motion is not truth:
                continue  # it has not seen any motion
            x = predict_far(scene.solver(mpm, law), motion)
            errors[name] = error_over_time(x, motion.x)
            done += 1
            update(done, total, name)
        _store_throw(demo, name, unseen, x)


def _store_throw(demo: Demo, name: str, scene: Any, x: Tensor) -> None:
    path = demo.folder / "throw" / f"{name.split(' ')[0]}.h5"
    stride = max(1, (x.shape[0] - 1) // max(1, demo.config.frames - 1))
    solver = scene.solver(mpm)
    with RolloutWriter(
        path, n_trajectories=1, particle_count=x.shape[1], fields={"x": 1}, dim=3,
        dt_frame=stride * scene.dt, groups={name.split(" ")[0]: (0, x.shape[1])},
        config=model_config(solver.model), overwrite=True,
    ) as writer:  # fmt: skip
        for k in range(0, x.shape[0], stride):
            writer.append(k * scene.dt, {"x": x[None, k]})
    demo.throw_files[name] = path


def _plan(demo: Demo, context: dict[str, Any], update: Update) -> None:
    c = demo.config
    config = PlanConfig(
        task=c.task, seconds=c.plan_seconds, iterations=c.plan_iterations, seed=c.seed
    )
    task = demo.task = make_task(config.task)
    folder, again = _stage_folder(demo, "paddle", "optimize", config)

    def report(event: dict[str, Any]) -> None:
        if config.iterations is not None:
            done, total = event["iteration"], config.iterations
        else:
            done, total = min(round(event["wall_s"]), round(c.plan_seconds)), round(c.plan_seconds)
        update(done, total, f"{1e3 * event['distance']:.0f} mm left")

    demo.plan = plan(config, folder, resume=again, task=task, on_iteration=report)
    with torch.no_grad():
        _, final = task.evaluate(task.initial_actions().to(torch.float32))
    demo.distance_before = float(task.metrics(final)["distance"][0])
    demo.gradient_norm = _gradient_norm(task, demo.plan.actions)


def _gradient_norm(task: Task, actions: Tensor) -> Tensor:
    """‖∂J/∂(x_t, v_t)‖ of every state of a rollout, last state first, (T + 1,)."""
    states = task.rollout(actions.clone().requires_grad_()).states
    fields = [getattr(state, name) for state in states[1:] for name in ("x", "v")]
    losses = [task.loss(state, t) for t, state in enumerate(states[1:])]
    grads = torch.autograd.grad(
        torch.stack(losses).mean(), [f for f in fields if f.requires_grad], allow_unused=True
    )
    squares = iter(0.0 if g is None else g.square().sum() for g in grads)
    needed = [f.requires_grad for f in fields]
    terms = [next(squares) if need else 0.0 for need in needed]
    pairs = [torch.as_tensor(a + b).sqrt() for a, b in zip(terms[::2], terms[1::2], strict=True)]
    return torch.stack([p.to(torch.float64) for p in reversed(pairs)])


def _draw(demo: Demo, context: dict[str, Any], update: Update) -> None:
    from .pictures import draw_all

    draw_all(demo, update)
