"""PyTorch's tensors as NumPy arrays, also of dtypes that NumPy has not.

It may not import torch: whoever has a tensor has done so.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt


def is_torch_tensor(value: Any) -> bool:
    """Tell whether something is a tensor of PyTorch's."""
    return hasattr(value, "detach") and "torch" in sys.modules


def array_from_torch(tensor: Any) -> npt.NDArray[Any]:
    """Return a PyTorch tensor as an array, over its own memory where that is the host's."""
    torch = sys.modules["torch"]
    tensor = tensor.detach().cpu()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.resolve_conj().resolve_neg()
    name = str(tensor.dtype).partition(".")[2]
    if not (name.startswith("float8") or name == "bfloat16"):
        return np.asarray(tensor)
    import ml_dtypes  # only here: it takes its time, as in record_spec

    bits = {1: torch.uint8, 2: torch.int16}[tensor.element_size()]  # NumPy has no such dtype of its own
    array: npt.NDArray[Any] = tensor.view(bits).numpy().view(getattr(ml_dtypes, name))
    return array
