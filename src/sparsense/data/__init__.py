"""Datasets and where they come from; importing this package registers every source."""

from sparsense.data import digits
from sparsense.data.dataset import Dataset
from sparsense.data.sources import SOURCES, Source

__all__ = ["SOURCES", "Dataset", "Source", "digits"]
