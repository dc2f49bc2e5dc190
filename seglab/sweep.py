"""The former name of ``python -m seglab.report``, which it runs; for one release."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point."""
    print("seglab.sweep is now seglab.report: python -m seglab.report FOLDER", file=sys.stderr)

    from seglab.report.__main__ import main as report

    report()


if __name__ == "__main__":
    main()
