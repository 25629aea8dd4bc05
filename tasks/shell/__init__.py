"""Manipulation of thin shells: fingers that lift, pull, fold and form sheets."""

from __future__ import annotations

from ..registry import register_family

__all__: list[str] = []

register_family(
    __package__,
    {
        "balancing": ("balancing", "Balancing"),
        "balancing-nano": ("balancing", "BalancingNano"),
        "bouncing": ("bouncing", "Bouncing"),
        "bouncing-nano": ("bouncing", "BouncingNano"),
        "card": ("card", "Card"),
        "card-nano": ("card", "CardNano"),
        "folding-l": ("folding", "FoldingL"),
        "folding-l-nano": ("folding", "FoldingLNano"),
        "folding-u": ("folding", "FoldingU"),
        "folding-u-nano": ("folding", "FoldingUNano"),
        "following": ("pulling", "Following"),
        "following-nano": ("pulling", "FollowingNano"),
        "forming": ("forming", "Forming"),
        "forming-nano": ("forming", "FormingNano"),
        "lifting": ("lifting", "Lifting"),
        "lifting-nano": ("lifting", "LiftingNano"),
        "pick-folding": ("pick_folding", "PickFolding"),
        "pick-folding-nano": ("pick_folding", "PickFoldingNano"),
        "separating": ("pulling", "Separating"),
        "separating-nano": ("pulling", "SeparatingNano"),
        "sliding": ("sliding", "Sliding"),
        "sliding-nano": ("sliding", "SlidingNano"),
        "throwing": ("balancing", "Throwing"),
        "throwing-nano": ("balancing", "ThrowingNano"),
    },
)
