"""`rheograd demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..runs.configs import UsageError, from_dict, load_toml, merge, to_dict
from ..runs.folder import Interrupted, RunFolder
from ..runs.learning_config import DemoConfig
from .common import Dotted, console, given, options_of, progress, quiet_vtk, show_table

Options = options_of(DemoConfig)
NONE = Options()


def demo(
    *,
    quick: Annotated[bool, Parameter(negative="")] = False,
    config: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    options: Annotated[Options, Parameter(name="*")] = NONE,
) -> None:
    """Simulate, learn, plan and look, in five minutes on two cores; writes one report.html.

    Args:
        quick: Everything once in half a minute, too small to learn anything.
        config: TOML file with these options; the command line wins.
        out: Folder of the run [default: runs/demo-DATE-TIME].
        resume: Continue the run in this folder.
    """
    from_line = merge(given(options), Dotted.nested())
    if resume is not None:
        if quick or config or out or from_line:
            raise UsageError(
                "demo --resume: the folder alone; got other options. Leave them out."
            )
        folder = RunFolder.open(resume, "demo")
        settings = from_dict(DemoConfig, folder.config, str(resume))
    else:
        data = load_toml(config) if config is not None else {}
        command = data.pop("command", "demo")
        data.pop("version", None)
        if command != "demo":
            raise UsageError(
                f"--config: a configuration of demo; got one of {command}. Use that command."
            )
        base = to_dict(DemoConfig.quick() if quick else DemoConfig())
        settings = from_dict(DemoConfig, merge(base, data, from_line), "demo")
        folder = RunFolder.new(out, "demo", "demo", to_dict(settings))
    try:
        numbers, report = _run(settings, folder)
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(
            f"demo: stopped. What is finished is in {folder.path}. Continue with "
            f"`rheograd demo --resume {folder.path}`."
        ) from None
    show_table(numbers)
    console.print(str(report.absolute()))


def _run(settings: DemoConfig, folder: RunFolder) -> tuple[dict, Path]:
    with progress() as bars:
        start = bars.add_task("start torch and engines", total=None, note="")
        quiet_vtk()
        from ..demo import run_demo

        bars.update(start, completed=1, total=1)

        def stage(name: str):
            bar = bars.add_task(name, total=None, note="")

            def update(done: int, total: int | None = None, note: str = "") -> None:
                bars.update(bar, completed=done, total=total, note=note)

            return update

        result, report = run_demo(settings, folder, stage)
    return result.numbers(), report
