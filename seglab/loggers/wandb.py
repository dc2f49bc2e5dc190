"""Weights & Biases, so that it never stops or delays a run. The CSV file stays the source of truth."""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
import secrets
from argparse import Namespace
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from seglab.errors import ConfigError
from seglab.loggers.job import describe
from seglab.runs import atomic
from seglab.scores import Known

try:
    import wandb
except ImportError:  # an extra
    wandb = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

UPLOADS: dict[str, tuple[str, ...]] = {"none": (), "best": ("best",), "last": ("last",), "all": ("best", "last")}


class Wandb(WandbLogger):
    """Logs to ``save_dir/wandb``; ``wandb sync`` uploads a run that was offline.

    Besides the nested configuration a run has ``choices/<group>`` and ``factors/<key>`` (what it varies in its sweep).

    Args:
        mode: ``auto`` is online where an API key is known, else offline. A server that does not answer means offline.
        name, group, job_type, tags: where null, see :class:`seglab.loggers.job.RunLabels`.
        checkpoints: which become artefacts when training ends: none, best, last or all.
        timeout: seconds to wait for the server, at the start and at the end.
    """

    def __init__(
        self,
        save_dir: str | Path,
        project: str = "seglab",
        entity: str | None = None,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        checkpoints: Literal["none", "best", "last", "all"] = "none",
        timeout: float = 20,
    ) -> None:
        if wandb is None:
            raise ConfigError("logger=wandb needs the package wandb — pip install wandb, or logger=csv")
        if checkpoints not in UPLOADS:
            raise ConfigError(f"logger.wandb.checkpoints={checkpoints} — expected one of {', '.join(UPLOADS)}")
        if mode == "auto":
            mode = "online" if has_key() else "offline"
        self.run_dir = Path(save_dir)
        self.job = describe(save_dir)
        self.uploads = UPLOADS[checkpoints]
        self.broken = False
        self.timeout = timeout
        # Longer texts make the server refuse the run.
        super().__init__(
            save_dir=save_dir,
            project=project,
            id=run_id(Path(save_dir)),
            entity=entity,
            mode=mode,
            name=(name or self.job.name)[:128],
            group=(group or self.job.group or "")[:128] or None,
            job_type=(job_type or self.job.kind)[:64],
            tags=[tag[:64] for tag in (self.job.tags if tags is None else tags)],
            settings=settings(timeout),
        )
        self._wandb_init.pop("anonymous")  # deprecated, and Lightning always passes it

    @property
    def experiment(self) -> Any:
        """The W&B run, opened at the first use."""
        if self._experiment is not None or getattr(rank_zero_only, "rank", 0) != 0:
            return super().experiment
        if self._wandb_init["mode"] == "online" and not answers(base_url(), self.timeout):
            self.go_offline("no answer")
        try:
            run = super().experiment
        except Exception as error:  # of many kinds
            if self._wandb_init["mode"] != "online":
                raise
            abandon()
            self.go_offline(str(error))
            run = super().experiment
        define_metrics(run, Known.of_run(self.run_dir))
        return run

    def go_offline(self, reason: str) -> None:
        """Log to the disk only."""
        log.warning("W&B cannot be reached (%s): this run is logged offline; upload it with wandb sync", reason)
        self._wandb_init["mode"] = "offline"

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """The configuration, with what can be filtered on beside it."""
        values = vars(params) if isinstance(params, Namespace) else params
        super().log_hyperparams({**values, **self.job.facts})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Numbers, images or tables of a step. W&B's own process may die; training goes on without it."""
        if self.broken:
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # of many kinds
            self.give_up(error)

    @rank_zero_only
    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """A table under ``KEY_table`` with its step as a column, so that those of several steps and runs can be joined.

        W&B knows one type for a name, and ``val/classes`` is a number.
        """
        if columns is not None and data is not None and step is not None:
            columns = ["step", *columns]
            data = [[step, *(None if value != value else value for value in row)] for row in data]
        super().log_table(f"{key}_table", columns, data, dataframe, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Hand over the checkpoints after training. The run goes on, since evaluation follows:
        :func:`seglab.loggers.close` ends it with its exit code.
        """
        wanted, self.uploads = self.uploads, () if status == "success" else self.uploads
        if status != "success" or self._experiment is None or self.broken:
            return
        try:
            for name in wanted:
                path = Path(str(self._save_dir)) / "checkpoints" / f"{name}.ckpt"
                if path.is_file():
                    artifact = wandb.Artifact(f"checkpoint-{self.version}", type="model", metadata=self.job.facts)
                    artifact.add_file(str(path))
                    self._experiment.log_artifact(artifact, aliases=[name])
        except Exception as error:  # of many kinds
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Log nothing further."""
        self.broken = True
        abandon()
        log.warning("W&B does not answer any more (%s): nothing further is logged there", error)


def define_metrics(run: Any, known: Known) -> None:
    """Every value is over the optimiser's step already; the summary of a validation score is its best value."""
    for name, score in known.scores.items():
        run.define_metric(f"val/{name}", summary=score.direction, step_metric="trainer/global_step")


def finish(run: Any, exit_code: int) -> None:
    """End a run. The numbers of ``metrics.json`` join its summary: ``best/mIoU``, ``test/mIoU``, ``parameters`` …"""
    try:
        found = atomic.read_json(Path(run.settings.root_dir) / "metrics.json")
        # The summary of val/… is its best value already.
        wanted = {key: found[key] for key in found if not key.startswith("val/")}
        run.summary.update({key: value for key, value in wanted.items() if isinstance(value, int | float)})
        if exit_code == 143:
            run.mark_preempting()
        wandb.finish(exit_code=exit_code)
    except Exception as error:  # of many kinds
        abandon()
        log.warning("W&B did not end the run (%s): upload it with wandb sync %s", error, run.settings.sync_dir)


def abandon() -> None:
    """Forget W&B's process, which has died: its hooks would raise at every import, and the next run's start as well."""
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()
    wandb.run = None


def settings(timeout: float) -> Any:
    """Nothing waits longer than ``timeout`` seconds (as far as the installed W&B knows the setting)."""
    wanted: dict[str, Any] = {"console": "off", "silent": True, "x_graphql_retry_max": 2}
    wanted |= dict.fromkeys(("init_timeout", "login_timeout", "finish_timeout", "x_graphql_timeout_seconds"), timeout)
    return wandb.Settings(**{key: value for key, value in wanted.items() if key in wandb.Settings.model_fields})


def answers(url: str, timeout: float) -> bool:
    """Whether a server says anything at all. W&B's own attempt leaves a process behind that still waits for one."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=timeout):
            return True
    except HTTPError:
        return True
    except (OSError, ValueError, HTTPException):
        return False


def base_url() -> str:
    """The server: from the environment, W&B's settings files, or its own default."""
    from wandb.sdk import wandb_setup

    return str(wandb_setup.singleton().settings.base_url)


def has_key() -> bool:
    """Whether W&B could log in without asking: a key in the environment or for its host in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(base_url()).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def run_id(folder: Path) -> str:
    """The id of the folder's W&B run, the same when the run is resumed.

    An agent (``wandb agent``) has chosen it already; else the environment's would be shared by all jobs of a process.
    """
    target = folder / "wandb_id.txt"
    if target.is_file():
        return target.read_text().strip()
    given = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    chosen = given or secrets.token_hex(4)
    atomic.write_text(target, chosen + "\n")
    return chosen
