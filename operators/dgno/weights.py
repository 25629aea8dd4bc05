"""Trained generative models in files, with what makes them again: problem, sizes, prior of the codes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...assets import weights, weights_names
from ...sim.core.errors import InputError, message
from ...sim.io.checkpoint import load_checkpoint, save_checkpoint
from ..layers.grid import named_class
from .model import DGNO, DGNOConfig
from .priors import Bounded, CubePrior, NormalPrior, Prior, RealNVP, ZukoPrior
from .problem import Problem

__all__ = ["dgno_names", "load_dgno", "save_dgno"]

PRIORS = {cls.__name__: cls for cls in (CubePrior, NormalPrior, RealNVP, ZukoPrior)}
JSON = (bool, int, float, str, type(None))
"""What a file may say of a problem, and lists of it."""


def dgno_names() -> list[str]:
    """Names of the models that ship."""
    return weights_names("dgno")


def save_dgno(path: str | os.PathLike[str], model: DGNO, half: bool = False) -> Path:
    """Save a model: weights, scales, problem, configuration, and `model.prior` if there is one.

    What a file cannot say is left out, and `load_dgno` asks for it: a problem of a class of your own, or
    with functions, such as values at walls; a prior of your own.

    Args:
        path: the file.
        model: set its `prior` to keep one that was fitted to its codes.
        half: whether weights are kept in float16; scales and covariances never are.

    Raises:
        CheckpointError: the disk refused the file.
    """
    small = {name for name, _ in model.named_parameters()} if half else set()
    tensors = {n: t.half() if n in small else t for n, t in model.state_dict().items()}
    config = {
        "system": "dgno",
        "problem": _described_problem(model.problem),
        "config": dataclasses.asdict(model.config),
        "prior": None if model.prior is None else _described_prior(model.prior),
    }
    return save_checkpoint(path, tensors, config)


def load_dgno(
    name: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    problem: Problem | None = None,
    prior: Prior | None = None,
) -> DGNO:
    """A model from a file of `save_dgno`, or one of `dgno_names`. Nothing in it is executed.

    Its `prior` is the one it was saved with.

    Args:
        name: path or name.
        dtype: precision of the model.
        problem: in place of the file's, such as the same PDE with other test functions; needed where
            the file could not keep it.
        prior: where the file could not keep it; filled with its weights.

    Raises:
        FileNotFoundError: neither a file nor a name; names what ships.
        InputError: a file of something else; a problem or prior that is missing, or does not fit.
        ImportError: a prior of a package that is not installed.
    """
    path = weights("dgno", name)
    saved, where = load_checkpoint(path), f"load_dgno({name})"
    config = saved.config
    if config.get("system") != "dgno":
        got = f"a configuration with {sorted(config)}"
        raise InputError(message(where, "a file of save_dgno", got, "Load it with what wrote it"))
    if problem is None:
        problem = _problem(where, config["problem"])
    told = config["prior"]
    if told is None and prior is not None:
        fix = "Leave prior out, and fit one to the model's codes"
        raise InputError(
            message(where, "no prior, as the file has none", type(prior).__name__, fix)
        )
    if told is not None and prior is None:
        prior = _prior(where, told)
    model = DGNO(problem, DGNOConfig(**config["config"]), prior).to(dtype)
    load_checkpoint(path, model)
    return model.eval()


def _described_problem(problem: Problem) -> dict[str, Any]:
    cls, settings = type(problem), problem.settings
    root = __name__.removesuffix("dgno.weights")
    place = cls.__module__.removeprefix(root) if cls.__module__.startswith(root) else ""
    functions = [name for name, value in settings.items() if not _plain(value)]
    if not place or functions:
        return {
            "own": f"{cls.__name__} with its {', '.join(functions)}" if functions else cls.__name__
        }
    return {"problem": f"{place}:{cls.__name__}", **settings}


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return isinstance(value, JSON)


def _problem(where: str, told: Mapping[str, Any]) -> Problem:
    if "own" in told:
        fix = "A file cannot keep it: make it as it was in training"
        raise InputError(message(where, f"problem=, a {told['own']}", "None", fix))
    settings = {name: _tuples(value) for name, value in told.items()}
    place = str(settings.pop("problem", ""))
    cls = named_class(place, Problem)
    if cls is None:
        raise InputError(message(where, "a problem of rheograd", place, "Give it as problem="))
    return cls(**settings)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _described_prior(prior: Any) -> dict[str, Any]:
    kind = type(prior)
    if kind is Bounded:
        inner = _described_prior(prior.inner)
        return {"own": f"Bounded({inner['own']})"} if "own" in inner else {"bounded": inner}
    if kind not in PRIORS.values():
        return {"own": kind.__name__}
    told: dict[str, Any] = {"prior": kind.__name__, "latent": prior.latent}
    if kind is RealNVP:
        told |= {"couplings": len(prior.kept), "hidden": prior.nets[0][0].out_features}
    if kind is ZukoPrior:
        told |= {"kind": prior.kind, **prior.options}
        if not all(map(_plain, prior.options.values())):
            return {"own": f"ZukoPrior with {', '.join(prior.options)}"}
    return told


def _prior(where: str, told: Mapping[str, Any]) -> Prior:
    if "bounded" in told:
        return Bounded(_prior(where, told["bounded"]))
    if "own" in told or told.get("prior") not in PRIORS:
        expected = f"prior=, a {told.get('own', told.get('prior'))}"
        raise InputError(
            message(where, expected, "None", "Make it as it was; weights are filled in")
        )
    settings = {name: _tuples(value) for name, value in told.items() if name != "prior"}
    return PRIORS[told["prior"]](**settings)
