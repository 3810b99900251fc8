"""Kaldi-style data directories: stages 3 and 4 without Kaldi's scripts.

A data directory holds text files whose lines are ``<key> <value...>``, sorted by key:
``wav.scp``, ``text``, ``utt2spk``, ``spk2utt`` and, optionally, ``segments``.
"""

import io
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional, Set, Tuple, Union

import numpy as np
import soundfile
import soxr

from espnet_gq.files import atomic_write, write_text
from espnet_gq.wording import quoted

PathLike = Union[str, Path]
Table = Dict[str, str]

COPIED_FILES = ("text", "utt2spk", "utt2lang", "utt2category")
PER_UTTERANCE_FILES = COPIED_FILES + ("wav.scp", "utt2num_samples")
SUBTYPES = {"flac": "PCM_16", "wav": "PCM_16"}


def read_table(path: PathLike) -> Table:
    """Read ``<key> <value...>`` lines; a key alone has the value ``""``.

    Raises:
        ValueError: the file is not UTF-8 text, or a key occurs twice.
    """
    table: Table = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as e:
        raise ValueError(f"{path} is not UTF-8 text ({e}); allowed: UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key, *value = line.split(maxsplit=1)
        if key in table:
            raise ValueError(f"{path}:{number}: key {quoted(key)} occurs twice")
        table[key] = value[0].strip() if value else ""
    return table


def write_table(path: PathLike, table: Table) -> None:
    """Write ``<key> <value...>`` lines sorted by key, as Kaldi's tools expect."""
    lines = [f"{key} {table[key]}".rstrip() + "\n" for key in sorted(table)]
    write_text(path, "".join(lines))


def write_spk2utt(data_dir: PathLike) -> None:
    """Write ``spk2utt`` from ``utt2spk``."""
    speakers: Dict[str, List[str]] = {}
    for utt, spk in sorted(read_table(Path(data_dir) / "utt2spk").items()):
        speakers.setdefault(spk, []).append(utt)
    table = {spk: " ".join(utts) for spk, utts in speakers.items()}
    write_table(Path(data_dir) / "spk2utt", table)


def parse_rate(rate: Union[int, str]) -> int:
    """Return Hz for ``16000``, ``"16000"`` or ``"16k"``.

    Raises:
        ValueError: anything else.
    """
    text = str(rate).strip().lower()
    factor = 1000 if text.endswith("k") else 1
    try:
        hertz = int(float(text.rstrip("k")) * factor)
    except ValueError:
        hertz = 0
    if hertz <= 0:
        raise ValueError(f"fs must be a rate such as 8k or 16000, not {rate!r}")
    return hertz


def format_wav_scp(
    source: PathLike,
    target: PathLike,
    fs: Union[int, str],
    audio_format: str = "flac",
    nj: int = 1,
    progress: Optional[Callable[[int, int], None]] = None,
) -> int:
    """Copy a data directory so that every utterance is one plain audio file.

    A file that is mono, at rate ``fs``, in ``audio_format`` and not cut by ``segments``
    stays where it is; all other audio (pipes included) is written below
    ``target/data``. ``utt2num_samples`` counts samples at the target rate.

    Args:
        source: data directory with ``wav.scp`` and, optionally, ``segments``.
        target: data directory to write.
        fs: target rate in Hz (``16000``) or as text (``"16k"``).
        audio_format: ``flac`` or ``wav``.
        nj: number of threads.
        progress: called with (utterances done, utterances in all).

    Returns:
        The number of utterances.

    Raises:
        ValueError: an unknown ``audio_format``, an empty ``wav.scp``, a malformed
            table, or audio that cannot be read; names the utterance.
    """
    source, target = Path(source), Path(target)
    if audio_format not in SUBTYPES:
        raise ValueError(
            f"audio_format must be one of {', '.join(SUBTYPES)}, not {audio_format!r}"
        )
    recordings = read_table(source / "wav.scp")
    if not recordings:
        raise ValueError(f"{source / 'wav.scp'} is empty")
    (target / "data").mkdir(parents=True, exist_ok=True)
    convert = partial(
        _convert, target=target, fs=parse_rate(fs), audio_format=audio_format
    )
    jobs = _jobs(recordings, source / "segments")
    wav_scp: Table = {}
    num_samples: Table = {}
    with ThreadPoolExecutor(max(1, nj)) as pool:
        for done, (utt, path, samples) in enumerate(pool.map(convert, jobs), 1):
            wav_scp[utt], num_samples[utt] = path, str(samples)
            if progress:
                progress(done, len(jobs))
    write_table(target / "wav.scp", wav_scp)
    write_table(target / "utt2num_samples", num_samples)
    for name in COPIED_FILES:
        if (source / name).exists():
            write_table(target / name, read_table(source / name))
    write_spk2utt(target)
    write_text(target / "feats_type", "raw\n")
    write_text(target / "audio_format", f"{audio_format}\n")
    return len(jobs)


def filter_data_dir(
    source: PathLike,
    target: PathLike,
    fs: Union[int, str],
    min_duration: float = 0.1,
    max_duration: float = 20.0,
) -> Tuple[int, int]:
    """Copy a data directory without utterances that are too short, too long or empty.

    Args:
        source: data directory written by :func:`format_wav_scp`.
        target: data directory to write.
        fs: the rate ``utt2num_samples`` counts at.
        min_duration: seconds an utterance must exceed.
        max_duration: seconds an utterance must stay below.

    Returns:
        The number of utterances kept and read.

    Raises:
        ValueError: nothing is left.
    """
    source, target, rate = Path(source), Path(target), parse_rate(fs)
    low, high = int(min_duration * rate), int(max_duration * rate)
    samples = read_table(source / "utt2num_samples")
    text = read_table(source / "text")
    keep = {u for u, n in samples.items() if low < int(n) < high and text.get(u)}
    if not keep:
        raise ValueError(
            f"{source}: no utterance with text lasts between {min_duration} and "
            f"{max_duration} seconds"
        )
    target.mkdir(parents=True, exist_ok=True)
    for name in PER_UTTERANCE_FILES:
        if (source / name).exists():
            write_table(target / name, _only(read_table(source / name), keep))
    for name in ("feats_type", "audio_format"):
        write_text(target / name, (source / name).read_text())
    write_spk2utt(target)
    return len(keep), len(samples)


Job = Tuple[str, str, Optional[Tuple[float, float]]]


def _only(table: Table, keys: Set[str]) -> Table:
    return {key: value for key, value in table.items() if key in keys}


def _jobs(recordings: Table, segments: Path) -> List[Job]:
    """Return (utterance, path or pipe, span in seconds) for every utterance."""
    if not segments.exists():
        return [(utt, path, None) for utt, path in sorted(recordings.items())]
    jobs: List[Job] = []
    for utt, value in sorted(read_table(segments).items()):
        try:
            recording, start, end = value.split()
            span = float(start), float(end)
            if not 0 <= span[0] < span[1] < float("inf"):
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{segments}: {quoted(utt)} has {quoted(value)}; allowed: a recording, "
                "and its first and last second"
            ) from None
        if recording not in recordings:
            raise ValueError(
                f"{segments}: {quoted(utt)} is cut from {quoted(recording)}; allowed: "
                "a recording of wav.scp"
            )
        jobs.append((utt, recordings[recording], span))
    return jobs


