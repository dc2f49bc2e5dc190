"""The W&B dashboard as code: ``python scripts/dashboards.py --project seglab --entity NAME`` saves it as a workspace.

``--sweep FOLDER`` makes it that sweep's: only its runs, and a plot for each of its factors. ``--dry-run`` needs neither
account nor network: it prints the specification as JSON. Without an account, ``python -m seglab.report FOLDER`` writes
the same as one HTML file, and ``logger=tensorboard`` the curves and images.

Needs ``pip install 'seglab[dashboards]'``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.errors import ConfigError, UserError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

STEP = "trainer/global_step"
CHOICES = ("classifier", "decoder", "backbone", "data")
MEASURE = "test/mIoU"


def workspace(
    entity: str, project: str, factors: Mapping[str, Sequence[Any]], group: str | None = None, name: str | None = None
) -> Workspace:
    """The whole dashboard.

    Args:
        factors: what the shown runs vary, with the values.
        group: only the runs of this group (a sweep's folder).
    """
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    # The seed is left out: a group's rows are the repetitions.
    grouping = [expr.Config(f"factors/{as_key(key)}") for key in factors if key != "seed"]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name or (f"seglab: {group}" if group else "seglab"),
        sections=[*by_choice(factors), *curves(), *insight(), *images()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=50, group_by_prefix="first"),
        runset_settings=ws.RunsetSettings(
            filters=[expr.Metric("Group") == group] if group else "",
            groupby=[*([] if group else [expr.Metric("Group")]), *grouping],
            order=[expr.Ordering(expr.Summary(MEASURE), ascending=False)],
            pinned_columns=[
                "run:displayName", f"summary:{MEASURE}", "summary:best/mIoU", "summary:parameters", "config:seed.value",
            ],
        ),
    )  # fmt: skip


def by_choice(factors: Mapping[str, Sequence[Any]]) -> Iterator[Section]:
    """The scores by what was chosen: mean and standard deviation over runs, and curves over numbers."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def bars(title: str, key: str) -> wr.BarPlot:
        return wr.BarPlot(
            title=f"{MEASURE} by {title}", metrics=[MEASURE], groupby=wr.Config(key), groupby_aggfunc="mean",
            groupby_rangefunc="stddev", orientation="v", title_y=MEASURE,
        )  # fmt: skip

    varied = [key for key in factors if key != "seed"]
    numbers = [key for key in varied if factors[key] and all(type(value) in (int, float) for value in factors[key])]
    panels: list[Any] = [bars(key.rsplit(".", 1)[-1], f"factors/{as_key(key)}") for key in varied]
    scatters = [scatter(key.rsplit(".", 1)[-1], key) for key in numbers if key != "classifier.tau"]
    yield ws.Section(
        name="mIoU by choice",
        panels=[*panels, *scatters, *(bars(key, f"choices/{key}") for key in CHOICES)],
        is_open=True,
    )
    yield ws.Section(
        name="Temperature and size",
        panels=[
            scatter("tau", "classifier.tau", log_x=True),
            wr.ScatterPlot(
                title=f"{MEASURE} by parameters", x=wr.SummaryMetric("parameters"), y=wr.SummaryMetric(MEASURE)
            ),
        ],
        is_open=True,
    )  # fmt: skip


def scatter(title: str, key: str, log_x: bool = False) -> Any:
    """The score over a number of the configuration, a dot for each run."""
    import wandb_workspaces.reports.v2 as wr

    return wr.ScatterPlot(
        title=f"{MEASURE} by {title}", x=wr.Config(key), y=wr.SummaryMetric(MEASURE), log_x=log_x or None
    )


def curves() -> Iterator[Section]:
    """What changes while training."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def line(title: str, *names: str) -> wr.LinePlot:
        return wr.LinePlot(title=title, x=STEP, y=list(names), groupby_aggfunc="mean", groupby_rangefunc="stddev")

    def lines(title: str, pattern: str) -> wr.LinePlot:
        return wr.LinePlot(title=title, x=STEP, metric_regex=pattern)

    yield ws.Section(name="Validation", panels=[line("mIoU", "val/mIoU"), line("loss", "val/loss")], is_open=True)
    yield ws.Section(
        name="Loss components",
        panels=[
            lines("terms, unweighted", "^train/.*"),
            lines("share of the gradient at the decoded feature", "^grad_share/.*"),
            lines("cosine between the terms' gradients", "^grad_cosine/.*"),
        ],
    )
    yield ws.Section(name="IoU by class", panels=[lines("val", "^val/IoU/.*"), lines("test", "^test/IoU/.*")])


def insight() -> Iterator[Section]:
    """How good the context and the probabilities are."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    yield ws.Section(
        name="Context and calibration",
        panels=[
            wr.LinePlot(
                title="mIoU of the coarse, adapted and oracle prediction", x=STEP,
                y=["val/mIoU_coarse", "val/mIoU", "val/mIoU_oracle"],
            ),
            wr.LinePlot(title="context gap", x=STEP, y=["val/context_gain", "val/context_gap"]),
            wr.LinePlot(title="expected calibration error", x=STEP, y=["val/ECE"]),
            wr.LinePlot(title="negative log likelihood (nats)", x=STEP, y=["val/NLL"]),
        ],
    )  # fmt: skip


