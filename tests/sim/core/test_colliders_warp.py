"""Engine functions of colliders against the torch reference, values and adjoints."""

# No postponed annotations: Warp evaluates them, and cannot see the types of a closure in text.
import functools

import pytest
import torch
from rheograd.sim.core import colliders, colliders_warp, shapes
from rheograd.sim.core.backend import real_type, warp

F64 = torch.float64


def tetrahedron(resolution: int = 12) -> shapes.MeshShape:
    """A skew tetrahedron of about 0.6 m."""
    vertices = [[-0.3, -0.2, -0.2], [0.4, -0.2, -0.15], [0.0, 0.4, -0.2], [0.05, 0.0, 0.4]]
    faces = [[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]]
    return shapes.MeshShape(vertices, faces, resolution=resolution)


SHAPES = {
    "sphere": lambda: shapes.Sphere(0.3),
    "box": lambda: shapes.Box((0.3, 0.2, 0.25)),
    "capsule": lambda: shapes.Capsule(0.2, 0.3),
    "plane": lambda: shapes.Plane(),
    "cylinder": lambda: shapes.Cylinder(0.3, 0.2),
    "torus": lambda: shapes.Torus(0.4, 0.15),
    "mesh": tetrahedron,
}


@functools.cache
def contact_kernel(dtype: torch.dtype, dim: int):
    """Kernel that applies one collider to one point per thread."""
    wp = warp()
    real = real_type(dtype)
    vec3 = wp.types.vector(length=3, dtype=real)
    vec4 = wp.types.vector(length=4, dtype=real)
    contact_velocity = colliders_warp.functions(real, dim).contact_velocity

    @wp.kernel(module="unique")
    def contact(
        v: wp.array(dtype=vec3),
        x: wp.array(dtype=vec3),
        pose_p: wp.array(dtype=vec3),
        pose_q: wp.array(dtype=vec4),
        lin: wp.array(dtype=vec3),
        ang: wp.array(dtype=vec3),
        friction: wp.array(dtype=real),
        softness: wp.array(dtype=real),
        kind: int,
        size: vec3,
        volume: wp.array3d(dtype=real),
        origin: vec3,
        dx: real,
        out: wp.array(dtype=vec3),
    ):
        i = wp.tid()
        out[i] = contact_velocity(
            v[i],
            x[i],
            pose_p[0],
            pose_q[0],
            lin[0],
            ang[0],
            kind,
            size,
            friction[0],
            softness[0],
            volume,
            origin,
            dx,
        )

    return contact, vec3, vec4, real


def engine(inputs, collider, dtype, dim, seed_gradient):
    """Values and gradients of the kernel for (v, x, p, q, lin, ang, friction, softness)."""
    wp = warp()
    kernel, vec3, vec4, real = contact_kernel(dtype, dim)
    types = (vec3, vec3, vec3, vec4, vec3, vec3, real, real)
    arrays = [wp.array(t.detach().numpy(), dtype=k) for t, k in zip(inputs, types, strict=True)]
    gradients = [wp.zeros_like(a) for a in arrays]
    packed = colliders_warp.pack(collider, real)
    constants = [packed.kind, packed.size, packed.volume, packed.origin, packed.dx]
    count = len(inputs[0])
    out = wp.zeros(count, dtype=vec3)
    wp.launch(kernel, dim=count, inputs=[*arrays, *constants], outputs=[out], device="cpu")
    values = torch.from_numpy(out.numpy().copy())
    wp.launch(
        kernel,
        dim=count,
        inputs=[*arrays, *constants],
        outputs=[out],
        adj_inputs=[*gradients, None, None, None, None, None],
        adj_outputs=[wp.array(seed_gradient.numpy(), dtype=vec3)],
        adjoint=True,
        device="cpu",
    )
    return values, [torch.from_numpy(g.numpy().copy()) for g in gradients]


