"""Priors of the latent code as maps from white noise: β = T(z), z ~ N(0, I).

Posteriors are searched in z, where every prior is the same. `log_prob` is that of β:

    log p(β) = log N(T⁻¹(β); 0, I) + log |det ∂T⁻¹/∂β|

Differentiable in β, z and the weights. Sources at the classes.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from .sampling import normals

__all__ = ["Bounded", "CubePrior", "NormalPrior", "Prior", "RealNVP", "ZukoPrior", "fit_prior"]


class Prior(nn.Module):
    """What all priors share.

    Args:
        latent: dβ.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent

    def code(self, z: Tensor) -> Tensor:
        """β = T(z), (B, dβ)."""
        raise NotImplementedError

    def noise(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        """z = T⁻¹(β), (B, dβ), and log |det ∂z/∂β|, (B,)."""
        raise NotImplementedError

    def log_prob(self, beta: Tensor) -> Tensor:
        """log p(β), (B,)."""
        z, log_det = self.noise(beta)
        return log_det - 0.5 * z.square().sum(-1) - 0.5 * self.latent * math.log(2 * math.pi)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes (count, dβ), in the precision and on the device of the prior."""
        own = itertools.chain(self.parameters(), self.buffers())
        like = next((t for t in own if t.is_floating_point()), torch.zeros(()))
        return self.code(normals((count, self.latent), like, generator))


class CubePrior(Prior):
    """Uniform in (−1, 1)^dβ, the prior of the published examples: β = erf(z/√2)."""

    def code(self, z: Tensor) -> Tensor:
        return torch.erf(z / math.sqrt(2))

    def noise(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        z = math.sqrt(2) * torch.erfinv(beta)
        log_det = 0.5 * z.square() + 0.5 * math.log(2 * math.pi) - math.log(2)
        return z, log_det.sum(-1)

    def log_prob(self, beta: Tensor) -> Tensor:
        """log p(β), (B,): −dβ log 2 in the cube, edges included, and −∞ outside."""
        inside = (beta.abs() <= 1).all(-1)
        return beta.new_full((), -self.latent * math.log(2)).where(inside, -math.inf)


class NormalPrior(Prior):
    """N(m, L Lᵀ); N(0, I) until `fit` takes mean and covariance from codes."""

    def __init__(self, latent: int) -> None:
        super().__init__(latent)
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("root", torch.eye(latent))

    def fit(self, beta: Tensor, ridge: float = 1e-4) -> NormalPrior:
        """Mean and covariance of codes (S, dβ), with ridge · mean variance added to the diagonal."""
        self.mean.copy_(beta.mean(0))
        C = torch.cov(beta.T.double())
        C = C + ridge * C.diagonal().mean() * torch.eye(self.latent, dtype=C.dtype, device=C.device)
        self.root.copy_(torch.linalg.cholesky(C))
        return self

    def code(self, z: Tensor) -> Tensor:
        return self.mean + z @ self.root.mT

    def noise(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.linalg.solve_triangular(self.root, (beta - self.mean).mT, upper=False).mT
        return z, -self.root.diagonal().log().sum().expand(len(beta))


class RealNVP(Prior):
    """Affine couplings with alternating masks, from β to z:

        z_b = β_b e^{s(β_a)} + t(β_a),   s = c tanh(net(β_a)),   c one number per entry, first 1

    Networks have three linear layers; the last one starts at a hundredth of its size, so that the prior
    starts near N(0, I).

    Args:
        latent: dβ.
        couplings: number of layers.
        hidden: width of the networks.
        generator: of the first weights; default torch's own.

    Source: Dinh et al. 2017; sizes as in the released code of GenPANIS.
    """

    def __init__(
        self,
        latent: int,
        couplings: int = 12,
        hidden: int = 128,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(latent)
        if latent < 2:
            raise InputError(message("RealNVP", "latent >= 2", latent, "Use NormalPrior"))
        self.nets, self.scales = nn.ModuleList(), nn.ParameterList()
        even = torch.arange(latent) % 2 == 0
        self.kept = [even if k % 2 == 0 else ~even for k in range(couplings)]
        for kept in self.kept:
            n, m = int(kept.sum()), int((~kept).sum())
            for _ in range(2):
                layers = [nn.Linear(n, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, m)]
                for layer in layers:
                    bound = layer.in_features**-0.5 * (0.01 if layer is layers[-1] else 1.0)
                    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                    nn.init.zeros_(layer.bias)
                self.nets.append(
                    nn.Sequential(layers[0], nn.LeakyReLU(), layers[1], nn.LeakyReLU(), layers[2])
                )
            self.scales.append(nn.Parameter(torch.ones(m)))

    def _coupling(self, k: int, fixed: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.nets[2 * k](fixed)) * self.scales[k], self.nets[2 * k + 1](fixed)

    def noise(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        total = beta.new_zeros(len(beta))
        for k, kept in enumerate(self.kept):
            s, t = self._coupling(k, beta[:, kept])
            beta, total = _put(beta, ~kept, beta[:, ~kept] * torch.exp(s) + t), total + s.sum(-1)
        return beta, total

    def code(self, z: Tensor) -> Tensor:
        for k in reversed(range(len(self.kept))):
            free = ~self.kept[k]
            s, t = self._coupling(k, z[:, self.kept[k]])
            z = _put(z, free, (z[:, free] - t) * torch.exp(-s))
        return z


class ZukoPrior(Prior):
    """A flow of the package zuko (`pip install "rheograd[flows]"`), such as neural splines.

    Args:
        latent: dβ.
        kind: name of the class in `zuko.flows`, e.g. "NSF", "MAF", "NICE".
        options: of that class, e.g. transforms=3, hidden_features=(64, 64).

    Raises:
        ImportError: zuko is not installed.
        InputError: no such flow.

    Source: Rozet et al. (zuko); Durkan et al. 2019 (neural splines).
    """

    def __init__(self, latent: int, kind: str = "NSF", **options: Any) -> None:
        super().__init__(latent)
        try:
            import zuko
        except ImportError as error:
            raise ImportError(
                "ZukoPrior: expected the package zuko; got none. "
                'pip install "rheograd[flows]", or use RealNVP.'
            ) from error
        if not hasattr(zuko.flows, kind):
            raise InputError(message("ZukoPrior", "a flow of zuko.flows", kind, 'Take "NSF"'))
        self.kind, self.options = kind, options
        self.flow = getattr(zuko.flows, kind)(features=latent, context=0, **options)

    def noise(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow().transform.call_and_ladj(beta)

    def code(self, z: Tensor) -> Tensor:
        return self.flow().transform.inv(z)


class Bounded(Prior):
    """tanh of the code of another prior: for encoders that end in tanh."""

    def __init__(self, inner: Prior) -> None:
        super().__init__(inner.latent)
        self.inner = inner

    def code(self, z: Tensor) -> Tensor:
        return torch.tanh(self.inner.code(z))

    def noise(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        edge = 1 - 1e-6  # a code that float32 rounds to one has no finite z
        beta = beta.clamp(-edge, edge)
        z, log_det = self.inner.noise(torch.atanh(beta))
        return z, log_det - torch.log1p(-beta.square()).sum(-1)


def fit_prior(
    prior: Prior,
    beta: Tensor,
    updates: int = 500,
    batch: int = 100,
    lr: float = 1e-3,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Maximize the likelihood of codes by Adam with cosine decay, in place.

    Args:
        prior: with parameters; a `NormalPrior` is fitted in closed form instead.
        beta: codes (S, dβ).
        updates: steps.
        batch: codes per step.
        lr: first learning rate.
        generator: of the batches.

    Returns:
        Mean −log p(β)/dβ of every batch.
    """
    beta = beta.detach()
    if beta.ndim != 2 or len(beta) < 2 or beta.shape[1] != prior.latent:
        expected, fix = f"codes (S >= 2, {prior.latent})", "Encode more inputs, with this latent"
        raise InputError(message("fit_prior", expected, beta, fix))
    if not bool(torch.isfinite(beta).all()):
        fix = "Look for inputs that are not finite, or for a training that failed"
        raise InputError(message("fit_prior", "finite codes", "others", fix))
    inner = prior.inner if isinstance(prior, Bounded) else prior
    if isinstance(inner, NormalPrior):
        inner.fit(torch.atanh(beta.clamp(-1 + 1e-6, 1 - 1e-6)) if inner is not prior else beta)
        return [float(-prior.log_prob(beta).mean() / prior.latent)]
    parameters = list(prior.parameters())
    if not parameters:
        return []
    optimizer = torch.optim.Adam(parameters, lr)
    course = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    seen = []
    for _ in itertools.repeat(None, updates):
        place = "cpu" if generator is None else generator.device
        count = (min(batch, len(beta)),)
        chosen = torch.randint(len(beta), count, generator=generator, device=place).to(beta.device)
        optimizer.zero_grad()
        loss = -prior.log_prob(beta[chosen]).mean() / prior.latent
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        course.step()
        seen.append(float(loss.detach()))
    return seen


def _put(values: Tensor, where: Tensor, new: Tensor) -> Tensor:
    """Columns replaced without writing in place."""
    index = where.nonzero()[:, 0].to(values.device)
    return values.index_copy(1, index, new)
