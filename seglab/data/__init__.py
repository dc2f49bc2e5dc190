"""Datasets, loading, augmentation: everything between files on disk and a ``Batch``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seglab.data.datamodule import DataModule

__all__ = ["DataModule"]


def __getattr__(name: str) -> Any:
    # The DataModule needs torch and lightning, which take seconds to import; a dataset's spec needs neither.
    if name == "DataModule":
        from seglab.data.datamodule import DataModule

        return DataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
