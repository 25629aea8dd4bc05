"""One training loop for everything that learns: `Trainer(model, loss, config, folder).fit(batches)`."""

from __future__ import annotations

from .arrays import TrainedOperator, fit_operator, measure_operator, train_on_arrays
from .config import TrainerConfig, TrainerHistory
from .parts import Batches
from .soap import Soap
from .trainer import Trainer

__all__ = [
    "Batches",
    "Soap",
    "TrainedOperator",
    "Trainer",
    "TrainerConfig",
    "TrainerHistory",
    "fit_operator",
    "measure_operator",
    "train_on_arrays",
]
