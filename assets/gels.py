"""Soft materials of tactile sensors as plain numbers, each with where it comes from.

    GELS["ecoflex_00_30"]       what `rheograd.sim.tactile.GelSensor(mesh, "ecoflex_00_30")` is made of

Data sheets give the modulus at 100 % strain, which the neo-Hookean law turns into Young's modulus at
rest, σ(λ = 2) = 1.75 μ, E = 3 μ. That one point misleads: silicones soften with the first pulls, harden
at large strains, and stiffen with age and rate; a fit of whole tension tests of Ecoflex 00-30 has half
of that E. Take them for nominal within a factor of two, and identify your own gel.
Silicones hardly change volume (ν > 0.499). ν = 0.49 is chosen: it lets volume change by a few per cent
of the pressure over E, and keeps the equations well conditioned.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["GELS", "GelMaterial"]


@dataclass(frozen=True)
class GelMaterial:
    """One silicone."""

    about: str
    """What it is."""
    E: float
    """Young's modulus at rest [Pa]."""
    rho: float
    """Density [kg/m³]."""
    nu: float = 0.49
    """Poisson's ratio [-]; chosen, see above."""
    eta: float = 0.0
    """Viscosity [Pa s]; none, data sheets have none."""
    sources: dict[str, str] = field(default_factory=dict)
    """Name of a number -> where it comes from; "nominal" where no source was at hand."""


_CHOSEN = "chosen: nearly incompressible, and well conditioned"

GELS: dict[str, GelMaterial] = {
    "ecoflex_00_30": GelMaterial(
        "very soft platinum silicone, Shore 00-30",
        E=1.18e5,
        rho=1070.0,
        sources={
            "E": (
                "Smooth-On, Ecoflex series, technical bulletin: 10 psi (69 kPa) at 100 % strain; "
                "a fit by others to tension tests (data of Marechal et al. 2021, Soft Robotics 8, "
                "284) has 51 kPa, which was not repeated here"
            ),
            "rho": "Smooth-On, Ecoflex series, technical bulletin: specific gravity 1.07",
            "nu": _CHOSEN,
        },
    ),
    "solaris": GelMaterial(
        "clear platinum silicone, Shore 15A, common in gel sensors with a camera",
        E=2.96e5,
        rho=990.0,
        sources={
            "E": (
                "nominal: 25 psi (172 kPa) at 100 % strain, known as that of the maker's bulletin, "
                "which was not at hand; its hardness, Shore 15A, stands for 0.3 to 0.8 MPa"
            ),
            "rho": "nominal: specific gravity 0.99, known as that of the maker's bulletin",
            "nu": _CHOSEN,
        },
    ),
    "sylgard_184": GelMaterial(
        "clear PDMS, 10 : 1, cured at room temperature",
        E=1.32e6,
        rho=1030.0,
        sources={
            "E": (
                "Johnston et al. 2014, J. Micromech. Microeng. 24, 035017: 1.32 MPa cured at 25 °C, "
                "2.97 MPa at 200 °C"
            ),
            "rho": "Dow, Sylgard 184, technical data sheet: 1.03 g/cm³",
            "nu": _CHOSEN,
        },
    ),
}
"""Gels by name."""
