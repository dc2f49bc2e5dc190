"""From a sweep's folder to its table, figures and report: ``python -m seglab.report runs/sweeps/NAME``.

The folder may be half finished: what is missing is listed. Printed is the table (or a two-way grid); written are
OUTPUT/table.{md,csv,tex,json}, OUTPUT/plots/*.{png,svg} and OUTPUT/report.html, which needs no other file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seglab.report.collect import Scalar
    from seglab.report.table import Grid, Table


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m seglab.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a multirun's folder")
    parser.add_argument(
        "--metric", help="any number in metrics.json (default: the runs' headline on the test split, e.g. test/mIoU)"
    )
    parser.add_argument("--best-first", action="store_true", help="the best row on top (default: as planned)")
    parser.add_argument(
        "--baseline", metavar="KEY=VALUE[,...]", help="the row to compare with; a key may be shortened to its end"
    )
    parser.add_argument("--rows", metavar="FACTOR", help="print a grid of two factors")
    parser.add_argument("--columns", metavar="FACTOR")
    parser.add_argument(
        "--format", choices=("rich", "md", "csv", "tex", "json"), default="rich", help="of what is printed"
    )
    parser.add_argument("--output", type=Path, help="default: FOLDER/report")
    parser.add_argument("--no-cost", action="store_true", help="measure neither FLOPs nor latency")
    parser.add_argument("--device", default="cpu", help="to measure latency on (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="of the measured image; default: the runs' crop"
    )
    parser.add_argument("--trust", action="store_true", help="to measure, build classes that are not seglab's own")
    parser.add_argument("--no-plots", action="store_true", help="draw nothing")
    parser.add_argument("--no-report", action="store_true", help="write no HTML")
    return parser


def main() -> None:
    """Entry point."""
    given = arguments().parse_args()

    import sys

    from seglab import cli
    from seglab.errors import UserError

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may hold what the terminal cannot show
    cli.outlast_readers()
    try:
        summarise(given)
    except UserError as error:
        cli.fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        cli.fail("interrupted", 130)


def summarise(given: argparse.Namespace) -> None:
    """Collect, print, write.

    Raises:
        UserError: nothing to make a table of, or a choice that does not fit it.
    """
    import sys

    from seglab.report import collect, cost, make
    from seglab.report.table import best_first

    baseline = choices(given.baseline)
    sweep = collect(given.folder)
    table = make(sweep, given.metric, baseline)  # a wrong choice is named before anything is measured
    grid = two_way(table, given.rows, given.columns)
    notes: list[str] = []
    if not given.no_cost:
        size = tuple(given.size) if given.size else None
        costs, notes = cost.measure(sweep, given.device, size, trusted=given.trust)
        table = make(sweep, given.metric, baseline, costs, notes)
        grid = two_way(table, given.rows, given.columns)
    if given.best_first:
        table = best_first(table)
    output = given.output or given.folder / "report"
    written = write(table, grid, output)
    plots: list[Path] = []
    if not given.no_plots:
        from seglab.report import plots as drawing

        plots = drawing.make_all(table, output / "plots")
        written += plots
    if not given.no_report:
        from seglab.report import document

        document.write(table, plots, output / "report.html")
        written.append(output / "report.html")
    show(table, grid, given.format)
    print("written: " + ", ".join(str(path) for path in written if path.suffix != ".svg"), file=sys.stderr)


def choices(text: str | None) -> dict[str, Scalar] | None:
    """``tau=15,decoder=fpn`` as keys and values.

    Raises:
        ConfigError: a part without an equals sign.
    """
    from seglab.errors import ConfigError
    from seglab.report.files import parse

    if not text:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    for key, sign, _ in pairs:
        if not sign or not key.strip():
            raise ConfigError(f"--baseline {text}: {key!r} chooses nothing — expected KEY=VALUE, several by commas")
    return {key.strip(): parse(value.strip()) for key, _, value in pairs}


def two_way(table: Table, rows: str | None, columns: str | None) -> Grid | None:
    """The grid that was asked for; where one side is named and two factors vary, the other is the rest.

    Raises:
        ConfigError: the other side is not clear.
    """
    from seglab.errors import ConfigError
    from seglab.report.table import full_key, grid

    if rows is None and columns is None:
        return None
    if rows is None or columns is None:
        named = full_key(table.sweep, rows or columns or "")
        rest = [factor for factor in table.factors if factor != named]
        if len(rest) != 1:
            what = " and ".join(rest) or "nothing"
            raise ConfigError(f"a grid of {named} by what? {what} varies beside it — give both --rows and --columns")
        rows, columns = (named, rest[0]) if rows else (rest[0], named)
    return grid(table, rows, columns)


def write(table: Table, grid: Grid | None, output: Path) -> list[Path]:
    """The text files."""
    from seglab.report import formats
    from seglab.runs import atomic

    texts = {
        "table.md": formats.markdown(table), "table.csv": formats.csv_text(table),
        "table.tex": formats.latex(table), "table.json": formats.json_text(table),
    }  # fmt: skip
    if grid is not None:
        content = formats.grid_cells(table, grid)
        texts |= {"grid.md": formats.markdown(table, content), "grid.tex": formats.latex(table, content)}
    for name, text in texts.items():
        atomic.write_text(output / name, text)
    return [output / name for name in texts]


def show(table: Table, grid: Grid | None, form: str) -> None:
    """Print it."""
    from seglab.report import formats

    content = formats.grid_cells(table, grid) if grid is not None else None
    if form != "rich":
        texts = {"md": formats.markdown, "tex": formats.latex}
        alone = {"csv": formats.csv_text, "json": formats.json_text}  # rows, also of a grid
        print(texts[form](table, content) if form in texts else alone[form](table), end="")
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 120)
    console.print(formats.caption(table))  # beside the table: as its title it would be wrapped to its width
    console.print(formats.rich(table, content))
    for note in formats.footnotes(table, content):
        console.print(note)
    if left_out := formats.missing(table):
        console.print("\nNot in the table:")
        for line in left_out:
            console.print(f"  {line}", soft_wrap=True)


if __name__ == "__main__":
    main()
