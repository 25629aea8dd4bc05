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
from .problem import Decode, Problem, check_batch, check_codes, check_like, check_pair, check_points
from .scattered import PointEncoder, Scattered

__all__ = ["DGNO", "DGNOConfig"]

ENCODERS = ("grid", "points")
NORMS = ("square", "absolute", "rms")
SPREADS = ("one", "nodes")


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
    """"multi" (MultiONet), "deep" (DeepONet), or "entries" (MultiONet that takes entries one by one)."""
    kinds: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    """Other kinds by field, e.g. {"s": "entries"}: the published decoder of Stokes stresses."""
    first_weight: float = 1.0
    """First value of the w of MultiONets. The published 0 costs the first hundreds of updates."""
    channels: int = 32
    """Channels of the encoder's convolutions; 0: perceptron alone. Width of features of points."""
    encoder: str = "grid"
    """"grid": fields of the problem's cells; "points": `PointEncoder`, for `Scattered` inputs and fields
    of any number of cells."""
    pool: str = "attention"
    """How "points" come together: "attention" or "mean"."""
    anchors: int | None = None
    """Anchors of the attention per axis; default 8, in 1-D 16."""
    thin: float = 1.0
    """Of an input's points "points" sees, in training, a share drawn from (thin, 1) for every batch."""
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
    """Weight of the squared relative error of labelled solutions, and of each other labelled field."""
    residual_norm: str = "square"
    """What of a sample's residuals is weighted: mean square; mean "absolute" value, as in GenPANIS; or
    "rms", the root of the mean square, as in most of DGenNO's released examples."""
    label_spread: str = "one"
    """With `bayes`: "one" learned spread of labels, or one for each of the "nodes" that are labelled."""
    hard_share: float = 0.0
    """Share of the residuals of a batch, the largest ones, whose mean square counts once more."""

    def __post_init__(self) -> None:
        weights = (self.weight_input, self.weight_virtual, self.weight_labels, self.first_sigma)
        if min(weights) < 0 or self.latent < 1 or not 0 <= self.hard_share <= 1:
            expected = "weights >= 0, latent >= 1, hard_share in [0, 1]"
            got = f"{weights}, {self.latent}, {self.hard_share}"
            raise InputError(message("DGNOConfig", expected, got, "Correct them"))
        if not 0 < self.thin <= 1:
            raise InputError(message("DGNOConfig", "thin in (0, 1]", self.thin, "Give a share"))
        for name, known in (
            ("encoder", ENCODERS), ("residual_norm", NORMS), ("label_spread", SPREADS)
        ):  # fmt: skip
            if getattr(self, name) not in known:
                got = getattr(self, name)
                raise InputError(message("DGNOConfig", f"{name} out of {known}", got, "Choose one"))


