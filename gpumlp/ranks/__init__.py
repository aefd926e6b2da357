"""Processes that train one network together: what they exchange, how they agree, how they end."""

from gpumlp.ranks.alone import Ranks
from gpumlp.ranks.start import ending, require_alone, start

__all__ = ["Ranks", "ending", "require_alone", "start"]
