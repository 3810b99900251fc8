"""The model file (GGUF); docs/format.md describes it."""

import hashlib
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from espnet_gq._version import __version__
from espnet_gq.files import atomic_write

ARCHITECTURE = "gqasr"
VERSION = 1
ALIGNMENT = 64
LONGEST_NAME = 63
"""Bytes of a tensor's name; other readers of GGUF take no longer ones."""
CHECKSUM = "checksum"
NO_CHECKSUM = "0" * 64
"""What stands in the place of the checksum while it is computed."""

Setting = Union[bool, int, str, Sequence[int], Sequence[str]]


class ModelFile:
    """The contents of a model file: settings, and tensors in NumPy arrays.

    Attributes:
        notes: What a user should know of the file, a sentence each.
    """

    def __init__(self) -> None:
        self.settings: Dict[str, Setting] = {}
        self.shapes: Dict[str, Tuple[int, ...]] = {}
        self.tensors: Dict[str, np.ndarray] = {}
        self.notes: List[str] = []

    def set(self, **settings: Setting) -> None:
        """Add settings; a double underscore in a key stands for a dot.

        Raises:
            ValueError: If there is one of that key.
        """
        for key, value in settings.items():
            key = key.replace("__", ".")
            if key in self.settings:
                raise ValueError(f"the setting {key} was added twice")
            self.settings[key] = value

    def floats(self, name: str, values: np.ndarray) -> None:
        """Add float32 values of any shape.

        Raises:
            ValueError: If there are such ones, they are not finite, or the name is too
                long.
        """
        values = np.ascontiguousarray(values, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"the tensor {name} holds NaN or infinite values")
        self._add(name, values)

    def packed(
        self,
        name: str,
        planes: np.ndarray,
        codebook: np.ndarray,
        scale: np.ndarray,
        shape: Sequence[int],
        bias: Optional[np.ndarray] = None,
    ) -> None:
        """Add a packed weight matrix.

        Args:
            name: Its name.
            planes: uint8, as `native/csrc/packed/layout.h` describes them.
            codebook: Centroids (2^bits,).
            scale: Scales (n,), n a divisor of the rows.
            shape: Shape of the weight; dimension 0 counts its rows.
            bias: (rows,), or None.
        """
        self._shape(name, shape)
        self._add(f"{name}.planes", np.ascontiguousarray(planes).view(np.int8))
        self.floats(f"{name}.codebook", codebook)
        self.floats(f"{name}.scale", scale)
        if bias is not None:
            self.floats(f"{name}.bias", bias)

    def matrix(
        self, name: str, values: np.ndarray, bias: Optional[np.ndarray] = None
    ) -> None:
        """Add a float weight matrix (rows, ...) and its bias (rows,)."""
        self._shape(name, values.shape)
        self.floats(f"{name}.values", values)
        if bias is not None:
            self.floats(f"{name}.bias", bias)

    def _shape(self, name: str, shape: Sequence[int]) -> None:
        self.shapes[name] = tuple(int(n) for n in shape)

    def _add(self, name: str, values: np.ndarray) -> None:
        if name in self.tensors:
            raise ValueError(f"the tensor {name} was added twice")
        if len(name.encode()) > LONGEST_NAME:
            raise ValueError(
                f"the name {name} is too long; allowed: {LONGEST_NAME} bytes"
            )
        self.tensors[name] = values

    def write(self, path: Union[str, Path]) -> None:
        """Write the file, all of it or nothing.

        Raises:
            OSError: If it cannot be written.
        """
        with atomic_write(path) as temporary:
            self._write(temporary)
            _add_checksum(temporary)

    def _write(self, path: Path) -> None:
        import gguf  # for this alone: reading a model needs no such package

        writer = gguf.GGUFWriter(path, ARCHITECTURE)
        writer.add_custom_alignment(ALIGNMENT)
        writer.add_uint32(f"{ARCHITECTURE}.version", VERSION)
        writer.add_string(f"{ARCHITECTURE}.plugin", __version__)
        writer.add_string(f"{ARCHITECTURE}.{CHECKSUM}", NO_CHECKSUM)
        for key, value in self.settings.items():
            _add_setting(writer, f"{ARCHITECTURE}.{key}", value)
        for name, shape in self.shapes.items():
            writer.add_array(f"{name}.shape", list(shape))
        for name, values in self.tensors.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _add_setting(writer: Any, key: str, value: Setting) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_int32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))


def _add_checksum(path: Path) -> None:
    """Write the SHA-256 of the file, zeros in its place, into its place."""
    with open(path, "r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        head = file.read(1 << 16)
        key = re.escape(f"{ARCHITECTURE}.{CHECKSUM}".encode())
        found = re.search(key + rb".{12}(?=0{64})", head, re.DOTALL)
        assert found is not None  # among the first of the settings
        file.seek(found.end())
        file.write(digest.encode())
