"""What the commands share: options from dataclasses, progress bars, tables."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..runs.configs import UsageError, field_help, from_dict, load_toml, merge
from ..runs.folder import Interrupted

__all__ = [
    "Dotted", "console", "given", "layered", "options_of", "progress", "quiet_vtk", "resumable",
    "show_table", "steps_bar", "training_bar",
]  # fmt: skip

console = Console(highlight=False, soft_wrap=True)


class Dotted:
    """Nested options of this call, such as `bodies.jelly.size`, as the command line wrote them."""

    values: dict[str, list[str]] = {}

    @classmethod
    def nested(cls, command: str = "") -> dict[str, Any]:
        """`{"bodies": {"jelly": {"size": ["0.2"]}}}`.

        Args:
            command: The command that takes them.

        Raises:
            UsageError: a name without field, a field without value, another command's option.
        """
        out: dict[str, Any] = {}
        two = "--{}.FIELD or --{}.FIELD"
        owners = {
            "bodies": ("simulate", "--bodies.NAME.FIELD or --tools.NAME.FIELD"),
            "task": ("optimize", two.format("task", "optimizer")),
            "model": ("train", two.format("model", "train")),
        }
        owners |= {"tools": owners["bodies"], "train": owners["model"]}
        for path, values in cls.values.items():
            parts = path.split(".")
            owner, form = owners.get(parts[0], owners["task"])
            lengths = (3, 4) if owner == "simulate" else (2,)
            if len(parts) not in lengths or not values or owner != command:
                page = "train t1" if owner == "train" else owner
                raise UsageError(
                    f"--{path}: {form} of `rheograd {page}` with a value; got "
                    f"{' '.join(values) or 'no value'}. See `rheograd {page} --help`."
                )
            if parts[0] == "task":
                parts[0] = "settings"
            level = out
            for part in parts[:-1]:
                level = level.setdefault(part.replace("-", "_"), {})
            level[parts[-1].replace("-", "_")] = values
        return out


def options_of(cls: type, *, skip: tuple[str, ...] = ()) -> type:
    """Dataclass for the command line: the fields of a configuration, None where not given.

    Help and defaults are the configuration's own, so that they cannot differ from it.
    """
    from cyclopts import Parameter

    hints, help_ = typing.get_type_hints(cls), field_help(cls)
    fields = []
    for f in dataclasses.fields(cls):
        if f.name in skip or typing.get_origin(hints[f.name]) is dict:
            continue
        text = help_.get(f.name, "")
        if f.default not in (dataclasses.MISSING, None, (), ""):
            shown = f.default
            shown = " ".join(map(str, shown)) if isinstance(shown, tuple) else shown
            text = f"{text} [default: {shown}]"
        options = Parameter(
            help=text, negative="", show_default=False,
            consume_multiple=typing.get_origin(hints[f.name]) is tuple,
        )  # fmt: skip
        kind = Annotated[hints[f.name] | None, options]
        fields.append((f.name, kind, dataclasses.field(default=None)))
    made = dataclasses.make_dataclass(f"{cls.__name__}Options", fields, frozen=True)
    made.__doc__, made.__module__ = "", __name__  # cyclopts leaves classes of the library alone
    return made


def layered(cls: type, command: str, path: Path | None, from_line: Mapping[str, Any]) -> Any:
    """Configuration from the class's defaults, a TOML file and the command line, which wins.

    Raises:
        UsageError: unknown key or value; a file of another command.
    """
    data = load_toml(path) if path is not None else {}
    made_by = data.pop("command", command)
    data.pop("version", None)
    if made_by != command:
        raise UsageError(
            f"--config: a configuration of {command}; got {path}, one of {made_by}. "
            "Use that command."
        )
    from_dict(cls, data, str(path))  # names the file if a key in it is wrong
    return from_dict(cls, merge(data, from_line), command)


def given(options: Any) -> dict[str, Any]:
    """What the command line set."""
    if options is None:
        return {}
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Bars with counts, elapsed and remaining time, on the standard error stream."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield bars


@contextlib.contextmanager
def steps_bar(description: str) -> Iterator[Callable[..., None]]:
    """One bar as a callback `(done, total, note="")`."""
    with progress() as bars:
        task = bars.add_task(description, total=None, note="")

        def update(done: int, total: int | None = None, note: str = "", name: str = "") -> None:
            text = name or description
            bars.update(task, completed=done, total=total, note=note, description=text)

        yield update


def training_bar(
    update: Callable[..., None], updates: int | None, seconds: float | None
) -> Callable[[int, Any], None]:
    """A callback `(updates done, history)` for a bar of `steps_bar`; without a total it shows seconds."""

    def report(done: int, history: Any) -> None:
        total = updates
        if total is None:
            done, total = round(history.seconds[-1]), round(seconds or 0)
        update(done, total, note=f"loss {history.loss[-1]:.3g}", name="train")

    return report


@contextlib.contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say how a training that is stopped here goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"train: stopped. The checkpoint is in {folder}. Continue with "
            f"`rheograd train --resume {folder}`."
        ) from None


def quiet_vtk() -> None:
    """Keep VTK from warning that there is no display, which it does not need."""
    from vtkmodules.vtkCommonCore import vtkLogger

    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_ERROR)


def show_table(rows: Mapping[str, Any], title: str = "") -> None:
    """Two columns: names and values."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), _text(value))
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(f"{value:,}" if type(value) is int else str(value))
