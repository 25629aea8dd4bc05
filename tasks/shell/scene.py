"""Scenes of sheets, soft fingertips and blocks over one list of points, and their contact.

    scene = Scene()
    scene.sheet("sheet", rectangle((0.06, 0.06), 4e-3).placed((-0.03, -0.03, 0.0)))
    scene.tip("above", fingertip(), (0.0, 0.0, 7.9e-3), down=True)
    scene.plate(Collider(Box((0.03, 0.03, 0.004)), (0.0, 0.0, -0.004), name="plate"))
    model = scene.model(Touch())

Every body belongs to a kind (sheet, tip, block), by which friction is given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.core.rotations import rotate
from ...sim.fem import FEMModel, Handle, Solid
from ...sim.fem.bodies import Body
from ...sim.fem.contact import ObstacleContact, Surface, SurfaceContact, boundary_triangles
from ...sim.shell import SheetMesh
from ..bodies import Bodies

__all__ = ["TIP_RADIUS", "Scene", "Touch"]

TIP_RADIUS = 7.5e-3
"""Of a fingertip [m]."""
KINDS = ("sheet", "tip", "block")
DOWN = (0.0, 1.0, 0.0, 0.0)
UP = (1.0, 0.0, 0.0, 0.0)
"""Orientations of a fingertip."""
COLORS = {"sheet": "#f0e2bd", "tip": "#8fb4d8", "block": "#b9772f"}
"""In pictures."""


@dataclasses.dataclass(frozen=True)
class Touch:
    """How surfaces meet."""

    d_hat: float = 4e-4
    """Distance at which contact begins [m]; that of the original."""
    stiffness: float = 2e4
    """κ of the barrier [Pa], near the pressure under a fingertip of 1 N."""
    eps_v: float = 5e-3
    """Sliding speed above which friction is full [m/s]."""
    tip: float = 1.0
    """Friction of fingertips on everything [-]; silicone rubber on paper."""
    sheet: float = 0.3
    """Friction between sheets [-]."""
    block: float = 0.3
    """Friction of blocks on sheets [-]."""
    plate: float = 0.3
    """Friction of sheets and blocks on plates [-]."""
    folds: bool = False
    """Whether sheets meet sheets, themselves included."""


class Scene(Bodies):
    """Scenes of the module docstring."""

    colors = COLORS
    clear = "tip"

    def __init__(self) -> None:
        super().__init__()
        self.meshes: dict[str, SheetMesh] = {}
        """Sheets, in the numbering of their own points."""
        self._X: list[Tensor] = []

    def _body(self, name: str, kind: str, X: Tensor, x: Tensor, skin: Any) -> int:
        start = self._add(name, kind, x)
        self._X.append(X)
        self.faces[name] = torch.as_tensor(skin) + start
        return start

    def sheet(
        self,
        name: str,
        mesh: SheetMesh,
        material: str = "paper",
        *,
        creases: bool = False,
        **changes: Any,
    ) -> None:
        """A sheet, where its mesh is placed; further arguments as `SheetMesh.sheet`."""
        start = self._body(name, "sheet", mesh.X, mesh.x, mesh.cells)
        self.meshes[name] = mesh
        shifted = dataclasses.replace(
            mesh, cells=mesh.cells + start, sets={"border": torch.zeros(0)}
        )
        self.parts.append(shifted.sheet(name, material, creases=creases, **changes))

    def tip(
        self,
        name: str,
        body: Body,
        position: Sequence[float],
        *,
        down: bool = False,
        turn: Sequence[float] | None = None,
        E: float = 3e5,
        nu: float = 0.2,
        rho: float = 1100.0,
    ) -> None:
        """A fingertip, and the handle of its name that holds its rim and cavity.

        Args:
            name: of body and handle.
            body: mesh about its base, pointing up.
            position: of the base [m].
            down: whether it points down.
            turn: quaternion (w, x, y, z) instead.
            E, nu, rho: silicone; stiffness of the original.
        """
        q = tuple(turn) if turn is not None else DOWN if down else UP
        x = rotate(body.X.new_tensor(q), body.X) + body.X.new_tensor(position)
        start = self._body(name, "tip", x, x, body.skin)
        self.parts.append(Solid(name=name, cells=body.tets + start, E=E, nu=nu, rho=rho))
        place = tuple(float(v) for v in position)
        self.handles.append(Handle(name, body.held + start, position=place, orientation=q))

    def block(
        self,
        name: str,
        X: Tensor,
        tets: Tensor,
        position: Sequence[float],
        *,
        rho: float,
        E: float = 5e5,
        nu: float = 0.3,
    ) -> None:
        """A free elastic body whose mesh is moved by `position` [m]."""
        x = X + X.new_tensor(position)
        start = self._body(name, "block", x, x, boundary_triangles(tets))
        self.parts.append(Solid(name=name, cells=tets + start, E=E, nu=nu, rho=rho))

    def hold(self, name: str, points: Mapping[str, Tensor]) -> None:
        """A handle that holds points of bodies, numbered as each body's own."""
        rows = torch.cat([own + self.spans[body].start for body, own in points.items()])
        self.handles.append(Handle(name, rows, position=tuple(self.x[rows].mean(0).tolist())))

    def picture(self, x: Tensor) -> Any:
        """What a renderer draws of positions (N, 3): bodies and plates; planes are left out."""
        from ...viz import Scene as Picture

        meshes = [self.mesh_part(x, n, edges=self.kinds[n] == "sheet") for n in self.faces]
        return Picture(meshes=meshes, tools=self.plate_parts())

    def model(self, touch: Touch, gravity: float = 9.81) -> FEMModel:
        """The model, with contact between all bodies and with plates."""
        X, names = torch.cat(self._X), tuple(k for k in KINDS if k in self.kinds.values())
        group = torch.zeros(len(X), dtype=torch.long)
        for name, kind in self.kinds.items():
            group[self.spans[name]] = names.index(kind)
        surface = Surface(
            X,
            torch.cat(list(self.faces.values())),
            groups=names,
            group=group,
            driven=self.driven(),
            ignore=[] if touch.folds or "sheet" not in names else [("sheet", "sheet")],
        )
        contacts: list[Any] = []
        if len(self._X) > 1 or touch.folds:
            pairs = {
                ("sheet", "sheet"): touch.sheet,
                ("sheet", "tip"): touch.tip,
                ("sheet", "block"): touch.block,
                ("tip", "tip"): touch.tip,
                ("tip", "block"): touch.tip,
            }
            friction = {p: mu for p, mu in pairs.items() if set(p) <= set(names)}
            contacts.append(
                SurfaceContact(surface, touch.d_hat, touch.stiffness, friction, touch.eps_v)
            )
        if self.plates:
            mu = {"sheet": touch.plate, "block": touch.plate, "tip": touch.tip}
            contacts.append(
                ObstacleContact(
                    surface,
                    self.plates,
                    touch.d_hat,
                    touch.stiffness,
                    friction={(n, plate.name): mu[n] for n in names for plate in self.plates},
                    eps_v=touch.eps_v,
                    name="plates",
                )
            )
        return FEMModel(
            X, self.parts, self.handles, contacts=contacts, gravity=(0.0, 0.0, -gravity)
        )
