"""Latent generative model of a PDE's input and solution: one code, an encoder, a decoder per field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from .encoders import Encoder
from .jets import jet_product
from .multionet import MultiONet
from .problem import Decode, Problem

__all__ = ["DGNO", "DGNOConfig"]


@dataclasses.dataclass(frozen=True)
class DGNOConfig:
    """Sizes of a `DGNO` and weights of its loss."""

    latent: int = 64
    """dβ, length of the code."""
    width: int = 64
    """Width of trunks and branches."""
    depth: int = 5
    """Layers of trunks and branches."""
    sum_layers: int | None = None
    """ℓ, layers that are multiplied; default depth − 1."""
    kind: str = "multi"
    """"multi" (MultiONet) or "deep" (DeepONet)."""
    first_weight: float = 1.0
    """First value of the w of MultiONets. The published 0 costs the first hundreds of updates."""
    channels: int = 32
    """Channels of the encoder's convolutions; 0: perceptron alone."""
    bounded: bool = True
    """Codes in (−1, 1)."""
    bayes: bool = False
    """q(β|a) = N(e(a), σ²) with a learned σ and its entropy, and a learned spread of labels, in place
    of points and relative errors."""
    first_sigma: float = 0.1
    """First σ of q(β|a) and of labels over the size of the solution."""
    weight_input: float = 1.0
    """Weight of −log p(a|β) per cell."""
    weight_virtual: float = 1.0
    """λ/2: weight of the mean squared residuals."""
    weight_labels: float = 1.0
    """Weight of the squared relative error of labelled solutions."""

    hard_share: float = 0.0
    """Share of the residuals of a batch, the largest ones, whose mean square counts once more."""

    def __post_init__(self) -> None:
        weights = (self.weight_input, self.weight_virtual, self.weight_labels, self.first_sigma)
        if min(weights) < 0 or self.latent < 1 or not 0 <= self.hard_share <= 1:
            expected = "weights >= 0, latent >= 1, hard_share in [0, 1]"
            got = f"{weights}, {self.latent}, {self.hard_share}"
            raise InputError(message("DGNOConfig", expected, got, "Correct them"))


