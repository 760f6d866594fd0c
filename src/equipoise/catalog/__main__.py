"""`python -m equipoise.catalog README.md` writes the table of methods between the markers of that file."""

from __future__ import annotations

import sys
from pathlib import Path

from equipoise.catalog.table import update_methods_table


def main(arguments: list[str]) -> int:
    """Update each named file and say what happened."""
    if not arguments:
        sys.stderr.write("usage: python -m equipoise.catalog README.md\n")
        return 2
    for name in arguments:
        changed = update_methods_table(Path(name))
        sys.stdout.write(f"{name}: {'updated' if changed else 'up to date'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
