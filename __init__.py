"""Rheograd: differentiable physics and PDE learning as PyTorch operations.

Public names load at first use, so `import rheograd` costs milliseconds and starts no engine:

    import rheograd as rg

    solver = rg.SolverMPM(model, config)
    result = rg.rollout(solver, state, controls, params)

Folders are modules of the same name: `rheograd.sim`, `rheograd.operators`, `rheograd.tasks`,
`rheograd.viz`, `rheograd.assets`.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_FOLDERS = ("assets", "operators", "sim", "tasks", "viz")

_EXPORTS = {
    name: module
    for module, names in {
        "sim.core.colliders": "Collider",
        "sim.core.errors": "ConvergenceError InputError RheogradError StabilityError StateError",
        "sim.core.gradients": "check_backward_twice fd_check gradient_report taylor_test",
        "sim.core.laws": "DruckerPrager FixedCorotated Hencky HerschelBulkley LAWS Law Liquid "
        "NeoHookean TorchLaw VonMises law_by_name register_law",
        "sim.core.implicit": "implicit_least_squares implicit_solve",
        "sim.core.implicit_layers": "implicit_argmin implicit_fixed_point implicit_root",
        "sim.core.linalg": "linear_solve",
        "sim.core.rollout": "Rollout rollout",
        "sim.core.sampling": "sample_shape",
        "sim.core.shapes": "Box Capsule Cylinder MeshShape Plane Shape Sphere Torus",
        "sim.core.state": "Solver State",
        "sim.io.mesh": "load_mesh save_mesh",
        "sim.io.store": "RolloutReader RolloutWindows RolloutWriter",
        "sim.grid": "GasConfig GasControl GasModel GasSolver GasState MacGrid Nozzle",
        "sim.mpm": "Emitter Grid Group MPMConfig MPMControl MPMModel MPMState RigidBody SolverMPM",
    }.items()
    for name in names.split()
}
"""Public name -> module that defines it."""

__all__ = ["__version__", *_EXPORTS, *_FOLDERS]


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return importlib.import_module(f".{name}", __name__)
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
