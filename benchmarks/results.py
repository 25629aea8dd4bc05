"""Where benchmarks write: one JSON file per question and machine."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "results"


def parser(doc: str | None, again: bool = False) -> argparse.ArgumentParser:
    """Arguments that every benchmark has; and whether to repeat rows, see `Results.done`."""
    result = argparse.ArgumentParser(description=doc)
    result.add_argument("--quick", action="store_true", help="small sizes, nothing is written")
    result.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    result.add_argument("--machine", help="name of the machine in the file name")
    if again:
        result.add_argument("--again", action="store_true", help="repeat rows that the file has")
    return result


def machine(device: str = "cpu") -> str:
    """A generic name: processor kind and cores, or the GPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name().lower().replace(" ", "-")
    return f"{platform.machine()}-{os.cpu_count()}core"


def now(device: str) -> float:
    """CPU time of this process [s], or the clock once the GPU is idle."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def reset_peak() -> None:
    """Forget the peak memory of this process so far (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_memory() -> float:
    """Peak resident memory of this process [MiB] since `reset_peak`."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20


class Results:
    """Rows of one benchmark: printed as JSON lines, kept in one file."""

    KEY: tuple[str, ...] = ("measure", "engine")
    """What tells rows apart."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.rows: list[dict[str, Any]] = []
        self.quick = arguments.quick
        kind = arguments.machine or machine(arguments.device)
        self.file = FOLDER / f"{name}.{kind}.json"
        import warp

        self.head = {
            "date": datetime.date.today().isoformat(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "warp": warp.__version__,
            "device": arguments.device,
        }
        again = self.quick or getattr(arguments, "again", False)
        self.known = set() if again else {self._key(row) for row in self._others()}
        """Keys of rows that are not to be measured again: those of the file, without --again."""
        self.done = {row[0] for row in self.known}
        """Their measures."""

    def _key(self, row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in self.KEY)

    def _others(self) -> list[dict[str, Any]]:
        """Rows of the file with other keys: a partial run keeps them."""
        if not self.file.exists():
            return []
        mine = {self._key(row) for row in self.rows}
        rows = json.loads(self.file.read_text("utf-8"))["rows"]
        return [row for row in rows if self._key(row) not in mine]

    def has(self, **key: Any) -> bool:
        """Whether this row is not to be measured again."""
        return self._key(key) in self.known

    def lacks(self, name: str, starts: Sequence[str] | None) -> bool:
        """Whether a measure is asked for, by the beginning of its name, and there is no row of it nor
        one whose name goes on after it."""
        asked = not starts or any(name.startswith(start) for start in starts)
        return asked and not any(name == row or row.startswith(name + " ") for row in self.done)

    def add(self, **row: Any) -> None:
        rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
        self.rows.append(rounded)
        print(json.dumps(rounded), flush=True)
        if not self.quick:
            FOLDER.mkdir(exist_ok=True)
            text = json.dumps({**self.head, "rows": [*self._others(), *self.rows]}, indent=1)
            self.file.write_text(text + "\n", "utf-8")
