"""What optimizers that differentiate through time share: objective, gradient, horizon, masks.

    g = ∇_u (1/n) Σ_{first ≤ t < T_k} ℓ(x_t, t),   u = a / action_limit ∈ [−1, 1]^(T × A)

Early actions decide what late ones can do, and the gradient through a long flow is large and rough;
so the objective first covers a short horizon, which grows whenever it has been optimized (see
`schedules`). Rollouts start behind the frozen rows, so with `window` < 1 an iteration costs at most
`window`.
"""

from __future__ import annotations

import abc
import dataclasses
import logging
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import ConvergenceError, InputError, StabilityError, StateError
from ...sim.core.rollout import Checkpoint
from ..core import Task
from .base import Optimizer, distances, pack_state, unpack_state
from .records import Budget
from .schedules import ExpandingHorizon, Plateau

__all__ = ["ThroughTimeConfig", "ThroughTimeOptimizer"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ThroughTimeConfig:
    """Settings that all optimizers through time share."""

    expand: bool = True
    """Expanding horizon; False optimizes the full horizon from the start."""
    start: float = 0.5
    """First horizon, as a share of the task's [-]."""
    growth: float = 0.25
    """Growth of the horizon, as a share of the task's [-]."""
    window: float = 1.0
    """Share of the task's horizon before the current end that is optimized; older rows wait. With
    less than 1, iterations of long tasks get cheaper."""
    patience: int = 4
    """Iterations without progress that end a stage."""
    progress: float = 0.02
    """Least relative decrease of the loss that counts as progress [-]."""
    progress_abs: float = 0.0
    """Least decrease of the loss that counts as progress, in its unit."""
    rows: tuple[int, ...] | None = None
    """First and one past the last action that may change; None: all."""
    columns: tuple[int, ...] | None = None
    """Components of the action that may change; None: all."""
    noise: float = 0.0
    """Standard deviation of a random change of the initial actions, in units of `action_limit` [-]."""
    checkpoint: Checkpoint = "none"
    """Memory policy of the backward pass."""


class ThroughTimeOptimizer(Optimizer):
    """Base of optimizers through time: a subclass says what a stage does with values and gradients.

    Raises:
        InputError: shares outside (0, 1], impossible masks.
    """

    config: ThroughTimeConfig

    def __init__(
        self, task: Task, config: ThroughTimeConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        T = self.task.horizon
        self.horizon = ExpandingHorizon(
            T, config.start, config.growth, config.window, config.expand
        )
        if config.patience < 1:
            raise InputError(
                f"{type(config).__name__}: patience ≥ 1; got {config.patience}. Raise it."
            )
        self.plateau = Plateau(config.patience, config.progress, config.progress_abs)
        self.mask = _mask(config, T, self.task.action_size)
        actions = self.start_actions().clone()
        if config.noise:
            generator = torch.Generator().manual_seed(seed)
            change = torch.randn(actions.shape, generator=generator)
            actions = self.clamp(actions + config.noise * self.limit * self.mask * change)
        self.actions = actions
        self._prefix: tuple[Tensor, Any] = (actions[:0], None)
        self._new_stage()

    @property
    def begin(self) -> int:
        """First free row."""
        return self.horizon.begin

    @property
    def end(self) -> int:
        """Where the objective ends."""
        return self.horizon.end

    @property
    def best_actions(self) -> Tensor:
        return self.stage_best

    def _new_stage(self) -> None:
        """Forget what belongs to another objective."""
        self.plateau.reset()
        self.best_loss = math.inf
        self.stage_best = self.actions.clone()
        self._restart()

    @abc.abstractmethod
    def _restart(self) -> None:
        """Forget averages or curvature; `actions` are where the search goes on."""

    @abc.abstractmethod
    def _update(self, value: float, gradient: Tensor) -> None:
        """Choose the next `actions` from the value and gradient (T, A) in u at the present ones."""

    @abc.abstractmethod
    def _too_far(self) -> None:
        """The present actions broke the simulation: choose nearer ones."""

    @abc.abstractmethod
    def _exhausted_stage(self) -> None:
        """The released full horizon no longer improves: refine, or set `converged`."""

    def next_cost(self) -> int:
        length = self.end - self.begin
        runs = 2 if self.config.checkpoint == "uniform" else 1
        if self.config.checkpoint == "revolve":
            runs = 1 + math.ceil(math.log2(max(2, length)))
        charged = length * (runs + self.budget.adjoint_cost) + (self.begin - self._prefix_rows())
        return math.ceil(charged * self.task.substeps)

    def _iterate(self) -> tuple[float, float, int]:
        """Loss and gradient at the present actions, then a step or the next stage."""
        end = self.end
        try:
            value, distance, gradient = self._evaluate()
        except (ConvergenceError, StateError, StabilityError) as error:
            if math.isinf(self.best_loss):
                raise
            logger.warning("%s: a step went too far: %s", type(self).__name__, error)
            self._too_far()
            return math.inf, math.nan, end
        if value < self.best_loss:
            self.best_loss, self.stage_best = value, self.actions.clone()
            self._found(gradient)
        if self._stage_over(value):
            self._advance()
        else:
            self._update(value, gradient)
        return value, distance, end

    def _found(self, gradient: Tensor) -> None:  # noqa: B027  line searches keep their own
        """The present actions are the best so far, and this is their gradient (T, A) in u."""

    def _stage_over(self, value: float) -> bool:
        return self.plateau.update(value)

    def _advance(self) -> None:
        """The stage has ended: grow the horizon, release the frozen rows, or refine."""
        self.actions = self.stage_best.clone()
        if kind := self.horizon.advance():
            self._next_stage(kind)
            self._new_stage()
        else:
            self._exhausted_stage()

    def _next_stage(self, kind: str) -> None:
        """Change settings from stage to stage; `kind` as `ExpandingHorizon.advance` gives it."""

    def _evaluate(self) -> tuple[float, float, Tensor]:
        """Value, distance, and gradient (T, A) in u, zero where rows or columns may not change.

        Raises:
            StateError: the simulation breaks, or the gradient is not finite.
        """
        begin, end = self.begin, self.end
        start = self._start_state()
        table = self.actions[begin:end].clone().requires_grad_()
        with torch.enable_grad():
            loss, final = self.task.evaluate(
                table, state=start, start=begin, checkpoint=self.config.checkpoint
            )
            (part,) = torch.autograd.grad(loss.sum(), table)
        self._adjoint_steps += (end - begin) * self.task.substeps
        if not bool(torch.isfinite(part).all()):
            raise StateError(
                f"{type(self).__name__}: a finite gradient; got NaN or infinity in "
                f"{int((~torch.isfinite(part)).sum())} of {part.numel()} entries. "
                "Shorten the horizon or soften contacts."
            )
        gradient = torch.zeros_like(self.actions)
        gradient[begin:end] = part
        value = float(loss.detach()[0])
        return value, distances(self.task, final)[0], gradient * self.limit * self.mask

    def _prefix_rows(self) -> int:
        """Frozen rows whose motion is known already."""
        done, frozen = self._prefix[0], self.actions[: self.begin]
        known = len(done) <= len(frozen) and torch.equal(done, frozen[: len(done)])
        return len(done) if known else 0

    def _start_state(self) -> Any:
        """State before row `begin`; frozen rows are run once."""
        if self.begin == 0:
            return None
        frozen, count = self.actions[: self.begin], self._prefix_rows()
        state = self._prefix[1] if count else None
        if count < len(frozen):
            with torch.no_grad():
                run = self.task.rollout(frozen[count:], state=state, save_every=len(frozen))
            state = run.final
        self._prefix = (frozen.clone(), state)
        return state

    def _own_state(self) -> dict[str, Any]:
        frozen, state = self._prefix
        return {
            "begin": self.begin,
            "end": self.end,
            "plateau": self.plateau.state(),
            "best_loss": self.best_loss,
            "actions": self.actions.clone(),
            "stage_best": self.stage_best.clone(),
            "prefix": [frozen.clone(), pack_state(state)],
        }

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self.horizon.begin, self.horizon.end = state["begin"], state["end"]
        self.plateau.load(state["plateau"])
        self.best_loss = state["best_loss"]
        self.actions, self.stage_best = state["actions"].clone(), state["stage_best"].clone()
        frozen, packed = state["prefix"]
        self._prefix = (frozen.clone(), unpack_state(self.task, packed))


def _mask(config: ThroughTimeConfig, T: int, A: int) -> Tensor:
    """1 where an action may change, (T, A)."""
    rows = (0, T) if config.rows is None else tuple(config.rows)
    columns = range(A) if config.columns is None else config.columns
    if len(rows) != 2 or not 0 <= rows[0] < rows[1] <= T:
        raise InputError(
            f"{type(config).__name__}: rows = (first, one past the last) within the {T} actions; "
            f"got {config.rows}. Correct them."
        )
    if not columns or not all(0 <= k < A for k in columns):
        raise InputError(
            f"{type(config).__name__}: columns out of 0 … {A - 1}; got {config.columns}. "
            "Name components of the action."
        )
    mask = torch.zeros(T, A)
    mask[rows[0] : rows[1], list(columns)] = 1.0
    return mask
