"""Checks of a gradient: Taylor test, finite differences, backward twice, and a report of all.

    second-order remainder:  R(ε) = |f(x + ε d) − f(x) − ε ⟨∇f(x), d⟩| = O(ε²)

Every check takes a function of one tree: a tensor, or a tuple, list, dict or dataclass of them,
nested at will. Leaves that are not floating-point tensors are constants.

Source: Farrell et al. 2013 (dolfin-adjoint), section 4.2, for the Taylor test.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, RheogradError, message
from .trees import flatten

__all__ = ["check_backward_twice", "fd_check", "gradient_report", "taylor_test"]

FD_STEPS = (5.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""Relative steps of the finite-difference sweep: from far too coarse to float32 round-off."""


@dataclasses.dataclass(frozen=True)
class TaylorReport:
    """What a Taylor test saw. `passed()` compares the rate with the order of the remainder."""

    rate: float
    """Smallest rate log(R₁/R₂)/log(ε₁/ε₂) between levels above round-off; inf when exact."""
    remainders: tuple[float, ...]
    """R(ε) per level, in the unit of f."""
    eps: tuple[float, ...]
    """Step per level, relative to the direction [-]."""
    floor: float
    """Round-off in f, in its unit: remainders below it say nothing."""
    order: int
    """1 checks the gradient (rate 2 expected), 2 the Hessian as well (rate 3)."""
    exact: bool
    """All remainders are round-off although f changes: f is linear (quadratic) along d."""
    blind: bool
    """f does not change above round-off along d, so the test cannot tell; never passes."""

    def passed(self, min_rate: float | None = None) -> bool:
        """Whether the rate reaches `min_rate` [-], default 0.1 below the expected order."""
        wanted = self.order + 0.9 if min_rate is None else min_rate
        return not self.blind and self.rate >= wanted


