"""Classic uses of implicit layers: ridge, support vector machine, distilled data, equilibrium network.

Each comes with what it is compared with: a closed form, or the same iterations on the tape.
"""

from __future__ import annotations

import torch
from rheograd.sim.core.implicit_layers import implicit_argmin, implicit_fixed_point
from rheograd.sim.core.projections import Simplex
from torch import Tensor, nn

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# Ridge regression: one penalty per feature


def ridge_data(samples: int = 40, features: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and validation sets."""
    w = normal(features, seed=2) * (torch.arange(features) < features // 2)
    X, V = normal(samples, features), normal(samples, features, seed=1)
    return X, X @ w + normal(samples, seed=3), V, V @ w + normal(samples, seed=4)


def ridge_energy(w: Tensor, log_penalty: Tensor, X: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (X @ w - y).square().sum() + 0.5 * (log_penalty.exp() * w.square()).sum()


def ridge_loss(log_penalty: Tensor, data, **options) -> Tensor:
    """Validation error of the weights that the penalties give."""
    X, y, V, v = data
    w0 = torch.zeros(X.shape[1], dtype=X.dtype)
    w = implicit_argmin(ridge_energy, w0, log_penalty, X, y, **options)
    return (V @ w - v).square().mean()


def ridge_closed_form(log_penalty: Tensor, data) -> Tensor:
    """Its gradient: −diag(e^λ w) A⁻¹ 2 Vᵀ(V w − v)/n with A = XᵀX + diag(e^λ)."""
    X, y, V, v = data
    A = X.T @ X + torch.diag(log_penalty.exp())
    w = torch.linalg.solve(A, X.T @ y)
    adjoint = torch.linalg.solve(A, 2 * V.T @ (V @ w - v) / len(v))
    return -log_penalty.exp() * w * adjoint


# Multiclass support vector machine, its dual on the simplex


def svm_data(samples: int = 30, features: int = 6, classes: int = 3):
    """Gaussian classes: (X, one-hot Y) to train on and to validate."""
    centres = 1.5 * normal(classes, features, seed=9)
    sets = []
    for seed in (5, 6):
        label = torch.arange(samples) % classes
        sets += [centres[label] + normal(samples, features, seed=seed)]
        sets += [nn.functional.one_hot(label, classes).to(F64)]
    return sets


def svm_weights(x: Tensor, theta: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    return X.T @ (Y - x) / theta


def svm_dual(x: Tensor, theta: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    """θ/2 ‖W(x)‖² + ⟨x, Y⟩, minimized over rows on the simplex."""
    return 0.5 * theta * svm_weights(x, theta, X, Y).square().sum() + (x * Y).sum()


def svm_loss(theta: Tensor, data, **options) -> Tensor:
    """Validation error of the dual solution."""
    X, Y, V, U = data
    x0 = torch.full_like(Y, 1 / Y.shape[1])
    x = implicit_argmin(svm_dual, x0, theta, X, Y, projection=Simplex(), **options)
    return 0.5 * (V @ svm_weights(x, theta, X, Y) - U).square().sum()


def svm_unrolled(theta: Tensor, data, iterations: int) -> Tensor:
    """The same by projected gradient steps on the tape, step 1/L."""
    X, Y, V, U = data
    x = torch.full_like(Y, 1 / Y.shape[1])
    step = theta.detach() / torch.linalg.matrix_norm(X, 2).square()
    for _ in range(iterations):
        slope = Y - X @ svm_weights(x, theta, X, Y)
        x = Simplex()(x - step * slope)
    return 0.5 * (V @ svm_weights(x, theta, X, Y) - U).square().sum()


# Distilled data: a few learned samples whose classifier fits many


def cloud(samples: int, classes: int = 4, features: int = 8, seed: int = 7):
    """Two Gaussians per class: inputs and labels."""
    centres = 2.0 * normal(2 * classes, features, seed=11)
    part = torch.arange(samples) % (2 * classes)
    return centres[part] + normal(samples, features, seed=seed), part % classes


def logistic(w: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of a linear classifier, with a penalty that makes it strictly convex."""
    scores = images @ w["W"] + w["b"]
    penalty = 0.5e-2 * (w["W"].square().sum() + w["b"].square().sum())
    return nn.functional.cross_entropy(scores, labels) + penalty


def classifier(images: Tensor, labels: Tensor, classes: int = 4, **options) -> dict[str, Tensor]:
    """Weights trained to the end on the images, differentiable in them."""
    zero = {
        "W": torch.zeros(images.shape[1], classes).to(images),
        "b": torch.zeros(classes).to(images),
    }
    return implicit_argmin(logistic, zero, images, labels, **options)


def distill(updates: int = 40, per_class: int = 1, classes: int = 4) -> dict[str, float]:
    """Learn `per_class` samples of each class; accuracy on others, and that of real samples."""
    inputs, labels = cloud(600, classes)
    others, truth = cloud(600, classes, seed=8)
    kept = torch.arange(classes).repeat(per_class)

    def accuracy(images: Tensor, kinds: Tensor) -> float:
        w = classifier(images, kinds, classes)
        return float(((others @ w["W"] + w["b"]).argmax(1) == truth).double().mean())

    order = torch.argsort(labels, stable=True).reshape(classes, -1)[:, :per_class].T.reshape(-1)
    real = accuracy(inputs[order], kept)
    images = torch.zeros(len(kept), inputs.shape[1], dtype=F64, requires_grad=True)
    with torch.no_grad():
        images += 0.1 * normal(*images.shape, seed=12)
    optimizer = torch.optim.Adam([images], lr=0.2)
    losses = []
    for _ in range(updates):
        optimizer.zero_grad()
        w = classifier(images, kept, classes)
        loss = nn.functional.cross_entropy(inputs @ w["W"] + w["b"], labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return {
        "first loss": losses[0],
        "last loss": losses[-1],
        "accuracy": accuracy(images.detach(), kept),
        "accuracy of as many real samples": real,
        "accuracy of all samples": accuracy(inputs, labels),
    }


# Deep equilibrium network on two spirals


def spirals(samples: int = 256, turns: float = 1.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points (N, 2) and labels 0, 1."""
    t = torch.rand(samples, generator=torch.Generator().manual_seed(seed)).sqrt()
    label = torch.arange(samples) % 2
    angle = 2 * torch.pi * turns * t + torch.pi * label
    noise = 0.02 * normal(samples, 2, seed=seed + 1).float()
    return t[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1) + noise, label


class Equilibrium(nn.Module):
    """z* = tanh(W z* + U x + b) with ‖W‖₂ ≤ 0.9, and a linear read-out: infinitely deep, one layer.

    Args:
        width: of z.
        iterations: None for the fixed point; else that many steps on the tape.
        tol: ‖z − T(z)‖ per sample.
    """

    def __init__(self, width: int = 32, iterations: int | None = None, tol: float = 1e-4):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width, bias=False), nn.Linear(2, width)
        self.read, self.iterations, self.tol = nn.Linear(width, 2), iterations, tol
        with torch.no_grad():
            self.outer.weight.mul_(4.0)

    def forward(self, x: Tensor) -> Tensor:
        W = self.inner.weight
        W = 0.9 * W / torch.linalg.matrix_norm(W, 2).clamp_min(1.0)
        drive = self.outer(x)

        def step(z: Tensor, W: Tensor, drive: Tensor) -> Tensor:
            return torch.tanh(z @ W.T + drive)

        z = torch.zeros_like(drive)
        if self.iterations is not None:
            for _ in range(self.iterations):
                z = step(z, W, drive)
            return self.read(z)
        options = {"adjoint": "anderson", "batch_dims": 0, "tol": self.tol * len(z) ** 0.5}
        return self.read(implicit_fixed_point(step, z, W, drive, **options))


def fit_spirals(model: nn.Module, updates: int = 200, lr: float = 1e-2) -> dict[str, float]:
    """Train on one set, measure on another."""
    x, label = spirals()
    others, truth = spirals(seed=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(updates):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), label)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = (model(others).argmax(1) == truth).double().mean()
    return {"loss": float(loss.detach()), "accuracy": float(right)}
