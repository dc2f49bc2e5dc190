"""A network inside a loss term: it teaches, and is neither trained nor stored.

It is opened at first use, so that what only validates or predicts never needs its file. It is no part of the term's
parameters: no optimiser, checkpoint, copy of the weights or change of mode reaches it. What a run learnt from is
recorded as a checksum, and a resumed run is refused another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from seglab.checksum import checksum
from seglab.errors import ConfigError

if TYPE_CHECKING:
    from seglab.loading import Loaded


class Frozen:
    """``frozen(image [B, 3, H, W] uint8) -> Output`` of a trained network in evaluation mode, on the image's device.

    A feature extractor (:class:`seglab.backbones.extractor.Extractor`) gives its feature [B, C, h, w] instead.

    The network normalises the image itself; one of another task is given what its model takes. Gradients may pass
    through it to what it is given; its weights get none.

    Args:
        opens: opens the network; of a configuration ``{_target_: seglab.load, _partial_: true, path: …}``, or an
            extractor.
        needed_by: the term, for messages.

    Raises:
        ConfigError: ``opens`` is nothing that can be called.
    """

    def __init__(self, opens: Callable[[], Loaded | nn.Module], needed_by: str) -> None:
        if not callable(opens):
            raise ConfigError(
                f"{needed_by}.network={opens!r} — expected {{_target_: seglab.load, _partial_: true, path: FILE}}"
            )
        self._opens = opens
        self._loaded: Loaded | nn.Module | None = None

    @property
    def loaded(self) -> Any:
        """What was opened: the network with what its file says; CheckpointError where the file cannot be used."""
        if self._loaded is None:
            self._loaded = self._opens()
            self.model.requires_grad_(False).eval()
        return self._loaded

    @property
    def model(self) -> nn.Module:
        """The network alone."""
        loaded = self.loaded
        model: nn.Module = loaded if isinstance(loaded, nn.Module) else loaded.model
        return model

    def __call__(self, image: Tensor, **named: Any) -> Any:
        return self.model.to(image.device)(image, **named)

    def fingerprint(self) -> str:
        """Checksum of the deployed network's tensors: what a resumed run must find again, wherever its file lies."""
        described = getattr(self.loaded, "description", None)
        return (described and described.checksum) or checksum(self.model.state_dict())

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self  # a copy of the weights (averaging) shares the teacher

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}  # another process opens its own
