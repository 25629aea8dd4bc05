"""Small models, data and losses for the tests of the training loop."""

from __future__ import annotations

import json

import torch
from torch import nn


def network(width=8):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.Tanh(),
            nn.Linear(width, 1),
        )  # fmt: skip


def data(count=7, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.rand(count, 6, 3, generator=generator, dtype=dtype))


def loss(model, batch, generator):
    """Noise from the own generator, dropout from the global one."""
    noisy = batch + 0.01 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)
    error = (model(noisy) - batch.prod(-1, keepdim=True)).square().mean()
    size = sum(p.square().sum() for p in model.parameters())
    return {"loss": error + 1e-4 * size, "error": error}


def plain(model, batch, generator):
    return (model(batch) - batch.prod(-1, keepdim=True)).square().mean()


def line(bias=True, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(3, 1, bias=bias, dtype=dtype)


def same(a, b):
    """Equal to the bit, apart from the clock."""
    for one, other in zip(a[0].state_dict().values(), b[0].state_dict().values(), strict=True):
        assert torch.equal(one, other)
    one, other = ({**vars(h), "seconds": 0} for h in (a[1], b[1]))
    assert one == other


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(text).items() if k != "seconds"} for text in lines]


def at(update, what):
    """Called with every update; does something after one of them."""

    def on_update(u, history):
        if u == update:
            what()

    return on_update