def _convert(
    job: Job, target: Path, fs: int, audio_format: str
) -> Tuple[str, str, int]:
    utt, path, span = job
    if "/" in utt or "\0" in utt:
        raise ValueError(f"utterance {quoted(utt)}; allowed: a name without '/'")
    is_pipe = path.endswith("|")
    try:
        if span is None and not is_pipe:
            info = soundfile.info(path)
            same_format = info.format.lower() == audio_format
            if info.samplerate == fs and info.channels == 1 and same_format:
                return utt, path, info.frames
        audio, rate = soundfile.read(_open(path) if is_pipe else path, always_2d=True)
    except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as e:
        reason = " ".join(str(e).split())
        raise ValueError(
            f"utterance {quoted(utt)}: {quoted(path)} cannot be read as audio "
            f"({reason})"
        ) from None
    if not np.isfinite(audio).all():
        raise ValueError(
            f"utterance {quoted(utt)}: {path} holds NaN or infinite samples"
        )
    mono = audio.mean(axis=1)
    if span is not None:
        mono = mono[int(span[0] * rate) : int(span[1] * rate)]
    if rate != fs:
        mono = soxr.resample(mono, rate, fs)
    output = target / "data" / f"{utt}.{audio_format}"
    limited = np.clip(mono, -1.0, 1.0)
    content = io.BytesIO()  # libsndfile does not report a full disk
    soundfile.write(content, limited, fs, SUBTYPES[audio_format], format=audio_format)
    with atomic_write(output, sync=False) as temporary:
        temporary.write_bytes(content.getvalue())
    return utt, str(output), len(limited)


def _open(pipe: str) -> io.BytesIO:
    """Run a wav.scp pipe (``command |``) and return what it prints."""
    command = pipe.rstrip("|")
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, check=True)
    return io.BytesIO(done.stdout)
