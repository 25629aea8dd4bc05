"""Thin materials as plain numbers, each with where it comes from.

    SHEETS["paper"]        what `rheograd.sim.shell.SheetMesh.sheet(name, "paper")` builds a part from

Numbers are nominal values of isotropic sheets. Real ones scatter, and paper and cloth are not isotropic:
their E is √(E₁ E₂) of the two directions. The uncertainty is what one should expect between products of
that name; it is an estimate of ours unless a source gives a range. Yield stresses are those at which
bending begins to last, well below strength. Numbers called "chosen" come from no measurement.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["SHEETS", "SheetMaterial"]


@dataclass(frozen=True)
class SheetMaterial:
    """One material of one thickness."""

    about: str
    """What it is."""
    h: float
    """Thickness [m]."""
    rho: float
    """Density [kg/m³]."""
    E: float
    """Young's modulus in the plane [Pa]."""
    nu: float
    """Poisson's ratio [-]."""
    rigidity: float | None = None
    """Measured flexural rigidity D [N m]; None: E h³/12(1 − ν²), a homogeneous plate."""
    yield_stress: float | None = None
    """Stress at which the surface yields in bending [Pa]; None: does not crease."""
    hardening: float = 0.0
    """Growth of the yield curvature per plastic curvature [-]."""
    sources: dict[str, str] = field(default_factory=dict)
    """Name of a number -> where it comes from, with its uncertainty."""

    @property
    def k_bend(self) -> float:
        """Rigidity relative to that of a homogeneous plate [-]."""
        if self.rigidity is None:
            return 1.0
        return self.rigidity * 12 * (1 - self.nu**2) / (self.E * self.h**3)


_CHOSEN = "chosen: a crease that is opened flat once keeps 2H/(1 + H) = 4/7 of its angle"

SHEETS: dict[str, SheetMaterial] = {
    "paper": SheetMaterial(
        "office paper, 80 g/m²",
        h=104e-6,
        rho=770.0,
        E=3.5e9,
        nu=0.3,
        rigidity=2.5e-4,
        yield_stress=15e6,
        hardening=0.4,
        sources={
            "h": "caliper of copy paper, 100 to 110 µm",
            "rho": "80 g/m² over h, ± 5 %",
            "E": "Niskanen 2012, Mechanics of Paper Products, copy paper: 5 and 2.5 GPa along and across "
            "the machine, ± 30 %",
            "nu": "Niskanen 2012, √(ν₁₂ ν₂₁) ≈ 0.3, ± 0.05",
            "rigidity": "geometric mean of both directions of 80 g/m² office paper, ± 30 %; less than a "
            "homogeneous sheet because the surfaces are rough",
            "yield_stress": "end of the straight part of tensile curves of paper, 0.4 to 0.5 % strain "
            "(Alava & Niskanen 2006, The physics of paper), ± 40 %",
            "hardening": _CHOSEN,
        },
    ),
    "card": SheetMaterial(
        "paperboard of postcards, 300 g/m²",
        h=0.40e-3,
        rho=750.0,
        E=3.0e9,
        nu=0.3,
        yield_stress=12e6,
        hardening=0.4,
        sources={
            "h": "solid board of this grammage, 0.35 to 0.45 mm",
            "rho": "300 g/m² over h, ± 10 %",
            "E": "Niskanen 2012, board: 2 to 5 GPa by direction, ± 40 %",
            "nu": "as paper",
            "yield_stress": "as paper, 0.4 % strain, ± 40 %",
            "hardening": _CHOSEN,
        },
    ),
    "cotton": SheetMaterial(
        "plain woven cotton of shirts, 120 g/m²; bends 12 times more easily than a plate of its E and h",
        h=0.30e-3,
        rho=400.0,
        E=2.5e7,
        nu=0.2,
        rigidity=5e-6,
        sources={
            "h": "Kawabata 1980 (KES-FB3, at 0.5 gf/cm²), shirting 0.25 to 0.4 mm",
            "rho": "120 g/m² over h, ± 15 %",
            "E": "secant of Kawabata tensile curves over h: 500 gf/cm at 5 to 8 % strain; the curve "
            "stiffens, so within a factor of 3",
            "nu": "chosen: woven cloth has 0.1 to 0.4 by direction",
            "rigidity": "Kawabata 1980 (KES-FB2): shirting 0.03 to 0.1 gf cm²/cm = 3e-6 to 1e-5 N m",
        },
    ),
    "pet": SheetMaterial(
        "polyester film, 50 µm (overhead slides are 100 µm)",
        h=50e-6,
        rho=1390.0,
        E=4.9e9,
        nu=0.38,
        yield_stress=80e6,
        hardening=0.4,
        sources={
            "h": "a standard gauge, ± 5 %",
            "rho": "DuPont Teijin Films, Mylar physical-thermal properties, Table 1",
            "E": "same: 490 and 510 kg/mm² in the two directions, ± 10 %",
            "nu": "same: 0.38 before yield",
            "yield_stress": "same: 100 MPa at 5 % strain, where it already flows; ± 20 %",
            "hardening": _CHOSEN,
        },
    ),
    "aluminium_foil": SheetMaterial(
        "household aluminium foil, annealed, 16 µm",
        h=16e-6,
        rho=2710.0,
        E=69e9,
        nu=0.33,
        yield_stress=35e6,
        hardening=0.02,
        sources={
            "h": "standard household gauge, ± 10 %",
            "rho": "ASM Handbook vol. 2, alloys 1100 and 8011",
            "E": "ASM Handbook vol. 2, 1100-O",
            "nu": "ASM Handbook vol. 2, 1100-O",
            "yield_stress": "ASM Handbook vol. 2, 1100-O: 34 MPa; thin foil up to twice that",
            "hardening": "chosen: tangent modulus of annealed aluminium at a few per cent of strain, "
            "1 to 2 GPa over E",
        },
    ),
}
"""Materials by name."""
