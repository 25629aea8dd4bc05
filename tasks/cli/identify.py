"""`rheograd identify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from ..runs.configs import UsageError, from_dict, to_dict
from ..runs.folder import RunFolder
from ..runs.identify_config import IdentifyConfig
from .common import console, given, layered, options_of, show_table, steps_bar

Options = options_of(IdentifyConfig, skip=("data",))
NONE = Options()


def identify(
    data: Path | None = None,
    /,
    *,
    config: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    options: Annotated[Options, Parameter(name="*")] = NONE,
) -> None:
    """Find stiffness, contact and friction of a gel sensor from what it saw and felt.

    Without data a synthetic sensor with hidden values is identified, and its data kept in `seen.npz`.

    Args:
        data: File .npz or .h5 of markers (M, T, n, 2) [px] and forces (M, T, 3) [N], or an earlier run.
        config: TOML file with these options; the command line wins.
        out: Folder of the run [default: runs/identify-DATE-TIME].
        resume: Go on with the run in this folder, from its best candidate; --budget may extend it.
    """
    from_line = given(options)
    if resume is not None:
        if data or config or out or set(from_line) - {"budget"}:
            raise UsageError(
                "identify --resume: the folder and --budget; got other options, which would make "
                "another run. Leave them out."
            )
        folder = RunFolder.open(resume, "identify")
        settings = from_dict(IdentifyConfig, folder.config | from_line, str(resume))
        folder.update(to_dict(settings))
    else:
        if data is not None:
            from_line["data"] = str(data / "seen.npz" if data.is_dir() else data)
        settings = layered(IdentifyConfig, "identify", config, from_line)
        if out is not None:
            RunFolder.require_free(out, "identify")
        folder = RunFolder.new(out, "identify", "identify", to_dict(settings))
    with steps_bar("start torch") as update:
        from ..runs.identifying import identify_run

        def report(row: Any) -> None:
            update(row.simulations, settings.budget, note=f"loss {row.loss:.3g}", name="identify")

        result = identify_run(settings, folder, report)
    table = Table(box=None, pad_edge=False)
    for name in ("", "true", "found", "initial", "error", "deviation"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in result["parameters"].items():
        values = [
            f"{row[k]:.5g}" if row[k] is not None else "–" for k in ("true", "found", "initial")
        ]
        share = [f"{row[k]:.2%}" if row[k] is not None else "–" for k in ("error", "deviation")]
        table.add_row(name, *values, *share)
    console.print(table)
    show_table({k: v for k, v in result.items() if k != "parameters"})
    console.print(str(folder.path / "result.json"))
