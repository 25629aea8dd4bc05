"""Numbers of a run, one JSON object per line; readable while they are written, whole after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Metrics", "write_whole"]


class Metrics:
    """Rows of JSON, one per line, readable after every `add`.

    Args:
        path: File.
        keep: Which complete rows to keep, the first so many or those that it accepts; None keeps
            all. The others are dropped, such as those after the checkpoint that a run continues.
    """

    def __init__(
        self, path: Path, keep: int | Callable[[dict[str, Any]], bool] | None = None
    ) -> None:
        rows = self.read(path) if path.exists() else []
        rows = list(filter(keep, rows)) if callable(keep) else rows[:keep]
        if path.exists():
            write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
        self.count = len(rows)
        self._stream = open(path, "a", encoding="utf-8")

    @staticmethod
    def read(path: str | Path) -> list[dict[str, Any]]:
        """All complete rows; a line cut by a kill is left out."""
        rows = []
        for line in Path(path).read_text("utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def add(self, **values: Any) -> None:
        """Append one row; numbers that are not finite become null."""
        row = {k: _json(v) for k, v in values.items()}
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()
        self.count += 1

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one go or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    return value
