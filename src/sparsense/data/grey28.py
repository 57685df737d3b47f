"""The grey 28x28 family: MNIST, Fashion-MNIST, and the two sets that are usually held against them."""

from __future__ import annotations

from sparsense.data.dataset import Dataset
from sparsense.data.published import OfficialSplits, read_published
from sparsense.data.sources import source

_MNIST = OfficialSplits("mnist", "mnist/train_60k.npz", "mnist/test_10k.npz", calibration_count=2000)
_FASHION = OfficialSplits(
    "fashion_mnist", "fashion_mnist/train_30k.npz", "fashion_mnist/test_10k.npz", calibration_count=2000
)


@source("mnist", "train", "calibration", "test", "test_all")
def mnist(split: str, *, data_root: str | None = None) -> Dataset:
    """MNIST, uint8 `[N, 28, 28, 1]`: train 60000, calibration 2000, test 8000 (both official test images).

    Args:
        split: `test_all` is calibration and test together.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.

    Reference:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Proceedings of the IEEE, 1998.
    """
    return _MNIST.load(split, data_root)


@source("fashion_mnist", "train", "calibration", "test", "test_all")
def fashion_mnist(split: str, *, data_root: str | None = None) -> Dataset:
    """Fashion-MNIST, uint8 `[N, 28, 28, 1]`: train 30000, calibration 2000, test 8000 (both official test).

    Args:
        split: `test_all` is calibration and test together.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.

    Reference:
        H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747.
    """
    return _FASHION.load(split, data_root)


@source("kmnist", "test")
def kmnist(split: str, *, data_root: str | None = None) -> Dataset:
    """Kuzushiji-MNIST, cursive Japanese characters, uint8 `[5000, 28, 28, 1]`.

    Args:
        split: `test`.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.

    Reference:
        T. Clanuwat et al., Deep Learning for Classical Japanese Literature, arXiv:1812.01718.
    """
    return read_published(f"kmnist/{split}", "ood_gray/kmnist_test_5k.npz", data_root)


@source("notmnist", "test")
def notmnist(split: str, *, data_root: str | None = None) -> Dataset:
    """notMNIST, the letters A to J in many typefaces, uint8 `[5000, 28, 28, 1]`.

    Args:
        split: `test`.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.
    """
    return read_published(f"notmnist/{split}", "ood_gray/notmnist_5k.npz", data_root)
