"""The checkers must accept right gradients and refuse wrong ones."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from rheograd.sim.core.errors import InputError, StateError, check_finite
from rheograd.sim.core.gradients import (
    check_backward_twice,
    fd_check,
    gradient_report,
    taylor_test,
)
from rheograd.sim.core.trees import flatten


@dataclasses.dataclass
class Body:
    x: torch.Tensor
    params: dict
    name: str = "jelly"


def body(dtype=torch.float64):
    x = torch.linspace(0.1, 1.0, 6, dtype=dtype)
    return Body(x, {"E": torch.tensor(2.0, dtype=dtype), "count": torch.tensor(3)})


def energy(b: Body) -> torch.Tensor:
    return (b.params["E"] * b.x.sin() ** 2).sum() ** 2 * b.params["count"]


class WrongSquare(torch.autograd.Function):
    """x² with a derivative that is one percent off."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        return g * 2.02 * ctx.saved_tensors[0]


def test_flatten_rebuilds_every_kind_of_tree():
    tree = (body(), [torch.ones(2), None], {"a": {"b": torch.zeros(1)}, "n": 4})
    tensors, rebuild = flatten(tree)
    assert list(tensors) == ["0.x", "0.params.E", "0.params.count", "1.0", "2.a.b"]
    again = rebuild([t + 1 for t in tensors.values()])
    assert torch.equal(again[0].x, tree[0].x + 1) and again[0].name == "jelly"
    assert again[1][1] is None and again[2]["n"] == 4 and float(again[2]["a"]["b"]) == 1.0


def test_taylor_rates_of_right_gradient_and_hessian():
    first, second = taylor_test(energy, body()), taylor_test(energy, body(), order=2)
    assert first.passed() and abs(first.rate - 2) < 0.1
    assert second.passed() and abs(second.rate - 3) < 0.1


def test_taylor_refuses_wrong_gradient():
    report = taylor_test(lambda x: WrongSquare.apply(x).sum(), body().x)
    assert not report.passed() and report.rate < 1.5


def test_taylor_is_exact_for_linear_and_blind_for_constant():
    linear = taylor_test(lambda x: 3 * x.sum(), body().x)
    assert linear.exact and math.isinf(linear.rate) and linear.passed()
    constant = taylor_test(lambda x: (0 * x).sum() + 1, body().x)
    assert constant.blind and not constant.passed()


def test_taylor_refuses_a_gradient_lost_to_detach():
    report = taylor_test(lambda x: (x.detach() ** 2).sum() + 0 * x.sum(), body().x)
    assert not report.passed()


def test_wrt_selects_leaves_and_unknown_paths_raise():
    wrong_in_x = lambda b: WrongSquare.apply(b.x).sum() * b.params["E"] ** 2  # noqa: E731
    assert taylor_test(wrong_in_x, body(), wrt=["params.E"]).passed()
    assert not taylor_test(wrong_in_x, body(), wrt=["x"]).passed()
    with pytest.raises(InputError, match="params.nu"):
        taylor_test(energy, body(), wrt=["params.nu"])
    with pytest.raises(InputError, match="scalar"):
        taylor_test(lambda x: x, body().x)


def test_fd_check_float32_and_float64():
    assert max(fd_check(energy, body()).relative_errors) < 1e-6
    single = fd_check(energy, body(torch.float32))
    assert single.passed() and single.cosine > 0.999
    wrong = fd_check(lambda x: WrongSquare.apply(x).sum(), body().x)
    assert not wrong.passed()
    assert sorted(wrong.relative_errors)[10] == pytest.approx(0.02 / 2.02, rel=1e-3)


def test_fd_check_failures():
    assert fd_check(lambda x: (x - 1).log().sum(), body().x).failure == "nan"
    assert fd_check(lambda x: 0 * x.sum(), body().x).failure == "zero"


def test_backward_twice_finds_consumed_buffers_and_written_inputs():
    assert check_backward_twice(energy, body()).passed()

    class Accumulates(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.buffer = torch.zeros_like(x)
            return x.sum()

        @staticmethod
        def backward(ctx, g):
            ctx.buffer += g
            return ctx.buffer

    assert check_backward_twice(Accumulates.apply, body().x).same_graph == 1.0

    def writes(x):
        with torch.no_grad():
            x.mul_(1.5)
        return x.sum()

    assert not check_backward_twice(writes, body().x).inputs_kept


def test_report_is_json_and_classifies_failures():
    report = json.loads(json.dumps(gradient_report(energy, body())))
    assert report["failure"] == "ok" and set(report["inputs"]) == {"x", "params.E"}
    assert report["inputs"]["x"]["cosine"] > 1 - 1e-9
    expected = math.hypot(*(entry["gradient_norm"] for entry in report["inputs"].values()))
    assert report["gradient_norm"] == pytest.approx(expected)
    assert gradient_report(energy, body(), time_limit=0.0)["failure"] == "timeout"
    assert gradient_report(lambda b: b.nothing, body())["failure"].startswith("error: Attribute")
    assert gradient_report(lambda x: (x - 1).log().sum(), body().x)["failure"] == "nan"
    # 8e17 bytes exceed any address space
    huge = gradient_report(lambda x: torch.empty(10**17) * x.sum(), body().x)
    assert huge["failure"] == "oom"


def test_check_finite_names_step_and_field():
    with pytest.raises(StateError, match="finite v at step 7") as caught:
        check_finite("rollout", step=7, x=torch.ones(2), v=torch.tensor([1.0, math.nan]))
    assert caught.value.step == 7 and caught.value.field == "v"
