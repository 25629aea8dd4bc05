"""Which boxes overlap: the broad phase of contact, complete and in a fixed order.

Boxes are put into classes of similar size (factors of two). The centers of each two classes go into k-d
trees; every pair of centers that is no farther than the largest half sizes of both classes add up to, in
the maximum norm, is tested box against box. The scene is a fourth coordinate, spaced so far that
scenes never meet. Nothing overlapping is missed, and the answer does not depend on the trees' order.

Source: k-d trees of SciPy; conservative bounds by the triangle inequality.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

__all__ = ["Boxes", "box_pairs"]

_CLASSES = 12
"""Size classes: boxes more than 2¹¹ times smaller than the largest share the last one."""


class Boxes:
    """Axis-aligned boxes of one kind of feature over all scenes.

    Args:
        lower, upper: corners [m], (n, 3).
        scene: scene of each box, (n,).
    """

    def __init__(self, lower: np.ndarray, upper: np.ndarray, scene: np.ndarray) -> None:
        self.lower, self.upper, self.scene = lower, upper, scene
        self.half = 0.5 * (upper - lower)
        self.center = lower + self.half
        self.size = self.half.max(1, initial=0.0)

    def classes(self) -> list[np.ndarray]:
        """Indices by size class, largest first; empty classes left out."""
        largest = self.size.max(initial=0.0)
        if largest == 0:
            return [np.arange(len(self.size))]
        with np.errstate(divide="ignore"):
            level = np.clip(np.floor(-np.log2(self.size / largest)), 0, _CLASSES - 1).astype(int)
        return [np.flatnonzero(level == k) for k in np.unique(level)]


def box_pairs(a: Boxes, b: Boxes | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of boxes of one scene that overlap or touch.

    Args:
        a: boxes.
        b: other boxes; None: pairs i < j within a.

    Returns:
        Indices i into a and j into b (or a), int64 (P,) each, sorted by i, then j.
    """
    same = b is None
    b = a if b is None else b
    if len(a.size) == 0 or len(b.size) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    reach = float(a.size.max() + b.size.max())
    spacing = 4 * reach + 1.0
    points_a = np.concatenate((a.center, spacing * a.scene[:, None]), 1)
    points_b = points_a if same else np.concatenate((b.center, spacing * b.scene[:, None]), 1)
    classes_a, classes_b = a.classes(), b.classes()
    trees_a = [cKDTree(points_a[rows]) for rows in classes_a]
    trees_b = trees_a if same else [cKDTree(points_b[rows]) for rows in classes_b]
    found_i, found_j = [], []
    for k, rows in enumerate(classes_a):
        for m, columns in enumerate(classes_b):
            if same and m < k:
                continue
            radius = float(a.size[rows].max() + b.size[columns].max())
            # Rounding of centers and sizes stays below this.
            radius = radius * (1 + 1e-12) + 1e-300 + 1e-15 * float(np.abs(points_a[rows]).max())
            if same and m == k:
                pairs = trees_a[k].query_pairs(radius, p=np.inf, output_type="ndarray")
                i, j = rows[pairs[:, 0]], rows[pairs[:, 1]]
            else:
                near = trees_a[k].sparse_distance_matrix(
                    trees_b[m], radius, p=np.inf, output_type="ndarray"
                )
                i, j = rows[near["i"]], columns[near["j"]]
            for axis in range(3):
                over = (a.lower[i, axis] <= b.upper[j, axis]) & (
                    b.lower[j, axis] <= a.upper[i, axis]
                )
                i, j = i[over], j[over]
            found_i.append(i)
            found_j.append(j)
    i, j = np.concatenate(found_i), np.concatenate(found_j)
    if same:
        i, j = np.minimum(i, j), np.maximum(i, j)
    key = np.sort(i * len(b.size) + j)
    return key // len(b.size), key % len(b.size)
