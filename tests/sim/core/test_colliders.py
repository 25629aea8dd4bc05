"""Contact response: physics, gradients before and in contact, 2-D, batches, errors."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.sim.core import rotations
from rheograd.sim.core.colliders import (
    CONTACT_MODES,
    Collider,
    collide,
    contact_response,
    embed,
    influence,
    poses_of,
    project,
    push_out,
    signed_distance,
)
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.shapes import Box, Capsule, Cylinder, Plane, Sphere, Torus

F64 = torch.float64
SHAPES = [
    Sphere(0.3),
    Box((0.3, 0.2, 0.25)),
    Capsule(0.2, 0.3),
    Plane(),
    Cylinder(0.3, 0.2),
    Torus(0.4, 0.15),
]


def scene(shape, dim=3, batch=2, count=6, contact="separate", seed=0):
    """A displaced, turned, moving collider and random points about it."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, generator=generator, dtype=F64)

    collider = Collider(shape, contact=contact, friction=0.3, softness=5.0)
    pose = poses_of([collider], batch, F64) + 0.1 * draw(batch, 1, 7)
    return collider, {
        "v": draw(batch, count, dim),
        "x": 0.4 * draw(count, dim),
        "pose": pose,
        "twist": draw(batch, 1, 6),
        "friction": torch.tensor([0.3], dtype=F64),
        "softness": torch.tensor([5.0], dtype=F64),
    }


def on_plane(v, d=-0.01, n=(0.0, 0.0, 1.0), **coefficients):
    """Response of a resting surface to one velocity."""
    v, n = (torch.tensor(t, dtype=F64) for t in (v, n))
    arguments = {"friction": 0.0, "softness": 0.0, **coefficients}
    return contact_response(
        v, torch.zeros(3, dtype=F64), torch.tensor(d, dtype=F64), n, **arguments
    )


@pytest.mark.parametrize("dim", [3, 2])
@pytest.mark.parametrize("contact", CONTACT_MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: type(s).__name__)
def test_gradcheck(shape, contact, dim):
    collider, data = scene(shape, dim, contact=contact)
    inputs = [t.requires_grad_() for t in data.values()]
    assert torch.autograd.gradcheck(
        lambda v, x, p, w, f, s: collide(v, x, [collider], p, w, f, s), inputs, atol=1e-7
    )


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: type(s).__name__)
def test_taylor_rate_in_every_input_together(shape):
    collider, data = scene(shape, count=5, seed=4)

    def loss(t):
        out = collide(
            t["v"], t["x"], [collider], t["pose"], t["twist"], t["friction"], t["softness"]
        )
        return (out**2).sum()

    report = taylor_test(loss, data, eps0=1e-4)
    assert report.passed(1.9), report


def test_hard_contact_gradcheck_inside():
    collider, data = scene(Sphere(1.5))
    softness = torch.zeros(1, dtype=F64)
    names = ("v", "x", "pose", "twist", "friction")
    assert torch.autograd.gradcheck(
        lambda v, x, p, w, f: collide(v, x, [collider], p, w, f, softness),
        [data[n].requires_grad_() for n in names],
        atol=1e-7,
    )


def test_modes_on_a_resting_wall():
    down, up = (0.3, 0.4, -2.0), (0.3, 0.4, 2.0)
    expected = {
        "separate": ((0.3, 0.4, 0.0), up),
        "slip": ((0.3, 0.4, 0.0), (0.3, 0.4, 0.0)),
        "sticky": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    }
    for contact, results in expected.items():
        for v, want in zip((down, up), results, strict=True):
            torch.testing.assert_close(on_plane(v, contact=contact), torch.tensor(want, dtype=F64))
    torch.testing.assert_close(on_plane(down, d=1e-9), torch.tensor(down, dtype=F64))


