"""MultiONet: functions of a point and a latent code, branch and trunk multiplied at every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from .jets import ACTIVATIONS, activate, jet_rows

__all__ = ["KINDS", "MultiONet"]

KINDS = ("multi", "deep", "entries")
"""Sums over the last ℓ layers; the last layer alone as in DeepONet; sums over the entries of the code."""


class MultiONet(nn.Module):
    """Fields of a latent code β at points x:

        "multi"   G(β)(x) = (1/ℓ) Σ_k w_k ⟨b_k(β), t_k(x)⟩ + c     k over the last ℓ layers
        "deep"    G(β)(x) = ⟨b_n(β), t_n(x)⟩ + c                   DeepONet; the last branch layer linear
        "entries" G_o(β)(x) = Σ_e M_oe (1/ℓ) Σ_k ⟨b_k(β_e), t_k(x)⟩ + c_o     one branch R → R^width for
                                                                   all entries e and outputs o

    Trunk t and branches b are perceptrons of `depth` layers, the trunk with an activation after every
    layer. Several outputs share the trunk and have a branch each; of "entries" (published as `_X`) they
    share both and differ in M and c, the last linear layer. As that layer and the products are linear,
    entries are summed before they meet the trunk: points cost what they cost elsewhere. w and c start at
    0, as published: the field starts at 0 and at first only w and c learn; M, and c of "entries", start
    as torch's linear layers do. Points shared by all codes cost one pass
    through the trunk, with derivatives carried forward (`jets`), and one product of matrices.

    Args:
        dim: D, coordinates of a point.
        latent: dβ, length of a code.
        width: of all layers.
        depth: n, layers of trunk and branch.
        sum_layers: ℓ; default n − 1.
        outputs: C, fields.
        kind: see above.
        trunk, branch: activations, out of `ACTIVATIONS`.
        weight: first value of w; "entries" has none.
        scale: fixed factor of all fields: their size, in their unit.
        generator: of the first weights (torch's default for linear layers); default torch's own.

    Raises:
        InputError: sizes out of range, unknown names.

    Differentiable in β, x and the weights. Source: Zang & Koutsourelakis 2025 (DGenNO), released code
    (MultiONets, DeepONets); Lu et al. 2021 (DeepONet).
    """

    def __init__(
        self,
        dim: int,
        latent: int,
        width: int = 100,
        depth: int = 6,
        sum_layers: int | None = None,
        outputs: int = 1,
        kind: str = "multi",
        trunk: str = "tanh_sin",
        branch: str = "tanh_sin",
        weight: float = 0.0,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        where = "MultiONet"
        layers = depth - 1 if sum_layers is None else sum_layers
        if kind not in KINDS or trunk not in ACTIVATIONS or branch not in ACTIVATIONS:
            expected = f"kind out of {KINDS}, activations out of {tuple(ACTIVATIONS)}"
            raise InputError(message(where, expected, f"{kind}, {trunk}, {branch}", "Choose them"))
        if min(dim, latent, width, outputs) < 1 or not 1 <= layers < depth:
            expected = "positive sizes and 1 <= sum_layers < depth"
            got = f"width {width}, depth {depth}, sum_layers {layers}"
            raise InputError(message(where, expected, got, "Correct them"))
        self.dim, self.latent, self.outputs, self.kind = dim, latent, outputs, kind
        self.layers = 1 if kind == "deep" else layers
        self.names, self.scale = (trunk, branch), scale
        self.trunk = _linears([dim] + depth * [width], generator)
        entries = kind == "entries"
        self.branches = nn.ModuleList(
            _linears([1 if entries else latent] + depth * [width], generator)
            for _ in range(1 if entries else outputs)
        )
        if kind == "multi":
            self.weights = nn.Parameter(torch.full((outputs, layers), float(weight)))
        self.constant = nn.Parameter(torch.zeros(outputs))
        if entries:
            last = _linears([latent, outputs], generator)[0]
            self.mix, self.constant = nn.Parameter(last.weight.detach()), last.bias

    def features(self, x: Tensor, order: int = 0) -> Tensor:
        """Trunk at points (..., D) with its derivatives, (S, ..., ℓ·width)."""
        rows = [x[None]]
        if order > 0:
            eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
            rows.append(eye.view(self.dim, *(1,) * (x.ndim - 1), self.dim).expand(-1, *x.shape))
        count = jet_rows(self.dim, order)
        if order > 1:
            rows.append(x.new_zeros(count - 1 - self.dim, *x.shape))
        z, kept = torch.cat(rows), []
        for layer in self.trunk:
            if order == 0:
                z = layer(z)
            else:  # derivatives know no bias
                bias = torch.cat(
                    [layer.bias[None], layer.bias.new_zeros(count - 1, len(layer.bias))]
                )
                z = z @ layer.weight.mT + bias.view(count, *(1,) * (x.ndim - 1), -1)
            z = activate(self.names[0], z, self.dim, order)
            kept.append(z)
        return torch.cat(kept[-self.layers :], -1)

    def coefficients(self, beta: Tensor) -> Tensor:
        """What multiplies the features, (B, dβ) → (B, C, ℓ·width); scale and w included."""
        sets = []
        for c, branch in enumerate(self.branches):
            y, kept = beta[..., None] if self.kind == "entries" else beta, []
            for k, layer in enumerate(branch):
                y = layer(y)
                if self.kind != "deep" or k + 1 < len(branch):
                    y = ACTIVATIONS[self.names[1]](y, 0)[0]
                kept.append(y)
            if self.kind == "entries":
                tokens = torch.cat(kept[-self.layers :], -1)  # (B, dβ, ℓ·width)
                return (self.mix * (self.scale / self.layers)) @ tokens
            if self.kind == "multi":
                w = self.weights[c] * (self.scale / self.layers)
                kept = [v * w[k] for k, v in enumerate(kept[-self.layers :])]
            else:
                kept = [kept[-1] * self.scale]
            sets.append(torch.cat(kept, -1))
        return torch.stack(sets, 1)

    def combine(self, coefficients: Tensor, features: Tensor) -> Tensor:
        """Jets (S, B, C, n) of coefficients (B, C, K) and features (S, n, K) or (S, B, n, K)."""
        if features.ndim == 3:
            S, n, K = features.shape
            flat = coefficients.reshape(-1, K) @ features.reshape(-1, K).mT
            out = flat.reshape(*coefficients.shape[:2], S, n).movedim(2, 0)
        else:
            out = coefficients[None] @ features.mT
        value = out[:1] + self.scale * self.constant[:, None]
        return torch.cat([value, out[1:]])

    def jets(self, beta: Tensor, x: Tensor, order: int = 1) -> Tensor:
        """Fields with derivatives at points, (S, B, C, n); see `jets.py` for S.

        Args:
            beta: codes (B, dβ).
            x: points (n, D) shared by all codes, or (B, n, D).
            order: of the highest derivative.

        Raises:
            InputError: shapes that do not fit.
        """
        if beta.ndim != 2 or beta.shape[1] != self.latent:
            raise InputError(
                message("MultiONet", f"codes (B, {self.latent})", beta, "Encode the input first")
            )
        fits = x.ndim in (2, 3) and x.shape[-1] == self.dim
        if not fits or (x.ndim == 3 and len(x) != len(beta)):
            expected = f"points (n, {self.dim}) or ({len(beta)}, n, {self.dim})"
            raise InputError(message("MultiONet", expected, x, "Correct the shape"))
        return self.combine(self.coefficients(beta), self.features(x, order))

    def forward(self, beta: Tensor, x: Tensor) -> Tensor:
        """Fields (B, C, n) of codes (B, dβ) at points (n, D) or (B, n, D); errors as in `jets`."""
        return self.jets(beta, x, 0)[0]


def _linears(sizes: list[int], generator: torch.Generator | None) -> nn.ModuleList:
    layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
    if generator is not None:
        for layer in layers:
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layers
