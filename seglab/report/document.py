"""A sweep as one HTML file that asks nobody for anything: table, figures, classes, runs, provenance.

Its Content-Security-Policy forbids every request and every script and style but its own, by their hashes; all text of a
sweep is escaped. Its frame is ``document.html``, its looks ``document.css``, the sorting ``document.js``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
import statistics
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.multirun.record import clock, is_number
from seglab.report.collect import configured, written
from seglab.report.markup import Cell, figure, note, number, render, section
from seglab.report.plots import style
from seglab.report.plots.runs import class_score, per_class, stage_of
from seglab.report.results import kind, results
from seglab.runs import atomic
from seglab.version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

    from seglab.report.collect import Run
    from seglab.report.table import Table

WIDEST = 1400  # pixels of an image
SETTINGS = (
    "backbone.name",
    "decoder._target_",
    "classifier._target_",
    "data.batch_size",
    "trainer.max_steps",
    "optim.lr",
)
"""Of the configuration, where all runs agree and none was overridden."""
CAPTIONS = {
    "swept": "{metric} against {factor}. {seeds}; dots are seeds. {published}",
    "variants": "{metric} of each row, as planned; bars begin at the baseline. {seeds}; dots are seeds. {published}",
    "heatmap": "{metric} of each pair; the best is bold, baselines are framed. {seeds}.",
    "classes": "Difference of each class's {each} to the baseline, best other row. Whiskers: sd; dots: seeds.",
    "curves": "Training and validation. Lines are means over seeds.",
    "pareto": "{metric} against what a forward pass costs{setting}. Joined: no other row is as cheap and better.",
}


def write(table: Table, plots: Sequence[Path], path: Path) -> None:
    """Write the report; of ``plots`` the PNG files are put inside."""
    sections = [
        section("Results", results(table)),
        warnings(table),
        section("Figures", figures(table, plots)),
        section("Classes", classes(table)),
        section("Images of the best run", images(table)),
        section("Runs", runs(table)),
        section("Provenance", provenance(table)),
    ]
    css, js = (
        resources.files("seglab.report").joinpath(f"document.{kind}").read_text("utf-8") for kind in ("css", "js")
    )
    parts = {
        "title": escape(table.sweep.title), "lead": lead(table), "facts": facts(table),
        "sections": "\n".join(filter(None, sections)),
        "footer": f"seglab {escape(__version__)}: python -m seglab.report {escape(str(table.sweep.folder))}",
        "style": css, "style_hash": csp_hash(css), "script": js, "script_hash": csp_hash(js),
    }  # fmt: skip
    page = resources.files("seglab.report").joinpath("document.html").read_text("utf-8")
    atomic.write_text(Path(path), re.sub(r"@(\w+)@", lambda match: parts[match[1]], page))  # once: what is put in stays


def csp_hash(text: str) -> str:
    """What a Content-Security-Policy knows an inline script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def lead(table: Table) -> str:
    """The result in a sentence."""
    row, score = style.best(table), table.score
    if row is None:
        return ""
    unit = f" {score.sign}" if score.sign else ""
    spread = f" ± {style.number(row.sd, score)}" if row.sd is not None else ""
    text = f"Best: <strong>{escape(style.name(row, table.factors))}</strong>, "
    text += f"{escape(table.metric.replace('/', ' '))} {style.number(row.mean, score)}{spread}{escape(unit)}"
    base = style.reference(table, row)
    if row.difference is not None and base is not None:
        gain = style.signed(row.difference, score) + style.unit(score)
        text += f", {escape(gain)} to {escape(style.name(base, table.factors))}"
        corrected = f", corrected {row.p_holm:.2g}" if row.p_holm is not None else ""
        text += f" (p = {row.p:.2g}{corrected}, {row.pairs} paired seeds)" if row.p is not None else ""
    return text + (". Less is better." if score.lower else ".")


def facts(table: Table) -> str:
    """What was asked, on which data, when, with what held fixed."""
    sweep = table.sweep
    done = [run for row in table.rows for run in row.runs]
    times = sorted(str(atomic.read_json(run.folder / "status.json").get("ended") or "") for run in done)
    seeds = sorted({run.seed for run in done})
    given = [lines(run.folder / "overrides.txt") for run in done]
    fixed = [line for line in given[0] if all(line in other for other in given)] if given else []
    known = {line.partition("=")[0] for line in fixed} | set(table.factors)
    settings = {key: {written(configured(run.config, key)) for run in done} for key in SETTINGS if key not in known}
    varied = "; ".join(f"{key}: {', '.join(map(written, values))}" for key, values in sweep.factors.items())
    found = {
        "data": escape(sweep.dataset),
        "varied": escape(varied),
        "seeds": escape(", ".join(map(str, seeds))),
        "runs": f"{len(done)} done, {len(sweep.unfinished)} unfinished",
        "last ended": escape(times[-1].replace("T", " ")) if times else "",
        "held fixed": "".join(f"<code>{escape(line)}</code>" for line in fixed),
        "settings": "".join(
            f"<code>{escape(key)}={escape(next(iter(values)))}</code>"
            for key, values in settings.items()
            if len(values) == 1 and values != {"null"}
        ),
        "published": escape(style.source(table)),
        "cost": escape(cost_setting(table)),
        "folder": f"<code>{escape(str(sweep.folder))}</code>",
    }
    return "".join(f"<dt>{escape(key)}</dt><dd>{html}</dd>" for key, html in found.items() if html)