@pytest.mark.parametrize("friction", [0.0, 0.2, 0.5, 2.0])
@pytest.mark.parametrize("speed", [0.05, 0.4, 3.0])
def test_friction_cone(friction, speed):
    """Tangential change is μ times normal change until the point sticks, and never reverses it."""
    v = torch.tensor((0.6 * speed, 0.8 * speed, -1.0), dtype=F64)
    out = on_plane(v.tolist(), friction=friction)
    change = v - out
    along = torch.tensor((0.6, 0.8, 0.0), dtype=F64)
    torch.testing.assert_close(change[2], v[2])
    torch.testing.assert_close(
        (change * along).sum(), torch.tensor(min(friction, speed), dtype=F64)
    )
    torch.testing.assert_close(out, max(speed - friction, 0.0) * along)


def test_contact_takes_energy_in_the_collider_frame():
    for shape in SHAPES:
        for contact in CONTACT_MODES:
            collider, data = scene(shape, count=500, contact=contact)
            out = collide(data["v"], data["x"], [collider], data["pose"], data["twist"])
            arm = data["x"] - data["pose"][:, :, :3]
            spin = data["twist"][..., 3:].expand_as(arm)
            moving = data["twist"][..., :3] + torch.linalg.cross(spin, arm)
            before, after = (data["v"] - moving).norm(dim=-1), (out - moving).norm(dim=-1)
            assert float((after - before).max()) <= 1e-14
            if contact == "separate":
                normal = signed_distance(data["x"], [collider], data["pose"]).normal[..., 0, :]
                push = ((out - data["v"]) * normal).sum(-1)
                assert float(push.min()) >= -1e-14 and float(push.max()) > 0.1


def test_spinning_sticky_collider_carries_material_around():
    collider = Collider(Cylinder(1.0, 1.0), position=(0.5, 0.0, 0.0), contact="sticky")
    x = torch.tensor([[0.5, 0.4, 0.2]], dtype=F64)
    twist = torch.tensor([[[0.1, 0.0, 0.0, 0.0, 0.0, 3.0]]], dtype=F64)
    out = collide(
        torch.zeros(1, 1, 3, dtype=F64), x, [collider], poses_of([collider], 1, F64), twist
    )
    expected = torch.tensor([[[0.1 - 3.0 * 0.4, 0.0, 0.0]]], dtype=F64)
    torch.testing.assert_close(out, expected)


def test_soft_contact_has_a_gradient_before_touch_and_hard_has_none():
    """Two centimetres before contact, in velocity with respect to the plate's place and speed."""
    v = torch.tensor([[[0.0, 0.0, -1.0]]], dtype=F64)
    x = torch.tensor([[0.1, 0.0, 0.02 + 0.05]], dtype=F64)
    for softness, active in ((100.0, True), (0.0, False)):
        collider = Collider(Box((0.5, 0.5, 0.05)), softness=softness)
        pose = poses_of([collider], 1, F64).requires_grad_()
        twist = torch.zeros(1, 1, 6, dtype=F64, requires_grad=True)
        out = collide(v, x, [collider], pose, twist)[..., 2].sum()
        by_pose, by_twist = torch.autograd.grad(out, (pose, twist))
        if active:
            # u = 1 − s d/4 = 1/2: a = u⁴ = 1/16, and ∂a/∂z of the plate is s u³ = 12.5 per metre.
            assert float(by_pose[0, 0, 2]) == pytest.approx(12.5)
            assert float(by_twist[0, 0, 2]) == pytest.approx(1 / 16)
        else:
            assert float(by_pose.abs().max()) == 0.0 and float(by_twist.abs().max()) == 0.0


