"""Counts the bytes of the tensors that a call holds at once, without its libraries' scratch."""

import weakref
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """How far the bytes of all tensors rise inside the `with`. Views share those of their storage.

    A tensor from before that is freed inside counts as negative.
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._tensors = Counter()  # by storage

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            self._note(tensor, is_new=False)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            self._note(tensor, is_new=True)
        return result

    def _note(self, tensor, *, is_new):
        if not isinstance(tensor, torch.Tensor):
            return
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, storage.nbytes()
        if is_new or not self._tensors[key]:
            self._tensors[key] += 1
            if is_new and self._tensors[key] == 1:
                self.live += num_bytes
                self.peak = max(self.peak, self.live)
            weakref.finalize(tensor, self._forget, key, num_bytes)

    def _forget(self, key, num_bytes):
        self._tensors[key] -= 1
        if not self._tensors[key]:
            self.live -= num_bytes


def peak_bytes(call):
    """How many more bytes than before `call` holds at its peak."""
    with torch.inference_mode(), LiveBytes() as live:
        call()
    return live.peak
