"""Importing this lets the rows import the project and the benchmarks beside them."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[1], HERE.parent, HERE):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
