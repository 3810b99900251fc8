"""Pages of a checkpoint that is mapped into memory."""

import ctypes
import mmap
import sys

import torch


def drop_pages(tensor: torch.Tensor) -> None:
    """Let the system forget the pages of a tensor of a mapped file.

    They count as the process's memory once they were read; afterwards they do not,
    until they are read again. What was written to the tensor is lost. Does nothing
    where the system is not Linux.

    Args:
        tensor: Contiguous, its memory mapped from a file.
    """
    if not sys.platform.startswith("linux"):
        return
    start = tensor.data_ptr()
    end = start + tensor.numel() * tensor.element_size()
    # Whole pages within the tensor: its neighbours may have been written to.
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    size = end // mmap.PAGESIZE * mmap.PAGESIZE - first
    if size > 0:
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_DONTNEED)
