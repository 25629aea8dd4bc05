"""Configuration of an identification; loads no torch."""

from __future__ import annotations

import dataclasses
from typing import Literal

__all__ = ["IdentifyConfig"]


@dataclasses.dataclass(frozen=True)
class IdentifyConfig:
    """Identification of a dome over a table."""

    data: str = ""
    """File of markers and forces, .npz or .h5 [default: a synthetic sensor]."""
    guess: tuple[str, ...] = ("E", "nu", "stiffness", "friction")
    """Parameters to find, NAME=VALUE: E [Pa], nu, stiffness [Pa], friction, rho, eta, gap [m]."""
    truth: tuple[str, ...] = ()
    """Hidden values of the synthetic sensor that differ from the usual ones, NAME=VALUE."""
    known: tuple[str, ...] = ()
    """Parameters that are known, NAME=VALUE."""
    use: tuple[str, ...] = ("markers", "force")
    """Data to explain: markers, force, pictures."""
    method: Literal["gauss-newton", "lbfgs", "cma", "bayes"] = "gauss-newton"
    """How; see docs/tactile-identify.md."""
    material: str = "ecoflex_00_30"
    """Of the gel, for what is neither known nor sought."""
    cuts: int = 2
    """Fineness of the gel, see `dome`."""
    layers: int = 1
    """Layers of cells of the gel."""
    markers: int = 136
    """Dots on the synthetic gel, or on one whose data has no `dots`."""
    dt: float = 5e-3
    """Step of the motions [s]."""
    pixels: float = 0.1
    """Standard deviation of a marker coordinate [px]."""
    newtons: float = 5e-3
    """Standard deviation of a component of force [N]."""
    colour: float = 0.01
    """Standard deviation of a colour of a pixel."""
    budget: int = 60
    """Simulations at most; one is all motions once."""
    seed: int = 0
    """Of noise, and of cma and bayes."""
