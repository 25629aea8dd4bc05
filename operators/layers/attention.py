"""Attention whose cost is linear in the number of tokens, and the transformer block around it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ...sim.core.errors import InputError
from .mlp import MLP

__all__ = ["GNOTBlock", "LinearAttention"]


class LinearAttention(nn.Module):
    """Normalized linear attention, per head

        out_t = q_t (Σ_s k_s v_sᵀ) / (q_t · Σ_s k_s) + q_t,   q, k softmax over the head's channels,

    then heads joined and mapped linearly. The cost is O(tokens); there is no mask.

    Args:
        width: channels of query and source tokens, a multiple of `heads`.
        heads: number of heads.
        dropout: probability, on the attention's output before and after the last map.

    Source: Hao et al. 2023 (GNOT), eq. 6–8 and released code (which adds the query).
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise InputError(
                f"LinearAttention: width a multiple of heads; got {width} and {heads}. "
                "Change one of them."
            )
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.join = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Tokens (B, T, width) that look at (B, S, width) → (B, T, width)."""
        q = self._split(self.query(x)).softmax(-1)
        k = self._split(self.key(source)).softmax(-1)
        v = self._split(self.value(source))
        weight = q @ k.sum(-2)[..., None]
        out = q @ (k.transpose(-1, -2) @ v) / weight + q
        out = F.dropout(out, self.dropout, self.training)
        out = self.join(out.transpose(1, 2).flatten(2))
        return F.dropout(out, self.dropout, self.training)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class GNOTBlock(nn.Module):
    """Cross attention, gated experts, self attention, gated experts, each with a residual:

        z ← z + Cross(LN z, LN b);  z ← z + LN Σ_e g_e FFN_e(z);
        z ← z + Self(LN z);         z ← z + LN Σ_e g_e FFN'_e(z).

    Args:
        width: channels of the tokens.
        heads: heads of both attentions.
        experts: number of FFN (width → width → width, GELU).
        dropout: probability in the attentions and on the residuals of the experts.

    Source: Hao et al. 2023 (GNOT), §3.2–3.3, with the layer order of GIOROM's released code.
    """

    def __init__(self, width: int, heads: int, experts: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.cross = LinearAttention(width, heads, dropout)
        self.own = LinearAttention(width, heads, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.experts = nn.ModuleList(
            nn.ModuleList(MLP([width, width, width], F.gelu) for _ in range(experts))
            for _ in range(2)
        )

    def forward(self, z: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
        """Tokens z (B, T, width), branch (B, S, width), gate (B, T, experts) → (B, T, width)."""
        norm = self.norms
        z = z + self.cross(norm[0](z), norm[1](branch))
        z = z + self._mix(0, z, gate, norm[2])
        x = norm[3](z)
        z = z + self.own(x, x)
        return z + self._mix(1, z, gate, norm[4])

    def _mix(self, part: int, z: Tensor, gate: Tensor, norm: nn.Module) -> Tensor:
        experts = self.experts[part]
        mixed = sum(g[..., None] * f(z) for g, f in zip(gate.unbind(-1), experts, strict=True))
        return F.dropout(norm(mixed), self.dropout, self.training)
