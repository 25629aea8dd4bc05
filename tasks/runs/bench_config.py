"""Configuration of benchmarks; loads no torch."""

from __future__ import annotations

import dataclasses

__all__ = ["BenchConfig"]


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """The table task x optimizer x seed at equal simulator steps."""

    tasks: tuple[str, ...] = ()
    """Tasks of `rheograd list`; none: all fluid/…-nano."""
    methods: tuple[str, ...] = ("gradient", "cma", "ppo")
    """Optimizers of `rheograd list`; the first one sets the simulator steps of the others."""
    seeds: int = 1
    """Searches per task and method; methods that draw nothing at random run once."""
    iterations: int = 60
    """Of the first method; what it has used, the others get."""
    simulator_steps: int | None = None
    """Simulator steps for every search, instead of --iterations."""
    workers: int = 1
    """Processes that share the candidates of populations."""
    cluster: str | None = None
    """Address of a Dask scheduler that gets the candidates instead, e.g. tcp://host:8786."""
    device: str = "cpu"
    """cpu or cuda."""