def scene(dtype, dim, count=400):
    """Random points around the collider, some of them exactly at singular places."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=F64).to(dtype)

    x, v = 0.5 * draw(count, 3), draw(count, 3)
    pose = torch.cat(
        (0.1 * draw(1, 3), torch.tensor([[1.0, 0, 0, 0]]).to(dtype) + 0.2 * draw(1, 4)), 1
    )
    twist = draw(1, 6)
    if dim == 2:
        flat = torch.tensor([1.0, 0.0, 1.0], dtype=dtype)
        x, v = x * flat, v * flat
        pose = pose * torch.tensor([1.0, 0, 1, 1, 0, 1, 0], dtype=dtype)
        twist = twist * torch.tensor([1.0, 0, 1, 0, 1, 0], dtype=dtype)
    x[0] = pose[0, :3]
    v[1] = 0.0
    return v, x, pose, twist


def reference(v, x, pose, twist, friction, softness, collider, dim):
    """Torch reference on embedded vectors."""
    flat = v.new_tensor((1.0, 0.0, 1.0)) if dim == 2 else v.new_ones(3)
    out = colliders.collide(
        colliders.project(v, dim)[None],
        colliders.project(x, dim),
        [collider],
        pose[None],
        twist[None],
        friction,
        softness,
    )[0]
    return colliders.embed(out) * flat


@pytest.mark.parametrize("dim", [3, 2])
@pytest.mark.parametrize("contact", colliders.CONTACT_MODES)
@pytest.mark.parametrize("softness", [0.0, 6.0])
@pytest.mark.parametrize("name", SHAPES)
def test_engine_equals_torch(name, softness, contact, dim):
    check_parity(colliders.Collider(SHAPES[name](), contact=contact), softness, dim)


@pytest.mark.parametrize("dim", [3, 2])
@pytest.mark.parametrize("contact", colliders.CONTACT_MODES)
def test_engine_equals_torch_for_containers(contact, dim):
    shape = shapes.Cylinder(0.6, 0.5)
    check_parity(colliders.Collider(shape, contact=contact, inverted=True), 6.0, dim)


def check_parity(collider, softness, dim):
    """Same operations in the same order: differences are rounding, below 1e-12 in float64."""
    contact = collider.contact
    v, x, pose, twist = scene(F64, dim)
    friction = torch.tensor([0.4], dtype=F64)
    soft = torch.tensor([softness], dtype=F64)
    leaves = [t.requires_grad_() for t in (v, x, pose, twist, friction, soft)]
    out = reference(*leaves, collider, dim)
    gradient = torch.cos(torch.arange(out.numel(), dtype=F64)).reshape(out.shape)
    if dim == 2:
        gradient = gradient * torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    expected = torch.autograd.grad(out, leaves, gradient, materialize_grads=True)
    inputs = (v, x, pose[:, :3], pose[:, 3:], twist[:, :3], twist[:, 3:], friction, soft)
    values, actual = engine(inputs, collider, F64, dim, gradient)
    torch.testing.assert_close(values, out.detach(), rtol=1e-12, atol=1e-12)
    joined = [
        actual[0], actual[1], torch.cat(actual[2:4], 1), torch.cat(actual[4:6], 1), *actual[6:]
    ]  # fmt: skip
    for got, want, label in zip(
        joined, expected, ("v", "x", "pose", "twist", "friction", "softness"), strict=True
    ):
        if dim == 2:
            # Only the in-plane part is an input of the 2-D scene.
            keep = {"v": [0, 2], "x": [0, 2], "pose": [0, 2, 3, 5], "twist": [0, 2, 4]}.get(label)
            got, want = (got, want) if keep is None else (got[:, keep], want[:, keep])
        assert torch.isfinite(got).all(), label
        scale = max(1.0, float(want.abs().max()))
        assert float((got - want).abs().max()) <= 1e-12 * scale, label
    assert float((values - v.detach()).abs().max()) > 0.1
    moving = {"x": softness > 0, "friction": contact != "sticky", "softness": softness > 0}
    for label, active in moving.items():
        index = ("v", "x", "pose", "twist", "friction", "softness").index(label)
        assert (float(expected[index].abs().max()) > 1e-3) or not active, label


def test_engine_float32_follows_float64():
    """Rounding 6e-8 grows by the condition of ∇d (1/dx = 20 per m) and of the turn: below 1e-5."""
    collider = colliders.Collider(tetrahedron(), friction=0.4, softness=6.0)
    v, x, pose, twist = scene(torch.float32, 3)
    friction, soft = torch.tensor([0.4]), torch.tensor([6.0])
    inputs = (v, x, pose[:, :3], pose[:, 3:], twist[:, :3], twist[:, 3:], friction, soft)
    values, gradients = engine(inputs, collider, torch.float32, 3, torch.ones_like(v))
    double = [t.double() for t in (v, x, pose, twist, friction, soft)]
    torch.testing.assert_close(
        values.double(), reference(*double, collider, 3), rtol=1e-4, atol=1e-5
    )
    assert all(torch.isfinite(g).all() for g in gradients)
