"""Trained solvers in files, with what makes them again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...assets import weights, weights_names
from ...sim.core.errors import InputError, message
from ...sim.io.checkpoint import load_checkpoint, save_checkpoint
from ..layers.grid import GridOperator, named_class
from .solver import StaggerSolver
from .split import SpaceSplit, TimeSplit

__all__ = ["load_solver", "save_solver", "solver_names", "warm_start"]


def solver_names() -> list[str]:
    """Names of the solvers that ship."""
    return weights_names("stagger")


def save_solver(
    path: str | os.PathLike[str],
    solver: StaggerSolver,
    half: bool = False,
    backbone: dict[str, Any] | None = None,
) -> Path:
    """Save a solver.

    Args:
        path: the file.
        solver: whose `finish` is no function.
        half: whether weights are kept in float16.
        backbone: where it is no `GridOperator`, what makes it but `inputs` and `outputs`, such as
            {"operator": "t1.unet:UNet", "dim": 2, "channels": 16, "levels": 3}.

    Raises:
        InputError: another backbone, or a function as `finish`.
    """
    net = solver.nets.body.net
    known = isinstance(net, GridOperator) or backbone is not None
    if not known or callable(solver.finish):
        got = f"{type(net).__name__}, finish = {solver.finish}"
        expected = "a GridOperator as backbone, a word or None as finish"
        fix = "Describe another backbone by backbone=; keep a function yourself"
        raise InputError(message("save_solver", expected, got, fix))
    config: dict[str, Any] = {
        "system": "stagger",
        "split": [list(solver.split.s), solver.split.dims],
        "tsplit": [solver.tsplit.s_T, solver.tsplit.mode],
        "backbone": net.description() if backbone is None else dict(backbone),
        "options": {
            name: getattr(solver, name)
            for name in "coupling dt channels context share shifted drop periodic finish".split()
        },
    }
    tensors = solver.state_dict()
    if half:
        tensors = {n: t.half() if n.startswith("nets.") else t for n, t in tensors.items()}
    return save_checkpoint(path, tensors, config)


def load_solver(name: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> StaggerSolver:
    """A solver from a file of `save_solver`, or one of `solver_names`. Nothing in it is executed.

    Raises:
        FileNotFoundError: neither.
        InputError: a checkpoint of something else.
    """
    saved = load_checkpoint(weights("stagger", name))
    config = saved.config
    if config.get("system") != "stagger":
        got = f"a configuration with {sorted(config)}"
        raise InputError(message(f"load_solver({name})", "a file of save_solver", got))
    backbone = dict(config["backbone"])
    place = str(backbone.pop("operator"))
    cls = named_class(place, nn.Module)
    if cls is None:
        raise InputError(message(f"load_solver({name})", "a backbone on grids", place))
    s, dims = config["split"]

    def make(a: int, b: int) -> nn.Module:
        if issubclass(cls, GridOperator):
            return cls.from_config({**backbone, "in_channels": a, "out_channels": b})
        return cls(**backbone, inputs=a, outputs=b)

    solver = StaggerSolver(
        make,
        SpaceSplit(tuple(s), dims),
        TimeSplit(*config["tsplit"]),
        **config["options"],
    )
    solver.load_state_dict({n: t.float() for n, t in saved.tensors.items()})
    return solver.to(dtype).eval()


@torch.no_grad()
def warm_start(solver: StaggerSolver, source: StaggerSolver) -> StaggerSolver:
    """Start a solver from the weights of another: one on a finer split, or with more heads.

    A network that resolves a field on n cells resolves it on n/s cells too, so a cheap solver with few
    sub-fields or short steps is a start for one with many: every sub-solver gets a copy. A head of k
    steps ahead predicts a rate of change, as that of one step does: rows of the last layer repeat.

    Args:
        solver: changed in place; backbone of the same sizes, same channels and context.
        source: with one set of weights, or as many as `solver`.

    Raises:
        InputError: weights that fit neither as they are nor by repetition.

    Source: ours; Huang et al. 2023 train all sub-solvers from the start.
    """
    theirs = dict(source.nets.named_parameters())
    heads = solver.tsplit.heads // source.tsplit.heads if solver.tsplit.heads else 0
    for name, p in solver.nets.named_parameters():
        q = theirs.get(name)
        fits = q is not None and p.ndim == q.ndim and len(q) in (1, len(p))
        repeat = [1] * p.ndim
        if fits and p.shape[1:] != q.shape[1:]:
            repeat[1] = heads
            fits = p.shape[1:] == (q.shape[1] * heads, *q.shape[2:])
        if not fits:
            got = "none" if q is None else f"{tuple(q.shape)}"
            fix = "Build both with backbones of one size and one coupling"
            text = message("warm_start", f"weights {name} like {tuple(p.shape)}", got, fix)
            raise InputError(text)
    for name, p in solver.nets.named_parameters():
        q = theirs[name]
        if p.shape[1:] != q.shape[1:]:
            q = q.repeat(1, heads, *[1] * (q.ndim - 2))
        p.copy_(q.expand_as(p))
    return solver
