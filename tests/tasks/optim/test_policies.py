"""Closed-loop policies: the loop is differentiable, the searches learn, starts are unseen."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.core.gradients import taylor_test
from rheograd.tasks.optim import Budget, MLPPolicy, closed_loop, make_optimizer, optimize
from rheograd.tasks.optim.policy import Normalizer, starts
from rheograd.tasks.optim.policy_search import TEST_SEEDS, VALIDATION_SEEDS
from rheograd.tasks.optim.shac import td_lambda
from toy_tasks import Cart, CartConfig

TESTS = 4


@pytest.fixture(scope="module")
def best():
    """Mean loss over the test starts if each is planned by itself: no policy can be better."""
    losses = []
    for k in range(TESTS):

        class FromSeed(Cart):
            seed = TEST_SEEDS + k

            def reset(self, *, seed=0, **options):
                return super().reset(seed=self.seed, **options)

        plan = optimize(
            FromSeed(), "lbfgs", budget=Budget(iterations=120), patience=20, progress=1e-4
        )
        losses.append(plan.loss)
    return sum(losses) / TESTS


@pytest.fixture(scope="module")
def rest():
    """Mean loss over the test starts without any action."""
    task = Cart()
    state = starts(task, [TEST_SEEDS + k for k in range(TESTS)])
    return float(task.evaluate(torch.zeros(TESTS, 30, 1), state=state)[0].mean())


@pytest.mark.parametrize(
    ("method", "steps", "excess", "options"),
    [
        ("apg", 30_000, 1.1, {}),
        ("shac", 30_000, 1.15, {"critic_updates": 4}),
        ("ppo", 16_000, 1.1, {"envs": 16, "lr": 5e-3, "batches": 2, "steps": 15}),
        pytest.param(
            "sac",
            12_000,
            1.9,
            {"envs": 16, "lr": 5e-3, "updates": 2, "validation": 2},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_policy_learns_to_stop_the_cart(method, steps, excess, options, best, rest):
    """Closed loop from starts it has not seen, against the best plan for each of these starts."""
    if method in ("ppo", "sac"):
        pytest.importorskip("stable_baselines3")
    result = optimize(
        Cart(), method, budget=Budget(simulator_steps=steps), seed=1, tests=TESTS, hidden=(32,),
        **options,
    )  # fmt: skip
    loss = result.unseen["loss"]
    assert best * (1 - 1e-4) <= loss <= excess * best < 0.3 * rest
    assert result.unseen["count"] == TESTS
    if method != "sac":  # the least patient budget of all, for its wall time
        assert result.unseen["success"] == 1.0
    assert result.steps_used <= steps
    # What the policy does from the usual start is what is handed back as actions.
    with torch.no_grad():
        again = closed_loop(Cart(), result.policy)
    torch.testing.assert_close(again.actions[:, 0], result.actions)


def test_gradient_through_the_closed_loop():
    task = Cart(CartConfig(horizon=6))
    policy = MLPPolicy(2, task.action_limit, (5,), seed=2).double()
    policy.normalizer.update(torch.randn(50, 2, dtype=torch.float64))
    start = starts(task, [1, 2, 3]).to(torch.float64)
    names = [n for n, _ in policy.named_parameters()]
    values = {**dict(policy.named_parameters()), **dict(policy.named_buffers())}
    sizes = [values[n].numel() for n in names]

    def loss(flat):
        parts = flat.split(sizes)
        new = {n: p.reshape(values[n].shape) for n, p in zip(names, parts, strict=True)}

        def acting(observed):
            return torch.func.functional_call(policy, {**values, **new}, (observed,))

        return closed_loop(task, acting, start).losses.mean()

    flat = torch.cat([values[n].detach().flatten() for n in names])
    flat = flat + 0.3 * torch.randn(
        flat.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    report = taylor_test(loss, flat)
    assert report.passed(), report


def test_td_lambda_is_the_mixture_of_n_step_returns():
    """R_0 = (1 − λ) Σ_{n < h} λ^{n−1} G_n + λ^{h−1} G_h, G_n = Σ_{k<n} γᵏ r_k + γⁿ V_n."""
    generator = torch.Generator().manual_seed(4)
    rewards = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    values = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    gamma, lam = 0.9, 0.7
    for t in range(5):
        h = 5 - t
        returns = [
            sum(gamma**k * rewards[t + k] for k in range(n)) + gamma**n * values[t + n]
            for n in range(1, h + 1)
        ]
        mixed = sum((1 - lam) * lam ** (n - 1) * returns[n - 1] for n in range(1, h))
        mixed = mixed + lam ** (h - 1) * returns[-1]
        torch.testing.assert_close(td_lambda(rewards, values, gamma, lam)[t], mixed)


def test_the_normalizer_knows_mean_and_variance():
    generator = torch.Generator().manual_seed(5)
    data = torch.randn(90, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.0]) + 4.0
    normalizer = Normalizer(3)
    assert torch.equal(normalizer(data), data)  # nothing seen, nothing changed
    for part in data.split(20):
        normalizer.update(part)
    unit = normalizer(data)
    torch.testing.assert_close(unit.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(unit[:, :2].var(0, unbiased=False), torch.ones(2), atol=1e-3, rtol=0)
    assert float(unit.abs().max()) <= 10 and float(unit[:, 2].abs().max()) < 1e-2


def test_a_policy_is_saved_and_stays_within_the_limits(tmp_path):
    policy = MLPPolicy(4, torch.tensor([0.5, 2.0]), (7,), seed=3)
    observed = 100 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    policy.normalizer.update(observed)
    with torch.no_grad():
        policy.layers[-1].weight *= 1e4
        actions = policy(observed)
        assert bool((actions.abs() <= torch.tensor([0.5, 2.0])).all())
        policy.save(tmp_path / "policy.safetensors")
        assert torch.equal(MLPPolicy.load(tmp_path / "policy.safetensors")(observed), actions)
    same, other = MLPPolicy(4, torch.ones(2), seed=3), MLPPolicy(4, torch.ones(2), seed=4)
    assert not torch.equal(same.layers[0].weight, other.layers[0].weight)


@pytest.mark.parametrize("method", ["ppo", "sac"])
def test_what_reinforcement_learns_needs_no_library_afterwards(method, tmp_path):
    """The exported network acts as the library's own; it is saved and loaded without it."""
    pytest.importorskip("stable_baselines3")
    options = {"steps": 5, "hidden": (6, 5), "evaluate_every": 50}
    optimizer = make_optimizer(Cart(CartConfig(horizon=5)), method, **options)
    for _ in range(3):
        optimizer.iterate()
    policy = optimizer.result().policy
    assert type(policy) is MLPPolicy
    observed = 3 * torch.randn(50, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(policy(observed), optimizer.policy(observed))
        assert float(policy.normalizer.count) == 3 * 5 * 8
        policy.save(tmp_path / "policy.safetensors")
        again = MLPPolicy.load(tmp_path / "policy.safetensors")
        assert torch.equal(again(observed), policy(observed))


def test_seeds_of_training_validation_and_tests_are_apart():
    seen = []

    class Noted(Cart):
        def reset(self, *, seed=0, **options):
            seen.append(seed)
            return super().reset(seed=seed, **options)

    optimizer = make_optimizer(Noted(CartConfig(horizon=4)), "apg", evaluate_every=2)
    seen.clear()
    for _ in range(4):
        optimizer.iterate()
    training = [s for s in seen if s < VALIDATION_SEEDS]
    validation = {s for s in seen if VALIDATION_SEEDS <= s < TEST_SEEDS}
    assert len(set(training)) == 4 * 8 and max(training) < 1_000_000
    assert len(validation) == 4 and not any(s >= TEST_SEEDS for s in seen)
    seen.clear()
    optimizer.result()
    assert sum(s >= TEST_SEEDS for s in seen) == 8


def test_windows_go_on_where_the_last_one_ended():
    task = Cart(CartConfig(horizon=10))
    optimizer = make_optimizer(task, "shac", window=4, envs=3)
    lengths = []
    for _ in range(6):
        cost, before = optimizer.training_cost(), optimizer.steps
        lengths.append(optimizer.iterate().horizon)
        assert optimizer.steps - before == cost
    assert lengths == [4, 4, 2, 4, 4, 2] and optimizer.t == 0 and optimizer.state is None


def test_an_update_that_breaks_the_simulation_is_taken_back():
    class Fragile(Cart):
        broken = False

        def move(self, state, action):
            if self.broken:
                raise StateError("a test broke it")
            return super().move(state, action)

    task = Fragile(CartConfig(horizon=4))
    optimizer = make_optimizer(task, "apg", evaluate_every=1, lr=0.01)
    optimizer.iterate()
    best = {k: v.clone() for k, v in optimizer.best_weights.items()}
    task.broken = True
    assert optimizer.iterate().loss == float("inf")
    for name, value in optimizer.policy.state_dict().items():
        assert torch.equal(value, best[name])
    assert optimizer.adam.param_groups[0]["lr"] == 0.005
    fresh = Fragile(CartConfig(horizon=4))
    fresh.broken = True
    with pytest.raises(StateError):
        make_optimizer(fresh, "apg").iterate()


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    from rheograd.tasks.optim import rl_env

    rl_env._vector_env_class.cache_clear()
    for method in ("ppo", "sac"):
        with pytest.raises(ImportError, match=r'pip install "rheograd\[rl\]"'):
            make_optimizer(Cart(), method)
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ImportError, match=r'pip install "rheograd\[opt\]"'):
        make_optimizer(Cart(), "cma")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("apg", {"window": 0}),
        ("apg", {"envs": 0}),
        ("apg", {"clip": 0.0}),
        ("shac", {"gamma": 1.5}),
        ("shac", {"critic_batches": 0}),
        ("ppo", {"steps": 0}),
        ("ppo", {"batches": 0}),
        ("sac", {"buffer": 0}),
    ],
)
def test_impossible_settings_are_refused(method, options):
    if method in ("ppo", "sac"):
        pytest.importorskip("stable_baselines3")
    with pytest.raises(InputError, match="; got"):
        make_optimizer(Cart(), method, **options)


def test_settings_can_be_changed_one_by_one():
    from rheograd.tasks.optim import APGConfig

    base = APGConfig(envs=2)
    optimizer = make_optimizer(Cart(), "apg", config=base, lr=0.5)
    assert optimizer.config == dataclasses.replace(base, lr=0.5)
