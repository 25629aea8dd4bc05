"""One training loop for everything that learns: `Trainer(model, loss, config, folder).fit(batches)`."""

from __future__ import annotations

from .config import TrainerConfig, TrainerHistory
from .parts import Batches
from .trainer import Trainer

__all__ = ["Batches", "Trainer", "TrainerConfig", "TrainerHistory"]
