"""What a spawned worker process runs first (see `espnet_gq.__main__`).

Registers the plugin, then gives the worker the names of the main program, as Python
does for a program it runs itself.
"""

import os
import runpy
import sys

import espnet_gq.espnet  # noqa: F401

if __name__ == "__mp_main__" and os.path.isfile(sys.argv[0]):
    globals().update(runpy.run_path(sys.argv[0], run_name="__mp_main__"))
