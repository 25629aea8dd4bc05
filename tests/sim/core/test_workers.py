"""Shards that run stages together: order, many at once, failures."""

from __future__ import annotations

import threading

import pytest
from rheograd.sim.core.backend import Workers


def run_in_time(task, seconds=20.0):
    """Run in a thread that a hang does not keep the test waiting for."""
    thread = threading.Thread(target=task, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "the shards wait for each other for ever"


@pytest.mark.parametrize("count", [1, 2, 40])
def test_a_stage_begins_when_the_one_before_ended_everywhere(count):
    done = [0] * count
    seen = []

    def stage(number):
        def task(shard):
            seen.append(min(done) >= number)
            done[shard] += 1

        return task

    run_in_time(lambda: Workers(count).run(*(stage(k) for k in range(5))))
    assert done == [5] * count and len(seen) == 5 * count and all(seen)


def test_many_callers_at_once_all_end():
    total = []

    def caller():
        counts = [0] * 8

        def stage(shard):
            counts[shard] += 1

        for _ in range(5):
            Workers(8).run(stage, stage, stage)
        total.append(sum(counts))

    def all_of_them():
        threads = [threading.Thread(target=caller, daemon=True) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run_in_time(all_of_them, 30.0)
    assert total == [8 * 15] * 12


@pytest.mark.parametrize("guilty", [0, 2])
def test_a_failure_ends_all_shards_and_is_raised(guilty):
    later = []

    def fails(shard):
        if shard == guilty:
            raise ValueError("bad shard")

    def task():
        with pytest.raises(ValueError, match="bad shard"):
            Workers(4).run(fails, later.append)

    run_in_time(task)
    assert not later
