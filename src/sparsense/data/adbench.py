"""Tables of numbers with labelled anomalies, as ADBench collected them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sparsense.data.classes import NORMAL_OR_NOT
from sparsense.data.dataset import Dataset
from sparsense.data.published import read_published
from sparsense.data.root import available, data_file
from sparsense.data.sources import source
from sparsense.data.splits import SHARES, SPLITS, first_of_equals, take_split
from sparsense.errors import UnknownNameError


@source("adbench", *SPLITS)
def adbench(
    split: str,
    *,
    table: str,
    data_root: str | None = None,
    shares: Sequence[float] = SHARES,
    unique: bool = False,
) -> Dataset:
    """One table of ADBench, float32 `[N, D]`; label 0 is normal, 1 anomalous: choose with `classes=[0]`.

    Columns keep their raw units: scale them in the network's preprocessing.

    Args:
        split: `all`, or `train`, `calibration`, `test`: disjoint, stratified and always the same.
        table: Such as `cardio` or `thyroid`.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.
        shares: Of train, calibration and test.
        unique: Leave out rows that repeat an earlier one, which could otherwise lie in two splits.

    Raises:
        UnknownNameError: No such table in the data root.

    Reference:
        S. Han et al., ADBench: Anomaly Detection Benchmark, NeurIPS 2022, arXiv:2206.09426.
    """
    tables = available("tabular", data_root)
    if tables and table not in tables:
        raise UnknownNameError("table of data source 'adbench'", table, tables)
    file = f"tabular/{table}.npz"
    data_file(file, source="adbench", data_root=data_root)
    whole = read_published(f"adbench/{table}", file, data_root, keys=("X", "y"))
    if unique:
        whole = whole.subset(first_of_equals(whole.inputs))
    return take_split(replace(whole, class_names=NORMAL_OR_NOT), split, shares)
