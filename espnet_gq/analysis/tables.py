"""Markdown tables."""

from typing import Sequence

from tabulate import tabulate


def markdown(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)
) -> str:
    """Return an aligned Markdown table.

    Args:
        header: Titles of the columns.
        rows: Cells, printed as they are.
        left: Columns that are aligned to the left; the others are to the right.

    >>> print(markdown(["model", "bits"], [["float", "32"], ["GQ", "5"]]))
    | model   |   bits |
    |:--------|-------:|
    | float   |     32 |
    | GQ      |      5 |
    """
    return tabulate(
        list(rows),
        headers=list(header),
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left" if i in left else "right" for i in range(len(header))],
    )