class DGNO(nn.Module):
    """p(a, u, β) = p(a|β) p(u|β) p(β) with decoders p(a|β), p(u|β) of points and an encoder q(β|a).

    The loss is −log of what was observed: the input, labels where there are any, and residuals, which
    are declared to have been observed as zero,

        L = −log p(a|β) + λ/2 mean_j r_j(u, a)² − log p(u_label|β)        β = e(a)

    With `bayes`, β = e(a) + σ ε and L gets −log p(β) − dβ log σ: the negative evidence bound, each part
    per cell, residual and label, the last two per code entry divided by the number of cells.

    Args:
        problem: the PDE.
        config: sizes and weights.
        prior: module with `log_prob(β) -> (B,)`, such as `RealNVP`; needed with `bayes` only.
        generator: of the decoders' first weights; default torch's own.

    Raises:
        InputError: `bayes` without a prior.

    Differentiable in inputs, codes, points and weights. Source: Zang & Koutsourelakis 2025 (DGenNO);
    `bayes`: the same group's GenPANIS.
    """

    def __init__(
        self,
        problem: Problem,
        config: DGNOConfig | None = None,
        prior: nn.Module | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        c = config or DGNOConfig()
        if c.bayes and prior is None:
            fix = "Give RealNVP(latent), or another module with log_prob"
            raise InputError(message("DGNO", "a prior with bayes", "None", fix))
        self.problem, self.config, self.prior = problem, c, prior
        self.encoder = Encoder(
            problem.grid.cells, c.latent, channels=c.channels, bounded=c.bounded and not c.bayes
        )
        self.decoders = nn.ModuleDict(
            {
                name: MultiONet(
                    problem.dim, c.latent, c.width, c.depth, c.sum_layers, spec.outputs, c.kind,
                    spec.trunk, spec.branch, c.first_weight, spec.scale, generator=generator,
                )
                for name, spec in problem.fields.items()
            }
        )  # fmt: skip
        self.log_sigma = nn.Parameter(torch.tensor(math.log(c.first_sigma)), requires_grad=c.bayes)
        self.log_label = nn.Parameter(torch.tensor(math.log(c.first_sigma)), requires_grad=c.bayes)

    def fit_scales(self, a: Tensor) -> None:
        """Take the encoder's scales from training inputs (S, 1, *cells)."""
        self.encoder.fit_scales(self.problem.scaled(a))

    def encode(self, a: Tensor) -> Tensor:
        """Mean code of input fields, (B, 1, *cells) → (B, dβ).

        Raises:
            InputError: fields of another shape.
        """
        return self.encoder(self.problem.scaled(a))

    def draw(self, a: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A code from q(β|a), (B, dβ); the mean without `bayes`."""
        beta = self.encode(a)
        if not self.config.bayes:
            return beta
        place = beta.device if generator is None else generator.device
        noise = torch.randn(beta.shape, generator=generator, dtype=beta.dtype, device=place)
        return beta + self.log_sigma.exp() * noise.to(beta.device)

    def at(
        self, x: Tensor, order: int = 0, names: tuple[str, ...] | None = None
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """Decoders at fixed points as a function of codes; the trunk is evaluated once, here.

        Args:
            x: points (n, D) shared by all codes, or (B, n, D).
            order: of the highest derivative.
            names: fields; default all.

        Returns:
            (B, dβ) ↦ jets (S, B, C, n) by name, walls built in.
        """
        kept = {}
        for name in names or self.problem.fields:
            wall = self.problem.mollifier(name, x, order)
            kept[name] = (self.decoders[name].features(x, order), wall)

        def fields(beta: Tensor) -> dict[str, Tensor]:
            out = {}
            for name, (features, wall) in kept.items():
                net = self.decoders[name]
                jet = net.combine(net.coefficients(beta), features)
                if wall is not None:
                    wall = wall[:, None, None] if x.ndim == 2 else wall[:, :, None]
                    jet = jet_product(wall, jet, self.problem.dim, order)
                out[name] = jet
            return out

        return fields

    def forward(self, a: Tensor, x: Tensor | None = None) -> Tensor:
        """Solution of inputs at points, (B, C, n).

        Args:
            a: (B, 1, *cells).
            x: points (n, D) or (B, n, D); default those of the problem.
        """
        x = self.problem.points(a) if x is None else x
        return self.problem.solution(self.decode(self.encode(a)), x)

    def residuals(
        self,
        beta: Tensor,
        a: Tensor | None = None,
        generator: torch.Generator | None = None,
        where: Any = None,
    ) -> dict[str, Tensor]:
        """Dimensionless residuals of codes, (B, m) by name.

        Args:
            beta: codes (B, dβ).
            a: inputs (B, 1, *cells); None takes the decoded ones.
            generator: of particles.
            where: particles, in place of random ones.
        """
        if where is None:
            where = self.problem.sample(generator, beta)
        return self.problem.residuals(self.decode(beta), where, a)

    def misfit(self, beta: Tensor, a: Tensor) -> Tensor:
        """−log p(a|β) per cell, (B,)."""
        return self.problem.misfit(self.decode(beta), a)

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Loss of a batch and its parts, for `Trainer`.

        Args:
            batch: "a" (B, 1, *cells); optional "u" (B, C, n) at the problem's points, and "labelled"
                (B,), 1 where u counts; optional "virtual" (B,), 1 where residuals do.
            generator: of particles and codes.

        Returns:
            "loss" and its parts, means over the batch.
        """
        a, c = batch["a"], self.config
        beta = self.draw(a, generator)
        parts = {"input": c.weight_input * self.misfit(beta, a)}
        if c.weight_virtual > 0:
            share = batch.get("virtual", a.new_ones(len(a)))
            for name, r in self.residuals(beta, a, generator).items():
                squares = r.square() * share[:, None]
                parts[name] = c.weight_virtual * squares.mean(1)
                if c.hard_share > 0:
                    count = max(1, round(c.hard_share * squares.numel()))
                    hardest = squares.flatten().topk(count).values
                    parts[f"hard {name}"] = c.weight_virtual * hardest.mean()[None]
        if "u" in batch and c.weight_labels > 0:
            share = batch.get("labelled", a.new_ones(len(a)))
            parts["labels"] = c.weight_labels * share * self._label(beta, batch["u"])
        if c.bayes:
            assert self.prior is not None
            entropy = c.latent * self.log_sigma
            cells = self.problem.grid.cell_count
            parts["code"] = -(self.prior.log_prob(beta) + entropy) / cells
        means = {name: value.mean() for name, value in parts.items()}
        total = torch.stack(list(means.values())).sum()
        return {"loss": total} | {k: v.detach() for k, v in means.items()}

    def _label(self, beta: Tensor, u: Tensor) -> Tensor:
        """−log p(u|β) per label, (B,)."""
        found = self.problem.solution(self.decode(beta), self.problem.points(u)).flatten(1)
        off = (found - u.flatten(1)).square().mean(1)
        ratio = off / u.flatten(1).square().mean(1)
        if not self.config.bayes:
            return ratio
        return 0.5 * ratio / (2 * self.log_label).exp() + self.log_label

    def decode(self, beta: Tensor) -> Decode:
        """Fields of codes as a function of points, as `Problem` asks for them."""
        return lambda x, order, names: self.at(x, order, names)(beta)
