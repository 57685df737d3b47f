"""sparsense: prune pretrained networks, attach detection heads, ship one calibrated ONNX file.

Importing this package loads nothing but the standard library; `sparsense.runtime` adds numpy and onnxruntime.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
