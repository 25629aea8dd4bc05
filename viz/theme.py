"""Colors and lights shared by frames, plots and reports."""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = ["DARK", "LIGHT", "PALETTE", "Theme", "group_color", "rgb", "theme_of"]

PALETTE = ("#e8604c", "#3d7fd9", "#3fa66b", "#e3a12f", "#8b62c9", "#23a3b3", "#d1579b", "#7d8b99")
"""Colors of groups and curves in order; distinct in lightness too, for gray prints."""

_BY_SUBSTANCE = {
    "water": "#2e86d6",
    "liquid": "#2e86d6",
    "fluid": "#2e86d6",
    "milk": "#efe9dd",
    "coffee": "#6b4428",
    "oil": "#d8b13a",
    "sand": "#d6b06c",
    "snow": "#e9f0f6",
    "jelly": "#e8604c",
    "plasticine": "#3fa66b",
    "clay": "#b5714d",
}


@dataclasses.dataclass(frozen=True)
class Theme:
    """One look of pictures; `LIGHT` for documents, `DARK` for screens and talks."""

    background: str = "#fbfcfd"
    """Background of the picture; the floor fades into it."""
    floor: str = "#eceff3"
    """Color of the floor under the scene."""
    floor_line: str = "#d5dbe3"
    """Color of the floor's metric grid."""
    edge: str = "#8a96a5"
    """Color of the domain box."""
    text: str = "#1d2733"
    """Color of titles, labels and the scalar bar."""
    tool: str = "#77838f"
    """Color of colliders that have none of their own."""
    shadow: float = 0.45
    """Darkness of the contact shadow on the floor, 0 to 1."""


LIGHT = Theme()
DARK = Theme(
    background="#12161c",
    floor="#232a34",
    floor_line="#333d4a",
    edge="#657385",
    text="#e6ebf1",
    tool="#a3afbd",
    shadow=0.6,
)


def theme_of(theme: Theme | str) -> Theme:
    """Theme by name ("light" or "dark"), or the theme itself."""
    if isinstance(theme, Theme):
        return theme
    known = {"light": LIGHT, "dark": DARK}
    if theme not in known:
        raise ValueError(
            f"theme_of: a Theme or one of {sorted(known)}; got {theme!r}. Use one of these names."
        )
    return known[theme]


def rgb(color) -> np.ndarray:
    """Color name, hex string or triple as RGB in [0, 1], shape (3,)."""
    from matplotlib.colors import to_rgb

    return np.asarray(to_rgb(color))


def group_color(name: str, index: int) -> str:
    """Color of a group: by the substance in its name, else the next of the palette."""
    lowered = name.lower()
    for word, color in _BY_SUBSTANCE.items():
        if word in lowered:
            return color
    return PALETTE[index % len(PALETTE)]
