"""Manipulation by touch: gel sensors that follow, pull, open, tip, grasp and insert."""

from __future__ import annotations

from ..registry import register_family

__all__: list[str] = []

register_family(
    __package__,
    {
        "cable-straightening": ("cable_straightening", "CableStraightening"),
        "cable-straightening-nano": ("cable_straightening", "CableStraighteningNano"),
        "case-opening": ("case_opening", "CaseOpening"),
        "case-opening-nano": ("case_opening", "CaseOpeningNano"),
        "grasp-elastic": ("grasp_elastic", "GraspElastic"),
        "grasp-elastic-nano": ("grasp_elastic", "GraspElasticNano"),
        "grasp-plastic": ("grasp_plastic", "GraspPlastic"),
        "grasp-plastic-nano": ("grasp_plastic", "GraspPlasticNano"),
        "object-reposing": ("object_reposing", "ObjectReposing"),
        "object-reposing-nano": ("object_reposing", "ObjectReposingNano"),
        "peg-insertion": ("peg_insertion", "PegInsertion"),
        "peg-insertion-nano": ("peg_insertion", "PegInsertionNano"),
        "surface-following": ("surface_following", "SurfaceFollowing"),
        "surface-following-nano": ("surface_following", "SurfaceFollowingNano"),
    },
)
