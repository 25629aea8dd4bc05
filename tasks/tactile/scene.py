"""Scenes of gels, soft and rigid objects and plates over one list of points, and their contact.

    scene = Scene()
    scene.gel("finger", dome(), (0.0, 0.0, 0.015), DOWN)
    lid = scene.body(RigidBody(Box((0.02, 0.015, 0.002)), rho=2700, name="lid"))
    scene.plate(Collider(Plane(), name="floor"))
    model = scene.model(Touch(), gravity=9.81)

Gels, solids and rods meet each other as meshes, rigid bodies by samples; all of them meet plates. Gels do
not meet each other, and nothing meets itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.colliders_rigid import RigidBody
from ...sim.core.csg import Part
from ...sim.core.rotations import rotate
from ...sim.core.sampled_shape import Sampled
from ...sim.coupling import AffineBody, RigidContact, body_samples, point_samples
from ...sim.fem import FEMModel, Handle, Rod, Solid
from ...sim.fem.contact import ObstacleContact, Surface, SurfaceContact, boundary_triangles
from ...sim.tactile import GelMesh
from ...sim.tactile.gel import gel_of
from ..bodies import Bodies

__all__ = ["DOWN", "FROM_LEFT", "FROM_RIGHT", "UP", "Scene", "Touch"]

UP = (1.0, 0.0, 0.0, 0.0)
DOWN = (0.0, 1.0, 0.0, 0.0)
FROM_LEFT = (0.5**0.5, 0.0, 0.5**0.5, 0.0)
FROM_RIGHT = (0.5**0.5, 0.0, -(0.5**0.5), 0.0)
"""Orientations of sensors: the face looks up, down, along +x, along −x."""
COLORS = {"gel": "#8fb4d8", "solid": "#b9772f", "rod": "#b9472f", "body": "#c9a23a"}
"""In pictures."""


@dataclasses.dataclass(frozen=True)
class Touch:
    """How surfaces meet."""

    d_hat: float = 2e-4
    """Distance at which contact begins [m]."""
    stiffness: float = 2e4
    """κ of the barrier [Pa], a few times the pressure under a gel of 1 N."""
    eps_v: float = 5e-3
    """Sliding speed above which friction is full [m/s]."""
    gel: float = 0.8
    """Friction of gels on everything [-]; silicone."""
    plate: float = 0.4
    """Friction of objects on plates [-]."""
    spacing: float = 3e-3
    """Distance of the samples of rigid bodies [m]."""
    ignore: Sequence[tuple[str, str]] = ()
    """Pairs (gel or object, plate or body) that never touch: it saves time."""


class Scene(Bodies):
    """Scenes of the module docstring; kinds are "gel", "solid", "rod", "body"."""

    colors = COLORS
    clear = "gel"

    def __init__(self) -> None:
        super().__init__()
        self.gels: dict[str, GelMesh] = {}
        """Sensors, in the numbering of their own points."""
        self.bodies: dict[str, AffineBody] = {}
        self.joints: list[Any] = []
        self._area: dict[str, Tensor] = {}
        self._meshes: dict[str, Any] = {}

    def gel(
        self,
        name: str,
        mesh: GelMesh,
        position: Sequence[float],
        orientation: tuple[float, float, float, float] = UP,
        material: str = "ecoflex_00_30",
        **changes: Any,
    ) -> None:
        """A sensor, and the handle of its name that is its mount; `changes` are fields of `Solid`."""
        place = (float(position[0]), float(position[1]), float(position[2]))
        q = mesh.X.new_tensor(orientation)
        start = self._add(name, "gel", rotate(q, mesh.X) + mesh.X.new_tensor(place))
        part = gel_of(mesh, material, name, **changes)
        self.parts.append(dataclasses.replace(part, cells=part.cells + start))
        self.gels[name] = mesh
        self.faces[name] = mesh.triangles + start
        self.handles.append(Handle(name, mesh.sets["mount"] + start, place, orientation))

    def solid(self, name: str, X: Tensor, tets: Tensor, **material: Any) -> None:
        """A free soft object of linear cells; `material` are fields of `Solid`."""
        start = self._add(name, "solid", X)
        self.parts.append(Solid(name=name, cells=tets + start, **material))
        self.faces[name] = torch.as_tensor(boundary_triangles(tets)) + start

    def rod(self, name: str, X: Tensor, pinned: Sequence[int], **material: Any) -> None:
        """A chain of points whose `pinned` ones are held in place; `material` are fields of `Rod`."""
        start = self._add(name, "rod", X)
        links = torch.stack((torch.arange(len(X) - 1), torch.arange(1, len(X))), 1) + start
        self.parts.append(Rod(name=name, cells=links, **material))
        self.faces[name] = links
        lengths = (X[1:] - X[:-1]).norm(dim=-1).double()
        own = torch.nn.functional.pad(lengths, (1, 0)) + torch.nn.functional.pad(lengths, (0, 1))
        # What touches is a strip as wide as the rod.
        self._area[name] = 0.5 * own * 2 * float(material["r"])
        rows = torch.as_tensor(pinned) + start
        self.handles.append(Handle(f"{name} pin", rows, tuple(X[pinned[0]].tolist())))

    def body(self, body: RigidBody) -> AffineBody:
        """A rigid object."""
        found = AffineBody(body, first=sum(len(part) for part in self._x))
        self._add(body.name, "body", found.X)
        self.bodies[body.name] = found
        self.parts.append(found.part)
        return found

    def joint(self, joint: Any) -> None:
        """A `Joint` between bodies of the scene."""
        self.joints.append(joint)

    def picture(self, x: Tensor, poses: dict[str, Tensor]) -> Any:
        """What a renderer draws.

        Args:
            x: positions (N, 3).
            poses: of the rigid bodies by name, (7,).
        """
        from ...viz import Scene as Picture
        from ...viz import Tool

        rods = [name for name in self.faces if self.kinds[name] == "rod"]
        tools = [bead for name in rods for bead in _beads(x[self.spans[name]])]
        for name, body in self.bodies.items():
            tools.append(Tool(body.body.shape, tuple(poses[name].tolist()), COLORS["body"]))
        tools += self.plate_parts()
        meshes = [self.mesh_part(x, name) for name in self.faces if name not in rods]
        return Picture(meshes=meshes, tools=tools)

    def drawable(self, plate: Collider) -> Any:
        """Of expressions a mesh, made once."""
        if not isinstance(plate.shape, Part):
            return plate.shape
        if plate.name not in self._meshes:
            self._meshes[plate.name] = Sampled(plate.shape, resolution=96, margin=0.05)
        return self._meshes[plate.name]

    def model(self, touch: Touch, gravity: float) -> FEMModel:
        """The model, with contact between all that may meet."""
        X, soft = self.x, list(self.faces)
        contacts: list[Any] = list(self.joints)
        surface = self._surface(X, soft)
        objects = [n for n in soft if self.kinds[n] != "gel"]
        if objects:
            pairs = [(a, b) for k, a in enumerate(soft) for b in soft[k + 1 :]]
            mu = {p: touch.gel for p in pairs if "gel" in [self.kinds[n] for n in p]}
            contacts.append(SurfaceContact(surface, touch.d_hat, touch.stiffness, mu, touch.eps_v))
        mu_of = {n: touch.gel if self.kinds[n] == "gel" else touch.plate for n in self.spans}
        names = [plate.name for plate in self.plates]
        met = [(n, p) for n in soft for p in names if (n, p) not in touch.ignore]
        if met:
            contacts.append(
                ObstacleContact(
                    surface, self.plates, touch.d_hat, touch.stiffness,
                    friction={pair: mu_of[pair[0]] for pair in met},
                    ignore=[(n, p) for n in soft for p in names if (n, p) in touch.ignore],
                    eps_v=touch.eps_v, name="plates",
                )
            )  # fmt: skip
        if self.bodies:
            contacts.append(self._rigid(touch, X, mu_of))
        return FEMModel(
            X, self.parts, self.handles, contacts=contacts, gravity=(0.0, 0.0, -gravity)
        )

    def _surface(self, X: Tensor, soft: list[str]) -> Surface:
        group = torch.zeros(len(X), dtype=torch.long)
        area = torch.zeros(len(X), dtype=torch.float64)
        for k, name in enumerate(soft):
            group[self.spans[name]] = k
        for name, own in self._area.items():
            area[self.spans[name]] = own
        gels = [n for n in soft if self.kinds[n] == "gel"]
        cells = [self.faces[n] for n in soft if self.kinds[n] != "rod"]
        rods = [self.faces[n] for n in soft if self.kinds[n] == "rod"]
        return Surface(
            X, torch.cat(cells), rods=torch.cat(rods) if rods else (), groups=tuple(soft),
            group=group, driven=self.driven(), area=area if rods else None,
            ignore=[(a, b) for a in gels for b in gels] + [(n, n) for n in soft if n not in gels],
        )  # fmt: skip

    def _rigid(self, touch: Touch, X: Tensor, mu_of: dict[str, float]) -> RigidContact:
        """Gels and solids against bodies; bodies against plates and each other."""
        meshes = [n for n in self.faces if self.kinds[n] != "rod"]
        samples = [point_samples(n, X, self.faces[n]) for n in meshes]
        bodies = list(self.bodies.values())
        samples += [body_samples(body, touch.spacing) for body in bodies]
        targets: list[Any] = [*bodies, *self.plates]
        known = {s.name for s in samples}, {t.name for t in targets}
        ignore = [p for p in touch.ignore if p[0] in known[0] and p[1] in known[1]]
        ignore += [(n, p.name) for n in meshes for p in self.plates if (n, p.name) not in ignore]
        friction = {
            (s.name, t.name): mu_of[s.name]
            for s in samples
            for t in targets
            if s.body is not t and (s.name, t.name) not in ignore
        }
        return RigidContact(
            samples, targets, touch.d_hat, touch.stiffness,
            friction=friction, ignore=ignore, eps_v=touch.eps_v,
        )  # fmt: skip


def _beads(x: Tensor) -> list[Any]:
    from ...sim.core.shapes import Sphere
    from ...viz import Tool

    return [Tool(Sphere(1.5e-3), (*p.tolist(), 1.0, 0.0, 0.0, 0.0), COLORS["rod"]) for p in x]
