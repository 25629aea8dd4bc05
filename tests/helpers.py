"""Small things many tests need. Everything is float64 and drawn from an explicit generator."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""


def pyproject() -> dict[str, Any]:
    """The parsed pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def package_folders() -> list[Path]:
    """Folders of the checkout that hold an `__init__.py`, relative to it, the root itself first."""
    found = []
    for folder, below, files in os.walk(ROOT):
        skipped = ("build", "dist", "runs") if folder == str(ROOT) else ()
        below[:] = sorted(n for n in below if n[0] != "." and n not in skipped)
        if "__init__.py" in files:
            found.append(Path(folder).relative_to(ROOT))
    return found


def library_files() -> list[Path]:
    """Every Python file of the package, relative to the checkout."""
    files = (file for folder in package_folders() for file in (ROOT / folder).glob("*.py"))
    return sorted(file.relative_to(ROOT) for file in files)


def module_name(file: Path) -> str:
    """Import name of a file of the package: `sim/core/state.py` is `rheograd.sim.core.state`."""
    parts = ("rheograd", *file.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def syntax(file: Path) -> ast.Module:
    """Syntax tree of a file given relative to the checkout."""
    return ast.parse((ROOT / file).read_text("utf-8"), filename=str(file))


def random_rotations(*batch: int, generator: torch.Generator, dim: int = 3) -> Tensor:
    """Uniformly distributed rotation matrices, shape (*batch, dim, dim), determinant +1."""
    q, r = torch.linalg.qr(torch.randn(*batch, dim, dim, generator=generator, dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    flip = torch.ones(*batch, dim, dtype=torch.float64)
    flip[..., 0] = torch.linalg.det(q)
    return q * flip.unsqueeze(-2)


def random_deformations(
    *batch: int, generator: torch.Generator, stretch: float = 0.3, dim: int = 3
) -> Tensor:
    """Deformation gradients F = R exp(S), S symmetric with entries up to `stretch`; det F > 0."""
    a = torch.rand(*batch, dim, dim, generator=generator, dtype=torch.float64) * 2 - 1
    symmetric = stretch * 0.5 * (a + a.mT)
    rotation = random_rotations(*batch, generator=generator, dim=dim)
    return rotation @ torch.linalg.matrix_exp(symmetric)


def unit_vectors(*shape: int, generator: torch.Generator) -> Tensor:
    """Uniformly distributed unit vectors along the last axis."""
    v = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return v / v.norm(dim=-1, keepdim=True)


def some_actions(
    task: Any, batch: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Actions (B, T, A) within 0.8 of their limits."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, task.horizon, task.action_size)
    unit = 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1
    return (0.8 * unit * task.action_limit.to(unit)).to(dtype)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """‖value − reference‖ / ‖reference‖, or ‖value‖ when the reference is zero."""
    scale = float(reference.norm())
    return float((value - reference).norm()) / (scale if scale > 0 else 1.0)


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two tensors read as vectors."""
    return float((a * b).sum() / (a.norm() * b.norm()))


def slope(x: list[float], y: list[float]) -> float:
    """Least-squares slope of log y over log x: the observed order of a method."""
    lx, ly = (torch.tensor(v, dtype=torch.float64).log() for v in (x, y))
    lx, ly = lx - lx.mean(), ly - ly.mean()
    return float((lx * ly).sum() / (lx * lx).sum())


def imports(file: Path) -> Iterator[tuple[str, int, bool]]:
    """What a file imports: (absolute dotted name, line, whether it runs when the module loads).

    `from a import b` yields `a.b`: a module or a name in one, which the caller need not tell apart.
    Imports under `if TYPE_CHECKING:` are yielded as not running.
    """
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]

    def walk(node: ast.AST, runs: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for name in child.names:
                    yield name.name, child.lineno, runs
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                base = [*base, *(child.module.split(".") if child.module else [])]
                for name in child.names:
                    yield ".".join([*base, name.name]), child.lineno, runs
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, runs and not inside and not typing)

    yield from walk(syntax(file), True)
