"""Two runs' prototypes side by side: ``python -m seglab.prototypes RUN_A RUN_B``.

It compares what ``callbacks=prototype_report`` leaves in a run folder. The papers' figure "before and after
distillation" is the comparison of a run with ``loss.distill.weight=0`` to one with it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seglab.callbacks.prototype_figures import comparison, off_diagonal, read, shared
from seglab.errors import ConfigError, UserError


def compare(
    folder_a: str | Path,
    folder_b: str | Path,
    output: str | Path,
    stage: str = "val",
    names: tuple[str, str] = ("A", "B"),
) -> dict[str, dict[str, float]]:
    """Draw the similarity matrices of two runs' last reports and their difference.

    Gives, for each kind of prototypes that both have, the mean similarity between classes: A, B, and B - A.

    Raises:
        ConfigError: a run without reports, runs of different classes, or a figure of an unknown format.
    """
    from PIL import Image

    from seglab import visualize

    output = Path(output)
    if output.suffix.lower() not in Image.registered_extensions():
        raise ConfigError(f"output={output} — expected the name of a figure, e.g. prototypes.png")
    (_, a), (_, b) = read(folder_a, stage), read(folder_b, stage)
    if a["classes"] != b["classes"]:
        raise ConfigError(
            f"{folder_a} and {folder_b} have different classes ({len(a['classes'])} and {len(b['classes'])}) — "
            "expected two runs on one data set"
        )
    visualize.save(visualize.pixels(comparison(a, b, names)), output)
    means = {}
    for kind in shared(a, b):
        before, after = (float(off_diagonal(report["kinds"][kind]["similarity"]).mean()) for report in (a, b))
        means[kind] = {"a": before, "b": after, "difference": after - before}
    return means


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_a", type=Path, help="run folder, e.g. of loss.distill.weight=0")
    parser.add_argument("run_b", type=Path, help="run folder, e.g. with distillation")
    parser.add_argument("--output", type=Path, default=Path("prototypes.png"), help="the figure (prototypes.png)")
    parser.add_argument("--names", nargs=2, default=("A", "B"), metavar=("A", "B"), help="what to call them")
    parser.add_argument("--stage", choices=("val", "test"), default="val")
    given = parser.parse_args()
    try:
        means = compare(given.run_a, given.run_b, given.output, given.stage, tuple(given.names))
    except UserError as error:
        from seglab import cli

        cli.fail(str(error), error.exit_code)
    for kind, values in means.items():
        print(f"{kind:>10}  {values['a']:+.4f}  {values['b']:+.4f}  difference {values['difference']:+.4f}")
    print(f"mean cosine between classes: {given.names[0]}, {given.names[1]}; figure: {given.output}")


if __name__ == "__main__":
    main()
