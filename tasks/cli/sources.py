"""What a path given to `render`, `view` or `info` holds: a stored motion, or fields on a grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..runs.configs import UsageError

if TYPE_CHECKING:
    from ...sim.io import FieldSet

__all__ = ["field_files", "is_motion", "open_field_source", "rollout_file"]


def is_motion(source: Path) -> bool:
    """Whether a path holds particles, not fields; files that cannot be opened count as such."""
    if source.is_dir():
        return (source / "rollout.h5").is_file() or bool(_throws(source)) or not field_files(source)
    if not source.is_file() or source.suffix not in (".h5", ".hdf5", ".vtkhdf"):
        return not source.is_file()
    import h5py

    try:
        with h5py.File(source) as file:
            return "rheograd_format" in file.attrs or file.attrs.get("grid_type") == "particles"
    except OSError:  # being written, or cut: RolloutReader says which
        return True


def field_files(folder: Path) -> list[Path]:
    """Files of fields in a folder, those of training first."""
    names = (".h5", ".hdf5", ".mat")
    found = sorted(p for p in folder.iterdir() if p.suffix in names)
    return [p for p in found if p.name != "rollout.h5" and not p.name.startswith("trajectory-")]


def open_field_source(source: Path) -> FieldSet:
    """Fields of a file or of a folder.

    Raises:
        UsageError: a path that holds neither a motion nor fields.
    """
    from ...sim.core.errors import RheogradError
    from ...sim.io import open_fields

    try:
        return open_fields(field_files(source) if source.is_dir() else source)
    except RheogradError as error:
        raise UsageError(
            f"{source}: a run folder, a rollout file, or fields in one of the layouts of "
            f"docs/field-files.md; got neither ({error})"
        ) from None


def rollout_file(source: Path, trajectory: int = 0) -> tuple[Path, int]:
    """The rollout of a run folder or of a data set of throws, or the file itself; and which
    trajectory of it.

    Raises:
        UsageError: nothing there.
    """
    path = source / "rollout.h5" if source.is_dir() else source
    throws = _throws(source) if source.is_dir() else []
    if throws and not path.is_file():
        if not -len(throws) <= trajectory < len(throws):
            raise UsageError(
                f"{source}: a trajectory in [0, {len(throws)}); got {trajectory}. Correct "
                "--trajectory."
            )
        return throws[trajectory], 0
    if not path.is_file():
        raise UsageError(
            f"render: a run folder, a rollout file or fields; got {source}, where there is no "
            f"{path.name}. Check the path; `rheograd simulate` and `rheograd generate` make some."
        )
    return path, trajectory


def _throws(folder: Path) -> list[Path]:
    return sorted(folder.glob("trajectory-*.h5"))
