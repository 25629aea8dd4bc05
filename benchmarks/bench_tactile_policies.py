"""What do policies that feel gain from being trained in many worlds?

    python benchmarks/bench_tactile_policies.py [--quick] [--only ROW ...] [--folder DIR]

A dome follows an uneven surface with 1 N (tactile/surface-following-nano, coarse linear cells, 8
actions). In every world the gel is stiffer or softer, friction higher or lower, and the surface farther
away than the nominal command assumes. Policies see progress, their own way, force, torque and markers.
They are trained by the analytic gradient (apg), by SHAC and by PPO in worlds drawn from 64 seeds, and
by apg in the nominal world alone, where the scenes of a batch are the same. All are tested in 16 worlds
that none has seen; also measured: the nominal command, the actions that gradients find for the
nominal world, and a policy trained in worlds without sensors, on progress and its own way.

Equal simulator steps for policies, an adjoint counts 2.5; as many updates for actions. One thread. Every
training saves after each iteration and goes on from there when the command is given again. Writes
results/tactile_policies.<machine>.json; `--quick` trains little and writes nothing.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from results import Results, parser
from rheograd.tasks.core import task_by_name
from rheograd.tasks.optim import Budget, closed_loop, optimize
from rheograd.tasks.optim.objectives import TaskWrapper
from rheograd.tasks.optim.policy import starts

TASK = "tactile/surface-following-nano"
SCENE = {"order": 1, "cuts": 2, "tol": 1e-5, "horizon": 8}
WORLDS = {"vary": 0.3, "varied": ("gel", "friction"), "standoff": 4e-4}
UNSEEN = [5_000_000 + k for k in range(16)]
"""Seeds of the tests; trainings draw below 10⁶."""
ENVS, LR = 6, 3e-3


class Numb(TaskWrapper):
    """The task without its sensors: a policy sees progress and its own way only."""

    def observation(self, state):
        seen = self.inner.observed(state)
        return torch.cat([seen["progress"], seen["places"]], -1).float()


RUNS = {
    "gradient": ("gradient", "nominal", {}),
    "apg, nominal world": ("apg", "nominal", {"lr": LR}),
    "apg": ("apg", "worlds", {"lr": LR}),
    "apg, no sensors": ("apg", "numb", {"lr": LR}),
    "shac": ("shac", "worlds", {"lr": LR, "window": 4}),
    "ppo": ("ppo", "worlds", {"log_std": -2.5}),
}
"""Row: method, where it is trained, settings."""


def judge(task, act) -> dict:
    """Means over the unseen worlds."""
    with torch.no_grad():
        state = starts(task, UNSEEN)
        if isinstance(act, torch.Tensor):
            losses, final = task.evaluate(act[None].repeat(len(UNSEEN), 1, 1), state=state)
        else:
            run = closed_loop(task, act, state)
            losses, final = run.losses.mean(0), run.final
    metrics = task.metrics(final)
    return {
        "loss": float(losses.mean()),
        "worst_loss": float(losses.max()),
        "force_error_N": float(metrics["force_error"].square().mean().sqrt()),
        "path_error_mm": 1e3 * float(metrics["path_error"].mean()),
        "solved": float(task.success(final).double().mean()),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="*", choices=list(RUNS))
    arguments.add_argument(
        "--iterations", type=int, default=20, help="of apg; sets the steps of all"
    )
    arguments.add_argument("--folder", type=Path, default=Path("runs/tactile-policies"))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    results = Results("tactile_policies", given)
    iterations = 1 if given.quick else given.iterations
    nominal, worlds = task_by_name(TASK, **SCENE), task_by_name(TASK, **SCENE, **WORLDS)
    places = {"nominal": nominal, "worlds": worlds, "numb": Numb(worlds)}
    steps = ENVS * nominal.horizon * iterations * 3.5
    results.add(measure="nominal command", **judge(worlds, nominal.initial_actions()))
    for name, (method, where, options) in RUNS.items():
        if given.only and name not in given.only:
            continue
        task = places[where]
        final = 0 if method == "gradient" else 14 * nominal.horizon
        budget = Budget(simulator_steps=int(steps + final))
        if method == "gradient":  # as many updates
            budget = Budget(iterations=iterations)
        if method != "gradient":
            options = {**options, "envs": ENVS, "validation": 4, "tests": 8, "evaluate_every": 1000}
        folder = given.folder / name.replace(", ", "-").replace(" ", "-")
        before = time.process_time()
        spent = folder / "cpu.json"
        earlier = json.loads(spent.read_text()) if spent.is_file() else 0.0

        def note(event, spent=spent, before=before, earlier=earlier):
            spent.write_text(json.dumps(earlier + time.process_time() - before))

        found = optimize(
            task, method, budget=budget, resume=None if given.quick else folder,
            on_iteration=None if given.quick else note, **options,
        )  # fmt: skip
        cpu = earlier + time.process_time() - before
        act = found.actions if found.policy is None else found.policy
        seen = task if where == "numb" else worlds
        results.add(
            measure=name, **judge(seen, act), iterations=len(found.history),
            simulator_steps=found.steps_used, cpu_s=cpu,
        )  # fmt: skip


if __name__ == "__main__":
    main()
