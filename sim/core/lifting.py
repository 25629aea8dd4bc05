"""Modules that a function closes over, found and turned into parameters it can be differentiated in."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from .errors import InputError, message

__all__ = ["Run", "lift", "modules_of"]

Run = Callable[[dict[str, Tensor], Callable[[], Any]], Any]
"""(weights, call) -> call(), with the weights in their modules."""


def lift(where: str, *values: Any) -> tuple[Run, dict[str, Tensor]]:
    """What runs functions with other weights in their modules, and those weights.

    Args:
        where: public function that asks, for messages.
        values: functions and params: modules, functions that use modules they close over, hold as
            globals or are bound to, or lists, tuples and dicts of those.

    Returns:
        `run(weights, call)`, the value of `call()` with the weights in place, and the weights that
        require a gradient, by name; {} when there are none.

    Raises:
        InputError: a module that draws random numbers, such as dropout in training.
    """
    modules = {part: None for found in modules_of(values) for part in found.modules()}
    random = nn.modules.dropout._DropoutNd
    slots: dict[str, list[tuple[nn.Module, str]]] = {}
    names: dict[int, str] = {}
    weights: dict[str, Tensor] = {}
    for number, part in enumerate(modules):
        if isinstance(part, random) and part.training and part.p > 0:
            got = f"{type(part).__name__} in training"
            fix = "Draw the mask once, outside, and multiply by it, or call .eval()"
            expected = "a function of x and params, the same at every call"
            raise InputError(message(where, expected, got, fix))
        for name, weight in part._parameters.items():
            if weight is not None and weight.requires_grad:
                label = names.setdefault(id(weight), f"{number} {name}")
                weights[label] = weight
                slots.setdefault(label, []).append((part, name))

    # torch.func.functional_call leaves other tensors behind in a module that it reaches by two names.
    def run(weights: dict[str, Tensor], call: Callable[[], Any]) -> Any:
        before = []
        try:
            for label, weight in weights.items():
                for part, name in slots[label]:
                    before.append((part, name, part._parameters[name]))
                    part._parameters[name] = weight
            return call()
        finally:
            for part, name, weight in before:
                part._parameters[name] = weight

    return run, weights


def modules_of(
    value: Any, seen: set[int] | None = None, home: str | None = None
) -> Iterator[nn.Module]:
    """Modules that a value is, holds or, as a function, can reach by its closure and globals.

    Args:
        value: module, function, method, partial, or list, tuple or dict of them.
        seen: objects that were visited.
        home: Python module whose functions are followed through globals; that of the first function.
    """
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, types.FunctionType):
        if home is not None and value.__module__ != home and not value.__closure__:
            return
        home = home or value.__module__
        for inner in _reached(value):
            yield from modules_of(inner, seen, home)
    elif isinstance(value, types.MethodType):
        yield from modules_of((value.__self__, value.__func__), seen, home)
    elif isinstance(value, functools.partial):
        yield from modules_of((value.func, value.args, value.keywords), seen, home)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from modules_of(inner, seen, home)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from modules_of(inner, seen, home)


def _reached(function: types.FunctionType) -> Iterator[Any]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
        for name in code.co_names:
            if name in function.__globals__:
                yield function.__globals__[name]
