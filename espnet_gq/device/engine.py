"""The engine's shared library, called through ctypes with NumPy arrays.

    model = Model("model.gguf")
    text = model.transcribe(samples)[0].text        # a whole utterance
    with model.stream(mode="int8", beam=5) as stream:
        for chunk in chunks:
            stream.feed(chunk)
            print(stream.results()[0].text)         # the partial result
        stream.finish()

`csrc/gq_asr.h` documents the functions.
"""

import ctypes
import functools
import importlib.machinery
import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np

MODES = {"exact": 0, "int8": 1}
"""How products are computed: float activations, or rounded to 8 bits."""

_pointer, _size = ctypes.c_void_p, ctypes.c_int64
_reference = ctypes.byref


class EngineError(ValueError):
    """The engine refused an argument, a model file or samples; the message says why."""


class _Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * 512)]


class _Options(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        *((name, ctypes.c_int32) for name in ("mode", "threads", "beam", "nbest")),
    ]


class _Result(ctypes.Structure):
    _fields_ = [
        ("text", ctypes.c_char_p),
        ("score", ctypes.c_double),
        ("tokens", _size),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("time", ctypes.POINTER(ctypes.c_float)),
    ]


class Result(NamedTuple):
    """One hypothesis.

    Attributes:
        text: The text.
        score: Log-probability of the tokens.
        tokens: The tokens.
        token_int: Their numbers.
        times: Seconds from the start of the utterance, per token.
    """

    text: str
    score: float
    tokens: Tuple[str, ...]
    token_int: Tuple[int, ...]
    times: Tuple[float, ...]


