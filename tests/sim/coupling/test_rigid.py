"""Rigid bodies in the implicit solver: inertia, rolling, sliding, joints, derivatives, errors."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.colliders_rigid import RigidBody, mass_properties
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.rollout import rollout
from rheograd.sim.core.shapes import Box, Capsule, Plane, Sphere
from rheograd.sim.coupling import (
    AffineBody,
    Joint,
    RigidContact,
    body_samples,
    point_samples,
    surface_samples,
)
from rheograd.sim.fem import FEMConfig, FEMControl, FEMModel, Handle, Solid, SolverFEM
from rheograd.sim.fem.contact import boundary_triangles
from rheograd.sim.fem.meshes import box
from rheograd.sim.fem.terms import StepInput

G = 9.81
FLOOR = Collider(Plane(), name="floor")


def affine(shape, first=0, rho=1000.0, name="body", **options):
    return AffineBody(RigidBody(shape, rho=rho, name=name, **options), first)


def test_four_points_have_the_inertia_of_the_body():
    shape = Capsule(0.01, 0.02)
    body = affine(shape, position=(0.1, 0.2, 0.3), orientation=(0.5, 0.5, 0.5, 0.5))
    found = mass_properties(shape)
    r = body.Y
    quarter = body.mass / 4
    moment = quarter * (r.square().sum() * torch.eye(3) - r.mT @ r)
    assert body.mass == pytest.approx(1000 * found.volume)
    torch.testing.assert_close(moment, torch.from_numpy(1000 * found.moment))
    state = FEMModel(body.X, [body.part]).initial_state(2)
    pose = torch.tensor([0.1, 0.2, 0.3, 0.5, 0.5, 0.5, 0.5]).double()
    torch.testing.assert_close(body.pose(state.x), pose.expand(2, 7))
    mass = SolverFEM(FEMModel(body.X, [body.part])).prepare({}, state).mass
    torch.testing.assert_close(mass, torch.full((1, 4), quarter).double())


def test_free_rotation_keeps_angular_momentum_and_energy_to_the_order_of_the_scheme():
    """A spinning box (Euler's top): second order of BDF2 in both, and F stays a rotation."""
    body = affine(Box((0.01, 0.02, 0.005)), angular_velocity=(3.0, 10.0, 1.0))
    model = FEMModel(body.X, [body.part], gravity=(0, 0, 0))
    losses = []
    for dt in (2e-3, 1e-3):
        solver = SolverFEM(model, FEMConfig(dt=dt, scheme="bdf2", tol=1e-9))
        state = body.start(model.initial_state())

        def momentum(s):
            return torch.linalg.cross(s.x - s.x.mean(1, keepdim=True), s.v).sum((0, 1))

        first = momentum(state)
        for _ in range(round(0.1 / dt)):
            state = solver.step(state)
        losses.append(float((momentum(state) - first).norm() / first.norm()))
        stretch = body.deformation(state.x)
        assert float((stretch.mT @ stretch - torch.eye(3)).abs().max()) < 1e-5
    assert losses[0] < 2e-3
    assert losses[1] < losses[0] / 3


def test_a_ball_at_rest_is_carried_by_the_floor():
    ball = affine(Sphere(0.01), rho=2000.0, name="ball", position=(0, 0, 0.0108))
    contact = RigidContact([body_samples(ball, 2e-3)], [FLOOR], d_hat=1e-3, stiffness=1e6)
    model = FEMModel(ball.X, [ball.part], contacts=[contact])
    solver = SolverFEM(model, FEMConfig(dt=4e-3))
    state = ball.start(model.initial_state())
    for _ in range(30):
        before, state = state, solver.step(state)
    force = contact.forces(state, before, 4e-3)["ball", "floor"].sum(1)[0]
    torch.testing.assert_close(
        force, torch.tensor([0, 0, ball.mass * G]).double(), atol=1e-5, rtol=0
    )
    assert 0.01 < float(ball.pose(state.x)[0, 2]) < 0.011


@pytest.mark.parametrize("mu, share", [(0.5, 5 / 7), (0.02, 1 - 0.02 / math.tan(0.2))])
def test_a_ball_rolls_or_slips_down_an_incline(mu, share):
    """a = 5/7 g sin θ while it rolls, g (sin θ − μ cos θ) while it slips; 1 % at BDF2 and 2 ms."""
    tilt = 0.2
    ball = affine(Sphere(0.01), rho=2000.0, name="ball", position=(0, 0, 0.01094))
    contact = RigidContact(
        [body_samples(ball, 2e-3)], [FLOOR], d_hat=1e-3, stiffness=1e6, friction=mu
    )
    gravity = (G * math.sin(tilt), 0, -G * math.cos(tilt))
    model = FEMModel(ball.X, [ball.part], contacts=[contact], gravity=gravity)
    solver = SolverFEM(model, FEMConfig(dt=2e-3, scheme="bdf2"))
    state = ball.start(model.initial_state())
    for step in range(40):
        state = solver.step(state)
        if step == 9:
            first = float(ball.twist(state)[0, 0])
    twist = ball.twist(state)[0]
    acceleration = (float(twist[0]) - first) / (30 * 2e-3)
    assert acceleration == pytest.approx(share * G * math.sin(tilt), rel=0.01)
    if mu == 0.5:
        assert float(twist[0] / twist[4]) == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_a_block_on_an_incline_sticks_and_slides_at_the_angle_of_friction(factor):
    mu = 0.4
    tilt = math.atan(mu) * factor
    block = affine(Box((0.01, 0.01, 0.004)), name="block", position=(0, 0, 0.00495))
    contact = RigidContact(
        [body_samples(block, 4e-3)], [FLOOR], d_hat=1e-3, stiffness=1e4, friction=mu
    )
    gravity = (G * math.sin(tilt), 0, -G * math.cos(tilt))
    model = FEMModel(block.X, [block.part], contacts=[contact], gravity=gravity)
    solver = SolverFEM(model, FEMConfig(dt=5e-3))
    state = block.start(model.initial_state())
    for _ in range(40):
        state = solver.step(state)
    speed = float(block.twist(state)[0, 0])
    if factor < 1:
        assert speed < 1.1e-3  # creeps below eps_v
    else:
        excess = G * (math.sin(tilt) - mu * math.cos(tilt))
        # It falls into its gap first, and 3 % of the angle make the force; hence the wide bound.
        assert speed == pytest.approx(excess * 0.2, rel=0.25)
        assert speed > 1e-2


def test_what_sticks_creeps_less_than_a_tenth_of_a_millimetre_in_a_second():
    """At half the angle of friction; creep is in proportion to eps_v, which is a tenth of the default."""
    tilt = math.atan(0.4) / 2
    block = affine(Box((0.01, 0.01, 0.004)), name="block", position=(0, 0, 0.00495))
    contact = RigidContact(
        [body_samples(block, 4e-3)], [FLOOR], d_hat=1e-3, stiffness=1e4, friction=0.4, eps_v=1e-4
    )
    gravity = (G * math.sin(tilt), 0, -G * math.cos(tilt))
    model = FEMModel(block.X, [block.part], contacts=[contact], gravity=gravity)
    solver = SolverFEM(model, FEMConfig(dt=2e-2))
    state, places = block.start(model.initial_state()), []
    for _ in range(60):  # 0.2 s to settle, then a second
        state = solver.step(state)
        places.append(float(block.pose(state.x)[0, 0]))
    assert 1e-6 < places[-1] - places[9] < 1e-4


def test_a_hinge_swings_as_a_physical_pendulum():
    """T = 2π √((I + m l²)/(m g l)) (1 + θ₀²/16); anchors stay together; the angle is read off."""
    bar = affine(Box((0.002, 0.004, 0.05)), name="bar", position=(0, 0, -0.05))
    joint = Joint.hinge("hinge", bar, None, (0, 0, 0), (0, 1, 0), 0.01)
    model = FEMModel(bar.X, [bar.part], contacts=[joint])
    dt = 2e-3
    solver = SolverFEM(model, FEMConfig(dt=dt, scheme="bdf2"))
    state = bar.start(model.initial_state())
    angle = torch.tensor(0.2).double()
    turn = torch.stack((angle.div(2).cos(), 0 * angle, angle.div(2).sin(), 0 * angle))
    place = torch.stack((-0.05 * angle.sin(), 0 * angle, -0.05 * angle.cos()))
    x = bar.points_at(torch.cat((place, turn)))[None]
    state = state.replace(x=x, x_prev=x.clone())
    angles = [float(joint.angle(state.x))]
    assert angles[0] == pytest.approx(0.2, abs=1e-6)
    while len(angles) < 400 and not (len(angles) > 20 and angles[-1] > 0 >= angles[-2]):
        state = solver.step(state)
        angles.append(float(joint.angle(state.x)))
    last = len(angles) - 2 + angles[-2] / (angles[-2] - angles[-1])
    measured = last * dt * 4 / 3  # from rest through −θ and back to zero: three quarters
    moment = (0.1**2 + 0.004**2) / 12 + 0.05**2
    exact = 2 * math.pi * math.sqrt(moment / (G * 0.05)) * (1 + 0.2**2 / 16)
    assert measured == pytest.approx(exact, rel=5e-3)


def gel_on_ball(friction=0.4, dt=2e-3, tol=1e-10):
    """A gel, held at its top, above a ball on a floor."""
    X, tets = box((3, 3, 2), (0.012, 0.012, 0.006))
    X = X - X.mean(0) + torch.tensor([0.0, 0.0, 0.0135])
    ball = affine(Sphere(0.005), len(X), rho=2000.0, name="ball", position=(1e-3, 0, 0.0053))
    top = (X[:, 2] > X[:, 2].max() - 1e-9).nonzero()[:, 0]
    below = torch.as_tensor(boundary_triangles(tets))
    below = below[(X[below][..., 2] < X[:, 2].min() + 1e-9).all(1)]
    gel = Solid(name="gel", cells=tets, E=2e4, nu=0.3, rho=1000.0)
    contact = RigidContact(
        [surface_samples("skin", X, below), body_samples(ball, 2e-3)],
        [ball, FLOOR],
        d_hat=5e-4,
        stiffness=1e5,
        friction=friction,
        ignore=[("skin", "floor")],
    )
    place = tuple(X[top].mean(0).tolist())
    model = FEMModel(
        torch.cat((X, ball.X)),
        [gel, ball.part],
        handles=[Handle("mount", top, position=place)],
        contacts=[contact],
    )
    return model, SolverFEM(model, FEMConfig(dt=dt, tol=tol)), ball, contact


@pytest.fixture(scope="module")
def pressed():
    """The gel scene after it has touched the ball."""
    model, solver, ball, contact = gel_on_ball()
    state = ball.start(model.initial_state())
    twist = torch.tensor([[[0.0, 0, -0.1, 0, 0, 0]]]).double()
    for _ in range(6):
        state = solver.step(state, FEMControl(twist))
    return model, solver, ball, contact, state


def test_forces_between_gel_and_ball_cancel_and_carry_it(pressed):
    model, solver, ball, contact, state = pressed
    twist = torch.tensor([[[0.02, 0, -0.02, 0, 0, 0]]]).double()
    before, state = state, solver.step(state, FEMControl(twist))
    forces = contact.forces(state, before, 2e-3)
    skin = forces["skin", "ball"].sum(1)[0]
    floor = forces["ball", "floor"].sum(1)[0]
    assert float(skin[2]) > 0.05 and float(skin[0]) < -1e-3
    # Newton's law of the ball closes the balance.
    rows = slice(ball.first, ball.first + 4)
    change = 0.25 * ball.mass * (state.v - before.v)[0, rows].sum(0) / 2e-3
    weight = torch.tensor([0, 0, -ball.mass * G]).double()
    torch.testing.assert_close(change, floor - skin + weight, atol=1e-6, rtol=0)


def test_energy_gradient_and_hessian_agree(pressed):
    model, _, ball, contact, state = pressed
    generator = torch.Generator().manual_seed(0)
    x = state.x.detach()
    noise = 1e-5 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    pose = state.pose
    params = {k: torch.full((1,), float(v)).double() for k, v in contact.default_params().items()}
    term = contact.term(params, StepInput(x - 3 * noise, x - 3 * noise, pose, pose, 2e-3))
    flat = x.reshape(-1, 3)

    def full(stencil, local):
        out = flat.new_zeros(flat.numel(), flat.numel())
        place = (3 * stencil[..., None] + torch.arange(3)).flatten(1)
        rows, columns = place[:, :, None].expand_as(local), place[:, None].expand_as(local)
        return out.index_put((rows, columns), local, accumulate=True)

    direction = torch.randn(flat.shape, generator=generator, dtype=x.dtype)
    h = 1e-9

    def gradient(at):
        stencil, local = term.gradient(at)
        return torch.zeros_like(at).index_add(0, stencil.reshape(-1), local.reshape(-1, 3))

    slope = (gradient(flat) * direction).sum()
    numeric = (term.energy(flat + h * direction) - term.energy(flat - h * direction))[0] / (2 * h)
    assert float(slope) == pytest.approx(float(numeric), rel=1e-5)
    H = sum(full(*pair) for pair in term.hessian(flat, project=False))
    torch.testing.assert_close(H, H.mT, atol=1e-6 * float(H.abs().max()), rtol=0)
    bend = (H @ direction.reshape(-1)).view_as(flat)
    numeric = (gradient(flat + h * direction) - gradient(flat - h * direction)) / (2 * h)
    assert float((bend - numeric).norm() / numeric.norm()) < 1e-5
    projected = sum(full(*pair) for pair in term.hessian(flat, project=True))
    assert float(torch.linalg.eigvalsh(projected).min()) > -1e-6 * float(projected.abs().max())


@pytest.mark.parametrize("wrt", ["twist", "stiffness", "friction", "E", "v"])
def test_gradients_through_contact(pressed, wrt):
    _, solver, ball, _, state = pressed
    weight = torch.tensor([1.0, 0.3, 0.5]).double()
    x0 = {
        "twist": torch.tensor([[[0.02, 0, -0.02, 0, 0.5, 0]]]).double().repeat(3, 1, 1, 1),
        "stiffness": torch.tensor(1e5).double(),
        "friction": torch.tensor(0.4).double(),
        "E": torch.tensor(2e4).double(),
        "v": state.v.clone(),
    }

    def f(p):
        params = {
            "rigid": {"stiffness": p["stiffness"], "friction": p["friction"]},
            "gel": {"E": p["E"]},
        }
        start = state.replace(v=p["v"])
        final = rollout(solver, start, [FEMControl(t) for t in p["twist"]], params).final
        return 1e3 * (weight * ball.pose(final.x)[0, :3]).sum() + (weight * final.v).sum()

    # Remainders have to stay above what the tolerance of the solve leaves, 1e-10 N.
    report = taylor_test(f, x0, wrt=[wrt], eps0=1e-2 if wrt == "v" else 2e-3, levels=3)
    assert report.passed(), (wrt, report)


def test_scenes_of_a_batch_are_those_of_a_loop(pressed):
    _, solver, ball, _, state = pressed
    generator = torch.Generator().manual_seed(3)
    twist = 0.02 * torch.randn(2, 1, 6, generator=generator, dtype=torch.float64)
    both = solver.step(state[[0, 0]], FEMControl(twist))
    for k in range(2):
        one = solver.step(state, FEMControl(twist[k : k + 1]))
        torch.testing.assert_close(both.x[k : k + 1], one.x, atol=1e-9, rtol=0)


def test_errors():
    ball = affine(Sphere(0.01), name="ball", position=(0, 0, 0.005))
    contact = RigidContact([body_samples(ball, 2e-3)], [FLOOR], d_hat=1e-3, stiffness=1e5)
    model = FEMModel(ball.X, [ball.part], contacts=[contact])
    with pytest.raises(StateError, match="of ball .* m inside of floor"):
        SolverFEM(model).step(ball.start(model.initial_state()))
    ball = affine(Sphere(0.005), name="ball", position=(0, 0, 0.02))
    knife = Collider(Box((0.02, 0.02, 1e-4)), name="knife")
    contact = RigidContact(
        [body_samples(ball, 2e-3)], [knife], d_hat=1e-3, stiffness=1e5, handles={"knife": 0}
    )
    model = FEMModel(ball.X, [ball.part], handles=[Handle("knife")], contacts=[contact])
    twist = torch.tensor([[[0, 0, 10.0, 0, 0, 0]]]).double()
    with pytest.raises(StateError, match="of ball passed by knife"):
        SolverFEM(model, FEMConfig(dt=5e-3)).step(
            ball.start(model.initial_state()), FEMControl(twist)
        )
    with pytest.raises(InputError, match="RigidBody with a name"):
        AffineBody(RigidBody(Sphere(0.01)), 0)
    with pytest.raises(InputError, match="pairs that may touch"):
        RigidContact([body_samples(ball, 2e-3)], [ball], d_hat=1e-3, stiffness=1e5)
    with pytest.raises(InputError, match="handles of"):
        RigidContact([body_samples(ball, 2e-3)], [FLOOR], 1e-3, 1e5, handles={"ball": 0})
    with pytest.raises(InputError, match="One point makes a ball joint"):
        Joint("joint", ball, None, anchors=torch.zeros(0, 3))
    X, tets = box((1, 1, 1), (0.01, 0.01, 0.01))
    skin = boundary_triangles(tets)
    assert float(point_samples("skin", X, skin).area.sum()) == pytest.approx(6e-4)
    assert float(surface_samples("skin", X, skin).area.sum()) == pytest.approx(6e-4)
    with pytest.raises(InputError, match="per_triangle out of"):
        surface_samples("skin", X, skin, per_triangle=4)
