"""The Python programs that are compared with gq-asr: WAV files decoded as if live.

Needs NumPy alone, as the process that it is used in may have nothing else.
"""

import json
import time
import wave
from typing import Callable, Sequence

import numpy as np

Feed = Callable[[np.ndarray, bool], int]
"""Takes the next samples (n,), float32, and whether they are the last; returns the
number of tokens so far."""


def recognize(feed: Feed, paths: Sequence[str], chunk_ms: int) -> None:
    """Decode WAV files, and print a line of figures (JSON) for each.

    A file that is none is passed over: the benchmark looks at the process while it
    waits for such a file. The clock is that of `gq-asr --timing`: a chunk arrives when
    it has been spoken, and is processed then or when the one before is done.
    """
    for path in paths:
        try:
            with wave.open(path) as file:
                rate = file.getframerate()
                whole = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        except EOFError:
            continue
        samples = whole.astype(np.float32) / 32768
        chunk = chunk_ms * rate // 1000
        clock = spent = 0.0
        tokens = 0
        for start in range(0, len(samples), chunk):
            end = min(start + chunk, len(samples))
            began = time.perf_counter()
            tokens = feed(samples[start:end], end == len(samples))
            took = time.perf_counter() - began
            clock = max(clock, end / rate) + took
            spent += took
        seconds = len(samples) / rate
        found = dict(
            file=path, tokens=tokens, seconds=seconds, spent=spent, late=clock - seconds
        )
        print(json.dumps(found), flush=True)