def test_influence_window():
    s = 80.0
    d = torch.linspace(-0.02, 0.08, 2001, dtype=F64, requires_grad=True)
    a = influence(d, s)
    (slope,) = torch.autograd.grad(a.sum(), d)
    with torch.no_grad():
        assert bool((a[d <= 0] == 1).all()) and bool((a[d >= 4 / s] == 0).all())
        assert bool((slope <= 0).all())
        assert float((a - torch.exp(-s * d.clamp(min=0))).abs().max()) < 0.08
    # No jump at the end of the reach, and the slope of exp(−s d) at the surface.
    assert float(influence(torch.tensor(4 / s - 1e-6, dtype=F64), s)) < 1e-15
    start = torch.tensor(1e-9, dtype=F64, requires_grad=True)
    (first,) = torch.autograd.grad(influence(start, s), start)
    assert float(first) == pytest.approx(-s, rel=1e-6)
    assert Collider(Plane(), softness=s).reach == pytest.approx(4 / s)
    inner = torch.tensor([0.001, 0.02, 0.03], dtype=F64, requires_grad=True)
    rate = torch.tensor(s, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(influence, (inner, rate))
    assert torch.autograd.gradgradcheck(influence, (inner, rate))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("softness", [0.0, 50.0])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: type(s).__name__)
def test_gradients_are_finite_at_rest_and_at_centers(shape, softness, dtype):
    """v = 0, v = collider velocity, pure normal approach, points at singular places."""
    x = torch.tensor([[0, 0, 0], [0, 0, 0.1], [0.4, 0, 0], [0.3, 0.2, 0.25]], dtype=dtype)
    velocities = torch.tensor([[0.0, 0, 0], [0, 0, -1.0], [1e-25, 0, -1.0]], dtype=dtype)
    collider = Collider(shape, friction=0.5, softness=softness)
    inputs = [
        velocities[:, None].expand(3, 4, 3).clone(),
        x,
        poses_of([collider], 3, dtype),
        torch.zeros(3, 1, 6, dtype=dtype),
        torch.tensor([0.5], dtype=dtype),
        torch.tensor([softness], dtype=dtype),
    ]
    inputs = [t.requires_grad_() for t in inputs]
    v, x, pose, twist, friction, soft = inputs
    out = collide(v, x, [collider], pose, twist, friction, soft)
    assert torch.isfinite(out).all()
    for gradient in torch.autograd.grad(out.sum(), inputs, materialize_grads=True):
        assert torch.isfinite(gradient).all()


def test_planar_scene_is_the_section_of_the_spatial_one():
    """A box turned about y keeps its normals in the plane; motion across the plane is ignored."""
    collider = Collider(Box((0.3, 5.0, 0.2)), friction=0.4, softness=4.0)
    generator = torch.Generator().manual_seed(3)
    x, v = (torch.randn(2, 50, 2, generator=generator, dtype=F64) for _ in range(2))
    turn = rotations.from_rotation_vector(torch.tensor([0.0, 0.7, 0.0], dtype=F64))
    pose = torch.cat((torch.tensor([0.1, 0.0, -0.2], dtype=F64), turn)).expand(2, 1, 7)
    twist = torch.tensor([0.3, 0.0, -0.1, 0.0, 2.0, 0.0], dtype=F64).expand(2, 1, 6)
    across = twist + torch.tensor([0.0, 9.0, 0.0, 0.0, 0.0, 0.0], dtype=F64)
    flat = collide(v, x, [collider], pose, across)
    spatial = collide(embed(v), embed(x), [collider], pose, twist)
    torch.testing.assert_close(embed(flat), spatial, rtol=0, atol=1e-14)
    tilted = pose + 0.2 * torch.randn(2, 1, 7, generator=generator, dtype=F64)
    normal = signed_distance(x, [collider], tilted).normal
    assert float(normal[..., 1].abs().max()) == 0.0
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(2, 50, 1, dtype=F64))
    torch.testing.assert_close(project(embed(x), 2), x)