@dataclasses.dataclass(frozen=True)
class FDReport:
    """What central differences saw, at the best relative step of the sweep."""

    cosine: float
    """Cosine over the directions between differences and ⟨∇f, d⟩ [-]; 1 is right."""
    relative_errors: tuple[float, ...]
    """|fd − ad| / max(|fd|, |ad|) per direction [-]; 0 where both vanish."""
    best_eps: float
    """Relative step with the smallest median error [-]; nan when all failed."""
    failure: str
    """"ok", "nan" when the function or gradient is not finite, "zero" when both vanish."""
    sweep: dict[float, float]
    """Median relative error per relative step [-]."""

    def passed(self, min_cosine: float = 0.999, max_error: float = 1e-3) -> bool:
        """Whether cosine and median relative error reach the given bounds [-]."""
        median = sorted(self.relative_errors)[len(self.relative_errors) // 2]
        return self.failure == "ok" and self.cosine >= min_cosine and median <= max_error


@dataclasses.dataclass(frozen=True)
class TwiceReport:
    """What two backward passes through one graph, and one through a fresh graph, gave."""

    same_graph: float
    """Largest |g₁ − g₂| / max|g₁| between two passes through one graph [-]."""
    fresh_graph: float
    """Largest |g₁ − g₃| / max|g₁| against a repeated forward [-]; shows non-determinism."""
    inputs_kept: bool
    """Neither forward nor backward wrote into the inputs."""

    def passed(self, tol: float = 0.0) -> bool:
        """Whether both differences are at most `tol` [-] and the inputs were left alone."""
        return self.inputs_kept and self.same_graph <= tol and self.fresh_graph <= tol


def taylor_test(
    f: Callable[[Any], Tensor],
    x: Any,
    direction: Any = None,
    *,
    order: int = 1,
    eps0: float = 1e-2,
    levels: int = 4,
    wrt: Sequence[str] | None = None,
    generator: torch.Generator | None = None,
) -> TaylorReport:
    """Order of R(ε) = |f(x + ε d) − f(x) − ε ⟨∇f, d⟩ (− ½ ε² ⟨d, H d⟩)|, with ε halved per level.

    A right gradient gives rate 2 (3 with `order=2`), a wrong one rate 1. Use float64.

    Args:
        f: scalar function of the tree x.
        x: point of expansion, a tree of tensors.
        direction: tree like x, in the units of x; default: normal numbers scaled by each leaf's
            RMS (by 1 where it is zero), which makes `eps0` a relative step.
        order: 1 for the gradient, 2 to include the Hessian (needs a double backward).
        eps0: largest step [-].
        levels: number of halvings, at least 2.
        wrt: paths of the leaves to vary, e.g. `["jelly.E"]`; default: all floating-point leaves.
        generator: CPU generator of the random direction; default: seed 0.

    Returns:
        The rate and what it was computed from.

    Raises:
        InputError: if f is not scalar, nothing floats, or a path in `wrt` does not exist.

    Source: Farrell et al. 2013, section 4.2; pyadjoint `taylor_test`.
    """
    if order not in (1, 2) or levels < 2:
        raise InputError(message("taylor_test", "order 1 or 2, levels >= 2", f"{order}, {levels}"))
    problem = _Problem("taylor_test", f, x, wrt)
    d = problem.direction(generator) if direction is None else problem.select(direction)
    f0, grads = problem.gradient(create_graph=order == 2)
    slope_t = sum((g * v).sum() for g, v in zip(grads, d, strict=True))
    slope, curvature = float(slope_t.detach()), 0.0
    if order == 2 and slope_t.requires_grad:
        hd = torch.autograd.grad(slope_t, problem.leaves, allow_unused=True)
        curvature = sum(float((h * v).sum()) for h, v in zip(hd, d, strict=True) if h is not None)
    eps = tuple(eps0 / 2**level for level in range(levels))
    values = [problem.value(d, step) for step in eps]
    remainders = tuple(
        abs(value - f0 - step * slope - 0.5 * step**2 * curvature)
        for value, step in zip(values, eps, strict=True)
    )
    # One evaluation sums many terms: ten units in the last place is the usual noise of a rollout.
    floor = 10 * torch.finfo(problem.dtype).eps * max(abs(f0), *(abs(v) for v in values))
    blind = max(abs(values[0] - f0), abs(eps0 * slope)) <= floor
    pairs = zip(remainders, remainders[1:], strict=False)
    above = [math.log2(a / b) for a, b in pairs if min(a, b) > floor]
    exact = not blind and max(remainders) <= floor
    if blind or not all(math.isfinite(r) for r in remainders):
        rate = math.nan
    elif exact:
        rate = math.inf
    elif above:
        rate = min(above)
    else:
        # Only the coarsest level shows: the fall into the noise bounds the rate from below.
        rate = math.log2(max(remainders) / floor)
    return TaylorReport(rate, remainders, eps, floor, order, exact, blind)


def fd_check(
    f: Callable[[Any], Tensor],
    inputs: Any,
    n_directions: int = 20,
    *,
    steps: Sequence[float] = FD_STEPS,
    wrt: Sequence[str] | None = None,
    generator: torch.Generator | None = None,
) -> FDReport:
    """Compare ⟨∇f, d⟩ with [f(x + ε d) − f(x − ε d)] / 2ε over random directions and steps ε.

    d has (on average) unit length in units of each leaf's RMS (1 where it vanishes), so ε is
    relative. Works in float32, where a Taylor test drowns in round-off.

    Args:
        f: function of the tree `inputs`; an output y that is not scalar is turned into Σ y².
        inputs: tree of tensors.
        n_directions: number of random directions K.
        steps: relative steps ε [-]; 2 K evaluations of f for each.
        wrt: paths of the leaves to vary; default: all floating-point leaves.
        generator: CPU generator of the directions; default: seed 0.

    Returns:
        Errors at the step with the least median error, and the sweep; steps that raise a
        `RheogradError` or give no finite value count as nan in it.

    Raises:
        InputError: if nothing floats or a path in `wrt` does not exist.
    """
    problem = _Problem("fd_check", f, inputs, wrt)
    grads = problem.gradient()[1]
    return _compare(problem, grads, n_directions, steps, generator, deadline=math.inf)


def check_backward_twice(f: Callable[[Any], Tensor], inputs: Any) -> TwiceReport:
    """Run backward twice through one graph and once through a fresh one, and compare.

    Finds engine buffers that backward consumes or fills without clearing, and writes into inputs.
    `f` and `inputs` are those of `fd_check`. Returns relative differences [-], both 0 for a
    deterministic operation.
    """
    problem = _Problem("check_backward_twice", f, inputs, None)
    kept = [leaf.detach().clone() for leaf in problem.leaves]
    value = problem.evaluate()
    seed = torch.ones_like(value)
    first = [g.clone() for g in problem.grads_of(value, seed, retain_graph=True)]
    second = problem.grads_of(value, seed)
    third = problem.grads_of(problem.evaluate(), None)
    same = all(torch.equal(a, b.detach()) for a, b in zip(kept, problem.leaves, strict=True))
    same = same and bool((seed == 1).all())
    return TwiceReport(_difference(first, second), _difference(first, third), same)


def gradient_report(
    f: Callable[[Any], Tensor],
    inputs: Any,
    *,
    n_directions: int = 20,
    steps: Sequence[float] = FD_STEPS,
    time_limit: float = math.inf,
    generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """Everything one asks of a gradient, as a dict that `json.dumps` accepts.

    Args:
        f, inputs, steps, generator: as in `fd_check`.
        n_directions: random directions per floating-point leaf.
        time_limit: seconds after which no further evaluation starts; the failure is "timeout".

    Returns:
        `failure` ("ok", "zero", "nan", "oom", "timeout", "error: ..."), `value`, `gradient_norm`,
        `seconds_forward`, `seconds_forward_backward`, `peak_rss_bytes` (of the process during
        the gradient; None where the system does not tell), `peak_vram_bytes` (None on the CPU),
        and `inputs`: per leaf `cosine`, `relative_errors`, `best_eps`, `gradient_norm`, `failure`.
        Keys whose value was not reached are None.

    Source: the measures of the Mosaic benchmark of differentiable simulators.
    """
    keys = ("failure", "value", "gradient_norm", "seconds_forward", "seconds_forward_backward")
    report: dict[str, Any] = dict.fromkeys(keys)
    report |= {"peak_rss_bytes": None, "peak_vram_bytes": None, "inputs": {}}
    deadline = time.monotonic() + time_limit
    try:
        _fill_report(report, f, inputs, n_directions, steps, deadline, generator)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        report["failure"] = "oom"
    except TimeoutError:
        report["failure"] = "timeout"
    except Exception as error:  # the failure class is what the caller asked for
        # torch reports a failed CPU allocation as a plain RuntimeError
        oom = "not enough memory" in str(error) or "can't allocate memory" in str(error)
        report["failure"] = "oom" if oom else f"error: {type(error).__name__}: {error}"
    return report


def _fill_report(report, f, inputs, n_directions, steps, deadline, generator) -> None:
    problem = _Problem("gradient_report", f, inputs, None)
    device = problem.leaves[0].device
    start = time.perf_counter()
    with torch.no_grad():
        report["value"] = float(problem.evaluate())
    report["seconds_forward"] = time.perf_counter() - start
    _in_time(deadline)
    reset = _reset_peak(device)
    start = time.perf_counter()
    _, grads = problem.gradient()
    norms = [float(g.norm()) for g in grads]
    report["seconds_forward_backward"] = time.perf_counter() - start
    report["peak_rss_bytes"] = _peak_rss() if reset else None
    if device.type == "cuda":
        report["peak_vram_bytes"] = torch.cuda.max_memory_allocated(device)
    report["gradient_norm"] = math.hypot(*norms)
    for name, norm in zip(problem.names, norms, strict=True):
        _in_time(deadline)
        one = _Problem("gradient_report", f, inputs, [name])
        grad = [grads[problem.names.index(name)]]
        fd = _compare(one, grad, n_directions, steps, generator, deadline)
        entry = dataclasses.asdict(fd) | {"gradient_norm": norm}
        entry["sweep"] = {str(step): error for step, error in fd.sweep.items()}
        report["inputs"][name or "input"] = entry
    failures = [entry["failure"] for entry in report["inputs"].values()]
    report["failure"] = next((x for x in failures if x != "ok"), "ok")


class _Problem:
    """A scalar function of the chosen floating-point leaves of a tree, the rest held fixed."""

    def __init__(self, where: str, f: Callable, tree: Any, wrt: Sequence[str] | None):
        self.where, self.f = where, f
        tensors, self.rebuild = flatten(tree)
        floating = [name for name, t in tensors.items() if t.is_floating_point()]
        self.names = floating if wrt is None else list(wrt)
        unknown = [name for name in self.names if name not in floating]
        if unknown or not self.names:
            expected = f"floating-point leaves among {floating}"
            raise InputError(message(where, expected, str(unknown or tree), "Check `wrt`"))
        self.tensors = {name: t.detach().clone() for name, t in tensors.items()}
        for name in self.names:
            self.tensors[name].requires_grad_()
        self.leaves = [self.tensors[name] for name in self.names]
        self.dtype = max((t.dtype for t in self.leaves), key=lambda d: torch.finfo(d).eps)

    def evaluate(self, tensors: dict[str, Tensor] | None = None) -> Tensor:
        value = self.f(self.rebuild(list((tensors or self.tensors).values())))
        if value.numel() == 1:
            return value.reshape(())
        if self.where != "taylor_test":
            return value.square().sum()
        raise InputError(message(self.where, "a scalar f(x)", value, "Sum it to a loss"))

    def gradient(self, create_graph: bool = False) -> tuple[float, list[Tensor]]:
        value = self.evaluate()
        return float(value.detach()), self.grads_of(value, None, create_graph=create_graph)

    def grads_of(self, value: Tensor, seed: Tensor | None, **kwargs: bool) -> list[Tensor]:
        grads = torch.autograd.grad(value, self.leaves, seed, allow_unused=True, **kwargs)
        pairs = zip(grads, self.leaves, strict=True)
        return [torch.zeros_like(x) if g is None else g for g, x in pairs]

    def value(self, direction: list[Tensor], step: float) -> float:
        moved = dict(self.tensors)
        with torch.no_grad():
            for name, d in zip(self.names, direction, strict=True):
                moved[name] = self.tensors[name] + step * d
            return float(self.evaluate(moved))

    def select(self, tree: Any) -> list[Tensor]:
        tensors, _ = flatten(tree)
        if missing := [name for name in self.names if name not in tensors]:
            raise InputError(message(self.where, f"a direction for {missing}", str(list(tensors))))
        return [tensors[name].detach() for name in self.names]

    def direction(self, generator: torch.Generator | None) -> list[Tensor]:
        result = []
        for leaf in self.leaves:
            if generator is None:
                generator = torch.Generator().manual_seed(0)
            noise = torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype).to(leaf)
            rms = leaf.detach().square().mean().sqrt()
            result.append(noise * torch.where(rms > 0, rms, torch.ones_like(rms)))
        return result


def _compare(problem, grads, n_directions, steps, generator, deadline) -> FDReport:
    generator = generator or torch.Generator().manual_seed(0)
    size = math.sqrt(sum(leaf.numel() for leaf in problem.leaves))
    directions = [[d / size for d in problem.direction(generator)] for _ in range(n_directions)]
    ad = [sum(float((g * v).sum()) for g, v in zip(grads, d, strict=True)) for d in directions]
    best, sweep = None, {}
    for step in steps:
        fd = []
        try:
            for d in directions:
                _in_time(deadline)
                fd.append((problem.value(d, step) - problem.value(d, -step)) / (2 * step))
        except RheogradError:  # a coarse step may leave the range where a simulator works
            fd = [math.nan]
        if not all(math.isfinite(v) for v in fd):
            sweep[step] = math.nan
            continue
        pairs = zip(ad, fd, strict=True)
        errors = [abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0 for a, b in pairs]
        sweep[step] = sorted(errors)[len(errors) // 2]
        if best is None or sweep[step] < sweep[best[0]]:
            best = (step, fd, errors)
    if best is None or not all(math.isfinite(v) for v in ad):
        return FDReport(math.nan, (math.nan,) * n_directions, math.nan, "nan", sweep)
    step, fd, errors = best
    length = math.hypot(*ad) * math.hypot(*fd)
    cosine = sum(a * b for a, b in zip(ad, fd, strict=True)) / length if length > 0 else math.nan
    failure = "zero" if math.hypot(*ad, *fd) == 0 else "ok"
    return FDReport(cosine, tuple(errors), step, failure, sweep)


def _difference(a: list[Tensor], b: list[Tensor]) -> float:
    scale = max(float(x.abs().max()) for x in a) or 1.0
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True)) / scale


def _in_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError


def _reset_peak(device: torch.device) -> bool:
    """Forget the memory peaks so far; Linux lets a process reset its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_rss() -> int | None:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else None