def lines(path: Path) -> list[str]:
    """Of a text file; none where there is no such file."""
    try:
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError):
        return []


def cost_setting(table: Table) -> str:
    """What the cost of a forward pass was measured on."""
    return "; ".join(dict.fromkeys(row.cost.setting for row in table.rows if row.cost is not None and row.cost.setting))


def warnings(table: Table) -> str:
    """Jobs without a result, and what was left out."""
    said = [f"{name}: {why}" for name, why in table.sweep.unfinished]
    parts = [("Unfinished jobs", said), ("Problems", [*table.sweep.problems, *table.notes])]
    return "".join(
        section(heading, f'<div class="warning"><ul>{"".join(f"<li>{escape(item)}</li>" for item in items)}</ul></div>')
        for heading, items in parts
        if items
    )


def figures(table: Table, plots: Sequence[Path]) -> str:
    """The plots with what they show."""
    shown = []
    for path in plots:
        if path.suffix == ".png":
            kind = path.stem.split("_")[0]
            text = caption(table, path.stem)
            wide = " wide" if kind == "curves" else ""
            shown.append(figure(path.read_bytes(), "image/png", text, wide))
    return f'<div class="plots">{"".join(shown)}</div>' if shown else ""


def caption(table: Table, name: str) -> str:
    """What a plot shows, by its file's name."""
    kind, _, rest = name.partition("_")
    swept = [factor for factor, values in table.sweep.factors.items() if all(map(style.is_number, values))]
    setting = cost_setting(table)
    told = any(row.published is not None for row in table.rows)
    text = CAPTIONS.get(kind, name).format(
        metric=table.metric.replace("/", " "),
        each=score.name if (score := class_score(table)) else "score",
        factor=rest or next(iter(swept), "what was swept"),
        seeds=style.seeds(table.rows).capitalize(),
        published=f"Published: {style.source(table)}." if told else "",
        setting=f" ({setting})" if setting else "",
    )
    return text[:1].upper() + text[1:].strip()


def classes(table: Table) -> str:
    """The score of each class, mean over seeds, a line for each row."""
    score = class_score(table)
    if score is None:
        return ""
    stage = stage_of(table.metric)
    known = [(row, means([per_class(run, score, stage).tolist() for run in row.runs])) for row in table.rows]
    counts = {len(values) for _, values in known if values}
    if len(counts) != 1:
        return ""
    names = table.rows[0].runs[0].classes()
    count = counts.pop()
    names = names if len(names) == count else [str(k) for k in range(count)]
    pick = min if score.lower else max
    top = [pick((v[k] for _, v in known if v and v[k] is not None), default=None) for k in range(count)]  # type: ignore[type-var]
    rows = []
    for row, values in known:
        label = style.name(row, table.factors)
        cells = [Cell(escape(label), label)]
        for k, value in enumerate(values):
            digits = "{:.1f}" if score.percent else "{:.4f}"
            text = digits if value is None or value != top[k] else f"<strong>{digits}</strong>"
            cells.append(number(value, lambda v, text=text: text.format(score.scale * v)))  # type: ignore[misc]
        rows.append(("", cells))
    headings = [("row", ""), *((name, kind(score)) for name in names)]
    unit = f" in {'percent' if score.percent else score.unit}" if score.unit else ""
    return render(headings, rows, f"{score.name} of each class") + note(
        f"{score.name}{unit}, mean over seeds; the best of a class is bold."
    )


def means(lists: list[list[float]]) -> list[float | None]:
    """Of each place over lists of one length, NaN left out; empty where the lengths differ."""
    if len({len(values) for values in lists}) != 1:
        return []
    kept = [[value for value in place if math.isfinite(value)] for place in zip(*lists, strict=True)]
    return [statistics.fmean(values) if values else None for values in kept]


def best_run(table: Table) -> Run | None:
    """The best run of the best row."""
    row = style.best(table)
    if row is None:
        return None
    return row.runs[row.values.index(table.score.best(row.values))]


