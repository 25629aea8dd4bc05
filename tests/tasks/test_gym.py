"""The Gymnasium adapter, checked by Gymnasium itself."""

from __future__ import annotations

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402
from rheograd.sim.core.errors import InputError  # noqa: E402
from rheograd.tasks.gym import TaskEnv, TaskVectorEnv  # noqa: E402

NANO = {"horizon": 3, "substeps": 4, "agitation": 0.05}


@pytest.mark.filterwarnings("ignore:.*infinity.*")  # observations are physical and unbounded
def test_environment_passes_the_checker():
    env = TaskEnv("fluid/gathering-nano", **NANO)
    check_env(env, skip_render_check=True)
    assert gymnasium.wrappers.RescaleAction(env, -1.0, 1.0).reset(seed=0)[0].dtype == np.float32


def test_an_episode_ends_at_the_horizon():
    env = TaskEnv("fluid/gathering-nano", **NANO)
    with pytest.raises(InputError, match="reset"):
        env.step(np.zeros(1))
    env.reset(seed=1)
    for t in range(3):
        observed, reward, terminated, truncated, info = env.step(np.array([0.5]))
        assert env.observation_space.contains(observed)
        assert not terminated and truncated == (t == 2)
    assert reward < 0 and {"distance", "is_success"} <= set(info)


def test_many_scenes_equal_single_ones():
    many, one = TaskVectorEnv("fluid/gathering-nano", 2, **NANO), TaskEnv("fluid/gathering-nano", **NANO)
    together, _ = many.reset(seed=[5, 6])
    one.state, one.t = one.task.reset(seed=6), 0
    np.testing.assert_allclose(together[1], one._observe(one.state), rtol=1e-5, atol=1e-6)
    for _ in range(3):
        together, rewards, _, ended, info = many.step(np.full((2, 1), 0.5, np.float32))
        alone, reward, _, truncated, _ = one.step(np.array([0.5], np.float32))
    # Float32 over 12 substeps, in another order of summation.
    np.testing.assert_allclose(together[1], alone, rtol=1e-3, atol=1e-4)
    assert rewards[1] == pytest.approx(reward, rel=1e-3)
    assert ended.all() and truncated and info["distance"].shape == (2,)
    _, rewards, _, ended, _ = many.step(np.zeros((2, 1), np.float32))
    assert not ended.any() and (rewards == 0).all() and many.t == 0