def images() -> Iterator[Section]:
    """What can be looked at."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def media(title: str, key: str, columns: int = 1) -> wr.MediaBrowser:
        return wr.MediaBrowser(title=title, media_keys=[key], num_columns=columns)

    yield ws.Section(
        name="Images",
        panels=[
            media("image, label, prediction, error", "val/images"),
            media("masks by class", "val/masks", 2),
            media("confusion, validation", "val/confusion"),
            media("confusion, test", "test/confusion"),
        ],
    )
    yield ws.Section(
        name="Inside the classifier",
        panels=[
            media("calibration by temperature", "val/tau_calibration_figure"),
            media("IoU by prediction", "val/context_gap_figure"),
            media("prototypes", "val/prototypes"),
            media("pixels and prototypes", "val/projection"),
            media("loss components", "train/loss_components"),
        ],
    )
    yield ws.Section(
        name="Tables by class",
        panels=[wr.WeavePanelSummaryTable(table_name=f"{stage}/classes_table") for stage in ("val", "test")],
    )


def named(board: Workspace) -> tuple[set[str], set[str], set[str]]:
    """What its panels read: logged names, regular expressions of such, and keys of the configuration."""
    logged: set[str] = set()
    patterns: set[str] = set()
    settings: set[str] = set()
    for panel in (panel for section in board.sections for panel in section.panels):
        for field in ("x", "y", "z", "metrics", "media_keys", "table_name", "groupby"):
            value: Any = getattr(panel, field, None)
            one: Any
            for one in value if isinstance(value, list) else [value]:
                if type(one).__name__ == "Config":
                    settings.add(one.name)
                elif one is not None:
                    logged.add(getattr(one, "name", one))
        if pattern := getattr(panel, "metric_regex", None):
            patterns.add(pattern)
    return logged, patterns, settings


def as_key(factor: str) -> str:
    """A factor as :class:`seglab.loggers.wandb.Wandb` names it."""
    return factor.replace(".", "/")


def factors_in(sweep: Path) -> dict[str, list[Any]]:
    """What a sweep varies, with the values.

    Raises:
        ConfigError: the folder is not a sweep's.
    """
    from seglab.multirun import record

    jobs = record.read(sweep).get("jobs", {})
    if not jobs:
        raise ConfigError(f"--sweep {sweep}: no {record.FILE} with jobs in it — expected the folder of a sweep")
    found: dict[str, list[Any]] = {}
    for job in jobs.values():
        for key, value in job["factors"].items():
            if value not in found.setdefault(key, []):
                found[key].append(value)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Save the W&B dashboard, or print it with --dry-run.")
    parser.add_argument("--project", default="seglab")
    parser.add_argument("--entity", help="user or team; needed unless --dry-run")
    parser.add_argument("--sweep", type=Path, metavar="FOLDER", help="show only the runs of this sweep")
    parser.add_argument("--name", help="of the workspace")
    parser.add_argument("--dry-run", action="store_true", help="print the JSON instead of saving it")
    given = parser.parse_args(arguments)
    try:
        factors = factors_in(given.sweep) if given.sweep else {"variant": []}
        group = given.sweep.resolve().name if given.sweep else None
        if not given.entity and not given.dry_run:
            raise ConfigError("no --entity — give the W&B user or team that the project belongs to, or --dry-run")
        try:
            board = workspace(given.entity or "ENTITY", given.project, factors, group, given.name)
        except ImportError as error:
            raise ConfigError(f"{error.name} is not installed — pip install 'seglab[dashboards]'") from error
        if given.dry_run:
            print(board._to_model().spec.model_dump_json(indent=1, by_alias=True))
        else:
            print(board.save().url)
    except UserError as error:
        print(f"dashboards: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
