"""Weights & Biases, so that it never stops or delays a run. The CSV file stays the source of truth."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from seglab import atomic
from seglab.errors import ConfigError

try:
    import wandb
except ImportError:  # an extra
    wandb = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

GROUPS = ("data", "backbone", "decoder", "classifier")
"""Config groups whose choices become tags."""


class Wandb(WandbLogger):
    """Logs to ``save_dir/wandb``; ``wandb sync`` uploads a run that was offline.

    Args:
        mode: ``auto`` is online where an API key is known, else offline. A server that does not answer means offline.
        name, group, job_type, tags: taken from the Hydra choices where null. The group leaves the seed out, so that it
            holds the repetitions of one experiment.
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
        timeout: float = 20,
    ) -> None:
        if wandb is None:
            raise ConfigError("logger=wandb needs the package wandb — pip install 'seglab[wandb]', or logger=csv")
        choices = hydra_choices()
        labels = [choices[key] for key in GROUPS if choices.get(key)]
        if mode == "auto":
            mode = "online" if has_key() else "offline"
        super().__init__(
            save_dir=save_dir,
            project=project,
            offline=mode == "offline",
            id=run_id(Path(save_dir)),
            entity=entity,
            mode=mode,
            name=name or Path(save_dir).resolve().name,
            group=group or "-".join(labels) or None,
            job_type=job_type or choices.get("experiment") or "train",
            tags=tags if tags is not None else labels,
            settings=settings(timeout),
        )
        self._wandb_init.pop("anonymous")  # deprecated, and Lightning always passes it

    @property
    def experiment(self) -> Any:
        """The W&B run, opened at the first use."""
        fresh = self._experiment is None
        try:
            run = super().experiment
        except wandb.errors.Error as error:
            if self._wandb_init["mode"] != "online":
                raise
            log.warning("W&B cannot be reached (%s): this run is logged offline; upload it with wandb sync", error)
            self._wandb_init["mode"] = "offline"
            run = super().experiment
        if fresh and self._experiment is not None:
            run.define_metric("val/mIoU", summary="max", step_metric="trainer/global_step")
            run.define_metric("val/loss", summary="min", step_metric="trainer/global_step")
        return run

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Nothing: evaluation still follows training. :func:`seglab.loggers.close` ends the run with its exit code."""


def settings(timeout: float) -> Any:
    """Nothing waits longer than ``timeout`` seconds (as far as the installed W&B knows the setting)."""
    wanted: dict[str, Any] = {"console": "off", "silent": True, "x_graphql_retry_max": 2}
    wanted |= dict.fromkeys(("init_timeout", "login_timeout", "finish_timeout", "x_graphql_timeout_seconds"), timeout)
    return wandb.Settings(**{key: value for key, value in wanted.items() if key in wandb.Settings.model_fields})


def has_key() -> bool:
    """Whether W&B could log in without asking: a key in the environment or for its host in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(wandb.Settings().base_url).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def hydra_choices() -> dict[str, str]:
    """The option chosen in each config group, or nothing outside a Hydra job."""
    return dict(HydraConfig.get().runtime.choices) if HydraConfig.initialized() else {}


def run_id(folder: Path) -> str:
    """The id of the folder's W&B run, the same when the run is resumed."""
    target = folder / "wandb_id.txt"
    if target.is_file():
        return target.read_text().strip()
    chosen = secrets.token_hex(4)
    atomic.write_text(target, chosen + "\n")
    return chosen
