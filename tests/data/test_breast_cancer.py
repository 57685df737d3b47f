import numpy as np
from sklearn.datasets import load_breast_cancer

from sparsense.data import SOURCES
from sparsense.data.columns import Encoding


def test_malignant_is_anomalous_and_splits_are_complete():
    parts = [SOURCES["breast_cancer"](split) for split in ("train", "calibration", "test")]
    assert sum(map(len, parts)) == 569
    rows = {row.tobytes(): int(label) for part in parts for row, label in zip(part.inputs, part.labels, strict=True)}
    known = load_breast_cancer()
    expected = {
        row.tobytes(): known.target_names[t] for row, t in zip(known.data.astype("f4"), known.target, strict=True)
    }
    assert {row: ("benign", "malignant")[label] for row, label in rows.items()} == expected


def test_networks_see_standardised_measures_of_benign_training_rows():
    train, test = (SOURCES["breast_cancer"](split) for split in ("train", "test"))
    benign = train.inputs[train.labels == 0].astype(np.float64)
    found = Encoding(test.columns).apply(test.inputs.astype(np.float64))
    np.testing.assert_allclose(found, (test.inputs - benign.mean(0)) / benign.std(0), rtol=1e-4, atol=1e-4)
    assert [column.name for column in test.columns] == load_breast_cancer().feature_names.tolist()
