"""A material that becomes another one, particle by particle: melting, crumbling, setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ...sim.core.laws import Law, parameter, setting

__all__ = ["SwitchLaw"]


@dataclasses.dataclass(frozen=True, eq=False)
class SwitchLaw(Law):
    """τ and plastic flow of `before` where switched < ½ and of `after` elsewhere.

    Particles stay where they are in the state; only the parameter `switched`, a number per particle,
    changes between steps, through `params`. The elastic deformation is kept when a particle switches:
    its new law decides how much of it is still elastic. Both laws are evaluated everywhere.

    Works for any two laws that store F: analytic ones, networks, or one of each. `rho` is the density
    of both. Differentiable in what the two laws are differentiable in, not in `switched`.
    Source: Ma et al. 2023 (NCLaw), §4.5 (melting); the switch as a parameter is ours.
    """

    hardening: ClassVar[bool] = True
    flows: ClassVar[bool] = True

    before: Law = setting()
    """Law of particles that have not switched."""
    after: Law = setting()
    """Law of particles that have."""
    switched: float | Tensor = parameter(0.0, "-", at_least=0.0)
    """0 before, 1 after; per particle."""

    def __post_init__(self) -> None:
        for law in (self.before, self.after):
            if law.storage != "F":
                raise InputError(
                    f"SwitchLaw: laws that store the deformation gradient; got the liquid "
                    f"{type(law).__name__}. Use a solid, or a network that keeps F."
                )

    def coefficients(self, p: Mapping[str, float | Tensor] | None = None) -> Tensor:
        switched = self.values(p)["switched"]
        parts = [law.coefficients().to(switched) for law in (self.before, self.after)]
        parts = [c.reshape(*c.shape, *(1,) * (switched.ndim + 1 - c.ndim)) for c in parts]
        rows = [c.expand(c.shape[0], *switched.shape) for c in parts]
        return torch.cat([switched[None], *rows])

    def stress(self, F: Tensor, L: Tensor | None, c: Tensor) -> Tensor:
        done, first, second = self._split(c)
        return torch.where(
            done[..., None, None],
            self.after.stress(F, L, second),
            self.before.stress(F, L, first),
        )

    def flow(
        self, F: Tensor, alpha: Tensor | None, c: Tensor, dt: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        done, first, second = self._split(c)
        F1, alpha1 = self._flow(self.before, F, alpha, first, dt)
        F2, alpha2 = self._flow(self.after, F, alpha, second, dt)
        F_new = torch.where(done[..., None, None], F2, F1)
        return F_new, None if alpha is None else torch.where(done, alpha2, alpha1)

    def wave_modulus(self, c: Tensor) -> Tensor:
        done, first, second = self._split(c)
        return torch.where(done, self.after.wave_modulus(second), self.before.wave_modulus(first))

    def viscosity(self, c: Tensor) -> Tensor:
        done, first, second = self._split(c)
        return torch.where(done, self.after.viscosity(second), self.before.viscosity(first))

    def weights(self) -> tuple[Tensor, ...]:
        found = {id(w): w for law in (self.before, self.after) for w in law.weights()}
        return tuple(found.values())

    def _split(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which particles have switched, and the coefficients of both laws."""
        n = self.before.coefficients().shape[0]
        return c[0] >= 0.5, c[1 : n + 1], c[n + 1 :]

    @staticmethod
    def _flow(
        law: Law, F: Tensor, alpha: Tensor | None, c: Tensor, dt: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Flow of one law; laws without hardening keep α."""
        if not law.hardening:
            return law.flow(F, None, c, dt)[0], alpha
        return law.flow(F, alpha, c, dt)
