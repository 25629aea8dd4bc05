"""Trained solvers in files, with what makes them again."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any

import torch

from ...assets import weights, weights_names
from ...sim.core.errors import InputError, message
from ...sim.io.checkpoint import load_checkpoint, save_checkpoint
from ..layers.grid import GridOperator
from .solver import StaggerSolver
from .split import SpaceSplit, TimeSplit

__all__ = ["load_solver", "save_solver", "solver_names"]


def solver_names() -> list[str]:
    """Names of the solvers that ship."""
    return weights_names("stagger")


def save_solver(path: str | os.PathLike[str], solver: StaggerSolver, half: bool = False) -> Path:
    """Save a solver whose backbone is a `GridOperator`.

    Args:
        path: the file.
        solver: whose `finish` is no function.
        half: whether weights are kept in float16.

    Raises:
        InputError: another backbone, or a function as `finish`.
    """
    net = solver.nets.body.net
    if not isinstance(net, GridOperator) or callable(solver.finish):
        got = f"{type(net).__name__}, finish = {solver.finish}"
        expected = 'a GridOperator as backbone, a word or None as finish'
        raise InputError(message("save_solver", expected, got, "Save its state_dict yourself"))
    config: dict[str, Any] = {
        "system": "stagger",
        "split": [list(solver.split.s), solver.split.dims],
        "tsplit": [solver.tsplit.s_T, solver.tsplit.mode],
        "backbone": net.description(),
        "options": {
            name: getattr(solver, name)
            for name in "coupling dt channels context share drop periodic finish".split()
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
    cls: Any = None
    if re.fullmatch(r"[a-z]\w*(\.[a-z]\w*)*:[A-Z]\w*", place):
        module, _, attribute = place.partition(":")
        cls = getattr(importlib.import_module(f"..{module}", __package__), attribute, None)
    if not (isinstance(cls, type) and issubclass(cls, GridOperator)):
        raise InputError(message(f"load_solver({name})", "a backbone on grids", place))
    s, dims = config["split"]
    make: Any = cls
    solver = StaggerSolver(
        lambda a, b: make.from_config({**backbone, "in_channels": a, "out_channels": b}),
        SpaceSplit(tuple(s), dims),
        TimeSplit(*config["tsplit"]),
        **config["options"],
    )
    solver.load_state_dict({n: t.float() for n, t in saved.tensors.items()})
    return solver.to(dtype).eval()
