"""Entry point of worker processes (see `espnet_gq.__main__`).

Registers the plugin. A worker spawned by `multiprocessing` then gets the names of the
main program, as it would from Python itself. A process that is started with
`-m` and the name of the main module, as Lightning starts one per further device, runs
the program.
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
