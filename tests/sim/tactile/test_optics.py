"""Lights, presses of balls, similarity of images, and a model that learns what contact looks like."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers import slope, unit_vectors
from rheograd.assets import weights, weights_names
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.tactile import dome
from rheograd.sim.tactile.camera import dome_camera, pad_camera
from rheograd.sim.tactile.lights import Lights, three_lights
from rheograd.sim.tactile.optics import (
    OpticalModel,
    calibrate_optics,
    load_optics,
    measure_optics,
    save_optics,
)
from rheograd.sim.tactile.presses import (
    DomeFace,
    PadFace,
    ball_presses,
    press_view,
    random_balls,
    spread_balls,
    surface_presses,
)
from rheograd.sim.tactile.raster import rasterize
from rheograd.sim.tactile.ssim import ssim, ssim_map

DOME, PAD = DomeFace(), PadFace()
SMALL = dome_camera().scaled(0.1)


def presses(n: int, seed: int, scale: float = 0.2, noise: float = 0.0):
    balls = random_balls(DOME, n, seed).float()
    return ball_presses(dome_camera().scaled(scale), DOME, three_lights(), balls, noise=noise)


def test_similarity_by_hand():
    """Constant images, and stripes of which every window has a mean and a variance one can write down."""
    a, b = torch.full((1, 12, 13, 2), 0.25).double(), torch.full((1, 12, 13, 2), 0.75).double()
    c1, c2 = 1e-4, 9e-4
    assert ssim_map(a, b).shape == (1, 2, 3)
    expected = (2 * 0.25 * 0.75 + c1) / (0.25**2 + 0.75**2 + c1)
    assert torch.allclose(ssim(a, b), torch.tensor([expected]).double())
    # Columns 0.5 ± 0.2 in turn: Σ w s = q up to sign, so the mean is 0.5 ± 0.2 q and the variance
    # 0.04 (1 − q²); the negative has the opposite deviation, so its covariance is −0.04 (1 − q²).
    weight = [math.exp(-0.5 * (k / 1.5) ** 2) for k in range(-5, 6)]
    q = sum(w * (-1) ** k for k, w in enumerate(weight)) / sum(weight)
    sign = torch.tensor([(-1.0) ** k for k in range(13)]).double().view(1, 1, 13, 1)
    a = 0.5 + 0.2 * sign.expand(1, 12, 13, 2)
    var, m, n = 0.04 * (1 - q * q), 0.5 + 0.2 * q, 0.5 - 0.2 * q
    expected = (2 * m * n + c1) * (-2 * var + c2) / ((m * m + n * n + c1) * (2 * var + c2))
    assert torch.allclose(ssim(a, 1 - a), torch.tensor([expected]).double(), rtol=1e-9)
    assert torch.equal(ssim(a, a), torch.ones(1).double())
    assert torch.allclose(ssim(255 * a, 255 - 255 * a, 255.0), ssim(a, 1 - a))
    with pytest.raises(InputError, match="11 x 11"):
        ssim(a[:, :5], a[:, :5])


def test_similarity_has_a_derivative(generator):
    a, b = (torch.rand(1, 12, 12, 3, generator=generator).double() for _ in range(2))
    for wrt in ("0", "1"):
        assert taylor_test(lambda v: ssim(*v).sum(), (a, b), wrt=[wrt]).passed()


def test_light_by_hand():
    """One white diode over a matte coat: cosine over distance squared; nothing behind the coat."""
    plain = dict(extent=0.0, distance=2.0, ambient=(0.1, 0.1, 0.1), diffuse=0.5)
    one = Lights(position=[[0.0, 3.0, 4.0]], colour=[[1.0, 0.5, 0.0]], specular=0.0, **plain)
    p, n = torch.zeros(1, 3).double(), torch.tensor([[0.0, 0.0, -1.0]]).double()
    eye = torch.tensor([0.0, -3.0, 4.0]).double()
    lit = 0.5 * 0.8 * 4 / 25
    assert torch.allclose(
        one.shade(p, n, eye)[0], torch.tensor([0.1 + lit, 0.1 + lit / 2, 0.1]).double()
    )
    assert torch.allclose(one.shade(p, -n, eye), torch.full((1, 3), 0.1).double())
    # The pupil stands where a mirror would send the light: the highlight is whole, 0.3 · 0.8 · 4/25.
    shiny = dataclasses.replace(one, specular=0.3, shininess=50.0)
    gain = (shiny.shade(p, n, eye) - one.shade(p, n, eye))[0, 0]
    assert float(gain) == pytest.approx(0.3 * 0.8 * 4 / 25)
    aside = shiny.shade(p, n, eye + 1.0) - one.shade(p, n, eye + 1.0)
    assert 0 < float(aside[0, 0]) < 0.2 * float(gain)


def test_light_has_derivatives(generator):
    points = 1e-2 * torch.randn(20, 3, generator=generator).double()
    normal = unit_vectors(20, 3, generator=generator)
    weight = torch.randn(20, 3, generator=generator).double()
    lights = three_lights()
    names = ("position", "colour", "ambient", "diffuse", "specular", "shininess")
    numbers = {name: torch.tensor(getattr(lights, name)).double() for name in names}
    eye = torch.tensor([1e-3, 2e-3, -3e-3]).double()

    def value(inputs):
        points, normal, eye, numbers = inputs
        return (weight * dataclasses.replace(lights, **numbers).shade(points, normal, eye)).sum()

    for wrt in ("0", "1", "2", *("3." + name for name in names)):
        report = taylor_test(value, (points, normal, eye, numbers), wrt=[wrt], eps0=1e-5)
        assert report.passed(), (wrt, report)


def test_shading_is_on_the_right_side():
    """A ball makes a bump that faces the pupil: its side towards the red diode turns red."""
    ball = torch.tensor([[0.0, 0.0, 15e-3 + 4e-3 - 1.5e-3, 4e-3]])
    camera, lights = dome_camera().scaled(0.2), three_lights()
    one = ball_presses(camera, DOME, lights, ball)
    change = (one.image[0] - one.background)[..., 0]
    red = torch.tensor(lights.position[0])
    side, tilt = one.view.points[0] @ red, -one.view.normal[0] @ (red / red.norm())
    touched = one.indent[0] > 1e-4
    facing, away = touched & (tilt > 0.2) & (tilt < 0.7), touched & (tilt < -0.2)
    assert float(side[facing].min()) > 0 > float(side[away].max())
    # On the axis light falls in at 31°, which is 0.86 of what it can give: up to 17 % of 0.2 to gain.
    assert float(change[facing].mean()) > 0.01 and float(change[away].mean()) < -0.03
    # In the image too, through the half turn of the camera.
    seen = camera.project(red.view(1, 1, 3)).uv[0, 0] - torch.tensor(camera.centre)
    rows, columns = facing.nonzero().float().mean(0) - torch.tensor(camera.centre[::-1])
    assert float(columns * seen[0] + rows * seen[1]) > 0


@pytest.mark.parametrize("face", [DOME, PAD], ids=["dome", "pad"])
def test_a_press_is_the_ball_within_and_the_gel_without(face):
    """As the rounding vanishes: on the ball where it is nearer, else on the gel; normals are theirs."""
    camera = (dome_camera() if face is DOME else pad_camera()).scaled(0.15)
    balls = random_balls(face, 2, 3)
    view = press_view(camera, face, balls, smoothing=1e-6)
    rest = press_view(camera, face, like=balls)
    assert int(rest.seen.sum()) > 2000
    for k, (*c, r) in enumerate(balls.tolist()):
        p = view.points[k][rest.seen[0]]
        away = p - torch.tensor(c).double()
        ball, (gel, normal) = away.norm(dim=-1) - r, face.distance(p)
        on_ball = ball.abs() < gel.abs()
        assert 8 < int(on_ball.sum()) < 1000
        assert float(torch.minimum(ball.abs(), gel.abs()).max()) < 1e-6
        assert float(ball.min()) > -1e-9 and float(gel.max()) < 1e-9
        exact = torch.where(on_ball[:, None], -away / away.norm(dim=-1, keepdim=True), normal)
        error = (view.normal[k][rest.seen[0]] - exact).norm(dim=-1)
        assert float(error.median()) < 1e-6 and float((error < 1e-2).float().mean()) > 0.98
    flat = press_view(camera, face, balls)  # rounded: the gel stays within both
    assert bool((flat.depth <= view.depth + 1e-9).all())


def test_a_press_has_derivatives(generator):
    balls = random_balls(DOME, 2, 5)
    camera = dome_camera().scaled(0.05)
    weight = torch.randn(2, 24, 32, 4, generator=generator).double()

    def value(balls):
        view = press_view(camera, DOME, balls)
        return (weight * torch.cat((100 * view.depth.unsqueeze(-1), view.normal), -1)).sum()

    report = taylor_test(value, balls, eps0=1e-4)
    assert report.passed(), report


def test_presses_of_surfaces_tend_to_presses_of_balls():
    """Domes whose points stand on the pressed shape: depth is second order in the size of triangles.

    Photographs follow, slower, while triangles are larger than the rounded edge.
    """
    ball = torch.tensor([[1e-3, -2e-3, 16e-3, 4e-3]]).double()
    camera, lights = dome_camera().scaled(0.2), three_lights()
    exact = ball_presses(camera, DOME, lights, ball)
    assert float(exact.indent.max()) > 2e-3
    depths, images = [], []
    for cuts in (16, 32, 64):
        gel = dome(cuts=cuts, layers=1, order=1)
        size = gel.X.norm(dim=1, keepdim=True)
        way, t = gel.X / size, torch.zeros(len(gel.X)).double()
        for _ in range(150):  # along radii, as the views do along rays
            gap = t - 15e-3 - (ball[0, 3] - (t[:, None] * way - ball[0, :3]).norm(dim=1))
            t = t - (t - 15e-3 - 0.5 * gap + 0.5 * (gap * gap + 0.4e-3**2).sqrt())
        x = torch.where(size > 15e-3 - 1e-9, t[:, None] * way, gel.X)
        mesh = surface_presses(camera, lights, x[None], gel.X, gel.triangles)
        both = mesh.view.seen & exact.view.seen & (exact.view.points[..., 2] > 4e-3)
        depths.append(float((mesh.view.depth - exact.view.depth)[both].abs().mean()))
        images.append(float((mesh.image - exact.image)[both].abs().mean()))
    assert abs(slope([1 / 16, 1 / 32, 1 / 64], depths) - 2) < 0.2
    change = (exact.image - exact.background)[both].abs().mean()
    assert images[2] < 0.25 * images[0] and images[2] < 0.15 * float(change)


@pytest.mark.parametrize("face", [DOME, PAD], ids=["dome", "pad"])
def test_balls_to_calibrate_with_are_spread(face):
    """Every eighth of the radii and of the depths has its share of 48, to one; draws do not."""

    def numbers(balls):
        radius = balls[:, 3]
        centre = balls[:, :3].norm(dim=1) - 15e-3 if face is DOME else balls[:, 2] - face.height
        return radius, radius - centre

    def uneven(values, low, high):
        return int((torch.histc(values, 8, low, high) - 6).abs().max())

    radius, depth = numbers(spread_balls(face, 48, 0))
    assert uneven(radius, 1.9e-3, 5.5e-3) <= 1 and uneven(depth, 0.4e-3, 1.7e-3) <= 1
    radius, depth = numbers(random_balls(face, 48, 0))
    assert max(uneven(radius, 2e-3, 6e-3), uneven(depth, 0.3e-3, 1.5e-3)) > 2
    assert not torch.equal(spread_balls(face, 4, 0), spread_balls(face, 4, 1))


def test_noise_and_seeds():
    a, b = presses(2, 0, 0.1, noise=0.01), presses(2, 0, 0.1, noise=0.01)
    clean = presses(2, 0, 0.1)
    assert torch.equal(a.image, b.image) and torch.equal(clean.background, a.background)
    grain = (a.image - clean.image)[a.view.seen]
    assert float(grain.std()) == pytest.approx(0.01, rel=0.1)
    assert not bool((a.image - clean.image)[~a.view.seen].any())
    assert len(a.part(slice(1, 2))) == 1


def test_the_model_learns():
    """Seconds of calibration: the error at contact falls to less than half, similarity rises."""
    train, test = presses(8, 0, 0.15, noise=0.01), presses(4, 1, 0.15)
    settings = dict(crops=4, crop=24)
    model, went = calibrate_optics(train, steps=120, **settings)
    before, after = measure_optics(None, test), measure_optics(model, test)
    assert went.loss[-1] < went.loss[0] and went.settings["presses"] == 8
    assert after["error_contact"] < 0.5 * before["error_contact"]
    assert after["ssim_contact"] > 0.9 > before["ssim_contact"]
    first, second = (calibrate_optics(train, steps=3, **settings)[0] for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_contact_the_photograph_comes_back():
    one = presses(2, 0, 0.1)
    model = OpticalModel()
    camera, rest = one.camera, one.rest.normal[0]
    image = model.image(camera, one.rest.normal, rest, one.background)
    assert torch.equal(image[0], one.background)
    pressed = model.image(camera, one.view.normal, rest, one.background)
    assert torch.equal(pressed[~one.view.seen], one.background.expand_as(pressed)[~one.view.seen])
    assert bool((pressed != one.background).any())


def test_image_has_derivatives_down_to_the_points(generator):
    """From a photograph through network, normals and rasterizer to the points of the surface."""
    gel = dome(cuts=3, layers=1)
    model = OpticalModel().double()
    rest = rasterize(SMALL, gel.X[None], gel.triangles)
    push = 1 - 0.2 * torch.exp(-(((gel.X - gel.X[0]).norm(dim=1, keepdim=True) / 8e-3) ** 2))
    x = (gel.X * push)[None]
    hit = rasterize(SMALL, x, gel.triangles).triangle
    base = three_lights().shade(rest.points[0], rest.normal[0] + 1e-9, torch.zeros(3).double())
    weight = torch.randn(1, *base.shape, generator=generator).double()

    def value(x):
        seen = rasterize(SMALL, x, gel.triangles, triangle=hit)
        both = rest.seen[0] & (rest.points[0, ..., 2] > 5e-3)
        return (weight * model.image(SMALL, seen.normal, rest.normal[0], base, both)).sum()

    # A rectifier has kinks; small steps keep almost all of them out.
    leaf = x.clone().requires_grad_()
    direction = 1e-4 * torch.randn(x.shape, generator=generator).double()
    slant = float((torch.autograd.grad(value(leaf), leaf)[0] * direction).sum())
    eps = 1e-4
    with torch.no_grad():
        difference = float(value(x + eps * direction) - value(x - eps * direction)) / (2 * eps)
    assert difference == pytest.approx(slant, rel=1e-3) and abs(slant) > 1e-6


def test_save_and_load(tmp_path):
    model = OpticalModel((8, 4), 1)
    path = save_optics(tmp_path / "small.safetensors", model, sensor="mine")
    again, config = load_optics(path)
    assert config["sensor"] == "mine" and again.hidden == (8, 4)
    n, r = torch.randn(2, 5, 3).unbind(0)
    assert torch.equal(model(n, r, r[:, :2]), again(n, r, r[:, :2]))


@pytest.mark.parametrize("name", ["dome", "pad"])
def test_what_ships_renders_presses_it_has_not_seen(name):
    assert name in weights_names("tactile")
    path = weights("tactile", name)
    assert path.stat().st_size < 100_000 and path.with_suffix(".json").is_file()
    camera, face = (dome_camera(), DOME) if name == "dome" else (pad_camera(), PAD)
    lights = three_lights() if name == "dome" else three_lights(14e-3, -3e-3)
    # The hardest fifth of the presses that the benchmark measures: small balls, deep.
    balls = random_balls(face, 20, 1)
    centre = balls[:, :3].norm(dim=1) - 15e-3 if face is DOME else balls[:, 2] - face.height
    steep = (1 - centre / balls[:, 3]).argsort(descending=True)[:4]
    test = ball_presses(camera.scaled(0.5), face, lights, balls[steep].float())
    model, config = load_optics(name)
    assert config["sensor"] == name
    before, after = measure_optics(None, test), measure_optics(model, test)
    assert after["ssim_contact_least"] > 0.95 > before["ssim_contact_least"]
    assert after["ssim"] > 0.99 and after["ssim_contact"] > 0.95 > before["ssim_contact"]
    assert after["error_contact"] < 0.35 * before["error_contact"]


def test_wrong_input():
    one = presses(1, 0, 0.1)
    camera, rest = one.camera, one.rest.normal[0]
    with pytest.raises(InputError, match="normal of shape"):
        OpticalModel().image(camera, rest, rest, one.background)
    with pytest.raises(InputError, match="background of shape"):
        OpticalModel().image(camera, rest[None], rest, one.background[:5])
    with pytest.raises(InputError, match="crop"):
        calibrate_optics(one, crop=500)
    with pytest.raises(InputError, match="leave the pupil outside"):
        press_view(SMALL, DOME, torch.tensor([[0.0, 0, 0, 1e-2]]))
    with pytest.raises(InputError, match="radii > 0"):
        press_view(SMALL, DOME, torch.tensor([[0.0, 0, 1, -1]]))
    with pytest.raises(InputError, match="position and colour"):
        Lights(position=[[0.0, 0, 0]], colour=[[1.0]])
    with pytest.raises(InputError, match="octaves"):
        OpticalModel(octaves=-1)
