"""`rheograd train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from ..runs.configs import UsageError, from_dict, merge, to_dict
from ..runs.folder import RunFolder
from ..runs.learning_config import NclawConfig, StepperConfig
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
from .train_operator import fno, resume_operator, t1

app = App(
    name="train",
    help="Train what learns: nclaw, a constitutive law on one motion (the default); giorom, a stepper "
    "of sparse particles on a data set; t1 and fno, operators on fields on a data set of a PDE.",
    help_format="plaintext",
    result_action="return_value",
)
LawOptions = options_of(NclawConfig, skip=("system",))
StepperOptions = options_of(StepperConfig, skip=("system", "data"))
NO_LAW, NO_STEPPER = LawOptions(), StepperOptions()
app.command(t1)
app.command(fno)


@app.default
@app.command(name="nclaw")
def nclaw(
    *,
    config: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    options: Annotated[LawOptions, Parameter(name="*")] = NO_LAW,
) -> None:
    """Train a neural constitutive law on a motion, from positions only.

    Args:
        config: TOML file with these options; the command line wins.
        out: Folder of the run [default: runs/nclaw-DATE-TIME].
        resume: Continue the run in this folder, whatever it trains.
    """
    from_line = merge(given(options), Dotted.nested())
    if resume is not None:
        if config or out or from_line:
            raise UsageError(
                "train --resume: the folder alone; got other options, which would make another "
                "run. Leave them out, or start a new run with --config."
            )
        folder = RunFolder.open(resume, "train")
        if folder.config.get("system") in ("t1", "fno"):
            return resume_operator(folder)
        if folder.config.get("system") == "giorom":
            return _stepper(from_dict(StepperConfig, folder.config, str(resume)), folder)
        return _law(from_dict(NclawConfig, folder.config, str(resume)), folder, True)
    settings = layered(NclawConfig, "train", config, from_line)
    if out is not None:
        RunFolder.require_free(out, "train")
    _law(settings, RunFolder.new(out, "nclaw", "train", to_dict(settings)), False)


@app.command
def giorom(
    data: Path | None = None,
    /,
    *,
    config: Path | None = None,
    out: Path | None = None,
    options: Annotated[StepperOptions, Parameter(name="*")] = NO_STEPPER,
) -> None:
    """Train a stepper of sparse particles on a data set, measure it on the held-out trajectories.

    Args:
        data: Folder that `rheograd generate` made.
        config: TOML file with these options; the command line wins.
        out: Folder of the run [default: runs/giorom-DATE-TIME].
    """
    from_line = merge(given(options), Dotted.nested())
    if data is not None:
        from_line["data"] = str(data)
    settings = layered(StepperConfig, "train", config, from_line)
    if not settings.data:
        raise UsageError(
            "train giorom: a data set; got none. Make one with `rheograd generate jelly --out jelly` "
            "and pass its folder."
        )
    if settings.updates is None and settings.seconds is None:
        raise UsageError("train giorom: --updates or --seconds; got neither. Give one.")
    if out is not None:
        RunFolder.require_free(out, "train")
    _stepper(settings, RunFolder.new(out, "giorom", "train", to_dict(settings)))


def _law(settings: NclawConfig, folder: RunFolder, resume: bool) -> None:
    with steps_bar("start torch, simulate the motion") as update:
        from ..runs.learning import train_nclaw

        def report(done: int, total: int, loss: float) -> None:
            update(done, total, note=f"loss {loss:.3g}", name="train")

        summary = train_nclaw(settings, folder, resume=resume, on_update=report)
    show_table(summary)
    console.print(str(folder.checkpoint))


def _stepper(settings: StepperConfig, folder: RunFolder) -> None:
    with steps_bar("start torch, read the data") as update:
        from ..runs.stepping import train_stepper

        report = training_bar(update, settings.updates, settings.seconds)
        with resumable(folder.path):
            summary = train_stepper(settings, folder, on_update=report)
    show_table(summary)
    console.print(str(folder.path / "model.safetensors"))
