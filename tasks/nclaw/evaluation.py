"""How far a law's prediction is from the truth, in any scene.

    mse = mean over every fifth frame, particles and axes of (x_law − x_true)²     [m²]

Both run freely from the same first state; nothing is reset.

Source: Ma et al. 2023 (NCLaw), §4.1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...sim.core.backend import one_thread
from ...sim.core.errors import InputError, StabilityError, StateError
from ...sim.core.laws import Law
from ...sim.core.rollout import rollout
from .scene import Scene, Size
from .scenes import make_scene

__all__ = ["Evaluation", "evaluate", "simulate", "volume_ratios"]

_SMALL = 5000
"""Particles below which torch's second thread costs more than it brings."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A law in a scene, beside the truth."""

    mse: float | None
    """Mean square position error over the compared frames [m²]; None where the law broke the
    simulation."""
    last: float | None
    """The same in the last frame."""
    volumes: dict[str, float]
    """Mean ratio of volumes at the end [-] per body, from det F; elastic part alone for solids that
    flow."""
    steps: int
    """Steps simulated without a failure."""
    seconds: float
    """Wall time of the prediction [s]."""
    failure: str = ""
    """Why the simulation stopped."""


def simulate(
    scene: Scene,
    laws: Law | Mapping[str, Law] | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    on_frame: Callable[[int, Any], None] | None = None,
) -> Tensor:
    """Positions of a scene in every compared frame, first and last step included.

    Args:
        scene: what moves.
        laws: law or {material: law}; default the true ones.
        device: device of the simulation; modules inside the laws must be there.
        dtype: precision.
        on_frame: called with (step, state) after every compared frame.

    Returns:
        x [m], (frames, N, 3), on `device`.

    Raises:
        StateError, StabilityError: a law that breaks the simulation.
    """
    solver = scene.solver(laws)
    state = solver.model.initial_state(dtype=dtype, device=device)
    frames = [state.x[0]]
    melts = scene.melting[1] > scene.melting[0]
    with torch.no_grad(), _threads(scene, device):
        params: Any = solver.prepare(scene.params(0), state)
        for start in range(0, scene.steps, scene.every):
            if melts:
                params = scene.params(start)
            n = min(scene.every, scene.steps - start)
            state = rollout(solver, state, n, params, save_every=n).final
            frames.append(state.x[0])
            if on_frame is not None:
                on_frame(start + n, state)
    return torch.stack(frames)


def evaluate(
    law: Law | Mapping[str, Law],
    scene: str | Scene,
    material: str | None = None,
    *,
    size: Size = "nano",
    truth: Tensor | None = None,
    device: str | torch.device = "cpu",
    on_frame: Callable[[int, Any], None] | None = None,
) -> Evaluation:
    """Mean square position error of a law in a scene over every fifth frame [m²].

    Args:
        law: the law to judge, or {material: law} for scenes of several.
        scene: name for `make_scene`, or a scene.
        material: true material, if `scene` is a name; default as in `make_scene`.
        size: "nano", "medium" or "full", if `scene` is a name.
        truth: positions of the true laws from `simulate`, to save time; default simulated.
        device: device of the simulation.
        on_frame: called with (step, state) after every compared frame of the prediction.

    Raises:
        InputError: unknown names, a truth of another shape, laws that do not fit the scene.

    Source: Ma et al. 2023 (NCLaw), §4.1.
    """
    if isinstance(scene, str):
        scene = make_scene(scene, material, size)
    if truth is None:
        truth = simulate(scene, device=device)
    frames = 1 + -(-scene.steps // scene.every)
    if tuple(truth.shape) != (frames, scene.particle_count, 3):
        raise InputError(
            f"evaluate: truth of shape {(frames, scene.particle_count, 3)}; got "
            f"{tuple(truth.shape)}. Take it from simulate(scene)."
        )
    solver = scene.solver(law)
    reached, volumes = 0, {}

    def keep(step: int, state: Any) -> None:
        nonlocal reached
        reached = step
        if step == scene.steps:
            volumes.update(volume_ratios(solver, state))
        if on_frame is not None:
            on_frame(step, state)

    began = time.perf_counter()
    try:
        x = simulate(scene, law, device=device, dtype=truth.dtype, on_frame=keep)
    except (StateError, StabilityError) as failure:
        seconds = time.perf_counter() - began
        return Evaluation(None, None, {}, reached, seconds, str(failure))
    errors = (x - truth).square().mean((1, 2))
    seconds = time.perf_counter() - began
    return Evaluation(float(errors.mean()), float(errors[-1]), volumes, reached, seconds)


def volume_ratios(solver: Any, state: Any) -> dict[str, float]:
    """Volume over that at rest [-] per body, the mean of det F or J; of solids that flow the elastic
    part alone.

    Args:
        solver: of the scene, with the laws of the state.
        state: as `on_frame` of `simulate` gets it.
    """
    storage = solver.model.storage_slices()
    ratios = {}
    for group in solver.model.groups:
        field = group.law.storage
        stored = getattr(state, field)[0, storage[field][group.name]]
        ratio = stored if field == "J" else torch.linalg.det(stored)
        ratios[group.name] = float(ratio.mean())
    return ratios


@contextlib.contextmanager
def _threads(scene: Scene, device: str | torch.device) -> Iterator[None]:
    small = torch.device(device).type == "cpu" and scene.particle_count < _SMALL
    with one_thread() if small else contextlib.nullcontext():
        yield
