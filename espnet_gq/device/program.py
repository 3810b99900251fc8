"""The console script `gq-asr`: the engine's own program (csrc/program/)."""

import ctypes
import os
import signal
import sys
from typing import Optional, Sequence

from espnet_gq.device.engine import library


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the program on a command line, and exit with its status."""
    words = ["gq-asr", *(sys.argv[1:] if cmd is None else cmd)]
    try:
        run = library().gq_asr_main
    except OSError as e:
        print(f"gq-asr: {e}", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's waits for the end
    arguments = (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words), None)
    sys.exit(run(len(words), arguments))


if __name__ == "__main__":
    main()
