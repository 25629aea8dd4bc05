"""Line and bar plots in one clean style.

Figures are built directly, without pyplot: nothing global changes and no window opens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .fields import as_array
from .theme import PALETTE, Theme, theme_of

__all__ = [
    "figure", "plot_bars", "plot_curves", "plot_gradient_norm", "plot_losses", "save_figure",
    "style_axes",
]  # fmt: skip


def figure(
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    *,
    size: tuple[float, float] = (6.4, 4.0),
    theme: Theme | str = "light",
) -> tuple[Any, Any]:
    """Empty matplotlib figure and axes in the package's style; size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    theme = theme_of(theme)
    fig = Figure(figsize=size, dpi=150, layout="constrained", facecolor=theme.background)
    FigureCanvasAgg(fig)
    axes = fig.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=theme.text, pad=10)
    axes.set_xlabel(xlabel, color=theme.text, fontsize=10)
    axes.set_ylabel(ylabel, color=theme.text, fontsize=10)
    style_axes(axes, theme)
    return fig, axes


def style_axes(axes: Any, theme: Theme) -> None:
    """Give axes of a matplotlib figure the package's style."""
    axes.set_facecolor(theme.background)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.edge)
    axes.tick_params(which="both", colors=theme.text, labelsize=9, color=theme.edge)
    axes.grid(True, color=theme.floor_line, linewidth=0.7)
    axes.set_axisbelow(True)


def save_figure(fig: Any, path: str | os.PathLike) -> Path:
    """Write a figure (.png, .svg, .pdf by the ending); its folder is made if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, facecolor=fig.get_facecolor())
    return path


def plot_curves(
    curves: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    log: bool = False,
    bands: Mapping[str, tuple[Any, Any]] | None = None,
    reference: Mapping[str, float] | None = None,
    theme: Theme | str = "light",
    size: tuple[float, float] = (6.4, 4.0),
) -> Path:
    """Curves over a common abscissa, such as error over time.

    Args:
        curves: name to values (n,), or to a pair (x (n,), y (n,)).
        path: image file.
        title, xlabel, ylabel: texts, with units.
        log: logarithmic ordinate; values ≤ 0 leave a gap.
        bands: name of a curve to (lower, upper) around it, such as a quartile range.
        reference: name to ordinate of horizontal dashed lines.
        theme: "light" or "dark".
        size: inches.

    Returns:
        The path written.

    Raises:
        ValueError: if there are no curves, or x and y differ in length.
    """
    if not curves:
        raise ValueError("plot_curves: at least one curve; got none. Pass {name: values}.")
    theme = theme_of(theme)
    fig, axes = figure(title, xlabel, ylabel, size=size, theme=theme)
    if log:
        axes.set_yscale("log")
    for k, (name, curve) in enumerate(curves.items()):
        x, y = _points(name, curve)
        if log:
            y = np.where(y > 0, y, np.nan)
        color = PALETTE[k % len(PALETTE)]
        few = len(x) <= 25
        axes.plot(x, y, color=color, label=name, linewidth=2, marker="o" if few else "", ms=4)
        if bands and name in bands:
            low, high = (as_array(side).astype(float).reshape(-1) for side in bands[name])
            axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    for name, value in (reference or {}).items():
        axes.axhline(float(value), color=theme.edge, linestyle="--", linewidth=1.2, label=name)
    axes.margins(x=0.02)
    _legend(axes, theme, len(curves) + len(reference or {}))
    return save_figure(fig, path)


def plot_losses(
    runs: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    title: str = "Loss",
    xlabel: str = "iteration",
    ylabel: str = "loss",
    log: bool = True,
    **options: Any,
) -> Path:
    """Loss curves of several runs, logarithmic; arguments as `plot_curves`."""
    return plot_curves(runs, path, title=title, xlabel=xlabel, ylabel=ylabel, log=log, **options)


def plot_gradient_norm(
    norms: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    title: str = "Gradient over the horizon",
    xlabel: str = "steps back from the loss",
    ylabel: str = "‖∂L/∂state‖",
    **options: Any,
) -> Path:
    """Gradient norm over the horizon, logarithmic: exponential growth shows as a straight line."""
    options.setdefault("log", True)
    return plot_curves(norms, path, title=title, xlabel=xlabel, ylabel=ylabel, **options)


def plot_bars(
    values: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    title: str = "",
    ylabel: str = "",
    log: bool = False,
    fmt: str = "{:.3g}",
    theme: Theme | str = "light",
    size: tuple[float, float] | None = None,
) -> Path:
    """Horizontal bars with their values written out.

    Args:
        values: name to number, or name to {series: number} for grouped bars.
        path: image file.
        title, ylabel: texts; `ylabel` names the quantity with its unit.
        log: logarithmic scale.
        fmt: format of the written values.
        theme: "light" or "dark".
        size: inches; None grows with the number of bars.

    Returns:
        The path written.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not values:
        raise ValueError("plot_bars: at least one bar; got none. Pass {name: value}.")
    theme = theme_of(theme)
    names = list(values)
    grouped = {n: v if isinstance(v, Mapping) else {"": v} for n, v in values.items()}
    series = list(dict.fromkeys(s for group in grouped.values() for s in group))
    thick = 0.8 / len(series)
    height = 1.1 + 0.34 * len(names) * max(1.0, 0.7 * len(series))
    fig, axes = figure(title, ylabel, "", size=size or (6.4, max(2.0, height)), theme=theme)
    if log:
        axes.set_xscale("log")
    axes.grid(False, axis="y")
    for k, one in enumerate(series):
        rows = [i for i, n in enumerate(names) if one in grouped[n]]
        lengths = [float(as_array(grouped[names[i]][one])) for i in rows]
        places = np.asarray(rows) + (k - (len(series) - 1) / 2) * thick
        color = PALETTE[(k + 1) % len(PALETTE)]
        bars = axes.barh(places, lengths, 0.88 * thick, color=color, label=one)
        axes.bar_label(
            bars, [fmt.format(v) for v in lengths], padding=4, fontsize=9, color=theme.text
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if series != [""]:
        _legend(axes, theme, len(series))
    return save_figure(fig, path)


def _points(name: str, curve: Any) -> tuple[np.ndarray, np.ndarray]:
    """Abscissa and ordinate of a curve."""
    if isinstance(curve, tuple) and len(curve) == 2 and np.ndim(as_array(curve[0])) == 1:
        x, y = (as_array(part).astype(float).reshape(-1) for part in curve)
    else:
        y = np.asarray([float(as_array(v)) for v in curve], dtype=float)
        x = np.arange(len(y), dtype=float)
    if len(x) != len(y):
        raise ValueError(
            f"plot_curves: as many x as y for {name!r}; got {len(x)} and {len(y)}. Check the pair."
        )
    return x, y


def _legend(axes, theme: Theme, count: int) -> None:
    if count > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=theme.text)
