"""Reduced-order learning of Lagrangian dynamics on sampled particles (GIOROM).

Two parts, trained separately: a time-stepper moves n sampled particles, a full-field map gives the
positions of all N particles from theirs.

Source: Viswanath et al. 2024, "Reduced-Order Neural Operators: Learning Lagrangian Dynamics on Highly
Sparse Graphs", arXiv 2407.03925.
"""
