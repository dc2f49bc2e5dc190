"""Where Hydra looks for plugins; the work is done in :mod:`seglab.multirun`."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SeglabSweeper(Sweeper):
    """Runs the jobs of a multirun that are not done yet (``conf/hydra/sweeper/seglab.yaml``)."""

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the sweep needs; the launcher is made when its folder is known."""
        self.config = config
        self.hydra_context = hydra_context
        self.task_function = task_function

    def sweep(self, arguments: list[str]) -> None:
        """Plan and launch."""
        from seglab.multirun.sweeper import sweep

        assert self.config is not None, "Hydra sets a sweeper up before it asks for the sweep"
        assert self.hydra_context is not None
        sweep(self.config, self.params, arguments, self.hydra_context, self.make_launcher)

    def make_launcher(self, config: DictConfig) -> Launcher:
        """The chosen launcher, for a configuration that says where the sweep lies."""
        assert self.hydra_context is not None
        return Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=self.task_function, config=config
        )


class SeglabSearch(SeglabSweeper):
    """Searches ranges of hyper-parameters trial by trial (``conf/search/optuna.yaml``)."""

    def sweep(self, arguments: list[str]) -> None:
        """Ask, launch, tell."""
        from seglab.multirun.search import search

        assert self.config is not None
        assert self.hydra_context is not None
        search(self.config, self.params, arguments, self.hydra_context, self.make_launcher)
