"""Finds what would make a GPU's queue run dry: operations whose result the processor must know.

On the CPU, where tests run, ``tolist``, ``cpu`` and ``numpy`` are no operations, and stay unseen.
"""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: They give a number to Python, or a tensor whose shape depends on numbers.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "allclose", "bincount",
    "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Waits(TorchDispatchMode):
    """Counts them in ``found``, forward and backward."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if masks or name in WAITING:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))
