"""Policies that feel: what they see, worlds along the batch axis, gradients through the closed loop."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.tasks import tactile  # noqa: F401  registers the built-in tasks
from rheograd.tasks.core import TASKS, task_by_name
from rheograd.tasks.optim import MLPPolicy, closed_loop, make_optimizer
from rheograd.tasks.optim.base import pack_state, unpack_state
from rheograd.tasks.optim.policy import starts
from rheograd.tasks.tactile.senses import SCALES
from rheograd.tasks.tactile.worlds import VARIED, Worlds

SMALL = {"order": 1, "cuts": 2, "settle": 1}
SURFACE = "tactile/surface-following-nano"
WORLDS = {"vary": 0.3, "standoff": 3e-4, "jitter": 3e-4}


@pytest.fixture(scope="module")
def surface():
    return task_by_name(SURFACE, **SMALL, **WORLDS, horizon=4, press=2, tol=1e-9)


@pytest.fixture(scope="module")
def lid():
    return task_by_name("tactile/case-opening-nano", **SMALL, horizon=3)


@pytest.fixture(scope="module")
def clay():
    return task_by_name("tactile/grasp-plastic-nano", horizon=2, substeps=16, dt=4e-3, vary=0.3)


def pressed(task, seeds=(1, 2, 3), count=2):
    """Scenes of some worlds after some actions, which press."""
    state = starts(task, seeds)
    actions = task.initial_actions()[:count].expand(len(seeds), -1, -1)
    with torch.no_grad():
        return task.rollout(actions, state=state).final


def test_what_a_policy_sees(surface):
    state, n, A = pressed(surface), 9, surface.action_size
    found, parts = surface.readings(state), surface.observed(state)
    sizes = {"progress": 1, "places": A, "force": 3, "torque": 3, "markers": 2 * n}
    assert {k: v.shape[1] for k, v in parts.items()} == sizes
    seen = surface.observation(state)
    assert seen.shape == (3, 1 + A + 6 + 2 * n) and seen.dtype == torch.float32
    torch.testing.assert_close(seen, torch.cat(list(parts.values()), 1).float())
    assert found["progress"].tolist() == [[0.5]] * 3
    # The dome looks down: what pushes it up pushes against its own z.
    world = surface.wrenches(state)[..., :3]
    torch.testing.assert_close(found["force"][..., 2], -world[..., 2])
    assert bool((world[..., 2] > 0.1).any()) and float(found["markers"].abs().max()) > 1.0
    torch.testing.assert_close(parts["force"] * SCALES["force"], found["force"].flatten(1))
    z = [f"{a.tool} {a.motion}" for a in surface.axes].index("finger z")
    way = surface.initial_actions()[:2, z].sum() * surface.config.dt
    torch.testing.assert_close(found["places"][:, z], way.double().expand(3), rtol=1e-6, atol=0)


def test_no_object_is_seen_but_by_the_privileged(lid):
    knowing = task_by_name("tactile/case-opening-nano", **SMALL, horizon=3, privileged=True)
    state = lid.reset()
    x = state.x.clone()
    x[:, lid.scene.spans["lid"]] += 0.01
    moved = state.replace(x=x)
    assert torch.equal(lid.observation(state), lid.observation(moved))
    extra = knowing.observation(moved) - knowing.observation(state)
    assert torch.equal(extra[:, : -6 * 4], torch.zeros_like(extra[:, : -6 * 4]))
    torch.testing.assert_close(extra[:, -24:-12], torch.ones(1, 12), rtol=1e-5, atol=0)


def test_the_place_of_objects_is_not_seen_before_touch(surface):
    """Shifted sensors are shifted objects: a policy knows its own way only."""
    alike = task_by_name(SURFACE, **SMALL, standoff=3e-4, jitter=3e-4, horizon=4, press=2, tol=1e-9)
    here, there = alike.reset(seed=1), alike.reset(seed=2)
    assert float((here.pose - there.pose)[..., :3].abs().amin()) > 1e-5
    seen = alike.observation(here), alike.observation(there)
    torch.testing.assert_close(*seen, rtol=0, atol=1e-4)


def test_gradients_reach_the_weights(surface):
    """d loss/d weights through network, sensors, markers and all steps, against differences."""

    class Exact(type(surface)):
        def observation(self, state):
            return torch.cat(list(self.observed(state).values()), -1)

    task = Exact(surface.config)
    start = starts(task, [1, 2])
    size = task.observation(start).shape[1]
    policy = MLPPolicy(
        size, task.action_limit, (5,), seed=1, nominal=task.initial_actions()
    ).double()
    weights = {n: p.detach() for n, p in policy.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        weights[name] = value + 0.1 * torch.randn(value.shape, generator=generator).double()
    direction = {n: torch.randn(w.shape, generator=generator).double() for n, w in weights.items()}

    def loss(shift):
        moved = {n: w + shift * direction[n] for n, w in weights.items()}

        def act(observed, noise=None, t=None):
            return torch.func.functional_call(policy, moved, (observed, None, t))

        act.nominal = policy.nominal
        return closed_loop(task, act, start).losses.mean()

    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(shift), shift)
    with torch.no_grad():
        eps = 1e-4
        measured = (loss(eps) - loss(-eps)) / (2 * eps)
    assert abs(float(slope)) > 1e-4
    assert float(slope) == pytest.approx(float(measured), rel=1e-4)


def test_one_batch_holds_different_worlds(surface):
    """Each scene as if it were alone; and what is drawn is felt."""
    together = pressed(surface)
    alone = pressed(surface, seeds=(3,))
    torch.testing.assert_close(together[2].x, alone.x, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        surface.wrenches(together)[2:], surface.wrenches(alone), atol=1e-6, rtol=0
    )
    assert torch.equal(together.world[2:], alone.world)
    assert not torch.equal(together.world[1], together.world[2])
    # The same bodies in another world carry another force: E scales it.
    harder = together.replace(world=together.world + math.log(2.0))
    felt, twice = (surface.wrenches(s)[..., :3] for s in (together, harder))
    torch.testing.assert_close(twice, 2 * felt)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(n for n in TASKS if n.startswith("tactile/") and "nano" in n)
)
def test_worlds_of_all_tasks(name):
    """A batch of worlds against its scenes alone; every scene has a factor that moves its forces."""
    task = task_by_name(name, **WORLDS, tol=1e-9)
    together, alone = pressed(task), pressed(task, seeds=(3,))
    found, again = (task.bodies(s).x for s in (together, alone))
    torch.testing.assert_close(found[2:], again, rtol=0, atol=1e-7)
    assert len(task.worlds) == together.world.shape[1] >= 2
    assert task.observation(together).shape[0] == 3
    assert float((task.wrenches(together)[1] - task.wrenches(together)[2]).abs().max()) > 1e-5


def test_worlds_of_material_points_and_their_checkpoints(clay):
    state = starts(clay, [1, 2])
    assert list(clay.worlds.places) == list(VARIED)
    ready = clay.ready(state)
    assert ready.contact["friction"].shape == (2,) and clay.ready(state) is ready
    torch.testing.assert_close(
        ready.contact["friction"], clay.config.mu_gel * state.world[:, 3].exp()
    )
    with torch.no_grad():
        after = clay.step(state, clay.initial_actions()[:1].expand(2, -1))[0]
    again = unpack_state(clay, pack_state(after))
    assert all(torch.equal(v, again.tensors()[k]) for k, v in after.tensors().items())
    assert torch.equal(again.world, state.world) and torch.equal(again.home, state.home)


def test_draws(surface):
    found = torch.cat([surface.worlds.draw(s) for s in range(200)])
    assert found.shape == (200, 2) and float(found.abs().max()) <= 0.3
    assert not bool(found[0].any()) and float(found[1:].std()) == pytest.approx(
        0.3 / 3**0.5, rel=0.1
    )
    assert torch.equal(surface.worlds.draw(7), found[7:8])
    assert abs(float(torch.corrcoef(found[1:].T)[0, 1])) < 0.2
    plain = task_by_name(SURFACE, **SMALL)
    assert not plain.random and plain.reset(seed=5).world is None
    assert (
        plain.search_defaults["apg"]["envs"] == 1 and "envs" not in surface.search_defaults["apg"]
    )


def test_policies_begin_with_the_nominal_command(surface, tmp_path):
    policy = make_optimizer(surface, "apg", envs=2, hidden=(4,)).policy
    with torch.no_grad():
        policy.layers[-1].weight.zero_()
        run = closed_loop(surface, policy)
        torch.testing.assert_close(run.actions[:, 0], surface.initial_actions())
        policy.layers[-1].bias.fill_(9.0)
        seen = surface.observation(surface.reset())
        # A push in every direction ends at the limits.
        limit = surface.action_limit
        torch.testing.assert_close(
            policy(seen, t=0)[0], torch.minimum(surface.initial_actions()[0] + limit, limit)
        )
        policy.save(tmp_path / "policy.safetensors")
        again = MLPPolicy.load(tmp_path / "policy.safetensors")
        assert torch.equal(again(seen, t=1), policy(seen, t=1))
    with pytest.raises(InputError, match="the number t"):
        again(seen)


@pytest.mark.parametrize("method", ["apg", "shac", "ppo"])
def test_searches_run_and_resume(method, surface):
    if method == "ppo":
        pytest.importorskip("stable_baselines3")
    options = {"envs": 2, "hidden": (4,), "pool": 3, "validation": 1, "tests": 1, "window": 2}
    if method != "shac":
        options.pop("window")
    first = make_optimizer(surface, method, **options)
    first.iterate()
    second = make_optimizer(surface, method, **options)
    second.load_state_dict(first.state_dict())
    rows = [o.iterate() for o in (first, second)]
    assert rows[0].loss == rows[1].loss and math.isfinite(rows[0].loss)
    weights = [o.policy.state_dict() for o in (first, second)]
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())


@pytest.mark.slow
def test_training_in_worlds_pays_in_unseen_worlds():
    """Equal updates in the nominal world and in worlds; both are tested where neither was."""
    scene = {"order": 1, "cuts": 2, "horizon": 8, "tol": 1e-5}
    worlds = task_by_name(SURFACE, **scene, vary=0.3, varied=("gel", "friction"), standoff=4e-4)
    unseen, losses = starts(worlds, range(5_000_000, 5_000_006)), []
    # Scenes of the nominal world are alike: one has the gradient of six.
    for task, envs in ((task_by_name(SURFACE, **scene), 1), (worlds, 6)):
        search = make_optimizer(task, "apg", envs=envs, lr=3e-3)
        for _ in range(20):
            search.iterate()
        with torch.no_grad():
            losses.append(float(closed_loop(worlds, search.policy, unseen).losses.mean()))
    nominal, many = losses
    assert many < 0.2 * nominal, losses


def test_refusals():
    with pytest.raises(InputError, match="vary ≥ 0"):
        task_by_name(SURFACE, vary=-1.0)
    with pytest.raises(InputError, match="colour"):
        task_by_name(SURFACE, varied=("colour",), vary=0.1)
    with pytest.raises(InputError, match="standoff"):
        task_by_name(SURFACE, standoff=-1e-3)
    with pytest.raises(InputError, match="square"):
        task_by_name("tactile/grasp-elastic-nano", markers=8)
    with pytest.raises(InputError, match="markers ≥ 1"):
        task_by_name(SURFACE, markers=0)
    with pytest.raises(InputError, match="pool"):
        make_optimizer(task_by_name(SURFACE, **SMALL), "apg", pool=0)
    assert len(Worlds({}, {}, VARIED, 0.3)) == 0
