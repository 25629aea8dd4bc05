"""Quaternions and pose trajectories against matrices, and their gradients."""

from __future__ import annotations

import math

import torch
from rheograd.sim.core import rotations
from rheograd.sim.core.poses import integrate_pose, twists_from_poses

F64 = torch.float64


def random_quaternions(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, 4, generator=generator, dtype=F64)


def skew(w):
    zero = torch.zeros_like(w[..., 0])
    x, y, z = w.unbind(-1)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def test_rotation_is_orthonormal_homomorphism_for_any_length():
    p, q = random_quaternions(2, 20).unbind(0)
    matrix_p, matrix_q = rotations.to_matrix(p), rotations.to_matrix(q)
    eye = torch.eye(3, dtype=F64).expand(20, 3, 3)
    torch.testing.assert_close(matrix_p @ matrix_p.mT, eye, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(matrix_p), torch.ones(20, dtype=F64))
    product = rotations.to_matrix(rotations.multiply(p, q))
    torch.testing.assert_close(product, matrix_p @ matrix_q, rtol=0, atol=1e-13)
    v = torch.randn(20, 3, dtype=F64)
    back = rotations.rotate_inverse(p, rotations.rotate(p, v))
    torch.testing.assert_close(back, v, rtol=0, atol=1e-13)
    unit = rotations.multiply(p, rotations.inverse(p))
    torch.testing.assert_close(unit, eye.new_tensor([1.0, 0, 0, 0]).expand(20, 4))


def test_quarter_turn_about_z_is_right_handed():
    q = rotations.from_rotation_vector(torch.tensor([0.0, 0.0, math.pi / 2], dtype=F64))
    turned = rotations.rotate(q, torch.tensor([1.0, 0.0, 0.0], dtype=F64))
    torch.testing.assert_close(turned, torch.tensor([0.0, 1.0, 0.0], dtype=F64))


def test_rotation_vector_equals_matrix_exponential_at_all_angles():
    """The scale sweep crosses the switch between power series and sine."""
    direction = torch.tensor([0.36, -0.48, 0.8], dtype=F64)
    angles = torch.tensor([0.0, 1e-9, 1e-3, 0.0999, 0.1001, 1.0, 3.0], dtype=F64)
    r = angles[:, None] * direction
    expected = torch.linalg.matrix_exp(skew(r))
    matrix = rotations.to_matrix(rotations.from_rotation_vector(r))
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-14)
    back = rotations.to_rotation_vector(-2.0 * rotations.from_rotation_vector(r))
    torch.testing.assert_close(back, r, rtol=1e-13, atol=1e-15)


def test_half_turn_and_matrix_round_trip():
    half = torch.eye(3, dtype=F64) * math.pi
    q = rotations.from_rotation_vector(half)
    torch.testing.assert_close(rotations.to_rotation_vector(q).abs(), half, rtol=0, atol=1e-14)
    every = torch.cat((rotations.normalize(random_quaternions(40)), q))
    again = rotations.from_matrix(rotations.to_matrix(every))
    assert float((again * every).sum(-1).abs().min()) > 1 - 1e-14


def test_gradients_at_and_off_the_identity():
    for r in (torch.zeros(2, 3, dtype=F64), 0.7 * torch.randn(2, 3, dtype=F64)):
        r.requires_grad_()
        assert torch.autograd.gradcheck(rotations.from_rotation_vector, r)
        assert torch.autograd.gradgradcheck(rotations.from_rotation_vector, r)
        q = rotations.from_rotation_vector(r.detach()).requires_grad_()
        assert torch.autograd.gradcheck(rotations.to_rotation_vector, q)
        v = torch.randn(2, 3, dtype=F64, requires_grad=True)
        assert torch.autograd.gradcheck(rotations.rotate, (q, v))
        matrix = rotations.to_matrix(q.detach()).requires_grad_()
        assert torch.autograd.gradcheck(rotations.from_matrix, matrix)


def test_slerp_has_constant_rate():
    p, q = rotations.normalize(random_quaternions(2)).unbind(0)
    ends = rotations.slerp(p, q, torch.tensor([0.0, 1.0], dtype=F64))
    torch.testing.assert_close(ends[0], p)
    assert float((ends[1] * q).sum().abs()) > 1 - 1e-14
    way = rotations.slerp(p, q, torch.linspace(0, 1, 5, dtype=F64))
    steps = rotations.to_rotation_vector(
        rotations.multiply(way[1:], rotations.inverse(way[:-1]))
    ).norm(dim=-1)
    torch.testing.assert_close(steps, steps[:1].expand(4))


def test_poses_follow_a_constant_twist_exactly():
    """A material point of the tool moves on the exact screw line of the twist."""
    pose = torch.cat((torch.randn(2, 3, 3, dtype=F64), random_quaternions(2, 3)), -1)
    twist = torch.randn(2, 3, 6, dtype=F64)
    dt, n = 0.03, 7
    poses = integrate_pose(pose, twist, dt, n)
    assert poses.shape == (8, 2, 3, 7)
    torch.testing.assert_close(poses[0], pose)
    for i in (1, 7):
        exponential = torch.linalg.matrix_exp(skew(i * dt * twist[..., 3:]))
        start, end = (rotations.to_matrix(p[..., 3:]) for p in (pose, poses[i]))
        torch.testing.assert_close(end, exponential @ start, rtol=0, atol=1e-13)
        shift = poses[i, ..., :3] - pose[..., :3]
        torch.testing.assert_close(shift, i * dt * twist[..., :3], rtol=0, atol=1e-14)
    again = twists_from_poses(poses, dt)
    torch.testing.assert_close(again, twist.expand(7, -1, -1, -1), rtol=1e-11, atol=1e-12)


def test_pose_gradients_are_right_for_a_resting_tool():
    pose = torch.tensor([[[0.1, 0.2, 0.3, 1.0, 0.0, 0.0, 0.0]]], dtype=F64, requires_grad=True)
    for twist in (torch.zeros(1, 1, 6, dtype=F64), torch.randn(1, 1, 6, dtype=F64)):
        twist.requires_grad_()
        dt = torch.tensor(0.05, dtype=F64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda p, w, h: integrate_pose(p, w, h, 2), (pose, twist, dt)
        )
        poses = integrate_pose(pose, twist, 0.05, 2).detach().requires_grad_()
        assert torch.autograd.gradcheck(lambda p: twists_from_poses(p, 0.05), poses)
