"""Neural constitutive laws trained through the simulator (NCLaw).

`NeuralElastic` and `NeuralPlastic` map a deformation gradient to stress and to its elastic part;
`neural_law` makes them the law of a particle group. `train` fits them to a motion from positions
alone, `fit_classical` fits an analytic law to the same motion, `train_labeled` regresses known
stress. `NeuralIsotropic` and `NeuralReturn` are the isotropic pair, `SplineElastic` and
`StretchElastic` laws of earlier work.

Source: Ma et al. 2023, "Learning Neural Constitutive Laws from Motion Observations".
"""

from __future__ import annotations

from .baselines import SplineElastic, StretchElastic
from .data import (
    THROW_SEEDS,
    ReferenceScene,
    Trajectory,
    metric_mse_every5,
    nclaw_scene,
    predict,
    random_throw,
    simulate_truth,
)
from .fit import (
    ClassicalFit,
    FitConfig,
    LabeledHistory,
    blind_start,
    fit_classical,
    train_labeled,
)
from .hyperelastic import NeuralHyperelastic
from .invariants import FEATURES, invariants, kirchhoff_stress, plastic_update
from .isotropic import NeuralIsotropic, NeuralReturn
from .networks import NeuralElastic, NeuralPlastic, neural_law
from .train import TrainConfig, TrainHistory, horizon_at, segment_loss, train

__all__ = [
    "FEATURES",
    "THROW_SEEDS",
    "ClassicalFit",
    "FitConfig",
    "LabeledHistory",
    "NeuralElastic",
    "NeuralHyperelastic",
    "NeuralIsotropic",
    "NeuralPlastic",
    "NeuralReturn",
    "ReferenceScene",
    "SplineElastic",
    "StretchElastic",
    "TrainConfig",
    "TrainHistory",
    "Trajectory",
    "blind_start",
    "fit_classical",
    "horizon_at",
    "invariants",
    "kirchhoff_stress",
    "metric_mse_every5",
    "nclaw_scene",
    "neural_law",
    "plastic_update",
    "predict",
    "random_throw",
    "segment_loss",
    "simulate_truth",
    "train",
    "train_labeled",
]
