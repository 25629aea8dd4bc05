"""Named materials: the four of the NCLaw experiments, with their constants.

Source: Ma et al. 2023 (NCLaw), released configurations of jelly, plasticine, sand and water.
"""

from __future__ import annotations

import math

from .elastic import FixedCorotated
from .liquid import Liquid
from .plastic import DruckerPrager, VonMises

__all__ = ["JELLY", "PLASTICINE", "SAND", "WATER"]

JELLY = FixedCorotated(E=1e5, nu=0.2)
"""Soft elastic gel."""

# There the yield criterion is ‖dev τ‖ ≤ 5 kPa; a bar in tension then yields at √(3/2) of it.
PLASTICINE = VonMises(E=3e5, nu=0.25, yield_stress=math.sqrt(1.5) * 5e3)
"""Modeling clay, ideally plastic."""

SAND = DruckerPrager(E=1e6, nu=0.2, friction=25.0)
"""Dry sand without cohesion."""

# The bulk modulus is the Lamé λ of E = 0.1 MPa and ν = 0.3.
WATER = Liquid(bulk=1e5 * 0.3 / (1.3 * 0.4), eos="linear")
"""Inviscid water, τ = λ J (J − 1) I."""
