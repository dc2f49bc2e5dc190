"""The kinds of a command's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seglab.errors import ConfigError

PREDICT: dict[str, Any] = {
    "ckpt": str, "source": str, "output": str, "write": list, "labels_out": str, "overwrite": bool, "device": str,
    "trust": bool, "max_pixels": int | None, "protocol": str, "evaluation": Mapping,
}  # fmt: skip


def check(options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse values of a wrong kind.

    Raises:
        ConfigError: names the key, the value and what is expected.
    """
    for name, value in options.items():
        kind = known[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{name}={value} — expected {getattr(kind, '__name__', kind)}")
