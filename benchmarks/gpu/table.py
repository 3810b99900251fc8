"""Print the results of `check.py` as a Markdown table.

    python -m benchmarks.gpu.table gpu_check.json

The output is the same as that of the check itself.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from benchmarks.gpu.rows import FIGURE, STATUSES
from benchmarks.options import new_parser
from benchmarks.report import machine_lines

HEADER = ("row", "case", "result", "value", "limit", "note")


def _value(result: Dict[str, Any]) -> str:
    value = result.get("value")
    if value is None:
        return ""
    return f"{value:,.4g} {result.get('unit', '')}".strip()


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (HEADER, *rows)) for i in range(len(HEADER))]
    lines = [HEADER, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths)) + " |"
        for line in lines
    )


def counted(record: Dict[str, Any]) -> Counter:
    """Count the results by status."""
    return Counter(x["status"] for row in record["rows"] for x in row["results"])


def lines_of(record: Dict[str, Any]) -> List[str]:
    """Return the description of the machine, the table and the totals as lines."""
    cells = [
        [
            row["row"] if index == 0 else "",
            result["case"],
            "" if result["status"] == FIGURE else result["status"],
            _value(result),
            result.get("limit", ""),
            result.get("note", "").replace("|", "/"),
        ]
        for row in record["rows"]
        for index, result in enumerate(row["results"])
    ]
    found = counted(record)
    seconds = sum(row["seconds"] for row in record["rows"])
    lines = machine_lines(record["machine"])
    if record["small"]:
        lines.append(
            f"sizes     small, on {record['device']}: this shows that the check works; "
            "its figures mean nothing"
        )
    lines += ["", _table(cells), ""]
    lines.append(
        ", ".join(f"{found[status]} {status}" for status in STATUSES)
        + f"; {seconds:.0f} s"
    )
    return lines


def main(argv: Optional[List[str]] = None) -> None:
    """Print the table of a file."""
    parser = new_parser(__doc__)
    parser.add_argument("json", type=Path, help="file written by check --json")
    print("\n".join(lines_of(json.loads(parser.parse_args(argv).json.read_text()))))


if __name__ == "__main__":
    main()
