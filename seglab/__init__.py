"""seglab: semantic segmentation with a swappable pixel classifier.

``seglab.load(path)`` opens a checkpoint as a network that is ready to predict. Importing the package is cheap: torch
comes with first use.
"""

from typing import Any

from seglab.version import __version__

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `python -m seglab.train --help` does not pay for torch.
    if name == "load":
        from seglab.loading import load

        return load
    raise AttributeError(f"module 'seglab' has no attribute {name!r}")
