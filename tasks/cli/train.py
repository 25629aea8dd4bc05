"""`rheograd train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..runs.configs import UsageError, from_dict, merge, to_dict
from ..runs.folder import RunFolder
from ..runs.learning_config import NclawConfig
from .common import Dotted, console, given, layered, options_of, show_table, steps_bar

Options = options_of(NclawConfig, skip=("system",))
NONE = Options()


def train(
    system: Literal["nclaw"] | None = None,
    /,
    *,
    config: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    options: Annotated[Options, Parameter(name="*")] = NONE,
) -> None:
    """Train a neural constitutive law on a motion, from positions only.

    Args:
        system: What to train [default: nclaw].
        config: TOML file with these options; the command line wins.
        out: Folder of the run [default: runs/nclaw-DATE-TIME].
        resume: Continue the run in this folder.
    """
    from_line = merge(given(options), Dotted.nested())
    if resume is not None:
        if system or config or out or from_line:
            raise UsageError(
                "train --resume: the folder alone; got other options, which would make another "
                "run. Leave them out, or start a new run with --config."
            )
        folder = RunFolder.open(resume, "train")
        settings = from_dict(NclawConfig, folder.config, str(resume))
    else:
        settings = layered(NclawConfig, "train", config, from_line)
        if out is not None:
            RunFolder.require_free(out, "train")
        folder = RunFolder.new(out, "nclaw", "train", to_dict(settings))
    with steps_bar("start torch, simulate the motion") as update:
        from ..runs.learning import train_nclaw

        def report(done: int, total: int, loss: float) -> None:
            update(done, total, note=f"loss {loss:.3g}", name="train")

        summary = train_nclaw(settings, folder, resume=resume is not None, on_update=report)
    show_table(summary)
    console.print(str(folder.checkpoint))
