"""Parameters as the step reads them: coefficients of all elements, lumped masses, loads.

Differentiable in every parameter and in the rest positions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError, message
from ..core.state import Params
from .elements import Element
from .model import SCENE, FEMModel
from .parts import Sheet

__all__ = ["PreparedFEM", "prepare"]


@dataclasses.dataclass
class PreparedFEM:
    """What a step reads, each with leading axis 1 or B."""

    parts: list[dict[str, Tensor]]
    """Coefficients of the elements of each part."""
    contacts: list[dict[str, Tensor]]
    """Parameters of each contact, (B,)."""
    mass: Tensor
    """Lumped masses [kg], (1 or B, N)."""
    gravity: Tensor
    """[m/s²], (1 or B, 3)."""
    drag: Tensor
    """[1/s], (1 or B,)."""

    @property
    def viscous(self) -> bool:
        """Whether any part is."""
        return any("eta" in c for c in self.parts)

    def terms(
        self, model: FEMModel, scenes: int, tau: float, x_start: Tensor, bent: Tensor | None
    ) -> list[Element]:
        """Elements of all parts, see `element_terms`."""
        return element_terms(model, self.parts, scenes, tau, x_start, bent)


def element_terms(
    model: FEMModel,
    coefficients: list[dict[str, Tensor]],
    scenes: int,
    tau: float,
    x_start: Tensor | None,
    bent: Tensor | None,
) -> list[Element]:
    """Elements with their coefficients bound, in the order of the parts."""
    slices = model.hinge_slices()
    terms: list[Element] = []
    for part, c in zip(model.parts, coefficients, strict=True):
        angles = None if bent is None else bent[:, slices.get(part.name, slice(0, 0))]
        angles = angles if isinstance(part, Sheet) else None
        terms += part.terms(c, scenes, model.point_count, tau, x_start, angles)
    return terms


def prepare(model: FEMModel, params: Params, B: int, like: Tensor) -> PreparedFEM:
    """Merge parameters with the model's and turn them into coefficients.

    Args:
        model: the scene.
        params: values that replace the model's, see `SolverFEM.prepare`.
        B: number of scenes.
        like: for precision and device.

    Raises:
        InputError: unknown name, wrong shape, value without meaning, inverted rest cell.

    Differentiable in all values.
    """
    merged = _merge(model, params)

    def tensor(value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)

    scene = {name: tensor(value) for name, value in merged[SCENE].items()}
    N = model.point_count
    X = _shaped("X", scene["X"], (N, 3), B)
    mass = like.new_zeros(len(X), N)
    parts = []
    for part in model.parts:
        count = len(part.cells)
        values = {}
        for name, value in merged[part.name].items():
            given = tensor(value)
            batches = (1, B) if given.ndim == 2 else (1,)
            fits = (
                given.ndim <= 2
                and given.numel() // max(1, given.shape[-1] if given.ndim else 1) in batches
            )
            if not fits or (given.ndim and given.shape[-1] not in (1, count)):
                expected = (
                    f"{name} of shape () or (B, S) = ({B}, {count}) or one that broadcasts to it"
                )
                where = f"SolverFEM.prepare: {part.name}.{name}"
                raise InputError(message(where, expected, given, "Give one value per cell"))
            values[name] = given.reshape((1, 1) if given.ndim < 1 else (-1, given.shape[-1]))
        part.validate(values)
        c = part.prepare(values, X)
        density = c.pop("density")
        shares = c.pop("shares", tensor(part.mass_shares))
        share = (density * c["measure"]).unsqueeze(-1) * shares
        share = share.flatten(1)
        if len(share) > len(mass):
            mass = mass.expand(len(share), N)
        mass = mass.index_add(
            1, part.cells.reshape(-1).to(like.device), share.expand(len(mass), -1)
        )
        parts.append(c)
    contacts = [
        {
            name: _shaped(name, tensor(value), (), B).expand(B)
            for name, value in merged[k.name].items()
        }
        for k in model.contacts
    ]
    gravity, drag = (
        _shaped("gravity", scene["gravity"], (3,), B),
        _shaped("drag", scene["drag"], (), B),
    )
    if bool((drag < 0).any()):
        raise InputError(message("SolverFEM.prepare: drag", ">= 0 1/s", drag, "Correct the sign"))
    return PreparedFEM(parts, contacts, mass, gravity, drag)


def _merge(model: FEMModel, params: Params) -> dict[str, dict[str, Any]]:
    merged = model.default_params()
    for group, values in params.items():
        known = merged.get(group)
        wrong = [group] if known is None else [f"{group}.{k}" for k in values if k not in known]
        if wrong:
            names = {g: list(v) for g, v in merged.items()}
            fix = "Correct the name"
            raise InputError(message("SolverFEM.prepare", f"parameters {names}", wrong[0], fix))
        known.update(values)
    return merged


def _shaped(name: str, value: Tensor, shape: tuple[int, ...], B: int) -> Tensor:
    """Value of one shape, or B of them, as (1 or B, *shape)."""
    if tuple(value.shape) == shape:
        return value[None]
    if (
        value.ndim == len(shape) + 1
        and value.shape[0] in (1, B)
        and tuple(value.shape[1:]) == shape
    ):
        return value
    expected = f"shape {shape} or {(B, *shape)}"
    raise InputError(message(f"SolverFEM.prepare: {name}", expected, value, "Correct the shape"))
