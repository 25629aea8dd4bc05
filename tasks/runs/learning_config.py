"""Configurations of training and planning runs; loads no torch."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

__all__ = ["DemoConfig", "NclawConfig", "PlanConfig", "StepperConfig"]


@dataclasses.dataclass(frozen=True)
class NclawConfig:
    """Training of a neural constitutive law (NCLaw) on one motion."""

    system: Literal["nclaw"] = "nclaw"
    """What is trained."""
    material: Literal["jelly", "plasticine", "sand", "water"] = "jelly"
    """True material, which makes the motion; the networks see positions only."""
    steps: int = 500
    """Length of the motion [steps of 0.5 ms]."""
    resolution: int = 10
    """Particles along an edge of the block; the paper's."""
    recipe: Literal["fast", "paper"] = "fast"
    """Training settings that the fields below change; fast: a minute or two, paper: hours."""
    updates: int | None = None
    """Optimizer steps [default: the recipe's]."""
    horizon_start: int | None = None
    """First length of the segments [steps] [default: the recipe's]."""
    horizon_end: int | None = None
    """Last length of the segments [steps] [default: the recipe's]."""
    budget: int | None = None
    """Simulated steps per update [default: the recipe's]."""
    lr_elastic: float | None = None
    """Learning rate of the elastic network [default: the recipe's]."""
    lr_plastic: float | None = None
    """Learning rate of the plastic network [default: the recipe's]."""
    clip: float | None = None
    """Bound on the gradient norm [default: the recipe's]."""
    scale: float = 1e4
    """Start of the elastic output scale [Pa]; 0: fixed 1 Pa, as in the paper."""
    plastic: bool = True
    """Whether there is a plastic network."""
    plastic_gain: float = 0.01
    """Factor on the plastic network's last layer at the start; small: nearly elastic at first."""
    device: str = "cpu"
    """cpu or cuda."""
    seed: int = 0
    """Seed of weights and segments."""
    throw_seed: int = 1
    """Seed of the unseen throw that the result is measured on."""
    checkpoint_every: int = 10
    """Updates between checkpoints."""


@dataclasses.dataclass(frozen=True)
class StepperConfig:
    """Training of a particle stepper (GIOROM, GNS) on a generated data set."""

    system: Literal["giorom"] = "giorom"
    """What is trained."""
    data: str = ""
    """Folder that `rheograd generate` or `import_gns` made."""
    model: Literal["giorom", "attention", "layers", "gns"] = "giorom"
    """giorom: convolutions on the latent grid; attention: the published transformer there; layers: no
    grid; gns: ten message passings."""
    size: Literal["small", "large"] = "small"
    """small: for CPU cores; large: the published sizes."""
    hidden: int | None = None
    """Width of nodes and edges [default: the size's]."""
    layers: int | None = None
    """Interaction layers before the grid, and after it [default: giorom 1, else 2]."""
    reference: bool = False
    """Let the model see the undeformed body: for solids."""
    sensors: int = 300
    """Particles that the model sees; 0: all."""
    copies: int = 10
    """Sensor sets per trajectory."""
    radius: float | None = None
    """Of the graph [m] [default: mean distance to the nearest NEIGHBORS]."""
    neighbors: int = 16
    """Neighbours that the default radius encloses."""
    noise: float = 2e-5
    """Noise of the last velocity in training [m/frame]."""
    steps: int = 1
    """Steps that a training sample predicts."""
    batch: int = 2
    """Samples per update."""
    updates: int | None = None
    """Optimizer steps."""
    seconds: float | None = None
    """Training time, instead of or beside updates [s]."""
    lr: float = 1e-3
    """Learning rate at the start; falls as a cosine."""
    clip: float = 1.0
    """Bound on the gradient norm."""
    ema: float | None = None
    """Decay of averaged weights."""
    device: str = "cpu"
    """cpu or cuda."""
    seed: int = 0
    """Seed of weights, sensors, noise and order."""


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Search for the actions that solve a task."""

    task: str = "fluid/gathering"
    """Task of `rheograd list`."""
    method: Literal[
        "gradient",
        "lbfgs",
        "continuation",
        "cma",
        "cem",
        "mppi",
        "mppi-receding",
        "random",
        "hybrid",
        "apg",
        "shac",
        "ppo",
        "sac",
    ] = "gradient"
    """Optimizer; gradient, lbfgs, continuation: through time; cma (extra opt), cem, mppi, mppi-receding,
    random: by sampling; hybrid: descent and cma in turns; apg, shac, ppo, sac (extra rl): policies."""
    seconds: float | None = 90.0
    """Wall time to spend [s]; resumed runs count what they have spent."""
    iterations: int | None = None
    """Gradient steps or generations at most [default: no limit]."""
    simulator_steps: int | None = None
    """Simulator steps to spend at most [default: no limit]."""
    device: str = "cpu"
    """cpu or cuda."""
    seed: int = 0
    """Seed of the search."""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the task: --task.FIELD."""
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the method: --optimizer.FIELD."""


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Sizes of the demonstration: five minutes on two cores."""

    seed: int = 0
    """Seed of weights, segments, throw and search."""
    resolution: int = 24
    """Grid cells along the box of the splash."""
    duration: float = 1.2
    """Length of the splash [s]."""
    material: Literal["jelly", "plasticine", "sand", "water"] = "jelly"
    """What the neural law learns."""
    steps: int = 500
    """Trained horizon [steps of 0.5 ms]; long enough to hit the wall and bounce."""
    particles: int = 10
    """Particles along an edge of the block."""
    updates: int = 300
    """Optimizer steps of the neural law."""
    fit_iterations: int = 12
    """L-BFGS iterations per classical law."""
    task: str = "fluid/gathering"
    """Task of the paddle."""
    plan_seconds: float = 100.0
    """Wall time at most of the search for the paddle's motion [s]."""
    plan_iterations: int | None = 40
    """Gradient steps at most; a number instead of a time makes the result repeatable."""
    frames: int = 25
    """Frames of each movie."""
    width: int = 640
    """Width of the pictures [px]."""

    @classmethod
    def quick(cls) -> DemoConfig:
        """Everything once, as small as it goes; its numbers show the machinery, not the method."""
        return cls(
            resolution=10, duration=0.32, steps=100, particles=4, updates=4, fit_iterations=1,
            task="fluid/gathering-nano", plan_iterations=2, frames=3, width=240,
        )  # fmt: skip
