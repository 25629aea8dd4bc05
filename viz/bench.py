"""Pictures of a benchmark: what searches reach at which cost, one panel per problem; and tables."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .plots import save_figure, style_axes
from .theme import PALETTE, Theme, theme_of

__all__ = ["Search", "plot_searches", "plot_table"]


@dataclasses.dataclass(frozen=True)
class Search:
    """One search on its way."""

    name: str
    """Method; searches of one name share a color."""
    cost: Sequence[float]
    """What had been spent, (n,)."""
    loss: Sequence[float]
    """What had been reached, (n,)."""
    end: tuple[float, float]
    """Cost and loss of the result."""
    success: bool = False
    """Whether the result solves the problem."""


def plot_searches(
    panels: Mapping[str, Sequence[Search]],
    path: str | os.PathLike,
    *,
    references: Mapping[str, Mapping[str, float]] | None = None,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "loss",
    columns: int = 4,
    theme: Theme | str = "light",
) -> Path:
    """Loss over cost, logarithmic, one panel per problem; a star ends what succeeded, a ring the rest.

    Args:
        panels: Problem to its searches.
        path: Image file (.png, .svg, .pdf).
        references: Problem to {name: loss} of horizontal lines, two names at most.
        title, xlabel, ylabel: Texts.
        columns: Panels side by side, at most.
        theme: "light" or "dark".

    Returns:
        The path written.

    Raises:
        ValueError: nothing to draw.
    """
    if not any(panels.values()):
        raise ValueError("plot_searches: at least one search; got none. Pass {problem: [Search]}.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter

    theme = theme_of(theme)
    names = list(dict.fromkeys(s.name for searches in panels.values() for s in searches))
    colors = {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(names)}
    lines = list(dict.fromkeys(n for r in (references or {}).values() for n in r))
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (0.4 + 3.1 * max(columns, 2), 1.1 + 2.5 * rows)
    fig = Figure(figsize=size, dpi=150, layout="constrained", facecolor=theme.background)
    FigureCanvasAgg(fig)
    for k, (problem, searches) in enumerate(panels.items()):
        axes = fig.add_subplot(rows, columns, k + 1)
        style_axes(axes, theme)
        axes.set_title(problem, loc="left", fontsize=10, fontweight="bold", color=theme.text)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(True, which="minor", axis="y", color=theme.floor_line, linewidth=0.3)
        for name, value in (references or {}).get(problem, {}).items():
            style = ("--", ":")[lines.index(name) % 2]
            axes.axhline(value, color=theme.edge, linestyle=style, linewidth=1.1)
        for search in searches:
            x = np.asarray([*search.cost, search.end[0]], dtype=float)
            y = np.asarray([*search.loss, search.end[1]], dtype=float)
            y = np.where(y > 0, y, np.nan)
            color = colors[search.name]
            axes.plot(x, y, color=color, linewidth=1.6)
            marker = {"marker": "*", "ms": 13} if search.success else {"marker": "o", "ms": 6}
            face = color if search.success else theme.background
            axes.plot(x[-1], y[-1], color=color, mfc=face, mew=1.4, zorder=3, **marker)
        if not searches:
            axes.text(0.5, 0.5, "failed", transform=axes.transAxes, ha="center", color=theme.edge)
        axes.tick_params(which="both", labelsize=8)
        axes.set_xlim(left=0)
        low, high = axes.get_ylim()
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(plain if high < 10 * low else NullFormatter())
    fig.supxlabel(xlabel, color=theme.text, fontsize=10)
    fig.supylabel(ylabel, color=theme.text, fontsize=10)
    handles = [Line2D([], [], color=colors[n], label=n, linewidth=2) for n in names]
    for name, style in zip(lines, ("--", ":"), strict=False):
        handles.append(Line2D([], [], color=theme.edge, linestyle=style, label=name))
    ends = {"color": theme.text, "linestyle": "", "mew": 1.2}
    handles.append(Line2D([], [], marker="*", ms=11, label="solved", **ends))
    handles.append(
        Line2D([], [], marker="o", ms=6, mfc=theme.background, label="not solved", **ends)
    )
    fig.legend(
        handles=handles, loc="outside upper left", ncols=min(len(handles), 4 * columns),
        frameon=False, fontsize=9, labelcolor=theme.text, title=title or None,
        title_fontproperties={"weight": "bold", "size": 12}, alignment="left",
    ).get_title().set_color(theme.text)  # fmt: skip
    return save_figure(fig, path)


def plot_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    path: str | os.PathLike,
    *,
    title: str = "",
    marked: Sequence[bool] = (),
    right: Sequence[int] = (),
    theme: Theme | str = "light",
) -> Path:
    """A table as a picture; equal entries below one another in the first column are written once.

    Args:
        header: Names of the columns.
        rows: Texts, as many per row as there are columns.
        path: Image file (.png, .svg, .pdf).
        title: Text above.
        marked: Which rows are set in bold.
        right: Columns that are aligned to the right, such as numbers.
        theme: "light" or "dark".

    Returns:
        The path written.

    Raises:
        ValueError: a row of another length than the header.
    """
    if any(len(row) != len(header) for row in rows):
        raise ValueError(
            f"plot_table: rows of {len(header)} texts; got "
            f"{sorted({len(row) for row in rows})}. Pass one text per column."
        )
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    theme = theme_of(theme)
    # Inches: a character of the font is about 0.075 wide, bold ones a little wider.
    widths = [0.3 + 0.078 * max(len(r[k]) for r in [header, *rows]) for k in range(len(header))]
    step, margin = 0.25, 0.25
    top = margin + (0.45 if title else 0.0)
    size = (sum(widths) + 2 * margin, top + step * (len(rows) + 1.4) + margin)
    fig = Figure(figsize=size, dpi=150, facecolor=theme.background)
    FigureCanvasAgg(fig)
    axes = fig.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()
    if title:
        axes.text(margin, margin + 0.1, title, fontsize=12, fontweight="bold", color=theme.text)
    lefts = margin + np.concatenate([[0.0], np.cumsum(widths)])

    def write(texts: Sequence[str], y: float, color: str, bold: bool) -> None:
        for k, text in enumerate(texts):
            aligned = k in right
            x = lefts[k + 1] - 0.3 if aligned else lefts[k]
            axes.text(
                x, y, text, fontsize=9, color=color, va="center",
                ha="right" if aligned else "left", fontweight="bold" if bold else "normal",
                parse_math=False,
            )  # fmt: skip

    def rule(y: float, width: float) -> None:
        axes.plot([margin, size[0] - margin], [y, y], color=theme.floor_line, linewidth=width)

    write(header, top + 0.5 * step, theme.edge, True)
    rule(top + 1.1 * step, 1.5)
    for n, row in enumerate(rows):
        same = n > 0 and rows[n - 1][0] == row[0]
        y = top + (n + 1.8) * step
        if n and not same:
            rule(y - 0.5 * step, 0.7)
        write(["" if same else row[0], *row[1:]], y, theme.text, n < len(marked) and marked[n])
    return save_figure(fig, path)
