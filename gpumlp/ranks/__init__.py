"""Processes that train one network together: what they exchange, and how they agree."""

from gpumlp.ranks.alone import Ranks

__all__ = ["Ranks"]
