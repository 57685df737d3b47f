"""All fifteen damages, registered by importing them."""

from sparsense.robustness import blur, digital, noise, weather
from sparsense.robustness.corruption import CORRUPTIONS, corrupt, known

__all__ = ["CORRUPTIONS", "blur", "corrupt", "digital", "known", "noise", "weather"]
