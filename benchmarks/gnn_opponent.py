"""The opponent that knows no mechanics: a graph network that predicts positions from positions (GNS).

    window of 6 frames ↦ acceleration of every particle,  frames every 5 steps of the simulation

It learns from the same single motion as the laws, from windows at every step of it, and predicts from
the true first window. Frames are those at which laws are compared too, and the six given ones count
with their error of zero. Where particles are closer than in training, the radius of its graph shrinks
with their distance.

Source: Sanchez-Gonzalez et al. 2020 (GNS); Ma et al. 2023 (NCLaw), §4.1 (baseline "gnn").
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rheograd.operators.data import KINDS, EpochBatches, ParticleBatch, Statistics
from rheograd.operators.giorom import GNS, GNSConfig, StepperLoss, rollout
from rheograd.operators.nclaw import simulate_truth
from rheograd.operators.train import Trainer, TrainerConfig
from rheograd.sim import mpm
from rheograd.sim.core.errors import StateError
from rheograd.sim.core.neighbors import nearest
from rheograd.tasks.nclaw import Evaluation, Scene, training_scene
from torch import Tensor

EVERY, WINDOW, NEIGHBORS, NOISE = 5, 6, 12, 2e-4
"""Steps per frame, frames that the network sees, neighbors of a particle, noise [m/frame]."""


class Windows:
    """All windows of one trajectory with the frame that follows, as samples."""

    def __init__(self, x: Tensor, material: str, walls: tuple[float, float]) -> None:
        self.x, self.material, self.walls = x, material, walls

    def __len__(self) -> int:
        return len(self.x) - WINDOW * EVERY

    def __getitem__(self, index: int) -> ParticleBatch:
        frames = self.x[index : index + WINDOW * EVERY + 1 : EVERY]
        return batch(frames, self.material, self.walls)


def batch(frames: Tensor, material: str, walls: tuple[float, float]) -> ParticleBatch:
    """The first frames (T, N, 3) as a window, the others as targets."""
    n = frames.shape[1]
    x = frames.transpose(0, 1).contiguous()
    return ParticleBatch(
        positions=x[:, :WINDOW],
        kind=torch.full((n,), KINDS[material]),
        scene=torch.zeros(n, dtype=torch.long),
        bounds=torch.tensor(walls, dtype=x.dtype).expand(1, 3, 2),
        target=x[:, WINDOW:] if len(frames) > WINDOW else None,
    )


def train(
    material: str, folder: str | Path, updates: int, *, size: str = "full", seed: int = 0
) -> GNS:
    """Train, or load what is finished; goes on where it was interrupted."""
    scene = training_scene(material, size)
    x = simulate_truth(scene.solver(mpm), 200 if size == "nano" else 1000).x
    data = Windows(x, material, (scene.lower[0], scene.upper[0]))
    v = x[EVERY:] - x[:-EVERY]
    a = v[EVERY:] - v[:-EVERY]
    scales = [f(t) for t in (v, a) for f in (_mean, _std)]
    radius = float(nearest(x[0], x[0], NEIGHBORS + 1)[1][:, -1].mean())
    model = GNS(
        GNSConfig.small(),
        Statistics(*scales).with_noise(NOISE),
        radius,
        3,
        generator=torch.Generator().manual_seed(seed),
    )
    config = TrainerConfig(
        updates=updates, optimizer="adamw", schedule="cosine", warmup=20, clip=1.0, seed=seed
    )
    path = Path(folder) / f"gnn-{material}{'-nano' if size == 'nano' else ''}-{seed}"
    trainer = Trainer(model, StepperLoss(noise=NOISE), config, path)
    trainer.fit(EpochBatches(data, 1, seed))
    return model.eval()


def evaluate(model: GNS, scene: Scene, truth: Tensor, material: str) -> Evaluation:
    """What `rheograd.tasks.nclaw.evaluate` does for laws.

    Args:
        model: of `train`.
        scene: of one material.
        truth: positions every fifth step, (frames, N, 3) [m].
        material: of the scene.
    """
    wall = 2 / scene.cells
    window = batch(truth[:WINDOW], material, (wall, 1 - wall))
    trained = model.radius
    share = (scene.bodies[0].volume / training_scene(material).volume) ** (1 / 3)
    began = time.perf_counter()
    try:
        model.radius = trained * min(1.0, share)
        with torch.no_grad():
            found = rollout(model, window, len(truth) - WINDOW).transpose(0, 1)
    except StateError as failure:
        return Evaluation(None, None, {}, 0, time.perf_counter() - began, str(failure))
    finally:
        model.radius = trained
    seconds = time.perf_counter() - began
    errors = (torch.cat([truth[:WINDOW], found]) - truth).square().mean((1, 2))
    return Evaluation(float(errors.mean()), float(errors[-1]), {}, scene.steps, seconds)


def _mean(t: Tensor) -> Tensor:
    return t.flatten(0, -2).mean(0)


def _std(t: Tensor) -> Tensor:
    return t.flatten(0, -2).std(0)
