"""Convergent graph solvers: stationary states of graphs as fixed points of learned contractions."""

from .baselines import GraphNetwork, ImplicitGraphNetwork
from .graphs import Graphs, collate
from .model import CGSConfig, ConvergentGraphSolver
from .pores import pore_network
from .train import relative_error, train
from .values import policy_accuracy, value_graph

__all__ = [
    "CGSConfig",
    "ConvergentGraphSolver",
    "GraphNetwork",
    "Graphs",
    "ImplicitGraphNetwork",
    "collate",
    "policy_accuracy",
    "pore_network",
    "relative_error",
    "train",
    "value_graph",
]
