"""The 48-byte HDF5 superblock (version 3): reading it, and clearing the mark of an open writer.

HDF5 marks a file while it is written (single writer, multiple readers) and refuses to open it for
anybody else, ParaView included, when the writer was killed. The mark and the recorded end of file
are the only things wrong with such a file, because the writer flushes its data structures in an
order that is valid at every instant. Rewriting these two fields makes it an ordinary file again.

Source: HDF5 File Format Specification 3.0, section II.A (superblock) and the lookup3 checksum of
Jenkins (2006), which the specification prescribes for metadata.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

__all__ = ["Superblock", "mark_clean", "read_superblock", "reserve", "trim"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SIZE = 48
_LAYOUT = struct.Struct("<8sBBBBQQQQI")
_MASK = 0xFFFFFFFF
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@dataclass(frozen=True)
class Superblock:
    """The two superblock fields that matter for recovery."""

    open_for_writing: bool
    """True while a writer has the file, or after that writer was killed."""
    end_of_file: int
    """Recorded length of the file [byte]; a shorter file was cut."""


def read_superblock(path: str | Path) -> Superblock | None:
    """Read the superblock; None if it is damaged or of another version than 3."""
    with open(path, "rb") as stream:
        for _ in range(3):
            stream.seek(0)
            block = _parse(stream.read(SIZE))
            if block is not None:
                break
            # A writer may have been changing it at this moment.
            time.sleep(0.01)
    return block


def mark_clean(stream: BinaryIO, length: int) -> None:
    """Clear the writer's mark and record where the data end, in place.

    Args:
        stream: Unbuffered binary stream of the file, open for reading and writing.
        length: End of the data [byte].
    """
    stream.seek(0)
    raw = stream.read(SIZE)
    block = _parse(raw)
    if block is None or (not block.open_for_writing and block.end_of_file == length):
        return
    values = list(_LAYOUT.unpack(raw))
    values[4] = 0
    values[7] = length - values[5]
    values[9] = _lookup3(_LAYOUT.pack(*values)[:-4])
    stream.seek(0)
    stream.write(_LAYOUT.pack(*values))


def reserve(stream: BinaryIO, end: int, needed: int, ahead: int) -> None:
    """Make sure that the file can grow; HDF5 cannot recover from a write that fails half-way.

    Args:
        stream: Unbuffered binary stream of the file, open for writing.
        end: End of the data [byte].
        needed: Bytes that will be written behind it.
        ahead: Bytes to reserve at a time where the disk has them, so that it is seldom asked.

    Raises:
        OSError: the disk, a quota or a limit of the process refuses the needed bytes.
    """
    length = os.fstat(stream.fileno()).st_size
    if length >= end + needed:
        return
    try:
        _allocate(stream, length, end + max(needed, ahead) - length)
    except OSError:
        os.ftruncate(stream.fileno(), length)
        try:
            _allocate(stream, length, end + needed - length)
        except OSError:
            os.ftruncate(stream.fileno(), length)
            raise


def trim(stream: BinaryIO) -> None:
    """Cut off what was reserved behind the recorded end of the file."""
    stream.seek(0)
    block = _parse(stream.read(SIZE))
    if block is not None and block.end_of_file < os.fstat(stream.fileno()).st_size:
        os.ftruncate(stream.fileno(), block.end_of_file)


def _allocate(stream: BinaryIO, start: int, count: int) -> None:
    try:
        os.posix_fallocate(stream.fileno(), start, count)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _UNSUPPORTED:
            raise
        free = shutil.disk_usage(stream.name).free
        if free < count:
            raise OSError(errno.ENOSPC, f"{free} bytes left, {count} needed") from error


def _parse(raw: bytes) -> Superblock | None:
    if len(raw) < SIZE or raw[:8] != SIGNATURE or raw[8] != 3 or raw[9] != 8:
        return None
    _, _, _, _, flags, base, _, end, _, checksum = _LAYOUT.unpack(raw)
    if checksum != _lookup3(raw[:-4]):
        return None
    return Superblock(open_for_writing=bool(flags), end_of_file=base + end)


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def _lookup3(data: bytes) -> int:
    """Jenkins' lookup3 hash with initial value 0."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    while len(data) > 12:
        words = struct.unpack("<3I", data[:12])
        data = data[12:]
        a, b, c = ((u + w) & _MASK for u, w in zip((a, b, c), words, strict=True))
        for bits in (4, 6, 8, 16, 19, 4):
            a = ((a - c) & _MASK) ^ _rotate(c, bits)
            c = (c + b) & _MASK
            a, b, c = b, c, a
    words = struct.unpack("<3I", data.ljust(12, b"\0"))
    a, b, c = ((u + w) & _MASK for u, w in zip((a, b, c), words, strict=True))
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotate(b, bits)) & _MASK
        a, b, c = b, c, a
    return b


