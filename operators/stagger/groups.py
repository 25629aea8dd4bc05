"""Networks of one shape and different weights, run as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ...sim.core.errors import InputError, message
from ..layers.grid import GridOperator

__all__ = ["Group", "damp_last"]

EXECUTIONS = ("vmap", "loop")


class _Field(nn.Module):
    """A backbone without its checks at the border, which read values and so cannot be batched."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.field(x) if isinstance(self.net, GridOperator) else self.net(x)


class Group(nn.Module):
    """G networks (B, C, *cells) → (B, C_out, *cells) with a leading axis G on every weight.

    Args:
        nets: networks that differ in their weights only.
        execution: "vmap" runs all in one batched call, "loop" one after the other.

    Raises:
        InputError: networks of different shapes, or with buffers that differ; unknown execution.
    """

    def __init__(self, nets: Sequence[nn.Module], execution: str = "vmap") -> None:
        super().__init__()
        if execution not in EXECUTIONS:
            raise InputError(message("Group", f"execution out of {EXECUTIONS}", execution))
        self.execution, self.count = execution, len(nets)
        self.body = _Field(nets[0])
        shapes = [[(n, p.shape) for n, p in net.named_parameters()] for net in nets]
        kept = [dict(net.named_buffers()) for net in nets]
        same = all(
            b.keys() == kept[0].keys() and all(torch.equal(b[n], v) for n, v in kept[0].items())
            for b in kept
        )
        if not same or any(s != shapes[0] for s in shapes):
            fix = "Build them with the same sizes, without batch norm"
            expected = "networks that differ in their weights only"
            raise InputError(message("Group", expected, "other shapes or buffers", fix))
        with torch.no_grad():
            for name, _ in shapes[0]:
                owner, _, leaf = f"net.{name}".rpartition(".")
                values = torch.stack([net.get_parameter(name) for net in nets])
                self.body.get_submodule(owner).register_parameter(leaf, nn.Parameter(values))

    def forward(self, x: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """(G, B, C, *cells) → (G, B, C_out, *cells). Differentiable in x and the weights.

        Args:
            x: one batch per network.
            rows: which networks, one per entry of x; default all.
        """
        weights = dict(self.body.named_parameters())
        if rows is not None and list(rows) != list(range(self.count)):
            index = torch.as_tensor(rows, device=x.device)
            weights = {n: p.index_select(0, index) for n, p in weights.items()}

        def one(w: dict[str, Tensor], v: Tensor) -> Tensor:
            return functional_call(self.body, w, (v,))

        # One network out of many takes the batched path too: its products then round as in the joint run.
        if self.execution == "vmap" and self.count > 1:
            return vmap(one)(weights, x)
        return torch.stack(
            [one({n: p[g] for n, p in weights.items()}, x[g]) for g in range(len(x))]
        )


def damp_last(net: nn.Module, factor: float = 1e-2) -> nn.Module:
    """Scale the last layer's weights, so that a step starts near the identity.

    A network that has a weight of zeros, such as T1's head, starts there already.

    Args:
        net: changed in place; its last registered module with weights is its last layer.
        factor: what the weights are multiplied by.
    """
    with torch.no_grad():
        if any(p.ndim > 1 and not bool(p.any()) for p in net.parameters()):
            return net
        layers = [list(m.parameters(recurse=False)) for m in net.modules()]
        for p in next((ps for ps in reversed(layers) if ps), []):
            p.mul_(factor)
    return net


Factory = Callable[[int, int], nn.Module]
"""(input channels, output channels) → backbone (B, in, *cells) → (B, out, *cells)."""
