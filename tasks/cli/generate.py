"""`rheograd generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..runs.configs import UsageError, from_dict, load_toml, merge, to_dict
from ..runs.folder import RunFolder
from ..runs.generation_config import GenerateConfig
from .common import Dotted, console, given, options_of, show_table, steps_bar

Options = options_of(GenerateConfig, skip=("dataset",))
NONE = Options()


def generate(
    dataset: Literal["jelly", "plasticine", "sand", "water"] | None = None,
    /,
    *,
    preset: Literal["full", "nano"] = "full",
    config: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    options: Annotated[Options, Parameter(name="*")] = NONE,
) -> None:
    """Simulate a data set to learn from: bodies thrown into a box, one rollout file each.

    Args:
        dataset: Material [default: jelly, or the configuration's].
        preset: full: sizes to learn from; nano: everything in seconds.
        config: TOML file with these options; the command line wins.
        out: Folder of the data set [default: runs/DATASET-DATE-TIME].
        resume: Make what is missing in this folder; --batch and --workers may change.
    """
    from_line = merge(given(options), Dotted.nested())
    if resume is not None:
        if dataset or config or out or preset != "full":
            raise UsageError(
                "generate --resume: the folder, --batch and --workers; got other options. Leave "
                "them out."
            )
        folder = RunFolder.open(resume, "generate")
        with steps_bar("start torch and engines") as update:
            from ..runs.generation import resume_generation

            summary = resume_generation(
                folder, lambda done, total: update(done, total, name="frames"), **from_line
            )
    else:
        settings = assemble(dataset, preset, config, from_line)
        if out is not None:
            RunFolder.require_free(out, "generate")
        with steps_bar("start torch and engines") as update:
            from ..runs.generation import check
            from ..runs.generation import generate as run_into

            check(settings)  # before a folder is made that would hold nothing
            folder = RunFolder.new(out, settings.dataset, "generate", to_dict(settings))
            summary = run_into(
                settings, folder, lambda done, total: update(done, total, name="frames")
            )
    show_table(summary)
    console.print(str(folder.path))


def assemble(
    dataset: str | None, preset: str, config: Path | None, from_line: dict
) -> GenerateConfig:
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
    from_dict(GenerateConfig, data, str(config))
    base = GenerateConfig.nano() if preset == "nano" else GenerateConfig()
    layers = merge(to_dict(base), data, from_line, {"dataset": dataset})
    shape = str(layers["shape"])
    if Path(shape).suffix:  # the run must not depend on the folder it was started in
        layers["shape"] = str(Path(shape).absolute())
    return from_dict(GenerateConfig, layers, "generate")
