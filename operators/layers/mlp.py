"""Perceptrons and their initial weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...sim.core.errors import InputError

__all__ = ["MLP", "ResidualMLP", "initialize"]


class MLP(nn.Module):
    """Perceptron y = N(W_L σ(… σ(W_1 x + b_1) …) + b_L), (…, sizes[0]) → (…, sizes[-1]).

    Args:
        sizes: widths from input to output, at least two.
        activation: σ between the layers; it may work in place.
        norm: whether N is a LayerNorm; else the identity.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Callable[[Tensor], Tensor] = torch.relu_,
        norm: bool = False,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise InputError(
                f"MLP: at least two widths ≥ 1; got {tuple(sizes)}. Give input and output width."
            )
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.norm = nn.LayerNorm(sizes[-1]) if norm else None
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.after_first(self.layers[0](x))

    def after_first(self, y: Tensor) -> Tensor:
        """What follows the first affine map, for callers that apply that one in parts.

        On the edges of a graph, W [x_i, x_j, e_ij] = W_a x_i + W_b x_j + W_c e_ij costs a third. The
        argument may be overwritten.
        """
        for layer in self.layers[1:]:
            y = layer(self.activation(y))
        return y if self.norm is None else self.norm(y)


class ResidualMLP(nn.Module):
    """y = W₃ (h + gelu(W₂ h)), h = gelu(W₁ x), with biases; (…, inputs) → (…, outputs).

    Args:
        inputs, width, outputs: sizes of x, h and y.

    Source: Hao et al. 2023 (GNOT), released code, MLP.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.first(x))
        return self.last(h + F.gelu(self.middle(h)))


def initialize(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw all linear weights from N(0, 1/fan_in), biases 0; embeddings Xavier uniform; kernels of
    convolutions, which stand on residual branches, from N(0, 1/(3 fan_in)).

    Args:
        module: changed in place.
        generator: source of the weights; default torch's global one.

    Source: Sanchez-Gonzalez et al. 2020 (GNS), released code.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv2d | nn.Conv3d):
            fan_in = part.weight[0].numel()
            nn.init.normal_(part.weight, std=(3 * fan_in) ** -0.5, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.xavier_uniform_(part.weight, generator=generator)
