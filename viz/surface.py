"""Surface of a particle cloud.

The particles' number density, smoothed, and its level set:

    n(p) = Σ_q W(p − x_q),   surface = {p : n(p) = c n₀},   n₀ = 1/s^D (bulk, spacing s)

W is a linear splat onto a grid followed by a Gaussian of width σ ≈ s: wide enough to hide single
particles, narrow enough to keep sheets and drops. Values on the surface are the kernel average
Σ W q / Σ W of the particles' values. `method="splashsurf"` takes pysplashsurf's surface instead.

Source: Blinn 1982 (implicit surfaces of particles); Löschner et al. 2023 (splashsurf).
"""

from __future__ import annotations

import numpy as np

__all__ = ["density_grid", "estimate_spacing", "surface_mesh"]

_MAX_CELLS = 6_000_000


def estimate_spacing(x) -> float:
    """Spacing s of neighbouring particles from the ball that holds the k nearest.

        s = (V_D r_k^D / k)^(1/D),  V₂ = π, V₃ = 4π/3, k = 8, median over a sample

    Args:
        x: positions [m], (N, D); non-finite rows are ignored.

    Returns:
        Spacing [m].

    Not differentiable (numpy); for pictures only.
    Source: definition of number density. The median is of the bulk, which surfaces do not bias.
    """
    from scipy.spatial import cKDTree

    x = np.asarray(x, dtype=float)
    x = x[np.isfinite(x).all(axis=1)]
    n, dim = x.shape
    if n < 2:
        return 0.01
    k = min(8, n - 1)
    sample = x[:: max(1, n // 500)]
    radius = np.median(cKDTree(x).query(sample, k=[k + 1])[0])
    volume = np.pi if dim == 2 else 4 * np.pi / 3
    return float(max((volume * radius**dim / k) ** (1 / dim), 1e-9))


def density_grid(
    x, spacing: float, *, smoothing: float = 1.0, resolution: float = 0.6, values=None
):
    """Smoothed density, in units of the bulk density, on a grid around the particles.

    Args:
        x: positions [m], (N, D).
        spacing: particle spacing s [m].
        smoothing: Gaussian width σ in spacings.
        resolution: cell size in spacings; grown if the grid would exceed six million cells.
        values: scalar per particle (N,); NaN counts as absent.

    Returns:
        density (grid), origin [m] (D,), cell size [m], and the averaged values (grid) or None.

    Not differentiable (numpy); for pictures only. Source: equation at the top of this file.
    """
    from scipy.ndimage import gaussian_filter

    x = np.asarray(x, dtype=float)
    dim = x.shape[1]
    pad = (3.0 * smoothing + 2.0) * spacing
    lower, upper = x.min(axis=0) - pad, x.max(axis=0) + pad
    h = resolution * spacing
    h = max(h, float((np.prod(upper - lower) / _MAX_CELLS) ** (1 / dim)))
    shape = np.ceil((upper - lower) / h).astype(int) + 1
    position = (x - lower) / h
    base = np.floor(position).astype(int)
    fraction = position - base

    def splat(weight):
        grid = np.zeros(int(np.prod(shape)))
        for corner in np.ndindex(*(2,) * dim):
            w = np.prod(np.where(corner, fraction, 1 - fraction), axis=1) * weight
            index = np.ravel_multi_index(tuple((base + corner).T), shape)
            grid += np.bincount(index, w, minlength=grid.size)
        return gaussian_filter(grid.reshape(shape), smoothing * spacing / h, truncate=3.0)

    density = splat(1.0) * (spacing / h) ** dim
    averaged = None
    if values is not None:
        known = np.isfinite(values)
        weight, total = splat(known * 1.0), splat(np.where(known, values, 0.0))
        averaged = total / np.maximum(weight, 1e-6 * max(weight.max(), 1e-300))
    return density, lower, h, averaged


def surface_mesh(
    x,
    spacing: float | None = None,
    *,
    values=None,
    level: float = 0.4,
    smoothing: float = 1.0,
    resolution: float = 0.6,
    method: str = "density",
):
    """Surface of particles: closed triangles in 3-D, a filled region of the plane y = 0 in 2-D.

    Args:
        x: positions [m], (N, D).
        spacing: particle spacing [m]; None estimates it.
        values: scalar per particle (N,), averaged onto the vertices as point data "values".
        level: share c of the bulk density where the surface lies; a half is exact for a flat face,
            a little less keeps thin sheets.
        smoothing: kernel width in spacings.
        resolution: cell size in spacings.
        method: "density", or "splashsurf" (3-D only, needs pysplashsurf).

    Returns:
        `pyvista.PolyData` with point normals; empty if no particle is finite.

    Raises:
        ValueError: for an unknown method. ImportError: if pysplashsurf is missing.

    Not differentiable (numpy); for pictures only. Source: equation at the top of this file.
    """
    import pyvista as pv

    x = np.asarray(x, dtype=float)
    finite = np.isfinite(x).all(axis=1)
    x = x[finite]
    values = None if values is None else np.asarray(values, dtype=float)[finite]
    if method not in ("density", "splashsurf"):
        raise ValueError(
            f'surface_mesh: method "density" or "splashsurf"; got {method!r}. Use one of them.'
        )
    if not len(x):
        return pv.PolyData()
    spacing = estimate_spacing(x) if spacing is None else float(spacing)
    if method == "splashsurf" and x.shape[1] == 3:
        return _splashsurf(x, spacing, values)
    if x.shape[1] == 2:
        resolution = min(resolution, 0.3)  # the outline is all one sees, and cells are cheap
    density, origin, h, averaged = density_grid(
        x, spacing, smoothing=smoothing, resolution=resolution, values=values
    )
    # A lone particle never reaches the level; lowering it to what the cloud attains keeps drops.
    level = min(level, 0.5 * float(density.max()))
    if x.shape[1] == 2:
        density, origin = density[:, None, :], np.array([origin[0], 0.0, origin[1]])
        averaged = None if averaged is None else averaged[:, None, :]
    grid = pv.ImageData(dimensions=density.shape, spacing=(h, h, h), origin=origin)
    grid.point_data["density"] = density.ravel(order="F")
    if averaged is not None:
        grid.point_data["values"] = averaged.ravel(order="F")
    if x.shape[1] == 2:
        region = grid.clip_scalar(scalars="density", value=level, invert=False)
        return region.extract_surface(algorithm="dataset_surface")
    mesh = grid.contour([level], scalars="density", compute_normals=True, compute_gradients=False)
    if not mesh.n_points:
        return mesh
    # Taubin's filter takes out the ripple of single particles and keeps the volume.
    mesh = mesh.smooth_taubin(n_iter=24, pass_band=0.06, non_manifold_smoothing=True)
    return mesh.compute_normals(auto_orient_normals=False, split_vertices=False)


def _splashsurf(x: np.ndarray, spacing: float, values):
    """Surface by pysplashsurf, with kernel-averaged values."""
    import pyvista as pv

    try:
        import pysplashsurf
    except ImportError as error:
        raise ImportError(
            'surface_mesh: method="splashsurf" needs pysplashsurf; it is not installed. '
            'Run: pip install "rheograd[viz]"'
        ) from error
    mesh_data, _ = pysplashsurf.reconstruction_pipeline(
        x.astype(np.float64),
        particle_radius=0.5 * spacing,
        smoothing_length=2.0,
        cube_size=1.0,
        iso_surface_threshold=0.6,
        mesh_smoothing_weights=True,
        mesh_smoothing_iters=15,
        compute_normals=True,
    )
    core = mesh_data.mesh
    mesh = pv.PolyData.from_regular_faces(np.asarray(core.vertices), np.asarray(core.triangles))
    if values is not None:
        from scipy.spatial import cKDTree

        distance, index = cKDTree(x).query(mesh.points, k=min(8, len(x)))
        distance, index = distance.reshape(mesh.n_points, -1), index.reshape(mesh.n_points, -1)
        weight = np.exp(-((distance / spacing) ** 2)) * np.isfinite(values[index])
        total = np.sum(weight * np.where(np.isfinite(values[index]), values[index], 0.0), axis=1)
        mesh.point_data["values"] = total / np.maximum(weight.sum(axis=1), 1e-300)
    return mesh
