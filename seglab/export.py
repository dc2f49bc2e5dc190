"""Export: ``python -m seglab.export ckpt=… output=FOLDER``: ``model.safetensors`` and ``config.json``."""

from __future__ import annotations

from omegaconf import DictConfig

from seglab import cli
from seglab import options as known


def export(cfg: DictConfig) -> None:
    """Write the exported folder of a checkpoint, once the network has been built and filled from it."""
    from rich.console import Console

    from seglab.build import load
    from seglab.checkpoint import export_safetensors

    options = cli.plain(cfg)
    known.check(options, known.EXPORT)
    model = load(options["ckpt"], trust=options["trust"], allow_nonfinite=options["allow_nonfinite"])
    folder = export_safetensors(model, model.description, options["output"])  # type: ignore[arg-type]
    size = (folder / "model.safetensors").stat().st_size / 2**20
    Console(soft_wrap=True).print(
        f"{folder}: model.safetensors ({size:.1f} MiB) and config.json; seglab.load({str(folder)!r}) opens it"
    )


def main() -> None:
    """Entry point."""
    cli.run(export, "export")


if __name__ == "__main__":
    main()
