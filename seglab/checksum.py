"""Checksums over tensors: they find damage to a file, not malice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors, as hex digits: of their names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensors(node: Any, key: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested containers, with its dotted place."""
    if isinstance(node, Tensor):
        yield key, node
    named = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, child in named:
        yield from tensors(child, f"{key}.{name}" if key else str(name))
