"""Cameras: where a picture is taken from, and where a world point lands in it."""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = ["Camera"]


@dataclasses.dataclass(frozen=True)
class Camera:
    """Pinhole or orthographic camera, z up."""

    position: tuple[float, float, float]
    """Eye [m]."""
    focal_point: tuple[float, float, float]
    """Point in the center of the picture [m]."""
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Up direction; z by convention."""
    view_angle: float = 30.0
    """Vertical opening [deg]; 30 shows depth without distorting."""
    parallel_scale: float | None = None
    """Half the height of the view [m] for an orthographic picture; None for perspective."""

    @classmethod
    def fit(
        cls,
        lower,
        upper,
        *,
        size: tuple[int, int] = (960, 720),
        azimuth: float = -62.0,
        elevation: float = 20.0,
        view_angle: float = 30.0,
        margin: float = 1.08,
        planar: bool = False,
        reserve: float = 0.0,
    ) -> Camera:
        """Camera that sees a whole box.

        The eye is at p + r d with d the direction of azimuth and elevation; with right
        vector a, up vector b and half openings α, β every corner c needs
        r ≥ c·d + max(|c·a|/tan α, |c·b|/tan β).

        Args:
            lower, upper: corners of the box [m], shape (3,).
            size: width and height of the picture [px].
            azimuth, elevation: direction of the eye from the box [deg]; azimuth −90 looks
                along +y.
            view_angle: vertical opening [deg].
            margin: factor on the distance, > 1 leaves room at the border.
            planar: orthographic view along +y of the plane (x, z).
            reserve: share of the width kept free at the right, for a scalar bar.

        Returns:
            The camera.

        Not differentiable (numpy); for pictures only.
        Source: pinhole model.
        """
        lower, upper = np.asarray(lower, float), np.asarray(upper, float)
        center, extent = (lower + upper) / 2, np.maximum(upper - lower, 1e-9)
        aspect = size[0] / size[1]
        if planar:
            # text has its own band above and below a picture that fills the window
            scale = 1.1 * margin * max(extent[2], extent[0] / (aspect * (1 - reserve))) / 2
            center = center + np.array([reserve * scale * aspect, 0.0, 0.0])
            eye = center + np.array([0.0, -4.0 * extent.max(), 0.0])
            return cls(tuple(eye), tuple(center), parallel_scale=float(scale))
        azimuth, elevation = np.radians(azimuth), np.radians(elevation)
        d = np.array(
            [
                np.cos(elevation) * np.cos(azimuth),
                np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation),
            ]
        )
        right = np.cross([0.0, 0.0, 1.0], d)
        right /= np.linalg.norm(right)
        up = np.cross(d, right)
        tan_v = np.tan(np.radians(view_angle) / 2)
        tan_h = tan_v * aspect * (1 - reserve)
        corners = np.stack(np.meshgrid(*zip(lower, upper, strict=True), indexing="ij"), -1)
        corners = corners.reshape(-1, 3)
        focal = center.copy()
        for _ in range(4):  # perspective shifts the silhouette's center; four passes settle it
            c = corners - focal
            need = np.maximum(np.abs(c @ right) / tan_h, np.abs(c @ up) / tan_v)
            r = margin * np.max(c @ d + need)
            depth = r - c @ d
            u, w = (c @ right) / depth, (c @ up) / depth
            focal += r * ((u.min() + u.max()) / 2 * right + (w.min() + w.max()) / 2 * up)
        focal = focal + right * (reserve * tan_v * aspect * r)
        return cls(tuple(focal + r * d), tuple(focal), view_angle=view_angle)

    def orbit(self, degrees: float) -> Camera:
        """The camera turned about the vertical axis through its focal point."""
        angle = np.radians(degrees)
        c, s = np.cos(angle), np.sin(angle)
        offset = np.asarray(self.position) - np.asarray(self.focal_point)
        turned = np.array([c * offset[0] - s * offset[1], s * offset[0] + c * offset[1], offset[2]])
        return dataclasses.replace(self, position=tuple(np.asarray(self.focal_point) + turned))

    def project(self, points, size: tuple[int, int]) -> np.ndarray:
        """Pixels of world points.

        Args:
            points: positions [m], shape (..., 3).
            size: width and height of the picture [px].

        Returns:
            (column, row) from the upper left corner [px], shape (..., 2); NaN behind the eye.
        """
        points = np.asarray(points, float)
        eye, focal = np.asarray(self.position), np.asarray(self.focal_point)
        d = (eye - focal) / np.linalg.norm(eye - focal)
        right = np.cross(self.up, d)
        right /= np.linalg.norm(right)
        up = np.cross(d, right)
        c = points - eye
        depth = -(c @ d)
        if self.parallel_scale is not None:
            half = np.full_like(depth, self.parallel_scale)
        else:
            half = np.where(depth > 0, depth, np.nan) * np.tan(np.radians(self.view_angle) / 2)
        column = size[0] / 2 + (c @ right) / half * size[1] / 2
        row = size[1] / 2 - (c @ up) / half * size[1] / 2
        return np.stack([column, row], -1)

    def apply(self, plotter) -> None:
        """Give this camera to a PyVista plotter."""
        camera = plotter.camera
        camera.position, camera.focal_point, camera.up = self.position, self.focal_point, self.up
        if self.parallel_scale is not None:
            camera.parallel_projection = True
            camera.parallel_scale = self.parallel_scale
        else:
            camera.parallel_projection = False
            camera.view_angle = self.view_angle
        plotter.reset_camera_clipping_range()
