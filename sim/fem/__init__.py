"""One implicit solver for deformable bodies: solids, sheets and rods, with contact; differentiable."""
