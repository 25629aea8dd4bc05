"""What a policy feels: readings of sensors, and no place of any object.

    progress  (B, 1)         t/T                                                                      1
    places    (B, A)         of the driven axes since the start [m, rad]         half of the axis's range
    force     (B, S, 3)      on each mount, in its own axes [N]                                      1 N
    torque    (B, S, 3)      about its origin, likewise [N m]                                     10 mN m
    markers   (B, S, n, 2)   in the image of the sensor's camera, against the gel at rest [px]      10 px

`observation` is these, divided by the scales on the right, in this order: (B, 1 + A + S (6 + 2 n)). With
`privileged=True` it goes on with what only a simulation knows: displacements [10 mm] and velocities
[100 mm/s] of four points of every object, and the logarithms of the factors of its world.
Differentiable in the state.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ...sim.core.rotations import rotate_inverse
from ...sim.tactile import GelMesh
from ...sim.tactile.camera import Camera, dome_camera, pad_camera
from ...sim.tactile.markers import Markers, attach, grid_markers

__all__ = ["SCALES", "Senses", "paint"]

SCALES = {
    "progress": 1.0, "force": 1.0, "torque": 1e-2, "markers": 10.0,
    "displacements": 1e-2, "velocities": 0.1, "world": 1.0,
}  # fmt: skip
"""Size of each reading that becomes 1 [-, N, N m, px, m, m/s, -]."""


def paint(mesh: GelMesh, count: int) -> tuple[Camera, Markers]:
    """Camera of a gel, and markers on it: a spiral on a dome, a square grid on a pad.

    Args:
        mesh: of the gel, in the frame of the sensor.
        count: markers; on a pad a square number.

    Raises:
        InputError: no markers, a pad with a number of markers that is no square of 2 or more.
    """
    if count < 1:
        raise InputError(f"TactileConfig: markers ≥ 1; got {count}. Raise it.")
    face = mesh.X[mesh.sets["surface"]]
    if float(face[:, 2].max() - face[:, 2].min()) > 1e-4:
        # A spiral up to 0.8 rad from the axis: the part that touches.
        k = torch.arange(count, dtype=face.dtype)
        z = 1 - (1 - math.cos(0.8)) * (k + 0.5) / count
        turn = k * (math.pi * (3 - math.sqrt(5)))
        flat = (1 - z * z).sqrt().unsqueeze(1) * torch.stack((turn.cos(), turn.sin()), 1)
        radius = float(face.norm(dim=1).max())
        # The facets of a coarse dome lie far inside of the sphere.
        points = radius * torch.cat((flat, z.unsqueeze(1)), 1)
        return dome_camera(), attach(points, mesh.X, mesh.triangles, tol=0.5 * radius)
    side = math.isqrt(max(0, count))
    if side * side != count or side < 2:
        raise InputError(
            f"TactileConfig: markers, on pads a square number of 4 or more; got {count}. Take "
            f"{max(2, side) ** 2}."
        )
    return pad_camera(), grid_markers(mesh.X, _front(mesh), side, side, margin=0.15)


def _front(mesh: GelMesh) -> Tensor:
    """Triangles of the face of a pad."""
    top = mesh.X[:, 2] > mesh.X[:, 2].max() - 1e-6
    return mesh.triangles[top[mesh.triangles].all(1)]


class Senses:
    """Mixin of tactile tasks: readings and observations."""

    config: Any
    scene: Any
    handles: dict[str, int]
    axes: Any
    tools: Any
    bodies: Any
    points: Any
    places: Any
    wrenches: Any
    _tools: Any
    _sensors: Any

    def _paint(self) -> None:
        self._dots = {n: paint(mesh, self.config.markers) for n, mesh in self.scene.gels.items()}

    def marker_flow(self, state: Any, name: str) -> Tensor:
        """How far markers of a sensor have moved in the image of its camera [px], (B, n, 2).
        Differentiable in the state."""
        camera, dots = self._dots[name]
        pose = self.bodies(state).pose[:, self.handles[name]]
        return dots.flow(camera, self.points(state, name), self.scene.gels[name].X, pose)

    def readings(self, state: Any) -> dict[str, Tensor]:
        """What the sensors tell, in the units and shapes of the module docstring."""
        bodies = self.bodies(state)
        home, pairs = self.tools.poses(state.home), zip(self.axes, self._tools, strict=True)
        since = self.places(state) - torch.stack([axis.place(home, k) for axis, k in pairs], -1)
        mounts = bodies.pose[:, self._sensors]
        wrench = self.wrenches(state)
        force, torque = (rotate_inverse(mounts[..., 3:], w) for w in wrench.split(3, -1))
        flows = [self.marker_flow(state, name) for name in self.scene.gels]
        done = bodies.x.new_full((len(bodies.x), 1), bodies.steps / self.config.horizon)
        return {
            "progress": done, "places": since, "force": force, "torque": torque,
            "markers": torch.stack(flows, 1),
        }  # fmt: skip

    def hidden(self, state: Any) -> dict[str, Tensor]:
        """What only a simulation knows, see the module docstring: displacements [m] and velocities [m/s],
        (B, 4 · objects, 3), and the world's factors as logarithms, (B, K)."""
        bodies, out = self.bodies(state), {}
        rows = [
            torch.linspace(span.start, span.stop - 1, 4).round().long()
            for name, span in self.scene.spans.items()
            if name not in self.scene.gels
        ]
        if rows:
            chosen = torch.cat(rows)
            start = self.scene.x.to(bodies.x)[chosen]
            out = {"displacements": bodies.x[:, chosen] - start, "velocities": bodies.v[:, chosen]}
        if state.world is not None:
            out["world"] = state.world
        return out

    def observed(self, state: Any) -> dict[str, Tensor]:
        """Parts of the observation by name, divided by their scales, (B, n) each."""
        found = self.readings(state)
        if self.config.privileged:
            found |= self.hidden(state)
        ranges = [0.5 * (axis.high - axis.low) for axis in self.axes]
        found["places"] = found["places"] / found["places"].new_tensor(ranges)
        return {k: v.flatten(1) / SCALES.get(k, 1.0) for k, v in found.items()}

    def observation(self, state: Any) -> Tensor:
        """What a policy sees, (B, O), see the module docstring. Differentiable in the state."""
        return torch.cat(list(self.observed(state).values()), -1).float()
