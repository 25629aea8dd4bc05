"""A learned optical model: from the shape of a gel to the photograph its camera takes.

    image(u, v) = no-contact image + f(n, u, v) − f(n₀, u, v)         n normals, n₀ those without contact
    f           multilayer perceptron over (n, u, v, sin 2ᵏπ(u, v), cos 2ᵏπ(u, v)),  k = 0, 1
    loss        mean |image − photograph| + 0.1 (1 − SSIM)

u and v run from −1 to 1 over the image. The difference makes the image without contact the photograph
itself, with every speck on it, and leaves to f only what contact changes. Calibrated on presses of balls
of known radius; a model belongs to its camera, its lights and its gel.

Differentiable in normals, so through `rasterize` in points of a surface, and in weights.
Source: Si et al. 2024 (DiffTactile) for a network from local shape to colour; Wang et al. 2004 for SSIM.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...assets import weights
from ..core.errors import InputError, message
from ..io import load_checkpoint, save_checkpoint
from .camera import Camera
from .presses import PressSet
from .ssim import WINDOW, ssim, ssim_map

__all__ = [
    "Calibration", "OpticalModel", "calibrate_optics", "load_optics", "measure_optics", "save_optics",
]  # fmt: skip


class OpticalModel(nn.Module):
    """Change of colour per pixel.

    Args:
        hidden: widths of the hidden layers.
        octaves: of the Fourier features of (u, v), each with sine and cosine.
    """

    def __init__(self, hidden: Sequence[int] = (64, 64, 32), octaves: int = 2) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1 or octaves < 0:
            got = f"{tuple(hidden)}, {octaves}"
            expected = "hidden widths >= 1 and octaves >= 0"
            raise InputError(message("OpticalModel", expected, got, "Use (64, 64, 32), 2"))
        self.hidden, self.octaves = tuple(hidden), octaves
        widths = [5 + 4 * octaves, *hidden]
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], 3))

    def forward(self, normal: Tensor, rest: Tensor, place: Tensor) -> Tensor:
        """Colour with contact minus colour without.

        Args:
            normal: unit normals in the frame of the sensor [-], (..., 3).
            rest: those without contact, (..., 3).
            place: (u, v) from −1 to 1, (..., 2).

        Returns:
            Red, green, blue [-], (..., 3); 0 where nothing changed.

        Differentiable in all of them.
        """
        where = self.places(place).expand(*normal.shape[:-1], -1)
        rest = rest.expand_as(normal)
        both = torch.stack((torch.cat((normal, where), -1), torch.cat((rest, where), -1)))
        with_contact, without = self.net(both).unbind(0)
        return with_contact - without

    def places(self, place: Tensor) -> Tensor:
        """(u, v) and their Fourier features, (..., 2 + 4 octaves)."""
        parts = [place]
        for k in range(self.octaves):
            angle = math.pi * 2**k * place
            parts += [angle.sin(), angle.cos()]
        return torch.cat(parts, dim=-1)

    def image(
        self,
        camera: Camera,
        normal: Tensor,
        rest: Tensor,
        background: Tensor,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Photographs of a deformed gel.

        Args:
            camera: that took the no-contact image.
            normal: outward normals of the deformed gel [-], (B, H, W, 3), as from `rasterize`.
            rest: of the undeformed gel, (H, W, 3), made in the same way.
            background: no-contact image [-], (H, W, 3).
            seen: pixels that show the gel both times, (B, H, W) or (H, W); None: where neither
                normal is 0. The others stay as they are.

        Returns:
            (B, H, W, 3).

        Raises:
            InputError: shapes that do not fit the camera.

        Differentiable in normals, background and weights. Normals that are unchanged cost nothing.
        """
        H, W = camera.size
        if normal.ndim != 4 or normal.shape[1:] != (H, W, 3):
            expected = f"normal of shape (B, {H}, {W}, 3)"
            raise InputError(message("OpticalModel.image", expected, normal, "Fit the camera"))
        for name, value in (("rest", rest), ("background", background)):
            if value.shape != (H, W, 3):
                expected = f"{name} of shape {(H, W, 3)}"
                raise InputError(message("OpticalModel.image", expected, value, "Fit the camera"))
        with torch.no_grad():
            changed = (normal != rest).any(-1)
            if seen is None:
                changed &= (normal != 0).any(-1) & (rest != 0).any(-1)
            else:
                changed &= seen
            place = unit_pixels(camera, normal)
        pixels = changed.reshape(-1).nonzero()[:, 0]
        ground = pixels % (H * W)
        change = self(
            normal.reshape(-1, 3)[pixels],
            rest.reshape(-1, 3)[ground],
            place.reshape(-1, 2)[ground],
        )
        base = background.expand(len(normal), H, W, 3).reshape(-1, 3)
        return base.index_add(0, pixels, change.to(base)).view(-1, H, W, 3)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How a calibration went."""

    loss: tuple[float, ...]
    """Mean loss of every tenth of the steps."""
    seconds: float
    """Wall time [s]."""
    cpu_seconds: float
    """Time of the processor [s]."""
    settings: dict[str, Any]
    """Arguments of `calibrate_optics`, and the number of presses."""


def unit_pixels(camera: Camera, like: Tensor) -> Tensor:
    """(u, v) of all pixels from −1 to 1 over the image, (H, W, 2)."""
    size = torch.tensor(camera.size[::-1], dtype=like.dtype, device=like.device)
    return (2 * camera.pixels(like) + 1) / size - 1


def calibrate_optics(
    presses: PressSet,
    model: OpticalModel | None = None,
    *,
    seed: int = 0,
    steps: int = 600,
    crops: int = 8,
    crop: int = 40,
    lr: float = 3e-3,
    ssim_weight: float = 0.1,
) -> tuple[OpticalModel, Calibration]:
    """Fit a model to photographs of presses.

    Steps look at square parts of photographs about random pixels; three in four of them about pixels
    where the gel is indented. Adam, the step size falling to zero along a cosine.

    Args:
        presses: views and photographs.
        model: to go on with; None: a new one.
        seed: of its weights and of the parts.
        steps: of Adam.
        crops: parts per step.
        crop: their width [px], at least 11.
        lr: first step size of Adam.
        ssim_weight: of 1 − SSIM in the loss [-].

    Returns:
        The model in evaluation mode, and how it went.

    Raises:
        InputError: no presses, parts that do not fit, or photographs that are not finite.
    """
    H, W = presses.camera.size
    if not len(presses) or not WINDOW <= crop <= min(H, W) or steps < 1:
        got = f"{len(presses)} presses, crop {crop}, {steps} steps"
        expected = f"presses, {WINDOW} <= crop <= {min(H, W)}, steps >= 1"
        raise InputError(message("calibrate_optics", expected, got, "Correct it"))
    if not bool(torch.isfinite(presses.image).all()):
        raise InputError(message("calibrate_optics", "finite photographs", "NaN", "Drop them"))
    settings = dict(presses=len(presses), seed=seed, steps=steps, crops=crops, crop=crop, lr=lr,
                    ssim_weight=ssim_weight)  # fmt: skip
    wall, cpu = time.perf_counter(), time.process_time()
    if model is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = OpticalModel()
    image, normal, seen = presses.image, presses.view.normal, presses.view.seen
    model.to(image).train()
    rest, ground = presses.rest.normal[0], presses.background
    place = unit_pixels(presses.camera, image)
    generator = torch.Generator().manual_seed(seed)
    pick = _centres(presses, generator)
    adam = torch.optim.Adam(model.parameters(), lr=lr)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    span = torch.arange(crop)
    losses = []
    for _ in range(steps):
        n, v, u = pick(crops)
        v = (v - crop // 2).clamp(0, H - crop)[:, None] + span
        u = (u - crop // 2).clamp(0, W - crop)[:, None] + span
        part = (v[:, :, None], u[:, None, :])
        whole = (n[:, None, None], *part)
        change = model(normal[whole], rest[part], place[part])
        found = ground[part] + change * seen[whole].unsqueeze(-1)
        truth = image[whole]
        loss = (found - truth).abs().mean() + ssim_weight * (1 - ssim(found, truth).mean())
        adam.zero_grad()
        loss.backward()
        adam.step()
        fall.step()
        losses.append(float(loss.detach()))
    tenths = [losses[k * steps // 10 : max((k + 1) * steps // 10, k * steps // 10 + 1)]
              for k in range(10)]  # fmt: skip
    report = Calibration(
        loss=tuple(sum(part) / len(part) for part in tenths if part),
        seconds=time.perf_counter() - wall,
        cpu_seconds=time.process_time() - cpu,
        settings=settings,
    )
    return model.eval(), report


@torch.no_grad()
def measure_optics(
    model: OpticalModel | None, presses: PressSet, contact: float = 5e-5
) -> dict[str, float]:
    """How near the images of a model are to photographs.

    Args:
        model: None measures the no-contact image in its place, which every model has to beat.
        presses: that it was not calibrated with.
        contact: indentation from which a pixel counts as contact [m].

    Returns:
        `ssim` over whole images, `ssim_seen` over windows about pixels that show the gel,
        `ssim_contact` over those about contact, least of them over presses `ssim_contact_least`,
        mean absolute errors `error_seen` and `error_contact` of colours [-].
    """
    truth, seen = presses.image, presses.view.seen
    if model is None:
        found = presses.background.expand_as(truth)
    else:
        found = torch.cat(
            [
                model.image(presses.camera, normal[None], presses.rest.normal[0],
                            presses.background)
                for normal in presses.view.normal
            ]
        )  # fmt: skip
    half = WINDOW // 2
    index = torch.cat([ssim_map(a[None], b[None]) for a, b in zip(found, truth, strict=True)])
    touched = presses.indent > contact
    inner = (slice(None), slice(half, -half), slice(half, -half))
    error = (found - truth).abs().mean(-1)
    each = [float(i[t].mean()) for i, t in zip(index, touched[inner], strict=True) if bool(t.any())]
    return {
        "ssim": float(index.mean()),
        "ssim_seen": float(index[seen[inner]].mean()),
        "ssim_contact": sum(each) / len(each) if each else math.nan,
        "ssim_contact_least": min(each) if each else math.nan,
        "error_seen": float(error[seen].mean()),
        "error_contact": float(error[touched].mean()),
    }


def save_optics(path: str | os.PathLike[str], model: OpticalModel, **about: Any) -> Path:
    """Write weights (`*.safetensors`) with JSON values `about` them. Errors as `save_checkpoint`."""
    config = {"hidden": list(model.hidden), "octaves": model.octaves, **about}
    return save_checkpoint(path, {k: v.float() for k, v in model.state_dict().items()}, config)


def load_optics(
    name: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[OpticalModel, Mapping[str, Any]]:
    """A model and what was kept with it.

    Args:
        name: of a shipped one, `rheograd.assets.weights_names("tactile")`, or a path.
        device: where it goes.

    Raises:
        FileNotFoundError, CheckpointError, InputError: as `load_checkpoint`.
    """
    path = weights("tactile", name)
    config = load_checkpoint(path).config
    model = OpticalModel(config["hidden"], config["octaves"])
    load_checkpoint(path, model)
    return model.to(device).eval(), config


def _centres(presses: PressSet, generator: torch.Generator):
    """A function that draws pixels (press, row, column), three in four of them from contact."""
    H, W = presses.camera.size
    seen = presses.view.seen.reshape(-1).nonzero()[:, 0].cpu()
    touched = (presses.indent > 5e-5).reshape(-1).nonzero()[:, 0].cpu()

    def pick(n: int) -> tuple[Tensor, Tensor, Tensor]:
        near = round(0.75 * n) if len(touched) else 0
        rows = []
        for count, pool in ((near, touched), (n - near, seen)):
            draws = torch.randint(max(len(pool), 1), (count,), generator=generator)
            rows.append(pool[draws])
        at = torch.cat(rows)
        return at // (H * W), at // W % H, at % W

    return pick
