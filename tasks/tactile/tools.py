"""Sensors and grippers as tools of actions: their poses, and the twists of mounts that move them.

A tool is one mount or two that move as one rigid body; a pair of them also opens:

    opening:  v_1 = −c e,  v_2 = +c e,   e = (p_2 − p_1)/|p_2 − p_1|,  c the speed of half the opening
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...sim.core.rotations import from_rotation_vector, inverse, multiply, rotate
from ...sim.fem import FEMModel

__all__ = ["Tools"]


class Tools:
    """Single sensors and grippers of a model.

    Args:
        model: with a handle for each sensor.
        sensors: names of all.
        pairs: grippers, and the two sensors of each.
    """

    def __init__(
        self, model: FEMModel, sensors: Sequence[str], pairs: Mapping[str, tuple[str, str]]
    ) -> None:
        numbers = {h.name: k for k, h in enumerate(model.handles)}
        taken = {name for pair in pairs.values() for name in pair}
        self.members = {n: [numbers[n]] for n in sensors if n not in taken}
        self.members |= {n: [numbers[m] for m in pair] for n, pair in pairs.items()}
        self.pairs = [self.members[n] for n in pairs]
        self.names = [*self.members, *(f"{n} opening" for n in pairs)]
        """Of what axes can drive."""
        self._rest = [h.orientation for h in model.handles]

    def poses(self, handles: Tensor) -> Tensor:
        """Middle of every tool and its turn since the start, then half the openings as places in x.

        Args:
            handles: poses (B, H, 7).

        Returns:
            (B, K, 7), in the order of `names`. Differentiable.
        """
        rows = []
        for members in self.members.values():
            pose = handles[:, members]
            turn = multiply(pose[:, 0, 3:], inverse(pose.new_tensor(self._rest[members[0]])))
            rows.append(torch.cat((pose[..., :3].mean(1), turn), -1))
        for first, second in self.pairs:
            half = 0.5 * (handles[:, second, :3] - handles[:, first, :3]).norm(dim=-1, keepdim=True)
            still = half.new_tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
            rows.append(torch.cat((half, still.expand(len(half), 6)), -1))
        return torch.stack(rows, 1)

    def twists(self, handles: Tensor, moves: Tensor, dt: float) -> Tensor:
        """Twists of the handles (B, H, 6) for those of the tools.

        Args:
            handles: poses (B, H, 7).
            moves: twists of tools (B, K, 6), of openings in their first entry [m/s].
            dt: duration [s].

        Differentiable.
        """
        rows = [torch.zeros_like(moves[:, 0])] * handles.shape[1]
        for k, members in enumerate(self.members.values()):
            v, w, place = moves[:, k, :3], moves[:, k, 3:], handles[:, members, :3]
            turn, middle = from_rotation_vector(w * dt), place.mean(1)
            for j, handle in enumerate(members):
                arm = place[:, j] - middle
                rows[handle] = torch.cat((v + (rotate(turn, arm) - arm) / dt, w), -1)
        for k, (first, second) in enumerate(self.pairs):
            along = handles[:, second, :3] - handles[:, first, :3]
            away = moves[:, len(self.members) + k, :1] * along / along.norm(dim=-1, keepdim=True)
            away = torch.nn.functional.pad(away, (0, 3))
            rows[first], rows[second] = rows[first] - away, rows[second] + away
        return torch.stack(rows, 1)