def find_library() -> Optional[Path]:
    """Return the file of the shared library, None where it was not built."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_engine{suffix}")
        if path.exists():
            return path
    return None


@functools.lru_cache(maxsize=None)
def load(path: Path) -> ctypes.CDLL:
    """Return the library in a file, ready to be called."""
    library = ctypes.CDLL(str(path))
    p, n, e = _pointer, _size, ctypes.POINTER(_Error)
    text = ctypes.c_char_p
    functions: Dict[str, Tuple[Any, List[Any]]] = {
        "model_open": (ctypes.c_int, [text, p, e]),
        "model_open_memory": (ctypes.c_int, [p, ctypes.c_size_t, p, e]),
        "model_verify": (ctypes.c_int, [p, e]),
        "model_close": (None, [p]),
        "model_sample_rate": (n, [p]),
        "model_streams": (ctypes.c_int, [p]),
        "model_tokens": (n, [p]),
        "model_token": (text, [p, n]),
        "model_text": (text, [p, text]),
        "default_options": (None, [ctypes.POINTER(_Options)]),
        "stream_open": (ctypes.c_int, [p, ctypes.POINTER(_Options), p, e]),
        "stream_feed": (ctypes.c_int, [p, p, n, e]),
        "stream_feed_int16": (ctypes.c_int, [p, p, n, e]),
        "stream_finish": (ctypes.c_int, [p, e]),
        "stream_reset": (ctypes.c_int, [p, e]),
        "stream_results": (n, [p]),
        "stream_result": (ctypes.c_int, [p, n, ctypes.POINTER(_Result), e]),
        "stream_close": (None, [p]),
    }
    for name, (returned, arguments) in functions.items():
        function = getattr(library, f"gq_asr_{name}")
        function.restype, function.argtypes = returned, arguments
    return library


def library() -> ctypes.CDLL:
    """Return the library of the package.

    Raises:
        OSError: If it was not built.
    """
    path = find_library()
    if path is None:
        raise OSError(
            "the device engine was not built; with a C++ compiler (g++ or clang++), "
            "'pip install --force-reinstall --no-deps espnet-gq' (or espnet-gq-device) "
            "builds it"
        )
    return load(path)


def _check(code: int, error: _Error) -> None:
    """Raise what a call of the library means."""
    if code == 0:
        return
    message = error.message.decode("utf-8", "replace")
    raise {2: MemoryError, 3: OSError}.get(code, EngineError)(message)


class Model:
    """A model file; any threads may use it at once.

    Args:
        source: Path of the file, or its contents.

    Raises:
        OSError: If there is no such file, or the engine was not built.
        EngineError: If it is not a model file, damaged or of a newer version.
    """

    def __init__(self, source: Union[str, Path, bytes]):
        self._library = library()
        self._handle = _pointer()
        self._contents: Optional[np.ndarray] = None
        error = _Error()
        if isinstance(source, bytes):
            self._contents = np.frombuffer(source, np.uint8)
            code = self._library.gq_asr_model_open_memory(
                *(self._contents.ctypes.data, len(source)),
                *(_reference(self._handle), _reference(error)),
            )
        else:
            code = self._library.gq_asr_model_open(
                os.fsencode(source), _reference(self._handle), _reference(error)
            )
        _check(code, error)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.gq_asr_model_close(self._handle)

    @property
    def sample_rate(self) -> int:
        """Samples per second that the model takes."""
        return self._library.gq_asr_model_sample_rate(self._handle)

    @property
    def streams(self) -> bool:
        """Whether results come while samples arrive."""
        return bool(self._library.gq_asr_model_streams(self._handle))

    @property
    def tokens(self) -> List[str]:
        """The tokens, by number."""
        count = self._library.gq_asr_model_tokens(self._handle)
        return [self.token(number) for number in range(count)]

    def token(self, number: int) -> str:
        """Return a token.

        Raises:
            IndexError: If there is none of that number.
        """
        found = self._library.gq_asr_model_token(self._handle, number)
        if found is None:
            raise IndexError(f"there is no token {number}")
        return found.decode("utf-8", "replace")

    def text(self, key: str) -> Optional[str]:
        """Return what the file says of itself, such as `encoder.type`, or None."""
        found = self._library.gq_asr_model_text(self._handle, key.encode())
        return None if found is None else found.decode("utf-8", "replace")

    def verify(self) -> None:
        """Compare the file with its checksum.

        Raises:
            EngineError: If it is damaged.
        """
        error = _Error()
        _check(self._library.gq_asr_model_verify(self._handle, error), error)

    def stream(self, **options: Any) -> "Stream":
        """Return a new stream; see `Stream` for its options."""
        return Stream(self, **options)

    def transcribe(self, samples: np.ndarray, **options: Any) -> List[Result]:
        """Return the results of a whole utterance, the best first.

        Args:
            samples: (n,), float32 or int16, at the model's rate.
            **options: See `Stream`.

        Raises:
            EngineError: If the samples or an option are out of range.
        """
        with self.stream(**options) as stream:
            stream.feed(samples)
            stream.finish()
            return stream.results()


class Stream:
    """The recognition of one utterance after the other; for one thread at a time.

    Args:
        model: The model.
        mode: "int8" or "exact".
        threads: Threads to compute with.
        beam: Hypotheses of the search; 1 is the greedy search.
        nbest: Results to keep.

    Raises:
        EngineError: If an option is out of range.
    """

    def __init__(
        self,
        model: Model,
        mode: str = "int8",
        threads: int = 1,
        beam: int = 1,
        nbest: int = 1,
    ):
        if mode not in MODES:
            raise EngineError(f"mode is {mode!r}; allowed: {', '.join(MODES)}")
        self._model, self._library = model, model._library
        self._handle = _pointer()
        options = _Options(
            ctypes.sizeof(_Options),
            MODES[mode],
            *(max(-1, min(n, 2**31 - 1)) for n in (threads, beam, nbest)),
        )
        self._call("open", _reference(options), _reference(self._handle))

    def _call(self, name: str, *arguments: Any) -> None:
        error = _Error()
        first = self._model._handle if name == "open" else self._handle
        if not first:
            raise EngineError("the stream is closed")
        function = getattr(self._library, f"gq_asr_stream_{name}")
        _check(function(first, *arguments, _reference(error)), error)

    def feed(self, samples: np.ndarray) -> None:
        """Recognize the next samples (n,), float32 or int16.

        Raises:
            EngineError: If they are no such array, not finite, or come after the end.
        """
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype not in (np.float32, np.int16):
            raise EngineError(
                f"the samples are {samples.dtype} of shape {samples.shape}; allowed: "
                "float32 or int16, (n,)"
            )
        samples = np.ascontiguousarray(samples)
        name = "feed" if samples.dtype == np.float32 else "feed_int16"
        self._call(name, samples.ctypes.data, len(samples))

    def finish(self) -> None:
        """End the utterance."""
        self._call("finish")

    def reset(self) -> None:
        """Begin a new utterance."""
        self._call("reset")

    def results(self) -> List[Result]:
        """Return the results of all samples so far, the best first."""
        count = self._library.gq_asr_stream_results(self._handle)
        return [self._result(rank) for rank in range(count)]

    def _result(self, rank: int) -> Result:
        found = _Result()
        self._call("result", rank, _reference(found))
        numbers = tuple(found.token[: found.tokens])
        return Result(
            found.text.decode("utf-8", "replace"),
            found.score,
            tuple(map(self._model.token, numbers)),
            numbers,
            tuple(found.time[: found.tokens]),
        )

    def close(self) -> None:
        """Free the stream; it may not be used any more."""
        if getattr(self, "_handle", None):
            self._library.gq_asr_stream_close(self._handle)
            self._handle = _pointer()

    __del__ = close

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