def test_batch_equals_loop_and_colliders_act_in_order():
    many = [Collider(s, friction=0.1 * i, softness=3.0 * i) for i, s in enumerate(SHAPES)]
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(3, 40, 3, generator=generator, dtype=F64)
    v = torch.randn(3, 40, 3, generator=generator, dtype=F64)
    pose = poses_of(many, 3, F64) + 0.1 * torch.randn(3, 6, 7, generator=generator, dtype=F64)
    twist = torch.randn(3, 6, 6, generator=generator, dtype=F64)
    together = collide(v, x, many, pose, twist)
    for b in range(3):
        one = v[b : b + 1]
        for k, c in enumerate(many):
            part = slice(k, k + 1)
            one = collide(one, x[b], [c], pose[b : b + 1, part], twist[b : b + 1, part])
        torch.testing.assert_close(together[b : b + 1], one, rtol=0, atol=1e-14)
    assert torch.equal(collide(v, x, [], pose[:, :0], twist[:, :0]), v)
    friction = torch.rand(3, 6, generator=generator, dtype=F64)
    mixed = collide(v, x, many, pose, twist, friction)
    single = collide(v[1:2], x[1], many, pose[1:2], twist[1:2], friction[1])
    torch.testing.assert_close(mixed[1:2], single, rtol=0, atol=1e-14)


def test_inverted_cylinder_keeps_material_in():
    tank = Collider(Cylinder(0.5, 1.0), inverted=True)
    x = torch.tensor([[0.4, 0.0, 0.0], [0.6, 0.0, 0.0]], dtype=F64)
    v = torch.tensor([[[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]]], dtype=F64)
    pose = poses_of([tank], 1, F64)
    out = collide(v, x, [tank], pose, torch.zeros(1, 1, 6, dtype=F64))
    torch.testing.assert_close(out[0, 0], v[0, 0])
    torch.testing.assert_close(out[0, 1], torch.tensor([0.0, 2.0, 0.0], dtype=F64))
    back = push_out(x, [tank], pose)
    torch.testing.assert_close(back[0, 1], torch.tensor([0.5, 0.0, 0.0], dtype=F64))


def test_push_out_moves_to_the_surface():
    for shape in SHAPES:
        collider, data = scene(shape, count=300)
        moved = push_out(data["x"], [collider], data["pose"])
        d = signed_distance(moved, [collider], data["pose"]).distance
        before = signed_distance(data["x"], [collider], data["pose"]).distance
        assert float(d.min()) > -1e-14
        outside = before[..., 0] > 0
        assert torch.equal(moved[outside], data["x"].expand(2, -1, -1)[outside])


def test_collider_normalizes_and_is_hashable():
    collider = Collider(Sphere(1.0), orientation=(2, 0, 0, 0), name="ball")
    assert collider.orientation == (1.0, 0.0, 0.0, 0.0)
    assert collider == Collider(Sphere(1.0), name="ball") and hash(collider)
    assert collider.pose().shape == (7,)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Collider("sphere"), "Collider: expected a Shape; got str"),
        (lambda: Collider(Plane(), friction=-0.1, name="floor"), r"'floor'.*friction >= 0"),
        (lambda: Collider(Plane(), softness=math.inf), r"softness >= 0 \[1/m\]"),
        (lambda: Collider(Plane(), contact="glue"), "contact in"),
        (lambda: Collider(Plane(), position=(0, 1)), "3 finite numbers"),
        (lambda: Collider(Plane(), orientation=(0, 0, 0, 0)), "not zero"),
        (lambda: embed(torch.zeros(3, 4)), "2 or 3"),
    ],
)
def test_construction_errors(make, text):
    with pytest.raises(InputError, match=text):
        make()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"v": torch.zeros(2, 7, 3)}, r"v of shape \(B, 6, 3\)"),
        ({"x": torch.zeros(6, 4)}, "D = 2 or 3"),
        ({"pose": torch.zeros(2, 7)}, r"pose of shape \(B, 1, 7\)"),
        ({"twist": torch.zeros(2, 2, 6)}, r"twist of shape \(B, 1, 6\)"),
        ({"friction": torch.zeros(3)}, r"friction of shape \(1,\)"),
    ],
)
def test_call_errors(changes, text):
    collider, data = scene(Sphere(0.3))
    data.update(changes)
    with pytest.raises(InputError, match=text):
        collide(data["v"], data["x"], [collider], data["pose"], data["twist"], data["friction"])
