"""Contact and friction of sampled surfaces with rigid bodies, both moved by the solver.

    E = κ Σ_s A_s b(d(X_s) − a_s) + Σ_s μ λ f₀(|u_s|),   X_s = Y₀ + F⁻¹ (y_s − x₀)

d is the signed distance of the body's shape in its own frame, X the place of the sample y there, so the
force on the sample and those on the four points of the body are derivatives of one energy: they cancel,
and so do their torques up to what the body strains. Colliders that rest or follow a handle are targets,
too, e.g. a floor under a body.

With s = F⁻ᵀ ∇d, weights w of (sample, −λ) and spatial gradients h_i of λ_i

    ∂d/∂q_i = w_i s,    ∂²d/∂q_i∂q_j = w_i w_j K − w_i h_j sᵀ − w_j s h_iᵀ,    K = F⁻ᵀ ∇²d F⁻¹

Source: Li et al. 2020 (Incremental Potential Contact); Lan et al. 2022 (Affine Body Dynamics).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..core.colliders import Collider, poses_of
from ..core.errors import InputError, message
from ..fem.contact.settings import friction_table, positive
from ..fem.terms import StepInput
from .bodies import AffineBody
from .samples import Samples
from .term import RigidTerm

__all__ = ["RigidContact"]


@dataclasses.dataclass(frozen=True, eq=False)
class RigidContact:
    """Barrier and friction between samples and rigid targets.

    Every sample meets every target except its own body and the pairs that are ignored. Samples of
    deformable surfaces may also meet colliders by `fem.contact.ObstacleContact`.
    """

    samples: Sequence[Samples]
    """What touches."""
    targets: Sequence[AffineBody | Collider]
    """What is touched; each with a name of its own."""
    d_hat: float
    """Gap at which the barrier begins [m]."""
    stiffness: float
    """κ [Pa], see `fem.contact.SurfaceContact`."""
    handles: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Handle of the model that a collider moves with, by the collider's name; others rest."""
    friction: float | Mapping[tuple[str, str], float] = 0.0
    """μ [-] of all pairs, or {(samples, target): μ}."""
    ignore: Sequence[tuple[str, str]] = ()
    """Pairs (samples, target) that pass through each other."""
    eps_v: float = 1e-3
    """Sliding speed above which friction is full [m/s]."""
    name: str = "rigid"
    """Key in `params`."""

    def __post_init__(self) -> None:
        where = f"RigidContact {self.name!r}"
        object.__setattr__(self, "samples", tuple(self.samples))
        object.__setattr__(self, "targets", tuple(self.targets))
        for name, unit in (("d_hat", "m"), ("stiffness", "Pa"), ("eps_v", "m/s")):
            positive(where, name, getattr(self, name), unit)
        first = tuple(s.name for s in self.samples)
        second = tuple(t.name for t in self.targets)
        for names, what in ((first, "samples"), (second, "targets")):
            if not names or len(set(names)) < len(names) or "" in names:
                fix = "Name each once"
                raise InputError(message(where, f"{what} with names", f"{names}", fix))
        colliders = {t.name for t in self.targets if isinstance(t, Collider)}
        for pair in self.ignore:
            if pair[0] not in first or pair[1] not in second:
                fix = "Use those names"
                raise InputError(message(where, f"pairs of {first} and {second}", f"{pair}", fix))
        wrong = set(self.handles) - colliders
        if wrong:
            fix = "A body is moved by the solver"
            raise InputError(message(where, f"handles of {sorted(colliders)}", f"{wrong}", fix))
        table, coefficients = friction_table(where, self.friction, first, second)
        object.__setattr__(self, "coefficients", coefficients)
        object.__setattr__(self, "pairs", self._pairs(table))
        if not self.pairs:
            raise InputError(message(where, "pairs that may touch", "none", "Ignore fewer"))

    pairs: Any = dataclasses.field(default=(), init=False, repr=False)
    """Pairs (samples, target, name of the friction parameter or None)."""
    coefficients: Any = dataclasses.field(default=None, init=False, repr=False)
    """Friction coefficients by parameter name."""

    def _pairs(self, table: np.ndarray) -> list[tuple[Samples, AffineBody | Collider, str | None]]:
        names = list(self.coefficients)
        pairs = []
        for i, s in enumerate(self.samples):
            for j, t in enumerate(self.targets):
                if s.body is t or (s.name, t.name) in self.ignore:
                    continue
                which = int(table[i, j])
                pairs.append((s, t, names[which] if which >= 0 else None))
        return pairs

    def default_params(self) -> Mapping[str, Any]:
        """Stiffness [Pa] and friction coefficients [-] by name."""
        return {"stiffness": self.stiffness, **self.coefficients}

    def pose(self, target: Collider, handles: Tensor) -> Tensor:
        """Pose of a collider (B, 7) for those of the model's handles (B, K, 7)."""
        if target.name in self.handles:
            return handles[:, self.handles[target.name]]
        return poses_of([target], len(handles), handles.dtype, str(handles.device))[:, 0]

    def term(self, params: Mapping[str, Tensor], step: StepInput) -> RigidTerm:
        """The term of one solve; see `fem.terms.Contact`.

        Raises:
            StateError: a sample inside a target at the start.
        """
        pairs = []
        for samples, target, friction in self.pairs:
            poses = None
            if isinstance(target, Collider):
                poses = self.pose(target, step.pose_start), self.pose(target, step.pose_end)
            pairs.append((samples, target, friction, poses))
        return RigidTerm(pairs, self.d_hat, self.eps_v, params, step)

    def forces(
        self, state: Any, before: Any, dt: float, params: Mapping[str, Any] | None = None
    ) -> dict[tuple[str, str], Tensor]:
        """Force of each pair on its samples [N], normal and friction together.

        Args:
            state: after a step.
            before: the state that it started from.
            dt: length of the step [s].
            params: stiffness and friction, default the own ones.

        Returns:
            {(samples, target): (B, n, 3)}, one force per sample. Differentiable in both states and
            params.
        """
        like = state.x
        given = {**self.default_params(), **(params or {})}
        values = {k: like.new_ones(len(like)) * v for k, v in given.items()}
        step = StepInput(before.x, before.x, before.pose, state.pose, dt)
        return self.term(values, step).forces(state.x)