def images(table: Table) -> str:
    """The newest predictions of the best run, and its confusion matrix."""
    from PIL import Image

    run = best_run(table)
    if run is None:
        return ""
    shown = []
    sheets = [sorted((run.folder / name).glob("step_*.png")) for name in ("images", "pictures")]  # the earlier name
    for path in (sheets[0] or sheets[1])[-1:]:
        try:
            with Image.open(path) as image:
                content = shrunk(image)
        except Exception as error:  # Pillow raises nearly anything; one file does not take the report along
            shown.append(note(f"{path.name} cannot be read: {error}"))
            continue
        text = f"{run.folder.name}, {path.stem.replace('_', ' ')}: image, label, prediction, error."
        shown.append(figure(content, "image/jpeg", text, "wide"))
    content, text = confusion(run)
    if content:
        shown.append(figure(content, "image/png", text))
    return f'<div class="plots">{"".join(shown)}</div>' if shown else ""


def shrunk(image: Image) -> bytes:
    """A photograph's JPEG, not wider than a page."""
    small = image.convert("RGB")
    small.thumbnail((WIDEST, 4 * WIDEST))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def confusion(run: Run) -> tuple[bytes, str]:
    """PNG of the newest confusion matrix of a run, and what it is; empty without one."""
    import numpy as np
    from PIL import Image

    from seglab import visualize

    for stage in ("test", "val"):
        for path in sorted((run.folder / "tables").glob(f"{stage}_*.json"), reverse=True):
            found: dict[str, Any] = atomic.read_json(path)
            names, matrix = run.classes(), found.get("matrix")
            if names and is_matrix(matrix, len(names)):
                image = Image.fromarray(visualize.confusion_figure(np.asarray(matrix, np.float64), names))
                image.thumbnail((WIDEST, WIDEST))
                stream = io.BytesIO()
                image.convert("P", palette=Image.Palette.ADAPTIVE).save(stream, "PNG", optimize=True)
                return stream.getvalue(), f"{run.folder.name}, {stage} at step {found.get('step')}: confusion matrix."
    return b"", ""


def is_matrix(value: object, classes: int) -> bool:
    """Whether it is [classes, classes] counts."""
    return (
        isinstance(value, list)
        and len(value) == classes
        and all(isinstance(row, list) and len(row) == classes for row in value)
        and all(is_number(count) and count >= 0 for row in value for count in row)
    )


def runs(table: Table) -> str:
    """Every run of the table with its folder."""
    rows = []
    for row in table.rows:
        label = style.name(row, table.factors)
        for run, value in zip(row.runs, row.values, strict=True):
            cells = [
                Cell(escape(label), label),
                number(run.seed, lambda v: f"{v:g}"),
                number(value, lambda v: style.number(v, table.score) + escape(style.unit(table.score))),
                number(run.seconds, clock),
                Cell(f"<code>{escape(run.folder.name)}</code>", run.folder.name),
            ]
            rows.append(("", cells))
    ours = style.heading(table.metric, table.score), kind(table.score)
    headings = [("row", ""), ("seed", "number"), ours, ("time", "number")]
    return render([*headings, ("folder", "")], rows, "Runs")


def provenance(table: Table) -> str:
    """What the runs ran on: each fact once, with every value that occurred."""
    found: dict[str, dict[str, None]] = {}

    def add(key: str, value: Any) -> None:
        if value:
            found.setdefault(key, {})[str(value)] = None

    for run in (run for row in table.rows for run in row.runs):
        about = atomic.read_json(run.folder / "provenance.json")
        git, versions = (value if isinstance(value := about.get(key), dict) else {} for key in ("git", "versions"))
        command = about.get("command")
        add("git commit", git and f"{git.get('commit')}{' with changes' if git.get('dirty') else ''}")
        for package in ("seglab", "torch", "lightning", "python"):
            add(package, versions.get(package))
        add("platform", about.get("platform"))
        machine = value if isinstance(value := about.get("machine"), dict) else {}
        add("processor", machine and f"{machine.get('processor')}, {machine.get('threads')} threads")
        for gpu in machine.get("gpus") or ():
            add("GPU", gpu)
        add("host", about.get("host"))
        add("command", " ".join(map(str, command)) if isinstance(command, list) else command)
    shown = {
        key: [*values][:5] + ([f"and {len(values) - 5} more"] if len(values) > 5 else [])
        for key, values in found.items()
    }
    inner = "".join(
        f"<dt>{escape(key)}</dt><dd>{' '.join(f'<code>{escape(value)}</code>' for value in values)}</dd>"
        for key, values in shown.items()
    )
    return f'<dl class="facts">{inner}</dl>' if inner else ""
