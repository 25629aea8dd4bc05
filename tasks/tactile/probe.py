"""A sensor that is moved in known ways, and what it then sees and feels: the data of an identification.

    markers     π(x_m(t)) of every marker [px], seen by the camera inside
    force       F(t), what the mount carries [N]
    pictures    colours [-] at the end of some of the motions, where there is a renderer

Motions run along the batch axis, and so do candidates of parameters: S candidates and M motions are
S M scenes of one launch.

Differentiable in the parameters.
Source: Si et al. 2024 (DiffTactile), identification from the motion of markers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ...sim.core import rotations
from ...sim.core.colliders import Collider
from ...sim.core.errors import InputError, message
from ...sim.core.shapes import Plane
from ...sim.fem import FEMConfig
from ...sim.tactile import GelSensor, dome
from ...sim.tactile.camera import Camera, dome_camera
from ...sim.tactile.markers import Markers, fibonacci_markers

__all__ = ["Probe", "Seen", "dome_motions", "dome_probe"]


@dataclasses.dataclass(frozen=True)
class Seen:
    """What M motions of T steps show; a simulation has one more axis S in front, of candidates."""

    markers: Tensor
    """Pixel coordinates [px], (M, T, n, 2); NaN where a marker was not found."""
    force: Tensor
    """What the gel does to the mount, world axes [N], (M, T, 3); NaN where it was not measured."""
    pictures: Tensor | None = None
    """Colours [-], (K, H, W, 3)."""

    def candidate(self, s: int) -> Seen:
        """One candidate of a simulation, detached."""
        pictures = None if self.pictures is None else self.pictures[s].detach()
        return Seen(self.markers[s].detach(), self.force[s].detach(), pictures)

    def noisy(
        self, pixels: float = 0.0, newtons: float = 0.0, colour: float = 0.0, seed: int = 0
    ) -> Seen:
        """With independent normal errors of these standard deviations [px, N, -]."""
        generator = torch.Generator().manual_seed(seed)

        def add(value: Tensor, sigma: float) -> Tensor:
            return value + sigma * torch.randn(value.shape, generator=generator, dtype=value.dtype)

        pictures = None if self.pictures is None else add(self.pictures, colour)
        return Seen(add(self.markers, pixels), add(self.force, newtons), pictures)


class Probe:
    """A sensor, its motions, and its camera.

    Args:
        sensor: with one obstacle or more.
        twists: of the mount [m/s, rad/s] in every step of every motion, (M, T, 6).
        camera: in the frame of the sensor.
        markers: on the gel.
        frame: axes of the twists.
        render: points in the frame of the sensor (B, N, 3) to pictures (B, H, W, 3); None: none.
        pictured: motions at whose end there is a picture.
        gap: free way between sensor and obstacle at the start [m]; with it "gap" is a parameter, too:
            where the mount begins along the axis of the sensor.

    Raises:
        InputError: wrong shape of the motions, motions that do not exist.
    """

    def __init__(
        self,
        sensor: GelSensor,
        twists: Tensor,
        camera: Camera,
        markers: Markers,
        *,
        frame: Literal["world", "sensor"] = "world",
        render: Callable[[Tensor], Tensor] | None = None,
        pictured: Sequence[int] = (0,),
        gap: float | None = None,
    ) -> None:
        if twists.ndim != 3 or twists.shape[-1] != 6 or not twists.numel():
            expected = "twists of shape (M, T, 6) [m/s, rad/s]"
            raise InputError(message("Probe", expected, f"{tuple(twists.shape)}", "Add axes"))
        if render is not None and not set(pictured) <= set(range(len(twists))):
            expected = f"pictured: motions 0 to {len(twists) - 1}"
            raise InputError(message("Probe", expected, f"{tuple(pictured)}", "Correct it"))
        self.sensor, self.twists, self.camera, self.markers = sensor, twists, camera, markers
        self.frame, self.render, self.pictured = frame, render, tuple(pictured)
        defaults = sensor.solver.default_params()
        self.places: dict[str, list[tuple[str, str]]] = {
            name: [(sensor.name, name)] for name in ("E", "nu", "rho", "eta")
        }
        """Where a parameter stands in those of the solver."""
        contact = defaults.get("contact", {})
        if contact:
            self.places["stiffness"] = [("contact", "stiffness")]
            rubbing = [("contact", name) for name in contact if name.startswith("friction")]
            if rubbing:
                self.places["friction"] = rubbing
        self.defaults = {
            name: float(torch.as_tensor(defaults[part][key]).double().mean())
            for name, ((part, key), *_) in self.places.items()
            if key in defaults[part] and defaults[part][key] is not None
        }
        """Parameters of the sensor as it was built, SI."""
        if gap is not None:
            self.places["gap"], self.defaults["gap"] = [], gap

    def simulate(self, values: Mapping[str, Any]) -> Seen:
        """What S candidates show.

        Args:
            values: parameters by name, numbers or (S,): "E" [Pa], "nu" [-], "stiffness" of contact
                [Pa], "friction" coefficient of all obstacles [-], "rho" [kg/m³], "eta" [Pa s], "gap" [m].

        Returns:
            Fields with a leading axis S.

        Raises:
            InputError: an unknown name, lengths that differ.
            ConvergenceError, StateError: from the solver.

        Differentiable in the values.
        """
        unknown = sorted(set(values) - set(self.places))
        if unknown:
            expected = f"parameters out of {sorted(self.places)}"
            raise InputError(message("Probe.simulate", expected, f"{unknown}", "Correct the names"))
        rows = {k: torch.as_tensor(v, dtype=torch.float64).reshape(-1) for k, v in values.items()}
        S = max((len(v) for v in rows.values()), default=1)
        if any(len(v) not in (1, S) for v in rows.values()):
            got = f"{ {k: len(v) for k, v in rows.items()} }"
            raise InputError(message("Probe.simulate", "values of one length", got, "Repeat them"))
        M, T = self.twists.shape[:2]
        params: dict[str, dict[str, Tensor]] = {}
        for name, value in rows.items():
            each = value.expand(S).repeat_interleave(M)
            for part, key in self.places[name]:
                column = each.unsqueeze(1) if part == self.sensor.name else each
                params.setdefault(part, {})[key] = column
        sensor = self.sensor
        state = sensor.start(S * M, pose=self._start(rows.get("gap"), S))
        prepared: Any = sensor.solver.prepare(params, state)
        twists = self.twists.to(state.x).repeat(S, 1, 1)
        pixels, forces = [], []
        for t in range(T):
            before = state
            state = sensor.step(before, twist=twists[:, t], frame=self.frame, params=prepared)
            pixels.append(self.markers.project(self.camera, sensor.in_frame(state)).uv)
            forces.append(sensor.read(before, state, prepared).force)
        pictures = None
        if self.render is not None:
            shown = sensor.in_frame(state).unflatten(0, (S, M))[:, list(self.pictured)]
            pictures = self.render(shown.flatten(0, 1)).unflatten(0, (S, -1))
        uv, force = (torch.stack(v, 1).unflatten(0, (S, M)) for v in (pixels, forces))
        return Seen(uv, force, pictures)

    def _start(self, gap: Tensor | None, S: int) -> Tensor | None:
        """Where mounts of S candidates begin, (S M, 7)."""
        if gap is None:
            return None
        mount = self.sensor.start().pose[:, 0].expand(S, 7)
        axis = rotations.rotate(mount[:, 3:], mount.new_tensor([0.0, 0.0, 1.0]).expand(S, 3))
        back = (gap.expand(S) - self.defaults["gap"]).unsqueeze(1) * axis
        pose = torch.cat((mount[:, :3] - back, mount[:, 3:]), dim=1)
        return pose.repeat_interleave(len(self.twists), dim=0)

    @torch.no_grad()
    def observe(self, values: Mapping[str, float]) -> Seen:
        """What one sensor with these parameters shows: synthetic data."""
        return self.simulate(values).candidate(0)


def dome_motions(
    depth: float = 1e-3,
    slide: float = 1.5e-3,
    turn: float = 0.06,
    press_steps: int = 3,
    move_steps: int = 3,
    dt: float = 5e-3,
    gap: float = 0.0,
) -> Tensor:
    """Four motions of a sensor that looks down, world axes: press on, twist about z, roll about x, slide.

    All press first.

    Args:
        depth: of the press beyond `gap`, and of pressing on half as much [m].
        slide: way along x [m].
        turn: angle of twist and roll [rad].
        press_steps, move_steps: steps of both phases.
        dt: of a step [s].
        gap: free way before [m].

    Returns:
        Twists (4, T, 6) [m/s, rad/s].
    """
    twists = torch.zeros(4, press_steps + move_steps, 6, dtype=torch.float64)
    twists[:, :press_steps, 2] = -(depth + gap) / (press_steps * dt)
    span = move_steps * dt
    for motion, axis, way in ((0, 2, -0.5 * depth), (1, 5, turn), (2, 3, turn), (3, 0, slide)):
        twists[motion, press_steps:, axis] = way / span
    return twists


def dome_probe(
    cuts: int = 3,
    layers: int = 1,
    markers: int = 136,
    *,
    material: str = "ecoflex_00_30",
    d_hat: float = 2e-4,
    tol: float = 1e-7,
    motions: Sequence[int] | None = None,
    render: Callable[[Tensor], Tensor] | None = None,
    camera: Camera | None = None,
    **options: Any,
) -> Probe:
    """The dome of DiffTactile over a table, its markers and its camera.

    Args:
        cuts, layers: of the gel, see `dome`.
        markers: number of markers.
        material: of the gel; identified values replace it.
        d_hat: distance at which contact begins to push [m].
        tol: of a step [N]; well below what a difference quotient has to see.
        motions: those of `dome_motions` to keep; None: all four.
        render, camera: as `Probe`; None: no pictures, `dome_camera`.
        options: as `dome_motions`.
    """
    mesh = dome(cuts=cuts, layers=layers)
    radius = float(mesh.X.norm(dim=1).max())
    config = FEMConfig(dt=options.get("dt", 5e-3), tol=tol)
    table = Collider(Plane(), name="table", friction=0.5)
    sensor = GelSensor(
        mesh, material, obstacles=[table], position=(0.0, 0.0, radius + d_hat), d_hat=d_hat,
        orientation=(0.0, 1.0, 0.0, 0.0), config=config,
    )  # fmt: skip
    twists = dome_motions(**{"gap": d_hat, **options})
    if motions is not None:
        twists = twists[list(motions)]
    dots = fibonacci_markers(mesh.X, mesh.triangles, markers)
    return Probe(sensor, twists, camera or dome_camera(), dots, render=render, gap=d_hat)
