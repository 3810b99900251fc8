"""What compiled code is told of memory.

It cannot check it: `address` is the only place where a tensor becomes a pointer, and it
looks at the tensor at every call.
"""

import torch


def address(tensor: torch.Tensor, dtype: torch.dtype, size: int, what: str) -> int:
    """Return the address of the first element of a tensor.

    Args:
        tensor: A contiguous tensor in the memory of the CPU.
        dtype: The type that it has to have.
        size: The number of elements that it has to have.
        what: Its name in the message.

    Raises:
        TypeError: If it is of another type, on another device, or not in plain memory.
        ValueError: If it has another size or is not contiguous.
    """
    if (
        tensor.dtype is dtype
        and tensor.is_cpu
        and tensor.numel() == size
        and tensor.is_contiguous()
    ):
        found = tensor.data_ptr()
        if (found or not size) and not tensor.is_neg():
            return found
        raise TypeError(f"{what} has no memory of its own; allowed: a plain tensor")
    if tensor.dtype is not dtype or not tensor.is_cpu:
        raise TypeError(
            f"{what} is {tensor.dtype} on {tensor.device}; allowed: {dtype} on cpu"
        )
    raise ValueError(
        f"{what} has shape {tuple(tensor.shape)} and strides {tensor.stride()}; "
        f"allowed: {size} contiguous elements"
    )
