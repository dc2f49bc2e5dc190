"""Export: ``python -m seglab.export ckpt=… output=FOLDER``: ``model.safetensors`` and ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from seglab import cli
from seglab import options as known


def export(cfg: DictConfig) -> None:
    """One export as Hydra composed it."""
    write(cli.to_containers(cfg))


def write(options: Mapping[str, Any]) -> None:
    """Write the exported folder of a checkpoint, once the network has been built and filled from it.

    Args:
        options: the resolved ``conf/export.yaml`` as plain containers.

    Raises:
        UserError: an option or a checkpoint that cannot be used, a folder that cannot be written.
    """
    known.check(options, known.EXPORT)

    from rich.console import Console

    from seglab.checkpoint import export_safetensors
    from seglab.loading import load

    loaded = load(options["ckpt"], trust=options["trust"], allow_nonfinite=options["allow_nonfinite"])
    folder = export_safetensors(loaded.model, loaded.description, options["output"])
    size = (folder / "model.safetensors").stat().st_size / 2**20
    Console(soft_wrap=True).print(
        f"{folder}: model.safetensors ({size:.1f} MiB) and config.json; seglab.load({str(folder)!r}) opens it"
    )


def main() -> None:
    """Entry point."""
    cli.run(export, "export")


if __name__ == "__main__":
    main()
