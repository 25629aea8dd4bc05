"""T1: an operator that transforms once and lives on coefficients."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...sim.core.errors import InputError, message
from ..layers.grid import OFFSETS, GridOperator, cell_positions
from ..layers.norms import lp_norm
from .basis import BOUNDARIES, Basis1D, SeparableTransform
from .layers import INITS, T1Layer, pack, unpack

__all__ = ["T1", "CoefficientOperator", "T1Config"]


@dataclasses.dataclass(frozen=True)
class T1Config:
    """Sizes and choices of a `T1`.

    Raises:
        InputError: values out of range, or more modes than cells.
    """

    n_modes: tuple[int, ...]
    """Kept coefficients m of each axis; a periodic axis has two for each wavenumber, so odd m."""
    cells: tuple[int, ...]
    """Grid of the training data: weights are initialized for it. Any grid may come later."""
    boundary: tuple[str, ...] | str = "periodic"
    """Of the targets, on each axis or on all: periodic, neumann (also where nothing is known) or
    dirichlet (zero)."""
    input_boundary: tuple[str, ...] | str | None = None
    """Of the inputs; None: as the targets."""
    in_channels: int = 1
    """Channels of the input."""
    out_channels: int = 1
    """Channels of the output."""
    hidden_channels: int = 32
    """Width w."""
    n_layers: int = 4
    """Layers on coefficients."""
    init: str = "kaiming"
    """Channel matrices: kaiming, vp or fno, see `mode_std`. The paper's vp keeps the variance of white
    fields; the modes that are kept then grow by (N/M)^½ a layer."""
    mode_set: str = "box"
    """Modes kept in a block: all ("box"), or those of a "ball", see `ball`."""
    sampling: str = "cells"
    """Samples stand at "cells" (j + ½)/n, or at "points" j/n where all axes are periodic."""

    def __post_init__(self) -> None:
        check = self._check
        dim = len(tuple(self.n_modes))
        check(1 <= dim <= 3, "n_modes for one to three axes", str(self.n_modes))
        for name in ("n_modes", "cells"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        given = self.boundary if self.input_boundary is None else self.input_boundary
        for name, value in (("boundary", self.boundary), ("input_boundary", given)):
            names = (value,) * dim if isinstance(value, str) else tuple(value)
            known = len(names) == dim and all(b in BOUNDARIES for b in names)
            check(known, f"{name} {', '.join(BOUNDARIES)} for each of {dim} axes", str(value))
            object.__setattr__(self, name, names)
        check(len(self.cells) == dim, f"cells of {dim} axes", str(self.cells))
        fits = all(1 <= m <= n for m, n in zip(self.n_modes, self.cells, strict=True))
        check(fits, f"n_modes between 1 and the cells {self.cells}", str(self.n_modes))
        for name in ("in_channels", "out_channels", "hidden_channels", "n_layers"):
            check(getattr(self, name) >= 1, f"{name} >= 1", getattr(self, name))
        check(self.init in INITS, f"init {', '.join(INITS)}", self.init)
        check(self.mode_set in ("box", "ball"), "mode_set box or ball", self.mode_set)
        check(self.sampling in OFFSETS, "sampling cells or points", self.sampling)

    def _check(self, fine: bool, expected: str, got: Any) -> None:
        if not fine:
            raise InputError(message(type(self).__name__, expected, got, "Correct it"))


class CoefficientOperator(GridOperator):
    """Operator on the kept coefficients of fields: forward = synthesize ∘ predict ∘ analyze.

    Trained on coefficients that are computed once: with Y those of the target and tail = ‖y‖² − ‖Y_m‖²
    what no kept mode can represent, the error ‖ŷ − y‖² = ‖Ŷ_m − Y_m‖² + tail is that of the fields
    (Parseval). A subclass gives `network`.

    Args:
        config: sizes, see `T1Config`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        c = config

        def bases(boundaries: Sequence[str]) -> list[Basis1D]:
            pairs = zip(boundaries, c.n_modes, strict=True)
            return [Basis1D(BOUNDARIES[b], m, c.sampling) for b, m in pairs]

        self.input_bases, self.output_bases = bases(c.input_boundary), bases(c.boundary)
        self.analysis = SeparableTransform(self.input_bases)
        self.synthesis = SeparableTransform(self.output_bases)
        # Subtracting a mean from what vanishes at a wall would leave a jump there.
        self.center_input = "dirichlet" not in c.input_boundary
        self.center_output = "dirichlet" not in c.boundary
        # Fields of unit variance within the modes have scaled coefficients of mean square 1, on any grid.
        self.scale = math.sqrt(math.prod(c.n_modes))

    def network(self, c: Tensor) -> Tensor:
        """Scaled coefficients (B, C, *m) → (B, C_out, *m)."""
        raise NotImplementedError

    def predict(self, c: Tensor) -> Tensor:
        """Coefficients of normalized inputs (B, C, *m) → of normalized outputs (B, C_out, *m)."""
        return self.network(c * self.scale) / self.scale

    def field(self, x: Tensor, cells: Sequence[int] | None = None) -> Tensor:
        """Normalized fields (B, C, *cells) → (B, C_out, *cells)."""
        c = self.predict(self.analysis.analyze(x))
        return self.synthesis.synthesize(c, x.shape[2:] if cells is None else cells)

    def forward(self, x: Tensor, cells: Sequence[int] | None = None) -> Tensor:
        """Fields (B, C, *cells) → (B, C_out, *cells). Differentiable in x and the weights.

        Args:
            x: fields on any grid with at least as many cells as modes.
            cells: grid of the result, default that of x.

        Raises:
            InputError: fields of another shape or precision, not finite, or on too coarse a grid.
        """
        self.check(x)
        y = self.field((x - self.input_mean) / self.input_std, cells)
        return y * self.output_std + self.output_mean

    def training_data(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Coefficients of inputs and targets, the energy of the targets' tails, and their norms.

        Returns:
            "x" (S, C, *m), "y" (S, C_out, *m), of normalized fields; "tail" (S, C_out) ≥ 0, mean
            square of what no kept mode represents; "size" (S, C_out), norm of targets over `output_std`.
        """
        c = self.analysis.analyze((x - self.input_mean) / self.input_std)
        target = (y - self.output_mean) / self.output_std
        d = self.synthesis.analyze(target)
        rest = target - self.synthesis.synthesize(d, y.shape[2:])
        size = lp_norm(y) / self.output_std.flatten()
        if not bool((size > 0).all()):
            raise InputError(
                message(type(self).__name__, "targets other than zero",
                        f"a zero in sample {int((~(size > 0)).nonzero()[0, 0])}", "Leave it out")
            )  # fmt: skip
        return {"x": c, "y": d, "tail": lp_norm(rest).square(), "size": size}

    def relative_error(self, batch: Mapping[str, Tensor]) -> Tensor:
        error = (self.predict(batch["x"]) - batch["y"]).flatten(2).square().sum(-1)
        return (error + batch["tail"]).sqrt() / batch["size"]


class T1(CoefficientOperator):
    """Transform once: coefficients, lifted with those of the positions to w channels, `n_layers` times

        z ← z + mix(σ(W_k z_k)),    then    Y_k = σ(z_k F₁) F₂    for every mode k, σ = GELU.

    The lift is affine in every cell, so it acts on coefficients just as well; what it adds for positions
    and bias is taken once, on `config.cells`. The result does not depend on the grid but through how
    well that resolves the input.

    Args:
        config: sizes.
        generator: source of the weights; default torch's global one.

    Source: Poli et al. 2022, "Transform Once: Efficient Operator Learning in Frequency Domain"
    (arXiv 2211.14453), §4 and released code. Ours: bases other than the DCT, function-space scaling,
    the transformed lift, mode sets, and a head of ordinary size (there: a sine whose weights start
    at 1e-8, which trains only where coefficients happen to have the right size).
    """

    config_type = T1Config

    def __init__(self, config: T1Config, *, generator: torch.Generator | None = None) -> None:
        super().__init__(config)
        self.lift = _Lift(self, config.hidden_channels, generator)
        self.layers = nn.ModuleList(
            T1Layer(
                config.hidden_channels, self.input_bases, config.cells, config.init, config.mode_set,
                generator,
            )
            for _ in range(config.n_layers)
        )  # fmt: skip
        w = config.hidden_channels
        self.head = nn.Parameter(0.3 * w**-0.5 * torch.randn(128, w, generator=generator))
        self.out = nn.Parameter(torch.zeros(config.out_channels, 128))

    def network(self, c: Tensor) -> Tensor:
        """Scaled coefficients (B, C, *m) → (B, C_out, *m)."""
        z = pack(self.lift(c))
        for layer in self.layers:
            z = layer(z)
        shape = z.shape[1:]
        y = self.out @ F.gelu(self.head @ z.flatten(1))
        return unpack(y.view(-1, *shape))


class _Lift(nn.Module):
    """Coefficients of A x(p) + G p + b at positions p, from those of x.

    Args:
        model: whose bases and grid count.
        channels: w.
        generator: source of the weights.
    """

    def __init__(
        self, model: CoefficientOperator, channels: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        config = model.config
        inputs = config.in_channels + model.dim
        self.weight = nn.Parameter(torch.empty(channels, inputs))
        self.bias = nn.Parameter(torch.empty(channels))
        for value in (self.weight, self.bias):
            nn.init.uniform_(value, -(inputs**-0.5), inputs**-0.5, generator=generator)
        positions = torch.meshgrid(
            *(cell_positions(n, config.sampling, dtype=torch.float64) for n in config.cells),
            indexing="ij",
        )
        known = torch.stack([*positions, torch.ones_like(positions[0])])[None]
        known = model.analysis.analyze(known)[0] * model.scale
        self.register_buffer("known", known.to(torch.get_default_dtype()), persistent=False)

    def forward(self, c: Tensor) -> Tensor:
        """(B, C, *m) → (B, w, *m)."""
        C = c.shape[1]
        fixed = torch.cat([self.weight[:, C:], self.bias[:, None]], 1) @ self.known.flatten(1)
        y = torch.baddbmm(fixed, self.weight[:, :C].expand(len(c), -1, -1), c.flatten(2))
        return y.unflatten(2, c.shape[2:])
