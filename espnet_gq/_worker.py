"""What a worker process runs first (see `espnet_gq.__main__`).

Registers the plugin, then gives a spawned worker the names of the main program, as
Python does for a program it runs itself. A process that was started by the name of the
main program's spec, as Lightning starts one for each further device, runs the program.
"""

import os
import runpy
import sys

import espnet_gq.espnet  # noqa: F401
from espnet_gq.__main__ import MODULE, PROGRAM, main

if __name__ == "__mp_main__" and os.path.isfile(os.environ.get(PROGRAM, "")):
    globals().update(runpy.run_path(os.environ[PROGRAM], run_name="__mp_main__"))
elif __name__ == "__main__":
    module = os.environ.get(MODULE)
    sys.argv[1:1] = ["-m", module] if module else [os.environ.get(PROGRAM, "")]
    main()
