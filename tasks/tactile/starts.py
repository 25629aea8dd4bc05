"""How episodes begin: settled by simulation, placed and with parameters as their seeds say.

    x₀ = settle(X + shift(seed), world(seed)),   seed 0: no shift, the nominal world

Starts that have settled are kept in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.core.rotations import rotate
from ...sim.fem import FEMModel, FEMState, SolverFEM
from ..bodies import Kept, at_rest, settle
from ..watched import Watched
from .scene import Scene
from .states import TactileState
from .worlds import Worlds

__all__ = ["Starts"]

STARTS = Kept(256)
"""Settled starts by class, configuration and seed."""


class Starts:
    """Mixin of tactile tasks: their first states, and the parameters that states were drawn with."""

    config: Any
    scene: Scene
    model: FEMModel
    fem: SolverFEM
    solver: Watched
    worlds: Worlds
    handles: dict[str, int]
    bodies: Any
    _watch: Any
    _ready: dict[Any, Any]
    _start: dict[str, Any]

    def movable(self) -> Sequence[Sequence[str]]:
        """Bodies that `jitter` shifts, in groups that stay together."""
        return [(name,) for name in self.scene.gels]

    def closing(self) -> Sequence[tuple[int, Mapping[str, Sequence[float]]]]:
        """Before the episode: numbers of steps, and velocities of mounts [m/s] during them."""
        return ()

    def grippers(self) -> Mapping[str, tuple[str, str]]:
        """Grippers: names, and the two sensors of each."""
        return {}

    @property
    def random(self) -> bool:
        """Whether seeds start differently."""
        return bool(self.config.jitter or self.config.standoff or len(self.worlds))

    def ready(self, state: Any) -> Any:
        """Parameters of the worlds of a state (the model's own where none are drawn), as the solver
        reads them."""
        return self._prepared(self.solver.solver, state, state.world)

    def _prepared(self, solver: Any, state: Any, world: Tensor | None) -> Any:
        drawn = None if world is None else world.detach().cpu().numpy().tobytes()
        device = next(iter(state.tensors().values())).device
        key = solver is self.fem, state.batch_size, str(device), drawn
        if key not in self._ready:
            groups = list(solver.default_params())
            params = None if world is None else self.worlds.params(world.detach(), groups)
            self._ready[key] = solver.prepare(params, state)
        return self._ready[key]

    def reset(
        self,
        *,
        batch_size: int = 1,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Any:
        """The settled scene, B times, placed and with parameters as drawn by the seed.

        Always in float64, whatever `dtype` says.
        """
        state = self.starts([seed]).to(device=device)
        return state.repeat(batch_size)

    def starts(self, seeds: Sequence[int]) -> Any:
        """One settled scene per seed, as one batch; what is not known yet settles in one batch, too.
        Settling does not count as simulated."""
        seeds = [seed if self.random else 0 for seed in seeds]
        keys = [(type(self), self.config, seed) for seed in seeds]
        missing = sorted({s for s, key in zip(seeds, keys, strict=True) if key not in STARTS})
        found = {key: STARTS[key] for key in keys if key in STARTS}
        if missing:
            states = self._settled(missing)
            for k, seed in enumerate(missing):
                key = type(self), self.config, seed
                STARTS[key] = found[key] = states[k].clone()
        return type(found[keys[0]]).cat([found[key] for key in keys])

    def origin(self, state: Any) -> Any:
        """One settled scene, on the device of a state."""
        device = str(self.bodies(state).x.device)
        if device not in self._start:
            self._start[device] = self.reset(device=device)
        return self._start[device]

    @torch.no_grad()
    def _settled(self, seeds: Sequence[int]) -> Any:
        state = self.model.initial_state(len(seeds))
        moved = [
            self._shifted(state[k], torch.Generator().manual_seed(s)) if s else state[k]
            for k, s in enumerate(seeds)
        ]
        state = type(state).cat(moved)
        world = torch.cat([self.worlds.draw(s) for s in seeds]) if len(self.worlds) else None
        prepared = self._prepared(self.fem, state, world)
        motions = (*self.closing(), (self.config.settle, {}))
        state = settle(self.fem, state, prepared, self.handles, motions)
        return self.first(at_rest(state), world)

    def first(self, state: FEMState, world: Tensor | None) -> Any:
        """The first state of an episode, from the settled bodies and what was drawn."""
        seen = state.x.new_zeros(state.batch_size, 2)
        begun = state.widened(TactileState, seen=seen, home=state.pose.clone(), world=world)
        return begun.replace(seen=self._watch(begun) * state.x.new_tensor([0.0, 1.0]))

    def _shifted(self, state: FEMState, generator: torch.Generator) -> FEMState:
        x, pose = state.x.clone(), state.pose.clone()

        def shift(name: str, by: Tensor) -> None:
            x[:, self.scene.spans[name]] += by
            if name in self.handles:
                pose[:, self.handles[name], :3] += by

        for names in self.movable():
            unit = 2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1
            for name in names:
                shift(name, torch.cat((self.config.jitter * unit, unit.new_zeros(1))))
        held = {name for pair in self.grippers().values() for name in pair}
        for name in self.scene.gels if self.config.standoff else ():
            if name not in held:
                back = self.config.standoff * torch.rand(
                    1, generator=generator, dtype=torch.float64
                )
                q = pose[0, self.handles[name], 3:]
                shift(name, rotate(q, torch.cat((back.new_zeros(2), -back))))
        return state.replace(x=x, x_prev=x.clone(), pose=pose)
