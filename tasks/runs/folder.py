"""Run folders: configuration, metrics, checkpoints; what is in them survives any interruption.

    config.toml            reproduces the run: `rheograd COMMAND --config config.toml`
    metrics.jsonl          one JSON object per frame or update, appended and flushed
    checkpoint.safetensors what `--resume` continues from, replaced whole or not at all
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from ...sim.io import Metrics, write_whole
from .configs import UsageError, dump_toml, load_toml

__all__ = ["Interrupted", "Metrics", "RunFolder"]


class Interrupted(Exception):
    """A run that the user stopped, after it has saved itself; the message says how to go on."""


class RunFolder:
    """A folder that holds one run.

    Args:
        path: The folder; must be new or empty, unless it is opened with `RunFolder.open`.
        command: Words after `rheograd` that made the run, e.g. "simulate".
        config: Plain values that reproduce it.

    Raises:
        UsageError: the folder holds something already.
    """

    def __init__(self, path: str | Path, command: str, config: Mapping[str, Any]) -> None:
        self.path, self.command, self.config = Path(path), command, dict(config)
        self.require_free(path, command)
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_config()

    @classmethod
    def open(cls, path: str | Path, command: str | None = None) -> RunFolder:
        """The folder of an earlier run.

        Raises:
            UsageError: no run folder, or a run of another command.
        """
        self = cls.__new__(cls)
        self.path = Path(path)
        if not (self.path / "config.toml").is_file():
            raise UsageError(
                f"--resume: the folder of a run; got {path}, which holds no config.toml. "
                "Pass what --out named."
            )
        data = load_toml(self.path / "config.toml")
        self.command, self.config = str(data.pop("command", "")), data
        data.pop("version", None)
        if command is not None and self.command != command:
            raise UsageError(
                f"--resume: a run of `rheograd {command}`; got {path}, a run of "
                f"`rheograd {self.command}`. Use that command."
            )
        return self

    @staticmethod
    def require_free(path: str | Path, command: str) -> None:
        """Raise `UsageError` if something is at the path already."""
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(
                f"--out: a new or empty folder; got {path}, which holds something. Choose another, "
                f"or continue it with `rheograd {command} --resume {path}`."
            )

    @classmethod
    def new(
        cls, path: str | Path | None, name: str, command: str, config: Mapping[str, Any]
    ) -> RunFolder:
        """The folder at `path`; or runs/NAME-DATE-TIME, numbered where that exists."""
        if path is not None:
            return cls(path, command, config)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for count in range(1, 1000):
            path = Path("runs") / f"{name}-{stamp}{'' if count == 1 else f'-{count}'}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            return cls(path, command, config)
        raise UsageError("--out: a folder; got 999 runs in this second. Name one.")

    def update(self, config: Mapping[str, Any]) -> None:
        """Replace the stored configuration, for a run that is extended."""
        self.config = dict(config)
        self._write_config()

    def _write_config(self) -> None:
        head = {"command": self.command, "version": __version__}
        write_whole(self.path / "config.toml", dump_toml({**head, **self.config}))

    @property
    def checkpoint(self) -> Path:
        """File that `--resume` continues from."""
        return self.path / "checkpoint.safetensors"

    @property
    def rollout(self) -> Path:
        """File of the simulated or planned motion."""
        return self.path / "rollout.h5"

    def metrics(self, keep: int | None = None) -> Metrics:
        """The run's metrics, opened for appending; `keep` drops all rows after the first ones."""
        return Metrics(self.path / "metrics.jsonl", keep=keep)
