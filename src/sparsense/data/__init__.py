"""Datasets and where they come from; importing this package registers every source."""

from sparsense.data import (  # each module registers its sources
    adbench,
    array_files,
    breast_cancer,
    cifar10,
    colour32,
    digit_anomalies,
    digits,
    grey28,
    image_folder,
    industrial,
    letters,
    photo_patches,
    series_files,
    table_files,
    timeseries,
)
from sparsense.data.dataset import Dataset
from sparsense.data.images import read_image
from sparsense.data.root import first_data_root
from sparsense.data.sources import SOURCES, Source

__all__ = [
    "SOURCES",
    "Dataset",
    "Source",
    "adbench",
    "array_files",
    "breast_cancer",
    "cifar10",
    "colour32",
    "digit_anomalies",
    "digits",
    "first_data_root",
    "grey28",
    "image_folder",
    "industrial",
    "letters",
    "photo_patches",
    "read_image",
    "series_files",
    "table_files",
    "timeseries",
]
