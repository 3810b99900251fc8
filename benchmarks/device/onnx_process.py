"""An LSTM transducer in ONNX Runtime, in a process with NumPy and it alone.

    python -m benchmarks.device.onnx_process FOLDER THREADS CHUNK_MS WAV ...

FOLDER is what `benchmarks.device.onnx_files` wrote: the encoder, the prediction network
and the joint network, a session each.
"""

import sys
from pathlib import Path
from typing import Any, List

import numpy as np
import onnxruntime

from benchmarks.device.live import recognize

BLOCK = 8
"""Frames that are scored in one batch after each token, as in the engine."""


class Features:
    """Log-mel features of ESPnet's default frontend, as samples arrive.

    Args:
        window: (n_fft,).
        mel: (bins, mels).
        hop: Samples from a frame to the next.
    """

    def __init__(self, window: np.ndarray, mel: np.ndarray, hop: int):
        self.window, self.mel, self.hop = window, mel, hop
        self.reset()

    def reset(self) -> None:
        """Begin a new utterance."""
        self.buffer = np.zeros(0, np.float32)
        self.begun = False

    def __call__(self, samples: np.ndarray, final: bool) -> np.ndarray:
        """Return the frames (T, mels) that samples (n,) complete."""
        n_fft = len(self.window)
        half = n_fft // 2
        x = np.concatenate([self.buffer, samples])
        if not self.begun and len(x) > half:
            x = np.concatenate([x[half:0:-1], x])
            self.begun = True
        if final:
            x = np.concatenate([x, x[-2 : -half - 2 : -1]])
        count = max(0, (len(x) - n_fft) // self.hop + 1) if self.begun else 0
        # The end is reflected: more than half a frame is kept.
        self.buffer = x[count * self.hop :]
        if count == 0:
            return np.zeros((0, self.mel.shape[1]), np.float32)
        framed = np.lib.stride_tricks.sliding_window_view(x, n_fft)[:: self.hop][:count]
        power = np.abs(np.fft.rfft(framed * self.window)).astype(np.float32) ** 2
        return np.log(np.maximum(power @ self.mel, 1e-10))


class Recognizer:
    """Greedy transducer decoding, chunk by chunk."""

    def __init__(self, folder: Path, threads: int):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1

        def session(name: str) -> Any:
            return onnxruntime.InferenceSession(
                str(folder / f"{name}.int8.onnx"),
                options,
                providers=["CPUExecutionProvider"],
            )

        self.encoder, self.predictor, self.joint = map(
            session, ("encoder", "predictor", "joint")
        )
        stored = np.load(folder / "features.npz")
        self.features = Features(stored["window"], stored["mel"], int(stored["hop"]))
        self.stride = int(stored["stride"])
        self.states = [
            [np.zeros(shape, np.float32) for _ in range(2)]
            for shape in (stored["encoder_state"], stored["predictor_state"])
        ]
        self.reset()

    def reset(self) -> None:
        """Begin a new utterance."""
        self.features.reset()
        self.waiting = np.zeros((0, self.features.mel.shape[1]), np.float32)
        self.encoder_state, self.predictor_state = self.states
        self.tokens: List[int] = []
        self._predict(0)

    def _predict(self, label: int) -> None:
        h, c = self.predictor_state
        given = dict(label=np.array([[label]], np.int64), h=h, c=c)
        self.predicted, *self.predictor_state = self.predictor.run(None, given)

    def feed(self, samples: np.ndarray, final: bool) -> int:
        """Take the next samples; return the number of tokens so far."""
        self.waiting = np.concatenate([self.waiting, self.features(samples, final)])
        count = len(self.waiting)
        if not final:
            count -= count % self.stride
        if count:
            h, c = self.encoder_state
            given = dict(x=self.waiting[None, :count], h=h, c=c)
            frames, *self.encoder_state = self.encoder.run(None, given)
            self.waiting = self.waiting[count:]
            for start in range(0, len(frames[0]), BLOCK):
                self._search(frames[0][start : start + BLOCK])
        found = len(self.tokens)
        if final:
            self.reset()
        return found

    def _search(self, frames: np.ndarray) -> None:
        while len(frames):
            given = dict(encoded=frames, predicted=self.predicted)
            best = self.joint.run(None, given)[0].argmax(1)
            emitting = np.flatnonzero(best)
            if not len(emitting):
                return
            self.tokens.append(int(best[emitting[0]]))
            self._predict(self.tokens[-1])
            frames = frames[emitting[0] + 1 :]


def main(words: List[str]) -> None:
    """Load the model and recognize the files."""
    folder, threads, chunk_ms, *paths = words
    recognizer = Recognizer(Path(folder), int(threads))
    recognize(recognizer.feed, paths, int(chunk_ms))


if __name__ == "__main__":
    main(sys.argv[1:])
