"""Settings of the whole suite: shared helpers, the gpu marker, a seeded generator.

Compiled kernels stay in Warp's own cache between runs (`WARP_CACHE_PATH` moves it).
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import pytest

# Tensors of tests are small: on a busy machine a second thread makes them up to twenty times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `--import-mode=importlib` leaves sys.path alone, so `import helpers` needs this line.
sys.path.insert(0, str(Path(__file__).parent))


@functools.lru_cache(maxsize=1)
def cuda_missing() -> str | None:
    """Why gpu tests cannot run here, or None when they can."""
    import torch

    if torch.cuda.is_available():
        return None
    return "no CUDA device" if torch.version.cuda else "torch was built without CUDA"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (reason := cuda_missing()):
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def same_precision():
    """A test that leaves another default precision behind would break the ones after it."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and (left := torch.get_default_dtype()) != torch.float32:
        torch.set_default_dtype(torch.float32)
        pytest.fail(f"the default dtype was left at {left}")


@pytest.fixture
def generator():
    """A seeded torch generator: tests draw from it, never from the global one."""
    import torch

    return torch.Generator().manual_seed(20240229)
