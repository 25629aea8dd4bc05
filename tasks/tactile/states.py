"""What states of tactile tasks carry beside the scene."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ...sim.coupling import CoupledState
from ...sim.fem import FEMState
from ..watched import Seen

__all__ = ["Drawn", "PlasticState", "TactileState"]


@dataclasses.dataclass
class Drawn(Seen):
    """How an episode began, and what its sensors have gone through."""

    home: Tensor | None = None
    """Poses of the handles at the start, (B, H, 7)."""
    world: Tensor | None = None
    """Logarithms of the factors of its parameters, see `worlds`, (B, K); None: the nominal world."""


@dataclasses.dataclass
class TactileState(Drawn, FEMState):
    """A scene that remembers."""


@dataclasses.dataclass
class PlasticState(Drawn, CoupledState):
    """The same for scenes with material points."""
