"""Surfaces of colliders and other shapes, for drawing.

Shapes are recognized by class name and attributes, so that `viz` draws the solvers' colliders,
plain dictionaries from a stored configuration and a user's own dataclasses alike. Axial shapes
stand along z.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from .fields import as_array

__all__ = ["pose_matrix", "shape_mesh", "shape_name"]


def shape_name(shape: Any) -> str:
    """Class name of a shape object, or the "type" entry of a dictionary."""
    if isinstance(shape, Mapping):
        for key in ("type", "class", "shape", "kind"):
            if isinstance(shape.get(key), str):
                return shape[key]
        raise ValueError(
            f'shape_name: a dictionary with "type"; got the keys {sorted(shape)}. '
            'Add {"type": "Sphere"} or another shape name.'
        )
    return type(shape).__name__


def shape_mesh(shape: Any, *, extent: float = 1.0):
    """Triangle surface of a shape in its own frame.

    Args:
        shape: object or dictionary named Sphere (radius), Box (half_extents), Capsule (radius,
            half_length), Plane, Cylinder (radius, half_height), Torus (major, minor) or MeshShape
            (vertices (V, 3), faces (M, 3)); lengths in metres.
        extent: side [m] of the square that stands for an infinite plane.

    Returns:
        `pyvista.PolyData`.

    Raises:
        ValueError: for an unknown shape.

    Not differentiable; for pictures only. Source: parametric surfaces of the shapes.
    """
    import pyvista as pv

    name = shape_name(shape)
    s = SimpleNamespace(**shape) if isinstance(shape, Mapping) else shape
    if name == "Sphere":
        return pv.Sphere(radius=float(s.radius), theta_resolution=48, phi_resolution=48)
    if name == "Box":
        hx, hy, hz = (float(h) for h in as_array(s.half_extents).reshape(-1))
        return pv.Box((-hx, hx, -hy, hy, -hz, hz)).triangulate()
    if name == "Capsule":
        angle = np.linspace(-np.pi / 2, np.pi / 2, 33)
        radial = float(s.radius) * np.cos(angle)
        axial = float(s.radius) * np.sin(angle)
        half = float(s.half_length)
        low, high = angle <= 1e-9, angle >= -1e-9
        profile_r = np.concatenate([radial[low], radial[high]])
        profile_z = np.concatenate([axial[low] - half, axial[high] + half])
        return _revolve(profile_r, profile_z)
    if name == "Cylinder":
        return pv.Cylinder(
            direction=(0, 0, 1),
            radius=float(s.radius),
            height=2 * float(s.half_height),
            resolution=64,
        ).triangulate()
    if name == "Torus":
        return pv.ParametricTorus(
            ringradius=float(s.major),
            crosssectionradius=float(s.minor),
            u_res=96,
            v_res=40,
            w_res=40,
        )
    if name == "Plane":
        return pv.Plane(direction=(0, 0, 1), i_size=extent, j_size=extent).triangulate()
    if hasattr(s, "vertices") and hasattr(s, "faces"):
        vertices = as_array(s.vertices).reshape(-1, 3).astype(float)
        return pv.PolyData.from_regular_faces(vertices, as_array(s.faces).reshape(-1, 3))
    raise ValueError(
        "shape_mesh: Sphere, Box, Capsule, Plane, Cylinder, Torus or a shape with vertices and "
        f"faces; got {name}. Give the shape one of these names, or a mesh."
    )


def pose_matrix(pose) -> np.ndarray:
    """Homogeneous matrix of a pose, p = R(q) p_local + t, with

        R = [[1−2(y²+z²), 2(xy−wz), 2(xz+wy)], [2(xy+wz), 1−2(x²+z²), 2(yz−wx)],
             [2(xz−wy), 2(yz+wx), 1−2(x²+y²)]]   for q = (w, x, y, z)/|q|.

    Args:
        pose: position [m] and quaternion (w, x, y, z), shape (7,); or a position alone, shape (3,).

    Returns:
        Matrix (4, 4).

    Raises:
        ValueError: for other shapes or a zero quaternion.

    Not differentiable (numpy); for pictures only. Source: Shoemake 1985.
    """
    pose = as_array(pose).astype(float).reshape(-1)
    if pose.size == 3:
        pose = np.concatenate([pose, [1.0, 0.0, 0.0, 0.0]])
    length = np.linalg.norm(pose[3:]) if pose.size == 7 else 0.0
    if pose.size != 7 or length == 0.0:
        raise ValueError(
            f"pose_matrix: position (3) and unit quaternion wxyz (4); got {pose}. "
            "Use (1, 0, 0, 0) for no rotation."
        )
    w, x, y, z = pose[3:] / length
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = pose[:3]
    return matrix


def _revolve(radial: np.ndarray, axial: np.ndarray, n: int = 64):
    """Closed surface of a profile turned about z; the profile ends on the axis."""
    import pyvista as pv

    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    points = np.stack(
        [
            np.outer(radial, np.cos(angle)),
            np.outer(radial, np.sin(angle)),
            np.repeat(axial[:, None], n, axis=1),
        ],
        -1,
    ).reshape(-1, 3)
    row, column = np.meshgrid(np.arange(len(radial) - 1), np.arange(n), indexing="ij")
    right = (column + 1) % n
    a, b = row * n + column, row * n + right
    c, d = a + n, b + n
    faces = np.concatenate([np.stack([a, b, d], -1), np.stack([a, d, c], -1)]).reshape(-1, 3)
    return pv.PolyData.from_regular_faces(points, faces)
