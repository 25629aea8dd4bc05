"""Objectives that help a search, put around a task without changing it.

    ℓ'(x, t) = ℓ(x, t) + w · η(x) · mean over the k nearest idle points of ‖x_p − x*‖

Particles that nothing has touched yet give no gradient. `Attraction` pulls the idle points that are
nearest to a useful place towards it, so that the search learns to bring more of them there: gradients
are shared with points that do not have one of their own.

Source: Xian et al. 2023 (FluidLab), attraction in Pouring and Transporting; the smooth norm and the
share of idle points as a factor (which lets the pull fade) are our reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ..core import Task

__all__ = ["Attraction", "TaskWrapper"]


class TaskWrapper(Task):
    """A task that answers as another one does; subclasses change what they want to.

    Steps are counted by the inner task. Wrappers can be put around wrappers.

    Args:
        inner: The task.
    """

    def __init__(self, inner: Task) -> None:
        self.inner = inner
        self.action_unit = inner.action_unit
        self.search_defaults = inner.search_defaults

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # while being unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), dict(vars(self)))

    @property
    def simulated_steps(self) -> int:
        return self.inner.simulated_steps

    @simulated_steps.setter
    def simulated_steps(self, value: int) -> None:
        self.inner.simulated_steps = value

    @property
    def device(self) -> str | None:
        return self.inner.device

    @device.setter
    def device(self, value: str | None) -> None:
        self.inner.device = value

    def reset(self, **options: Any) -> Any:
        return self.inner.reset(**options)

    def control(self, state: Any, action: Tensor) -> Any:
        return self.inner.control(state, action)

    def loss(self, state: Any, t: int) -> Tensor:
        return self.inner.loss(state, t)

    def success(self, state: Any) -> Tensor:
        return self.inner.success(state)

    def metrics(self, state: Any) -> dict[str, Tensor]:
        return self.inner.metrics(state)

    def observation(self, state: Any) -> Tensor:
        return self.inner.observation(state)

    def initial_actions(self) -> Tensor:
        return self.inner.initial_actions()

    def params(self) -> Any:
        return self.inner.params()


def _rebuild(cls: type[TaskWrapper], values: dict[str, Any]) -> TaskWrapper:
    task = cls.__new__(cls)
    vars(task).update(values)
    return task


class Attraction(TaskWrapper):
    """A task whose idle points are pulled towards where they would be useful.

    Args:
        inner: The task.
        points: State → positions (B, N, D) [m].
        anchor: State → the useful place, (B, D) [m]. It is held fixed by the gradient, so that the
            useful are not drawn back to the idle.
        idle: State → which points are not useful yet, (B, N) bool; None: all, always.
        k: How many idle points are pulled, the nearest ones.
        weight: Loss per metre of their mean distance, when all points are idle [1/m].
        radius: Below this distance the pull falls to zero [m]; keeps the norm differentiable.

    Differentiable in the state; which points are pulled is piecewise constant.

    Source: see the module docstring.
    """

    def __init__(
        self,
        inner: Task,
        points: Callable[[Any], Tensor],
        anchor: Callable[[Any], Tensor],
        *,
        idle: Callable[[Any], Tensor] | None = None,
        k: int = 100,
        weight: float = 1.0,
        radius: float = 1e-3,
    ) -> None:
        super().__init__(inner)
        if k < 1 or weight < 0 or radius <= 0:
            raise InputError(
                f"Attraction: k ≥ 1, weight ≥ 0 and radius > 0; got {k}, {weight}, {radius}. "
                "Correct them."
            )
        self.points, self.anchor, self.idle = points, anchor, idle
        self.k, self.weight, self.radius = k, weight, radius

    def attraction(self, state: Any) -> Tensor:
        """The added term, (B,)."""
        x = self.points(state)
        away = x - self.anchor(state).detach()[:, None]
        # √(d² + r²) − r: like d beyond r, and smooth at 0.
        distance = (away.square().sum(-1) + self.radius**2).sqrt() - self.radius
        idle = torch.ones_like(distance, dtype=torch.bool)
        if self.idle is not None:
            idle = self.idle(state).detach()
        order = distance.detach().masked_fill(~idle, torch.inf)
        nearest = order.topk(min(self.k, x.shape[1]), dim=1, largest=False).indices
        counted = idle.gather(1, nearest).to(x)
        pulled = (distance.gather(1, nearest) * counted).sum(1) / counted.sum(1).clamp(min=1)
        return self.weight * idle.to(x).mean(1) * pulled

    def loss(self, state: Any, t: int) -> Tensor:
        """ℓ of the inner task and the attraction, (B,). Differentiable in the state."""
        return self.inner.loss(state, t) + self.attraction(state)
