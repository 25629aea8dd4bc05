"""`rheograd generate`."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..runs.configs import UsageError, from_dict, load_toml, merge, to_dict
from ..runs.folder import RunFolder
from ..runs.generation_config import GenerateConfig
from ..runs.pde_config import PdeConfig, PdeName
from .common import Dotted, console, given, options_of, show_table, steps_bar

Options = options_of(GenerateConfig, skip=("dataset",))
PdeOptions = options_of(PdeConfig, skip=tuple(GenerateConfig.__dataclass_fields__))
NONE, NO_PDE = Options(), PdeOptions()
Material = Literal["jelly", "plasticine", "sand", "water"]


def generate(
    dataset: Literal[Material, PdeName] | None = None,
    /,
    *,
    preset: Literal["full", "nano"] = "full",
    config: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    options: Annotated[Options, Parameter(name="*")] = NONE,
    pde: Annotated[PdeOptions, Parameter(name="*")] = NO_PDE,
) -> None:
    """Simulate a data set to learn from: bodies thrown into a box, or solutions of a PDE.

    Args:
        dataset: Material of the bodies, or a PDE [default: jelly, or the configuration's]. Defaults of
            options are those of bodies; each PDE has its own.
        preset: full: sizes to learn from; nano: everything in seconds.
        config: TOML file with these options; the command line wins.
        out: Folder of the data set [default: runs/DATASET-DATE-TIME].
        resume: Make what is missing in this folder; --batch and --workers may change.
    """
    from_line = merge(given(options), given(pde), Dotted.nested())
    if resume is not None:
        if dataset or config or out or preset != "full":
            raise UsageError(
                "generate --resume: the folder, --batch and --workers; got other options. Leave "
                "them out."
            )
        folder = RunFolder.open(resume, "generate")
        with steps_bar("start torch and engines") as update:
            runs = _runs(str(folder.config.get("dataset")))
            summary = runs.resume_generation(
                folder, lambda done, total: update(done, total, name="frames"), **from_line
            )
    else:
        settings = assemble(dataset, preset, config, from_line)
        if out is not None:
            RunFolder.require_free(out, "generate")
        with steps_bar("start torch and engines") as update:
            runs = _runs(settings.dataset)
            runs.check(settings)  # before a folder is made that would hold nothing
            name = settings.dataset.replace("/", "-")
            folder = RunFolder.new(out, name, "generate", to_dict(settings))
            summary = runs.generate(
                settings, folder, lambda done, total: update(done, total, name="frames")
            )
    show_table(summary)
    console.print(str(folder.path))


def _runs(dataset: str) -> Any:
    """What makes the data set."""
    if dataset in typing.get_args(PdeName):
        from ..runs import pde_generation

        return pde_generation
    from ..runs import generation

    return generation


def assemble(
    dataset: str | None, preset: str, config: Path | None, from_line: dict
) -> GenerateConfig | PdeConfig:
    """Preset < TOML file < command line.

    Raises:
        UsageError: unknown key or value, a file of another command.
    """
    data = load_toml(config) if config is not None else {}
    command = data.pop("command", "generate")
    data.pop("version", None)
    if command != "generate":
        raise UsageError(
            f"--config: a configuration of generate; got one of {command}. Use that command."
        )
    name = dataset or data.get("dataset")
    if name in typing.get_args(PdeName):
        from_dict(PdeConfig, data, str(config))
        own = _runs(name).nano(name) if preset == "nano" else {}
        return from_dict(PdeConfig, merge(own, data, from_line, {"dataset": name}), "generate")
    from_dict(GenerateConfig, data, str(config))
    base = GenerateConfig.nano() if preset == "nano" else GenerateConfig()
    layers = merge(to_dict(base), data, from_line, {"dataset": dataset})
    shape = str(layers["shape"])
    if Path(shape).suffix:  # the run must not depend on the folder it was started in
        layers["shape"] = str(Path(shape).absolute())
    return from_dict(GenerateConfig, layers, "generate")
