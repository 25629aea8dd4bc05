"""Identification of a gel sensor: gradients of residuals, recovery, what data can tell, refusals."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
import torch
from helpers import relative_error
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.shapes import Plane
from rheograd.sim.fem import FEMConfig
from rheograd.sim.tactile import GelSensor, dome
from rheograd.sim.tactile.camera import dome_camera
from rheograd.sim.tactile.lights import three_lights
from rheograd.sim.tactile.markers import fibonacci_markers
from rheograd.sim.tactile.optics import OpticalModel
from rheograd.tasks.tactile.bayes import bayesian_search
from rheograd.tasks.tactile.identifiability import identifiability
from rheograd.tasks.tactile.identify import Identified, identify
from rheograd.tasks.tactile.pictures import learned_pictures, lit_pictures
from rheograd.tasks.tactile.probe import Probe, Seen, dome_motions, dome_probe
from rheograd.tasks.tactile.residuals import Evaluation, Noise, Residuals

TRUTH = {"E": 1.2e5, "nu": 0.46, "stiffness": 1.2e4, "friction": 0.5}
GUESS = {"E": 2.2e5, "nu": 0.42, "stiffness": 3e4, "friction": 0.3}


@functools.lru_cache
def nano(**options):
    """A coarse dome that presses and slides in three steps."""
    sizes = {"press_steps": 2, "move_steps": 1, "markers": 24, "motions": (3,), "tol": 1e-9}
    return dome_probe(cuts=2, **(sizes | options))


@functools.lru_cache
def seen():
    return nano().observe(TRUTH)


@functools.lru_cache
def pictured():
    mesh = dome(cuts=2, layers=1)
    render = lit_pictures(mesh, dome_camera().scaled(0.05), three_lights())
    return nano(render=render)


def test_candidates_of_a_batch_are_independent():
    both = {k: torch.tensor([v, GUESS[k]]) for k, v in TRUTH.items()}
    found = nano().simulate(both)
    assert found.markers.shape == (2, 1, 3, 24, 2) and found.force.shape == (2, 1, 3, 3)
    for s, values in enumerate((TRUTH, GUESS)):
        alone = nano().observe(values)
        assert float((found.markers[s] - alone.markers).abs().max()) < 1e-5
        assert relative_error(found.force[s], alone.force) < 1e-6


@pytest.mark.parametrize("wrt", [*TRUTH, "gap"])
def test_residuals_have_exact_gradients(wrt):
    """Markers and forces of all steps, in every parameter."""
    probe = nano(tol=1e-11)
    residuals = Residuals(probe, probe.observe(TRUTH), GUESS | {"gap": 2.1e-4})
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(residuals.count, generator=generator, dtype=torch.float64)
    place = torch.tensor([residuals.names.index(wrt)])

    def f(p):
        u = torch.zeros(5, dtype=torch.float64).index_add(0, place, p[wrt])
        return (weight * residuals(u[None])[0]).mean()

    point, way = {wrt: torch.zeros(1).double()}, {wrt: torch.ones(1).double()}
    report = taylor_test(f, point, way, eps0=0.02, levels=3)
    assert report.passed(), report


def test_pictures_have_exact_gradients():
    """Through the rasterizer and the lights; small steps, so that no silhouette crosses a pixel."""
    probe = pictured()
    with torch.no_grad():
        weight = torch.linspace(-1, 1, probe.observe(TRUTH).pictures.numel()).double()

    def f(p):
        values = {
            k: v * p["scale"] if k in ("E", "nu", "friction") else v for k, v in TRUTH.items()
        }
        return 1e3 * (weight * probe.simulate(values).pictures.flatten()).mean()

    report = taylor_test(f, {"scale": torch.ones(1).double()}, wrt=["scale"], eps0=2e-3, levels=3)
    assert report.passed(), report


def test_pictures_of_a_learned_model():
    """The photograph without contact where nothing moved, and a gradient where something did."""
    mesh, camera = dome(cuts=2, layers=1), dome_camera().scaled(0.05)
    ground = torch.rand(24, 32, 3, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OpticalModel()
    render = learned_pictures(mesh, camera, model, ground)
    assert next(model.parameters()).dtype == torch.float32  # it is left as it was
    x = mesh.X[None].clone().requires_grad_()
    assert float((render(x)[0] - ground).detach().abs().max()) < 1e-12
    push = torch.zeros_like(x)
    push[0, mesh.X[:, 2].argmax(), 2] = -1e-3
    moved = render(x + push)
    assert moved.shape == (1, 24, 32, 3) and float((moved[0] - ground).detach().abs().max()) > 1e-5
    moved.square().sum().backward()
    assert x.grad is not None and float(x.grad.abs().max()) > 0


def test_differences_agree_with_the_backward_pass():
    residuals = Residuals(nano(), seen(), GUESS)
    u = torch.tensor([-0.1, 0.05, 0.0, 0.1]).double()
    J = residuals.jacobian(u, step=1e-4)
    with torch.no_grad():
        r = residuals(u[None])[0]
    loss, gradient = residuals.loss_and_gradient(u)
    assert loss == pytest.approx(float(r.square().sum()) / (2 * residuals.count), rel=1e-9)
    assert relative_error(J.mT @ r / residuals.count, gradient) < 1e-3
    assert residuals.simulations == 7 and residuals.gradients == 1
    assert len(residuals.history) == 7


def test_points_and_values_are_inverse():
    residuals = Residuals(nano(), seen(), GUESS, span=4.0)
    u = residuals.point(TRUTH)
    back = residuals.values(u[None])
    assert {k: float(v) for k, v in back.items()} == pytest.approx(TRUTH)
    assert float(residuals.point(GUESS).abs().max()) < 1e-12
    corner = residuals.values(torch.tensor([[1.0, 1.0, 1.0, 1.0]]))
    assert float(corner["E"]) == pytest.approx(4 * GUESS["E"]) and float(corner["nu"]) < 0.5
    slope = residuals.slopes(u)
    assert float(slope[0]) == pytest.approx(TRUTH["E"] * math.log(4.0))


def test_recovery_by_differences():
    """All four parameters within 5 % by one motion; quadratic at the end, as no noise is left."""
    found = identify(nano(), seen(), GUESS, budget=60, tol=1e-2)
    assert max(abs(v) for v in found.errors(TRUTH).values()) < 0.05, found.errors(TRUTH)
    reached = found.cost_to(TRUTH)
    assert reached is not None and reached.simulations <= found.simulations <= 60
    assert found.gradients == 0 and found.pixels < 0.02 * found.history[0].pixels


def test_recovery_by_gradients():
    """Through the rollouts, every evaluation with one backward pass."""
    names = ("E", "friction")
    known = {k: v for k, v in TRUTH.items() if k not in names}
    guess = {k: GUESS[k] for k in names}
    found = identify(nano(), seen(), guess, known=known, method="lbfgs", budget=60, tol=1e-2)
    assert max(abs(v) for v in found.errors(TRUTH).values()) < 0.05, found.errors(TRUTH)
    assert found.gradients == found.simulations == len(found.history) < 30


def test_recovery_from_noise_and_lost_markers():
    """The standard deviations that come with the result explain its errors."""
    noise = Noise(pixels=0.05, newtons=2e-3)
    data = seen().noisy(noise.pixels, noise.newtons, seed=3)
    lost = data.markers.clone()
    lost[:, 1:, 4] = math.nan
    data = dataclasses.replace(data, markers=lost)
    guess = {"E": 1.5e5, "friction": 0.4}
    known = {k: TRUTH[k] for k in ("nu", "stiffness")}
    found = identify(nano(), data, guess, known=known, noise=noise, tol=1e-2)
    assert found.certainty is not None and found.loss == pytest.approx(0.5, rel=0.25)
    for name, error in found.errors(TRUTH).items():
        assert abs(error) < 4 * found.certainty.deviation[name] < 0.2


def test_without_forces_and_inertia_only_a_ratio_is_told():
    """Positions at rest depend on E and the stiffness of contact by their ratio."""
    mesh = dome(cuts=2, layers=1)
    table = Collider(Plane(), name="table", friction=0.5)
    sensor = GelSensor(
        mesh, obstacles=[table], position=(0, 0, 15.2e-3), orientation=(0, 1, 0, 0), d_hat=2e-4,
        gravity=(0, 0, 0), config=FEMConfig(scheme="static", tol=1e-10),
    )  # fmt: skip
    twists = dome_motions(press_steps=2, move_steps=1, gap=2e-4)[3:]
    probe = Probe(sensor, twists, dome_camera(), fibonacci_markers(mesh.X, mesh.triangles, 24))
    values = {k: TRUTH[k] for k in ("E", "stiffness")}
    markers = identifiability(probe, values, use=("markers",))
    assert markers.deviation["E"] > 100 * markers.alone["E"]
    assert markers.weakest["E"] == pytest.approx(markers.weakest["stiffness"], rel=1e-2)
    both = identifiability(probe, values)
    assert both.deviation["E"] < 0.05 and "E" in both.told(0.1)


def test_the_height_at_the_start_can_be_found():
    """20 µm more than assumed: unknown, it is found with the rest; taken for known, E pays for it."""
    truth = {"E": 1.2e5, "gap": 2.2e-4}
    data = nano().observe(truth)
    found = identify(nano(), data, {"E": 1.6e5, "gap": 1.8e-4}, budget=40, tol=1e-2)
    assert max(abs(v) for v in found.errors(truth).values()) < 1e-3, found.errors(truth)
    assert found.certainty is not None and found.certainty.deviation["gap"] < 0.05
    wrong = identify(nano(), data, {"E": 1.6e5}, budget=40, tol=1e-2)
    assert abs(wrong.errors({"E": 1.2e5})["E"]) > 0.02 and wrong.loss > 10 * found.loss


def test_sampling_counts_what_it_simulates():
    pytest.importorskip("cma")
    guess = {k: GUESS[k] for k in ("E", "friction")}
    for method, budget in (("cma", 13), ("bayes", 11)):
        found = identify(nano(), seen(), guess, method=method, budget=budget)
        assert found.simulations == len(found.history) <= budget and found.gradients == 0
        assert found.loss < found.history[0].loss


def test_the_process_beats_random_points():
    """A valley in four dimensions, in as many evaluations as an expensive simulation allows."""
    goal = torch.tensor([0.3, -0.2, 0.5, -0.4]).double()
    found = []

    def losses(u):
        new = ((u - goal) * torch.tensor([3.0, 1.0, 1.0, 0.3])).square().sum(1).tolist()
        new = [math.inf if row[0] > 0.95 else v for v, row in zip(new, u.tolist(), strict=True)]
        found.extend(new)
        return new

    bayesian_search(losses, 4, 40, seed=1)
    assert len(found) == 40
    assert min(found) < 0.02 * min(found[:10])


def test_candidates_that_break_are_the_worst(monkeypatch):
    probe = nano()
    whole = Probe.simulate

    def simulate(self, values):
        if float(values["E"].max()) > 4e5:
            raise StateError("too stiff")
        return whole(self, values)

    monkeypatch.setattr(Probe, "simulate", simulate)
    residuals = Residuals(probe, seen(), {"E": 2.2e5, "friction": 0.3})
    losses = residuals.losses(torch.tensor([[0.0, 0.0], [0.9, 0.0], [-0.1, 0.1]]))
    assert losses[1] == math.inf and math.isfinite(losses[0]) and math.isfinite(losses[2])
    # Those of a launch that broke were simulated twice, and are counted twice.
    assert residuals.simulations == 6 and [r.loss for r in residuals.history] == losses


def test_cost_to_wants_to_stay_there():
    def row(n, loss, E):
        return Evaluation(n, n, loss, loss, 0.0, {"E": E, "nu": 0.4})

    history = (
        row(1, 5.0, 1.01),
        row(2, 3.0, 2.0),
        row(3, 4.0, 1.0),
        row(4, 1.0, 1.04),
        row(5, 0.5, 1.0),
    )
    found = Identified({"E": 1.0}, 0.5, 0.5, 0.0, 5, 5, 0.0, 0.0, "", history)
    assert found.cost_to({"E": 1.0}).simulations == 4
    assert found.cost_to({"E": 1.0}, 0.01).simulations == 5
    assert found.cost_to({"E": 3.0}) is None
    assert found.cost_of_pixels(3.0).simulations == 2


def test_refusals():
    probe, data = nano(), seen()
    with pytest.raises(InputError, match="parameters out of"):
        identify(probe, data, {"young": 1e5})
    with pytest.raises(InputError, match="parameters out of"):
        probe.simulate({"young": 1e5})
    with pytest.raises(InputError, match=r"nu < 0\.5"):
        identify(probe, data, {"nu": 0.6})
    with pytest.raises(InputError, match="either known or to find"):
        identify(probe, data, GUESS, known={"E": 1e5})
    with pytest.raises(InputError, match="use out of"):
        identify(probe, data, GUESS, use=("sound",))
    with pytest.raises(InputError, match="pictures to compare with"):
        identify(probe, data, GUESS, use=("pictures",))
    with pytest.raises(InputError, match="a method out of"):
        identify(probe, data, GUESS, method="guess")
    with pytest.raises(InputError, match="force of shape"):
        identify(probe, Seen(data.markers, data.force[:, :2]), GUESS)
    with pytest.raises(InputError, match="more data than parameters"):
        nothing = Seen(data.markers * math.nan, data.force * math.nan)
        identify(probe, nothing, GUESS)
    with pytest.raises(InputError, match="twists of shape"):
        Probe(probe.sensor, torch.zeros(3, 6), probe.camera, probe.markers)
    with pytest.raises(InputError, match="pictured"):
        Probe(
            probe.sensor,
            probe.twists,
            probe.camera,
            probe.markers,
            render=lambda x: x,
            pictured=(4,),
        )
    with pytest.raises(InputError, match="one length"):
        probe.simulate({"E": torch.ones(2), "nu": torch.ones(3)})
