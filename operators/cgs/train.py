"""Training on graphs that are drawn as it goes, and the error on others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, StateError, message
from ..train.annealing import annealed
from .graphs import Graphs, collate

__all__ = ["relative_error", "train"]


def train(
    model: nn.Module,
    draw: Callable[[torch.Generator], Graphs],
    *,
    updates: int = 1000,
    seconds: float | None = None,
    clock: Callable[[], float] = time.process_time,
    batch: int = 8,
    keep: int = 8,
    lr: float = 2e-3,
    seed: int = 0,
) -> list[float]:
    """Minimize the mean square error with AdamW and one cosine decay of the learning rate.

    Args:
        model: changed in place.
        draw: `draw(generator)` gives a graph.
        updates: most updates.
        seconds: bound on the time by `clock`, which then also sets the decay.
        clock: default CPU time of this process.
        batch: graphs of an update.
        keep: updates that use a batch; a new one is drawn after them.
        lr: first learning rate.
        seed: of the graphs.

    Returns:
        Loss of each update.

    Raises:
        InputError: counts below one.
        StateError: a loss that is not finite.
    """
    if min(updates, batch, keep) < 1 or (seconds is not None and not seconds > 0):
        got = f"{updates}, {batch}, {keep} and {seconds}"
        raise InputError(message("train", "updates, batch, keep >= 1 and seconds > 0", got))
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-5)
    losses = list[float]()
    for update in annealed(optimizer, updates, seconds, clock):
        if update % keep == 0:
            graphs = collate([draw(generator) for _ in range(batch)]).to(like)
        optimizer.zero_grad()
        found = model(graphs)
        if found.shape != graphs.y.shape:
            fix = "Give y (N, K) with K = out_channels of the model"
            raise InputError(message("train", f"targets {tuple(found.shape)}", graphs.y, fix))
        loss = (found - graphs.y).square().mean()
        losses.append(float(loss.detach()))
        if not torch.isfinite(loss):
            fix = "Lower lr, or look for targets that are not finite"
            raise StateError(message("train", "a finite loss", losses[-1], fix), step=update)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return losses


@torch.no_grad()
def relative_error(
    predict: Callable[[Graphs], Tensor], graphs: Sequence[Graphs], free: bool = False
) -> float:
    """Mean over graphs of ‖ŷ − y‖₂ / ‖y‖₂ [-].

    Args:
        predict: model, or any function of a graph that gives (N, K).
        graphs: each judged by itself.
        free: leave out nodes whose pressure is given (`pore_network`'s fourth feature).
    """
    errors = []
    for g in graphs:
        rows = g.nodes[:, 3] == 0 if free else slice(None)
        error = (predict(g) - g.y)[rows]
        errors.append(error.norm() / g.y[rows].norm())
    return float(torch.stack(errors).mean())
