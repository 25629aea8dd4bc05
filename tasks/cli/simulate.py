"""`rheograd simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..runs.configs import UsageError, from_dict, load_toml, merge, to_dict
from ..runs.folder import RunFolder
from ..runs.scenes import SimulateConfig, scene_defaults
from .common import Dotted, console, given, options_of, show_table, steps_bar

Options = options_of(SimulateConfig, skip=("scene",))
NONE = Options()


def simulate(
    scene: str | None = None,
    /,
    *,
    config: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    mesh: Path | None = None,
    mesh_material: str = "jelly",
    mesh_size: float = 0.3,
    mesh_position: Annotated[tuple[float, ...], Parameter(negative="", consume_multiple=True)] = (),
    options: Annotated[Options, Parameter(name="*")] = NONE,
) -> None:
    """Run a scene and store its motion, step by step.

    Bodies and tools are options too: `--bodies.NAME.FIELD VALUE` changes or adds a body.

    Example: --bodies.jelly.material sand --bodies.jelly.params.E 2e5 --tools.ball.size 0.2

    Body: material, params.NAME, shape, size, mesh, position, rotation, velocity, angular_velocity,
    start, stop.

    Tool: shape, size, mesh, position, rotation, velocity, angular_velocity, start, stop, friction,
    softness, contact, rho (a rigid body), path (a file of `rheograd export`).

    Args:
        scene: Scene of `rheograd list` [default: jelly-drop, or the configuration's].
        config: TOML file with these options; the command line wins.
        out: Folder of the run [default: runs/SCENE-DATE-TIME].
        resume: Continue the run in this folder; --duration may extend it.
        mesh: Put this closed mesh (.stl, .obj, .ply, …) into the scene as a body.
        mesh_material: Its material.
        mesh_size: Its longest side [m].
        mesh_position: Its middle [m] [default: the middle of the box].
    """
    from_line = merge(given(options), Dotted.nested("simulate"))
    if resume is not None:
        if scene or config or out or mesh:
            raise UsageError(
                "simulate --resume: the folder alone; got also a scene, --config, --out or --mesh. "
                "Leave them out, or start a new run."
            )
        from ..runs.simulation import resume_simulation

        folder = RunFolder.open(resume, "simulate")
        with steps_bar(folder.config["scene"]) as update:
            summary = resume_simulation(folder, update, **from_line)
    else:
        settings = assemble(scene, config, from_line)
        if mesh is not None:
            body = {"material": mesh_material, "size": [mesh_size], "mesh": str(mesh.absolute())}
            body |= {"shape": "mesh", "position": list(mesh_position)}
            settings = from_dict(
                SimulateConfig, merge(to_dict(settings), {"bodies": {"mesh": body}}), "simulate"
            )
        if out is not None:
            RunFolder.require_free(out, "simulate")
        from ..runs.building import build
        from ..runs.simulation import simulate as run_into

        run = build(settings)  # before a folder is made that would hold nothing
        folder = RunFolder.new(out, settings.scene, "simulate", to_dict(run.config))
        with steps_bar(settings.scene) as update:
            summary = run_into(run, folder, update)
    show_table(summary)
    console.print(f"{folder.rollout}\nrheograd view {folder.path}")


def assemble(scene: str | None, config: Path | None, from_line: dict[str, Any]) -> SimulateConfig:
    """Defaults of the scene < TOML file < command line.

    Raises:
        UsageError: unknown scene, key or value.
    """
    data = load_toml(config) if config is not None else {}
    command = data.pop("command", "simulate")
    data.pop("version", None)
    if command != "simulate":
        raise UsageError(
            f"--config: a configuration of simulate; got one of {command}. Use that command."
        )
    from_dict(SimulateConfig, data, str(config))
    name = scene or data.get("scene", "jelly-drop")
    dim = from_line.get("dim", data.get("dim", 2))
    if data.get("scene") == name and "bodies" in data and data.get("dim", 2) == dim:
        defaults: dict[str, Any] = {}  # a whole scene: bodies it does not name are not wanted
    else:
        defaults = scene_defaults(name, dim)
    layers = merge(defaults, data, from_line, {"scene": name})
    return from_dict(SimulateConfig, layers, "simulate")
