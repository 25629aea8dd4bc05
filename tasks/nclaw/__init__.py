"""Comparison of constitutive laws: scenes of the NCLaw paper, methods, training and evaluation.

    trained = train_law("nclaw", "jelly", "runs/laws")
    evaluate(trained.law, "contact", "jelly").mse

Source: Ma et al. 2023 (NCLaw).
"""

from __future__ import annotations

from .evaluation import Evaluation, evaluate, simulate, volume_ratios
from .laws import METHODS, Method, classical_law, load_law, make_law
from .scene import Body, Scene
from .scenes import SCENES, make_scene, training_scene
from .switch import SwitchLaw
from .training import TrainedLaw, recipe, train_law

__all__ = [
    "METHODS",
    "SCENES",
    "Body",
    "Evaluation",
    "Method",
    "Scene",
    "SwitchLaw",
    "TrainedLaw",
    "classical_law",
    "evaluate",
    "load_law",
    "make_law",
    "make_scene",
    "recipe",
    "simulate",
    "train_law",
    "training_scene",
    "volume_ratios",
]
