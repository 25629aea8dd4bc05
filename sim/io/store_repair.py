"""Finishing what a killed process left: whose file, where its data end, which frames count."""

from __future__ import annotations

import json
import math
import os
import socket

from .store_format import Layout, StoreError, frame_count, open_store, read_layout, series_of
from .store_superblock import mark_clean, read_superblock, reserve, trim
from .vtkhdf import build_views

__all__ = ["MARGIN", "frame_bytes", "identity", "recover", "repair"]

MARGIN = 2**18
"""Room [byte] that HDF5's own tables may need in one frame, or when the file is finished."""


def repair(path: str | os.PathLike[str], *, force: bool = False) -> int:
    """Finish the file of a killed run: drop a half-written frame, close the animation.

    Harmless on a finished file. No field value is copied or changed.

    Args:
        path: Rollout file.
        force: Act although the process that wrote the file seems to be alive.

    Returns:
        Number of complete frames.

    Raises:
        StoreError: the file is no rollout, is cut, or is being written by another live process.
    """
    return recover(path, force=force, finish=True)


def recover(
    path: str | os.PathLike[str], *, force: bool, finish: bool, keep: int | None = None
) -> int:
    """`repair`, optionally without closing the animation, or keeping the first frames only."""
    owner = _owner(path)
    if not force and _is_alive(owner):
        raise StoreError(
            f"repair: {path}: expected a file nobody is writing; got one written by {owner}. Wait "
            "for that process or end it; pass force=True if it is not the writer."
        )
    block = read_superblock(path)
    if block is None:
        raise StoreError(
            f"repair: {path}: expected a file as RolloutWriter makes it; got one rewritten with "
            "another HDF5 header, for instance by h5repack. It can be read, but not written."
        )
    try:
        with open(path, "r+b", buffering=0) as raw:
            if owner or block.open_for_writing:
                # Behind the recorded end lie at most one half-written frame and reserved room.
                end = block.end_of_file
                mark_clean(raw, min(os.fstat(raw.fileno()).st_size, end + MARGIN))
                with open_store(path) as file:
                    end += frame_bytes(read_layout(file)) + MARGIN
                mark_clean(raw, min(os.fstat(raw.fileno()).st_size, end))
                trim(raw)
            reserve(raw, os.fstat(raw.fileno()).st_size, MARGIN, 0)
        with open_store(path, "r+") as file:
            layout, count = read_layout(file), frame_count(file)
            count = count if keep is None else min(count, keep)
            for dataset, axis in series_of(file, layout):
                dataset.resize(count, axis=axis)
            steps = file["VTKHDF/Steps"]
            steps.attrs.modify("NSteps", count)
            if finish:
                build_views(file, layout, max(count, 1))
                file.attrs["writer"] = ""
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"repair: {path}: expected a writable file and disk; got {error}. Free space or copy "
            "the file to a disk with room, then call repair(path)."
        ) from error
    return count


def _owner(path: str | os.PathLike[str]) -> str:
    """The process named in the file as its writer; "" if it was finished."""
    try:
        with open_store(path) as file:
            return str(file.attrs["writer"])
    except StoreError:
        block = read_superblock(path)
        if block is None or not block.open_for_writing:
            raise
        # Killed in the instant between opening the file and entering the single-writer mode.
        return ""


def frame_bytes(layout: Layout) -> int:
    """Bytes of the values of one frame of all trajectories."""
    values = sum(math.prod(field.shape) for field in layout.fields.values())
    values += 7 * layout.tool_count + 6 * len(layout.bodies)
    return layout.n_trajectories * layout.dtype.itemsize * values


def identity() -> str:
    """This process, as a file names its writer."""
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid()})


def _is_alive(owner: str) -> bool:
    """Whether the writer named in a file still runs, as far as this machine can know."""
    if not owner:
        return False
    who = json.loads(owner)
    if who["host"] != socket.gethostname() or who["pid"] == os.getpid():
        return False
    try:
        os.kill(who["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
