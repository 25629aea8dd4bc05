"""Small things that ship with the package: trained weights, each beside a JSON file that says how they
were made and what they were measured to do.

    laws/NAME.safetensors       constitutive laws, `rheograd.tasks.nclaw.load_law(NAME)`
    steppers/NAME.safetensors   particle steppers, `rheograd.tasks.runs.stepping.load_stepper(NAME)`
    dcdm/NAME.safetensors       search directions, `rheograd.operators.dcdm.load_net(NAME)`
    dgno/NAME.safetensors       inputs and solutions from codes, `rheograd.operators.dgno.load_dgno(NAME)`
    hard_moe/NAME.safetensors   a PDE as constraint, `rheograd.operators.hard_moe.load_hard(NAME)`
    stagger/NAME.safetensors    PDE steps on sub-fields, `rheograd.operators.stagger.load_solver(NAME)`
    t1/NAME.safetensors, fno/NAME.safetensors    operators on fields,
                                `rheograd.operators.layers.load_operator("t1/NAME")`
    tactile/NAME.safetensors    optics of gels, `rheograd.sim.tactile.optics.load_optics(NAME)`
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["card", "shipped", "weights", "weights_names"]

_ROOT = Path(__file__).parent


def weights_names(kind: str) -> list[str]:
    """Names of the weights of one kind: "dcdm", "dgno", "fno", "hard_moe", "laws", "stagger", "steppers",
    "t1", "tactile"."""
    return sorted(path.stem for path in (_ROOT / kind).glob("*.safetensors"))


def shipped(kind: str, name: str) -> Path:
    """The file of shipped weights, one of `weights_names(kind)`."""
    return _ROOT / kind / f"{name}.safetensors"


def card(kind: str, name: str | os.PathLike[str]) -> dict[str, Any]:
    """How weights were made and what they were measured to do, from the JSON file beside them.

    Args, Raises: those of `weights`.
    """
    return json.loads(weights(kind, name).with_suffix(".json").read_text("utf-8"))


def weights(kind: str, name: str | os.PathLike[str]) -> Path:
    """A file of weights: the path itself where there is one, else the shipped one of that name.

    Args:
        kind: one of those of `weights_names`.
        name: path of a file or folder, or one of `weights_names`.

    Raises:
        FileNotFoundError: neither; names what ships.
    """
    path = Path(name)
    if path.exists():
        return path
    if str(name) in weights_names(kind):
        return shipped(kind, str(name))
    raise FileNotFoundError(
        f"weights: a file, a run folder, or a shipped name out of "
        f"{', '.join(weights_names(kind)) or 'none'}; got {name}, which is none of them. "
        "Check the path."
    )
