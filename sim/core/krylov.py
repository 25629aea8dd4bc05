"""Krylov iterations on rows (B, n); each system of the batch stops by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .errors import InputError, message

MatVec = Callable[[Tensor], Tensor]
Monitor = Callable[[Tensor], object]
"""Sees the residual norms (B,) before the first and after every iteration; True stops the iteration."""


def cg(
    matvec: MatVec,
    b: Tensor,
    x: Tensor,
    tol: float,
    max_iterations: int,
    preconditioner: MatVec | None,
    monitor: Monitor | None = None,
) -> tuple[Tensor, Tensor]:
    """Conjugate gradients; flexible β when a preconditioner is given. Returns x and iterations."""
    target = tol * b.norm(dim=1)
    r = b - matvec(x)
    z = r if preconditioner is None else preconditioner(r)
    p, rz = z, (r * z).sum(1)
    iterations = torch.zeros(len(b), dtype=torch.long, device=b.device)
    for done in range(max_iterations + 1):
        norm = r.norm(dim=1)
        active = norm > target
        stop = monitor is not None and monitor(norm) is True
        if stop or done == max_iterations or not bool(active.any()):
            break
        q = matvec(p)
        curvature = (p * q).sum(1)
        if bool((active & (curvature <= 0)).any()):
            worst = float(torch.where(active, curvature, torch.inf).min())
            fix = "Use GMRES() or DenseDirect(), and declare structure='symmetric' or 'general'"
            got = f"⟨p, A p⟩ = {worst:.3e}"
            raise InputError(message("CG.solve", "A positive definite", got, fix))
        alpha = torch.where(active, rz / torch.where(active, curvature, 1.0), 0.0)
        x = x + alpha[:, None] * p
        r_new = r - alpha[:, None] * q
        z = r_new if preconditioner is None else preconditioner(r_new)
        rz_new = (r_new * z).sum(1)
        change = rz_new if preconditioner is None else rz_new - (r * z).sum(1)
        beta = torch.where(active, change / torch.where(active, rz, 1.0), 0.0)
        p = z + beta[:, None] * p
        r, rz = r_new, rz_new
        iterations += active
    return x, iterations


def fcg(
    matvec: MatVec,
    b: Tensor,
    x: Tensor,
    tol: float,
    max_iterations: int,
    direction: MatVec,
    history: int | None = 2,
    monitor: Monitor | None = None,
) -> tuple[Tensor, Tensor]:
    """Conjugate directions from any map r ↦ q, linear or not, for A symmetric positive definite.

        p = q − Σ_j (⟨q, A p_j⟩ / ⟨p_j, A p_j⟩) p_j,   x += (⟨p, r⟩ / ⟨p, A p⟩) p,   r = b − A x

    The sum runs over the last `history` directions (None: all, 0: none). The error in the norm of A
    never grows, whatever q is. Where q is almost orthogonal to r the step would stall, so r itself
    takes its place. Two products with A per iteration: the residual is the true one. Returns x and
    iterations.

    Source: Notay 2000 (flexible conjugate gradients); Kaneda et al. 2023 (q from a network).
    """
    target = tol * b.norm(dim=1)
    r = b - matvec(x)
    iterations = torch.zeros(len(b), dtype=torch.long, device=b.device)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for done in range(max_iterations + 1):
        norm = r.norm(dim=1)
        active = norm > target
        stop = monitor is not None and monitor(norm) is True
        if stop or done == max_iterations or not bool(active.any()):
            break
        q = direction(r)
        angle = (q * r).sum(1).abs()
        lost = ~(angle > 1e-6 * q.norm(dim=1) * norm)  # also where q is not finite
        p = torch.where(lost[:, None], r, q)
        # With all directions kept, round-off needs the second pass; with few it changes nothing.
        for _ in range(2 if history is None else 1):
            parts = [((p * Aj).sum(1) / cj)[:, None] * pj for pj, Aj, cj in kept]
            p = p - sum(parts) if parts else p
        Ap = matvec(p)
        curvature = (p * Ap).sum(1)
        regular = active & (curvature > 0)
        safe = torch.where(regular, curvature, 1.0)
        x = x + torch.where(regular, (p * r).sum(1) / safe, 0.0)[:, None] * p
        r = b - matvec(x)
        if history != 0:
            kept.append((p, torch.where(regular[:, None], Ap, 0.0), safe))
            if history is not None:
                kept = kept[-history:]
        iterations += active
    return x, iterations


def gmres(
    matvec: MatVec,
    b: Tensor,
    x: Tensor,
    tol: float,
    max_iterations: int,
    preconditioner: MatVec | None,
    restart: int,
) -> tuple[Tensor, Tensor]:
    """Restarted flexible GMRES. Returns x and iterations."""
    target = tol * b.norm(dim=1)
    iterations = torch.zeros(len(b), dtype=torch.long, device=b.device)
    done = 0
    while done < max_iterations:
        r = b - matvec(x)
        active = r.norm(dim=1) > target
        if not bool(active.any()):
            break
        before = x
        x, used = _cycle(matvec, r, x, target, min(restart, max_iterations - done), preconditioner)
        done += int(used.max())
        iterations += used
        if torch.equal(before, x):
            break
    return x, iterations


def _cycle(matvec, r, x, target, m, preconditioner) -> tuple[Tensor, Tensor]:
    """One Arnoldi cycle of at most m steps, QR of the Hessenberg matrix by Givens rotations.

    Q collects the rotations, so that a new column costs one product instead of j small ones.
    """
    count = len(r)
    size = r.norm(dim=1)
    tiny = torch.finfo(r.dtype).tiny
    V = r.new_zeros(count, m + 1, r.shape[1])
    V[:, 0] = r / size.clamp_min(tiny)[:, None]
    Z: list[Tensor] = []
    R = r.new_zeros(count, m, m)
    g = r.new_zeros(count, m + 1)
    g[:, 0] = size
    Q = torch.eye(m + 1).to(r).repeat(count, 1, 1)
    used = torch.zeros(count, dtype=torch.long, device=r.device)
    for j in range(m):
        active = g[:, j].abs() > target
        if not bool(active.any()):
            break
        z = V[:, j] if preconditioner is None else preconditioner(V[:, j])
        Z.append(z)
        w = matvec(z)
        basis = V[:, : j + 1]
        h = r.new_zeros(count, j + 1)
        # Classical Gram-Schmidt twice is as stable as the modified form and needs two products.
        for _ in range(2):
            part = (basis @ w.unsqueeze(2)).squeeze(2)
            w = w - (part.unsqueeze(1) @ basis).squeeze(1)
            h = h + part
        length = w.norm(dim=1)
        h = (Q[:, : j + 1, : j + 1] @ h.unsqueeze(2)).squeeze(2)
        diagonal = torch.hypot(h[:, j], length)
        safe = torch.where(diagonal > 0, diagonal, 1.0)
        cos, sin = torch.where(diagonal > 0, h[:, j] / safe, 1.0), length / safe
        above, below = Q[:, j].clone(), Q[:, j + 1].clone()
        Q[:, j] = cos[:, None] * above + sin[:, None] * below
        Q[:, j + 1] = cos[:, None] * below - sin[:, None] * above
        h[:, j] = diagonal
        regular = active & (diagonal > 0)
        R[:, : j + 1, j] = h
        g[:, j + 1] = torch.where(regular, -sin * g[:, j], 0.0)
        g[:, j] = torch.where(regular, cos * g[:, j], g[:, j])
        used += regular
        V[:, j + 1] = w / torch.where(length > 0, length, 1.0)[:, None]
    k = len(Z)
    if k == 0:
        return x, used
    # Systems that finished earlier take part with the steps they used: identity for the others.
    keep = torch.arange(k, device=r.device) < used[:, None]
    R = torch.where(keep[:, :, None] & keep[:, None, :], R[:, :k, :k], torch.eye(k).to(R))
    y = torch.linalg.solve_triangular(R, (g[:, :k] * keep).unsqueeze(2), upper=True)[..., 0]
    basis = V[:, :k] if preconditioner is None else torch.stack(Z, dim=1)
    return x + (y.unsqueeze(1) @ basis).squeeze(1), used


def check_symmetric(where: str, matvec: MatVec, b: Tensor) -> None:
    """Raise InputError unless ⟨q, A p⟩ = ⟨p, A q⟩ for p = b and a random q.

    A skew part K shows with |⟨q, K p⟩| of order |K| |p| |q| / √n; round-off with ε |A| |p| |q|.
    """
    p = b / b.norm(dim=1, keepdim=True).clamp_min(torch.finfo(b.dtype).tiny)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(b.shape, generator=generator, dtype=b.dtype).to(b.device)
    # Mixing q into p keeps the test from being blind to b with few entries.
    p = p + torch.randn(b.shape, generator=generator, dtype=b.dtype).to(b.device)
    p, q = (v / v.norm(dim=1, keepdim=True) for v in (p, q))
    Ap, Aq = matvec(p), matvec(q)
    defect = ((q * Ap).sum(1) - (p * Aq).sum(1)).abs()
    scale = (Ap.norm(dim=1) + Aq.norm(dim=1)) / b.shape[1] ** 0.5
    if bool((defect > torch.finfo(b.dtype).eps ** 0.5 * scale).any()):
        got = f"|⟨q, A p⟩ − ⟨p, A q⟩| = {float(defect.max()):.3e}"
        raise InputError(message(where, "a symmetric A", got, "Use GMRES() or structure='general'"))
