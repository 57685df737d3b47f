"""The table of tumours that scikit-learn brings along: data that needs no download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparsense.data.columns import fit_encoding
from sparsense.data.dataset import Dataset
from sparsense.data.sources import source
from sparsense.data.splits import SHARES, SPLITS, take_split
from sparsense.extras import need


@source("breast_cancer", *SPLITS)
def breast_cancer(split: str, *, shares: Sequence[float] = SHARES) -> Dataset:
    """569 breast tumours, 30 measures of their cells, float32 `[N, 30]`; 0 is benign, 1 malignant.

    Measures keep their units. As for `table`, `columns` says what a network sees of them: mean 0 and standard deviation
    1 on the benign rows of `train`.

    Args:
        split: `all`, or `train`, `calibration`, `test`: disjoint, stratified and always the same.
        shares: Of train, calibration and test.

    Raises:
        MissingExtraError: scikit-learn is not installed.

    Reference:
        W. Wolberg, O. Mangasarian, N. Street, W. Street, Breast Cancer Wisconsin (Diagnostic), UCI repository, 1993.
    """
    datasets = need("sklearn.datasets", doing="the data source 'breast_cancer'", extra="data")
    bunch = datasets.load_breast_cancer()
    whole = Dataset("breast_cancer", bunch.data.astype(np.float32), 1 - bunch.target)
    train = take_split(whole, "train", shares)
    benign = train.inputs[train.labels == 0].astype(str)
    encoding = fit_encoding(dict(zip(map(str, bunch.feature_names), benign.T.tolist(), strict=True)))
    return replace(take_split(whole, split, shares), columns=encoding.columns)
