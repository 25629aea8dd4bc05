"""Operators with hard constraints in files, with what makes them again: network, problem, boxes, fits."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...assets import weights, weights_names
from ...sim.core.errors import InputError, message
from ...sim.grid import pdes
from ...sim.grid.pdes import Grid, Side
from ...sim.grid.pdes.base import Pde
from ...sim.io.checkpoint import load_checkpoint, save_checkpoint
from ..layers.grid import GridOperator, named_class
from .flow import FlowProblem
from .least_squares import FitConfig
from .model import HardOperator
from .problems import IntegralProblem, PointProblem, Problem, StepProblem

__all__ = ["hard_names", "load_hard", "save_hard"]

PROBLEMS = {cls.__name__: cls for cls in (FlowProblem, IntegralProblem, PointProblem, StepProblem)}


def hard_names() -> list[str]:
    """Names of the operators that ship."""
    return weights_names("hard_moe")


def save_hard(path: str | os.PathLike[str], model: HardOperator, half: bool = False) -> Path:
    """Save an operator: its network, problem, mode, boxes and how it fits.

    What a file cannot say is left out, and `load_hard` asks for it: a network that is no `GridOperator`,
    a problem of your own, or one whose PDE has fields as parameters.

    Args:
        path: the file.
        model: the operator.
        half: whether weights of the network are kept in float16; its scales never are.

    Raises:
        CheckpointError: the disk refused the file.
    """
    small = {name for name, _ in model.named_parameters()} if half else set()
    tensors = {n: t.half() if n in small else t for n, t in model.state_dict().items()}
    net, free = model.network, model.problem.walls()
    config = {
        "system": "hard_moe",
        "network": net.description() if isinstance(net, GridOperator) else {"own": _name(net)},
        "problem": _described(model.problem),
        "options": {
            "mode": model.mode,
            "boxes": list(model.router.counts),
            "points": model.points,
            "grad": model.constraint.grad,
            "ridge": model.ridge,
            "overlap": model.overlap,
            "walls": len(model.walls) == len(free),
            "local": model.local,
            "throw": model.constraint.throw,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        "fit": dataclasses.asdict(model.constraint.config),
    }
    return save_checkpoint(path, tensors, config)


def load_hard(
    name: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    network: nn.Module | None = None,
    problem: Problem | None = None,
) -> HardOperator:
    """An operator from a file of `save_hard`, or one of `hard_names`. Nothing in it is executed.

    Args:
        name: path or name.
        dtype: precision of the network; that of the fits is in the file.
        network: where the file could not keep it; filled with its weights.
        problem: in place of the file's, such as the same PDE on other cells or with another parameter;
            needed where the file could not keep it. If it has fewer rows than `points`, all are taken.

    Raises:
        FileNotFoundError: neither a file nor a name; names what ships.
        InputError: a file of something else; a network or problem that is missing, or does not fit.
    """
    path = weights("hard_moe", name)
    saved, where = load_checkpoint(path), f"load_hard({name})"
    config = saved.config
    if config.get("system") != "hard_moe":
        got = f"a configuration with {sorted(config)}"
        raise InputError(message(where, "a file of save_hard", got, "Load it with what wrote it"))
    if network is None:
        network = _network(where, config["network"])
    if problem is None:
        problem = _problem(where, config["problem"])
    options = dict(config["options"])
    rows = problem.frames * math.prod(problem.cells)
    if options["mode"] == "experts":
        rows //= math.prod(options["boxes"])
    if options["points"] is not None and options["points"] > rows:
        options["points"] = None
    options["dtype"] = getattr(torch, options.get("dtype", "float64"))
    model = HardOperator(network, problem, **options, config=FitConfig(**config["fit"]))
    model.network.to(dtype)
    load_checkpoint(path, model)
    return model.eval()


def _name(thing: Any) -> str:
    return type(thing).__name__


def _network(where: str, told: Mapping[str, Any]) -> nn.Module:
    values = dict(told)
    place = str(values.pop("operator", ""))
    cls = named_class(place, GridOperator)
    if cls is None:
        expected = f"network=, a {told.get('own', place)}"
        raise InputError(
            message(where, expected, "None", "Make it as it was; weights are filled in")
        )
    return cls.from_config(values)


def _described(problem: Problem) -> dict[str, Any]:
    """Class, frames and PDE of a problem as JSON values; "own" where that is not all of it."""
    pde = getattr(problem, "pde", None)
    known = type(problem) in PROBLEMS.values() and type(pde) is getattr(pdes, _name(pde), None)
    told = _described_pde(pde) if known and isinstance(pde, Pde) else None
    if told is None:
        return {"own": _name(problem) + (f" of {_name(pde)}" if pde is not None else "")}
    scale = {"scale": problem.scale} if isinstance(problem, StepProblem) else {}
    return {"problem": _name(problem), "frames": problem.frames, **scale, "pde": told}


def _described_pde(pde: Pde) -> dict[str, Any] | None:
    """Arguments of a PDE by name, read from its parameters and attributes."""
    told: dict[str, Any] = {"pde": _name(pde), "grid": dataclasses.asdict(pde.grid)}
    for name in inspect.signature(type(pde)).parameters:
        if name == "grid":
            continue
        value = pde.parameters[name].default if name in pde.parameters else getattr(pde, name, None)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if not isinstance(value, (bool, int, float, str)):
            return None
        told[name] = value
    return told


def _problem(where: str, told: Mapping[str, Any]) -> Problem:
    cls = PROBLEMS.get(str(told.get("problem")))
    if cls is None:
        expected = f"problem=, a {told.get('own', told.get('problem'))}"
        fix = "A file cannot keep it: make it as it was in training"
        raise InputError(message(where, expected, "None", fix))
    values = dict(told["pde"])
    kind, grid = getattr(pdes, str(values.pop("pde")), None), values.pop("grid")
    if not (isinstance(kind, type) and issubclass(kind, Pde)):
        raise InputError(message(where, "a PDE of rheograd", told["pde"]["pde"], "Give problem="))
    sides = grid["sides"]
    if isinstance(sides, Mapping):
        sides = {k: Side(**v) if isinstance(v, Mapping) else v for k, v in sides.items()}
        sides = Side(**sides) if set(sides) == {"alpha", "beta", "gamma"} else sides
    pde = kind(Grid(**grid | {"sides": sides}), **values)
    rest = {name: told[name] for name in ("frames", "scale") if name in told}
    return cls(pde, **rest)
