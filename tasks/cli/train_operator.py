"""`rheograd train t1` and `rheograd train fno`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..runs.configs import from_dict, merge, to_dict
from ..runs.folder import RunFolder
from ..runs.operator_config import OperatorConfig
from .common import (
    Dotted,
    console,
    given,
    layered,
    options_of,
    resumable,
    show_table,
    steps_bar,
    training_bar,
)

OperatorOptions = options_of(OperatorConfig, skip=("system", "data"))
NO_OPERATOR = OperatorOptions()


def t1(
    data: Path | None = None,
    /,
    *,
    config: Path | None = None,
    out: Path | None = None,
    options: Annotated[OperatorOptions, Parameter(name="*")] = NO_OPERATOR,
) -> None:
    """Train T1, an operator that transforms once, on a data set of a PDE.

    Its errors on the held-out solutions are measured in the end. Fields of T1Config and TrainerConfig
    are options too, `--model.FIELD VALUE` and `--train.FIELD VALUE`.

    Args:
        data: Folder that `rheograd generate pde/…` made.
        config: TOML file with these options; the command line wins.
        out: Folder of the run [default: runs/t1-DATE-TIME].
    """
    _start("t1", data, config, out, options)


def fno(
    data: Path | None = None,
    /,
    *,
    config: Path | None = None,
    out: Path | None = None,
    options: Annotated[OperatorOptions, Parameter(name="*")] = NO_OPERATOR,
) -> None:
    """Train a Fourier neural operator on a data set of a PDE.

    Its errors on the held-out solutions are measured in the end. Fields of FNOConfig and TrainerConfig
    are options too, `--model.FIELD VALUE` and `--train.FIELD VALUE`.

    Args:
        data: Folder that `rheograd generate pde/…` made.
        config: TOML file with these options; the command line wins.
        out: Folder of the run [default: runs/fno-DATE-TIME].
    """
    _start("fno", data, config, out, options)


def resume_operator(folder: RunFolder) -> None:
    """Go on with the run in a folder."""
    _train(from_dict(OperatorConfig, folder.config, str(folder.path)), folder)


def _start(
    system: str, data: Path | None, config: Path | None, out: Path | None, options: Any
) -> None:
    from_line = merge(given(options), Dotted.nested("train"), {"system": system})
    if data is not None:  # the run must not depend on the folder it was started in
        from_line["data"] = str(data.absolute())
    settings = layered(OperatorConfig, "train", config, from_line)
    if out is not None:
        RunFolder.require_free(out, "train")
    _train(settings, None, out)


def _train(settings: OperatorConfig, folder: RunFolder | None, out: Path | None = None) -> None:
    with steps_bar("start torch, read the data") as update:
        from ..runs.pde_learning import prepare, train_operator

        run = prepare(settings)  # before a folder is made that would hold nothing
        if folder is None:
            folder = RunFolder.new(out, settings.system, "train", to_dict(run.config))

        report = training_bar(update, run.updates, settings.seconds)
        with resumable(folder.path):
            summary = train_operator(run, folder, on_update=report)
    show_table(summary)
    console.print(str(folder.path / "model.safetensors"))