class DGNO(nn.Module):
    """p(a, u, β) = p(a|β) p(u|β) p(β) with decoders p(a|β), p(u|β) of points and an encoder q(β|a).

    The loss is −log of what was observed: the input, labels where there are any, and residuals, which
    are declared to have been observed as zero,

        L = −log p(a|β) + λ/2 mean_j r_j(u, a)² − log p(u_label|β)        β = e(a)

    (`residual_norm` has other means). With `bayes`, β = e(a) + σ ε and L gets −log p(β) − dβ log σ: the
    negative evidence bound up to a constant, each part per cell, residual and label, the last two per
    code entry divided by the number of cells.

    Args:
        problem: the PDE.
        config: sizes and weights.
        prior: module with `log_prob(β) -> (B,)`, such as `RealNVP`; needed with `bayes` only.
        generator: of the decoders' first weights; default torch's own.

    Raises:
        InputError: `bayes` without a prior, kinds of fields that the problem does not have.

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
        if c.bayes and (prior is None or getattr(prior, "latent", c.latent) != c.latent):
            fix, got = f"Give RealNVP({c.latent}), or another with log_prob", type(prior).__name__
            raise InputError(message("DGNO", f"a prior of {c.latent} with bayes", got, fix))
        if not set(c.kinds) <= set(problem.fields):
            expected = f"kinds of fields out of {tuple(problem.fields)}"
            raise InputError(message("DGNO", expected, f"{dict(c.kinds)}", "Name the problem's"))
        self.problem, self.config, self.prior = problem, c, prior
        self.encoder: Encoder | PointEncoder
        bounded = c.bounded and not c.bayes
        if c.encoder == "grid":
            self.encoder = Encoder(
                problem.grid.cells, c.latent, channels=c.channels, bounded=bounded
            )
        else:
            self.encoder = PointEncoder(
                problem.grid, c.latent, channels=max(c.channels, 1), bounded=bounded, pool=c.pool,
                anchors=c.anchors,
            )  # fmt: skip
        self.decoders = nn.ModuleDict(
            {
                name: MultiONet(
                    problem.dim, c.latent, c.width, c.depth, c.sum_layers, spec.outputs,
                    c.kinds.get(name, c.kind), spec.trunk, spec.branch, c.first_weight,
                    spec.scale, generator=generator,
                )
                for name, spec in problem.fields.items()
            }
        )  # fmt: skip
        self.log_sigma = nn.Parameter(torch.tensor(math.log(c.first_sigma)), requires_grad=c.bayes)
        self.log_label = nn.Parameter(torch.tensor(math.log(c.first_sigma)), requires_grad=c.bayes)
        if c.bayes and c.label_spread == "nodes":
            first = {}
            with torch.no_grad():
                zero = torch.zeros(1, c.latent, dtype=self.log_label.dtype)
                for name in problem.observables:
                    found = problem.observe(name, self.decode(zero), problem.points(zero))
                    first[name] = nn.Parameter(torch.full_like(found[0], math.log(c.first_sigma)))
            self.log_nodes = nn.ParameterDict(first)

    def fit_scales(self, a: Tensor | Scattered) -> None:
        """Take the encoder's scales from training inputs (S, 1, *cells), or points.

        Raises:
            InputError: inputs that the problem does not take (not finite, not positive), or all alike.
        """
        self.problem.verify(a.value if isinstance(a, Scattered) else a)
        self.encoder.fit_scales(self._scaled(a))
        if not 0 < float(self.encoder.std) < math.inf:
            fix = "Inputs of this problem are finite and, where it is a coefficient, positive"
            got = f"mean {float(self.encoder.mean):.3g}, deviation {float(self.encoder.std):.3g}"
            raise InputError(message("DGNO.fit_scales", "inputs with a spread", got, fix))

    def encode(self, a: Tensor | Scattered) -> Tensor:
        """Mean code of input fields, (B, 1, *cells) → (B, dβ).

        Args:
            a: fields; with the encoder "points" of any number of cells, or `Scattered` values.

        Raises:
            InputError: fields of another shape or precision, points for an encoder of fields.
        """
        check_like("DGNO.encode", "inputs", a, self.log_sigma)
        return self.encoder(self._scaled(a))

    def _scaled(self, a: Tensor | Scattered) -> Any:
        if not isinstance(a, Scattered):
            return self.problem.scaled(a)
        if isinstance(self.encoder, Encoder):
            fix = 'Train with DGNOConfig(encoder="points")'
            raise InputError(message("DGNO.encode", "fields", "scattered values", fix))
        a = a.filled()
        return dataclasses.replace(a, value=self.problem.scaled(a.value))

    def draw(self, a: Tensor | Scattered, generator: torch.Generator | None = None) -> Tensor:
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
        check_points("DGNO", x, self.problem.dim, self.log_sigma)
        kept = {}
        for name in names or self.problem.fields:
            wall = self.problem.mollifier(name, x, order)
            lift = self.problem.lift(name, x, order)
            kept[name] = (self.decoders[name].features(x, order), wall, lift)

        def fields(beta: Tensor) -> dict[str, Tensor]:
            check_pair(beta, x, self.config.latent, self.log_sigma)
            out = {}
            for name, (features, wall, lift) in kept.items():
                net = self.decoders[name]
                jet = net.combine(net.coefficients(beta), features)
                if wall is not None:
                    wall = wall[:, None, None] if x.ndim == 2 else wall[:, :, None]
                    jet = jet_product(wall, jet, self.problem.dim, order)
                if lift is not None:
                    jet = jet + (lift[:, None, None] if x.ndim == 2 else lift[:, :, None])
                out[name] = jet
            return out

        return fields

    def points(self, a: Tensor | Scattered) -> Tensor:
        """Points of the problem (n, D) in the precision and on the device of inputs."""
        return self.problem.points(a.value if isinstance(a, Scattered) else a)

    def forward(self, a: Tensor | Scattered, x: Tensor | None = None, of: str = "u") -> Tensor:
        """Solution of inputs at points, (B, C, n).

        Args:
            a: (B, 1, *cells), or `Scattered` with the encoder "points".
            x: points (n, D) or (B, n, D); default those of the problem.
            of: another one of the problem's observables.

        Raises:
            InputError: as `encode`; an unknown observable; inputs that are not finite or positive.
        """
        x = self.points(a) if x is None else x
        beta = check_codes("DGNO", self.encode(a))
        return self.problem.observe(of, self.decode(beta), x)

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
        if isinstance(a, Scattered):
            fix = "Take the decoded input, a=None"
            raise InputError(message("DGNO.residuals", "fields or None", "scattered values", fix))
        if where is None:
            where = self.problem.sample(generator, beta)
        return self.problem.residuals(self.decode(beta), where, a)

    def misfit(self, beta: Tensor, a: Tensor | Scattered) -> Tensor:
        """−log p(a|β) per cell, (B,)."""
        return self.problem.misfit(self.decode(beta), a)

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Loss of a batch and its parts, for `Trainer`.

        Args:
            batch: "a" (B, 1, *cells); or (B, n) with points "at" (B, n, D) and optional "mask" (B, n).
                Optional labels at the problem's points, or at "x" (B, n, D), under the names of the
                problem's observables, (B, C, n): "u", and "p", "s" … "labelled" (B,), 1 where labels
                count, and "labelled p" … where those of one name do; what does not count may be NaN.
                Optional "virtual" (B,), 1 where residuals do. Residuals of scattered inputs take the
                decoded input.
            generator: of particles, codes and points that are kept.

        Returns:
            "loss" and its parts, means over the batch.

        Raises:
            InputError: labels that do not fit their points.
        """
        check_batch("DGNO.loss", batch, self.problem.observables)
        a, c = self._input(batch), self.config
        like = batch["a"]
        beta = self.draw(self._thinned(a, generator), generator)
        parts = {"input": c.weight_input * self.misfit(beta, a)}
        if c.weight_virtual > 0:
            share = batch.get("virtual", like.new_ones(len(like)))
            given = None if isinstance(a, Scattered) else a
            for name, r in self.residuals(beta, given, generator).items():
                size = r.abs() if c.residual_norm == "absolute" else r.square()
                squares = size * share[:, None]
                mean = squares.mean(1)
                if c.residual_norm == "rms":  # no slope where all residuals are 0
                    mean = mean.clamp_min(1e-30).sqrt()
                parts[name] = c.weight_virtual * mean
                if c.hard_share > 0:
                    count = max(1, round(c.hard_share * squares.numel()))
                    hardest = squares.flatten().topk(count).values
                    parts[f"hard {name}"] = c.weight_virtual * hardest.mean()[None]
        for name in self.problem.observables:
            if name in batch and c.weight_labels > 0:
                every = batch.get("labelled", like.new_ones(len(like)))
                share = batch.get(f"labelled {name}", every)
                part = "labels" if name == "u" else f"labels {name}"
                off = self._label(beta, name, batch[name], share, batch.get("x"))
                parts[part] = c.weight_labels * share * off
        if c.bayes:
            assert self.prior is not None
            entropy = c.latent * self.log_sigma
            cells = self.problem.grid.cell_count
            parts["code"] = -(self.prior.log_prob(beta) + entropy) / cells
        means = {name: value.mean() for name, value in parts.items()}
        total = torch.stack(list(means.values())).sum()
        return {"loss": total} | {k: v.detach() for k, v in means.items()}

    def _input(self, batch: Mapping[str, Tensor]) -> Tensor | Scattered:
        if "at" not in batch:
            return batch["a"]
        mask = batch.get("mask")
        return Scattered(batch["at"], batch["a"], None if mask is None else mask.bool())

    def _thinned(self, a: Tensor | Scattered, generator: torch.Generator | None) -> Any:
        """What the encoder sees of an input in training."""
        if self.config.thin == 1 or self.config.encoder == "grid" or not self.training:
            return a
        place = "cpu" if generator is None else generator.device
        share = float(torch.rand((), generator=generator, device=place))
        share = self.config.thin + (1 - self.config.thin) * share
        return self.problem.known(a).thin(share, generator)

    def _label(self, beta: Tensor, name: str, u: Tensor, share: Tensor, x: Tensor | None) -> Tensor:
        """−log p(u|β) per label, (B,)."""
        at = self.problem.points(u) if x is None else x
        found = self.problem.observe(name, self.decode(beta), at)
        many = found.shape[1] > 1 and (u.ndim < 3 or u.shape[1] != found.shape[1])
        if u.numel() != found.numel() or len(u) != len(found) or many:
            expected = f'labels "{name}" {tuple(found.shape)}'
            raise InputError(message("DGNO.loss", expected, u, 'Give "x" with labels elsewhere'))
        truth = torch.where(share[:, None] > 0, u.flatten(1), 1.0)
        squares = (found.flatten(1) - truth).square()
        size = truth.square().mean(1)
        if not self.config.bayes:
            return squares.mean(1) / size
        if self.config.label_spread == "one":
            return 0.5 * (squares.mean(1) / size) / (2 * self.log_label).exp() + self.log_label
        level = self.log_nodes[name].flatten()
        if x is not None:
            fix = 'Leave "x" out, or take label_spread="one"'
            raise InputError(message("DGNO.loss", "labels at the problem's points", "x", fix))
        return (0.5 * squares / size[:, None] / (2 * level).exp() + level).mean(1)

    def label_spread(self, u: Tensor, of: str = "u") -> Tensor:
        """Learned standard deviation of labels around solutions (..., C, n) that broadcasts to them.

        Raises:
            InputError: without `bayes`; spreads of "nodes" at other points.
        """
        if not self.config.bayes:
            fix = "Give it as a number"
            raise InputError(message("DGNO.label_spread", "a model with bayes", "none", fix))
        level = self.log_label
        if self.config.label_spread == "nodes":
            level = self.log_nodes[of]
            if level.shape != u.shape[-2:]:
                expected = f"the problem's points, (…, {', '.join(map(str, level.shape))})"
                raise InputError(message("DGNO.label_spread", expected, u, "Leave x out"))
        return level.exp() * u.square().mean((-2, -1), keepdim=True).sqrt()

    def decode(self, beta: Tensor) -> Decode:
        """Fields of codes as a function of points, as `Problem` asks for them."""
        return lambda x, order, names: self.at(x, order, names)(beta)
