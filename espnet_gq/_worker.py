"""What a spawned worker process runs first (see `espnet_gq.__main__`).

Registers the plugin, then gives the worker the names of the main program, as Python
does for a program it runs itself.
"""

import os
import runpy

import espnet_gq.espnet  # noqa: F401

PROGRAM = "ESPNET_GQ_PROGRAM"
"""Environment variable by which the launcher hands its program's file to workers."""

if __name__ == "__mp_main__" and os.path.isfile(os.environ.get(PROGRAM, "")):
    globals().update(runpy.run_path(os.environ[PROGRAM], run_name="__mp_main__"))
