"""PyTorch tensors as NumPy arrays, including dtypes that NumPy does not have.

It may not import torch: a program that has a tensor has imported it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt


def is_torch_tensor(value: Any) -> bool:
    """Return whether a value is a PyTorch tensor."""
    return hasattr(value, "detach") and "torch" in sys.modules


def array_from_torch(tensor: Any) -> npt.NDArray[Any]:
    """Return a PyTorch tensor as an array, which shares the tensor's memory if that is in the host's RAM."""
    torch = sys.modules["torch"]
    tensor = tensor.detach().cpu()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.resolve_conj().resolve_neg()
    name = str(tensor.dtype).partition(".")[2]
    if not (name.startswith("float8") or name == "bfloat16"):
        return np.asarray(tensor)
    import ml_dtypes  # imported on demand, since the import is slow

    bits = {1: torch.uint8, 2: torch.int16}[tensor.element_size()]  # NumPy itself has no such dtypes
    array: npt.NDArray[Any] = tensor.view(bits).numpy().view(getattr(ml_dtypes, name))
    return array
