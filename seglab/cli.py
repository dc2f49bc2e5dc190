"""The command line: where the configuration lies, and what a failure looks like.

Exit codes: 0 done, 1 crash, 2 bad input or configuration, 3 partial prediction, 130 interrupted, 143 preempted.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
import secrets
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seglab.errors import UserError
from seglab.runs import atomic
from seglab.runs.folder import FOLDER_KEYS


def conf_dir() -> Path:
    """The configuration folder: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def register_resolvers() -> None:
    """Resolvers that the configuration files use; safe to call twice."""
    OmegaConf.register_new_resolver("folder_name", run_folder_name, replace=True)
    # Two jobs that start in the same second must not share a folder.
    OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(2), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("joined", joined, replace=True)
    OmegaConf.register_new_resolver("statistics", backbone_statistics, replace=True)
    OmegaConf.register_new_resolver("layer_tasks", layer_tasks, replace=True)


def joined(*choices: str | None) -> str:
    """``${joined:a,b}``: the options that were chosen, of groups that a task may not have."""
    return "-".join(choice for choice in choices if choice not in (None, "None", "null"))


def backbone_statistics(node: Any, which: Any) -> ListConfig:
    """``${statistics:${backbone},mean}``: see :mod:`seglab.backbones.statistics`."""
    from seglab.backbones import statistics  # imports torch

    return OmegaConf.create(statistics.of(node, which))


def layer_tasks(node: Any, seed: int = 0, last_whole: bool = False) -> ListConfig:
    """``${layer_tasks:${regularizer},${seed}}``: see :func:`seglab.hierarchy.plan.tasks`."""
    from seglab.hierarchy import plan

    if OmegaConf.is_missing(node, "plan"):  # to_containers says so
        return OmegaConf.create([])
    options: Any = OmegaConf.to_container(node, resolve=True)
    return OmegaConf.create(plan.tasks(options, options.get("layers"), last_whole, seed))


def run_folder_name(choices: str) -> str:
    """A job's choices (``a=1,b=x/y``) as a folder's name: no separators, and not longer than a file system allows."""
    name = choices.replace("/", "_").replace(" ", "")
    if len(name) <= 120:
        return name
    return f"{name[:110]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def run(task: Callable[[DictConfig], Any], config_name: str) -> None:
    """Compose ``conf/<config_name>.yaml`` with the command line, run ``task`` on it, and leave with an exit code."""
    full_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of Hydra's own printer
    outlast_readers()
    share_cores()
    register_resolvers()
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(task)()
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except Exception as error:
        if full_trace:
            traceback.print_exc()
        if isinstance(error, UserError):
            fail(readable(error) + other_folder_hint(error, config_name), error.exit_code)
        if hasattr(error, "exit_code"):
            fail(readable(error), error.exit_code)
        if isinstance(error, OSError) and error.errno in atomic.NOT_WRITABLE and error.filename:
            refused = atomic.unwritable(error, Path(os.fsdecode(error.filename)))
            fail(str(refused) + other_folder_hint(refused, config_name), refused.exit_code)
        if isinstance(error, HydraException | OmegaConfBaseException) or raised_in_hydra(error):
            fail(f"{error}{nearest(error, config_name)}", 2)
        if not full_trace:
            traceback.print_exc()
        fail(hint(error), 1)


def share_cores() -> None:
    """Have idle threads sleep soon, unless the environment says otherwise; before torch is imported.

    GNU OpenMP's threads wait for each other in a loop, for milliseconds. Where other processes want the same cores, the
    thread that is waited for gets none of them: two threads on two cores beside four busy processes did 0.15 training
    steps a second, and 1.3 with a short wait; an idle machine loses a tenth (scripts/bench_busy.py).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def outlast_readers() -> None:
    """Let this process go on when nobody reads what it prints any more."""
    sys.stdout, sys.stderr = TolerantStream(sys.stdout), TolerantStream(sys.stderr)


class TolerantStream:
    """A standard stream that nobody need read: when writing fails (a closed pipe, a full disk), the rest is dropped.

    A run's output also goes to its log file, and a training must not end because a terminal did.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or pretend to."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush what can be."""
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError:
            # What is in the buffer, and what other writers send to the descriptor, has to go somewhere.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
        except ValueError:  # closed
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def raised_in_hydra(error: Exception) -> bool:
    """Whether Hydra itself refused the command line, with one of Python's own errors."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        isinstance(error, ValueError)
        and bool(frames)
        and Path(hydra.__file__).parent in Path(frames[-1].filename).parents
    )


def other_folder_hint(error: UserError, config_name: str) -> str:
    """For an output that cannot be written: the key of the typed command that chooses another."""
    key = FOLDER_KEYS.get(config_name)
    return f"; choose another folder with {key}=…" if isinstance(error, atomic.Unwritable) and key else ""


def compose(config_name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the command line would resolve, for use from Python: ``compose("train", ["classifier=ssa", "run_dir=a"])``.

    ``seglab.train.fit`` takes it. ``train`` needs a ``run_dir``, which Hydra chooses on the command line.
    """
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return to_containers(hydra.compose(config_name, overrides=list(overrides)))


def fail(message: str, code: int) -> None:
    """Print to stderr and leave."""
    if message:
        print(f"\nseglab: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def readable(error: BaseException) -> str:
    """The message of a user's error, without the trace that a DataLoader worker wraps around it."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    found = re.search(r"^(?:[\w.]+\.)?" + type(error).__name__ + r": (.*)\Z", text, re.MULTILINE | re.DOTALL)
    return found.group(1).strip() if found else text


RENAMED = {
    "callbacks.pictures": "callbacks.images",
    "pictures": "images",
    "augment.scale": "augment.long_short",
    "augment.mean": "normalize.mean",
    "augment.std": "normalize.std",
    "evaluation.scale": "evaluation.long_short",
    "loss.response": "loss.distill",
    "auxiliary": "heads (heads=fcn; its options are below heads.aux)",
}
"""Keys of earlier versions, and what they are called now."""


def nearest(error: Exception, config_name: str) -> str:
    """A "did you mean" line for a misspelt key or option, or nothing."""
    text = str(error)
    for old, new in RENAMED.items():
        if re.search(rf"(?<![\w.]){re.escape(old)}\b", text):
            return f"\n{old} is now {new}"
    if ablation := re.search(r"In 'ablation/(\w+)': Could not override", text):
        return f"\nIs ablation={ablation[1]} of another command? Those of trained networks are of seglab.evaluate"
    option = re.search(r"Could not find '([^']+)'.*?Available options in '[^']*':\s*(.*)", text, re.DOTALL)
    if option:
        wrong, known = option.group(1).rsplit("/", 1)[-1], option.group(2).split()
        return did_you_mean(wrong, known)
    key = re.search(r"(?:Could not override|Could not append.*?|Key) '([\w.@/]+)'", text)
    full = re.search(r"full_key: ([\w.]+)", text)
    if not key:
        return ""
    path = (full or key).group(1).split(".")
    node = compose_groups(config_name)
    for depth, part in enumerate(path):
        if not isinstance(node, DictConfig):
            return ""
        if part not in node:
            found = did_you_mean(part, [str(k) for k in node])
            prefix = ".".join(path[:depth])
            return found and (f"{found} (in {prefix})" if prefix else found)
        node = node._get_node(part)
    return ""


def compose_groups(config_name: str) -> Any:
    """The configuration with only the command line's group choices (``classifier=ssa``) applied."""
    choices = [
        a for a in sys.argv[1:] if re.fullmatch(r"[a-z_]+=[\w-]+", a) and (conf_dir() / a.split("=")[0]).is_dir()
    ]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            return hydra.compose(config_name, overrides=choices)
        except HydraException:
            return None


def did_you_mean(wrong: str, known: list[str]) -> str:
    """A suggestion from the known names, or an empty string."""
    close = difflib.get_close_matches(wrong, known, n=3, cutoff=0.5)
    return f"\nDid you mean {' or '.join(close)}?" if close else ""


def hint(error: Exception) -> str:
    """What to try after a crash whose cause is usual."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "out of memory" in text:
        return (
            "out of memory — make data.batch_size or augment.crop smaller (trainer.accumulate_grad_batches keeps the "
            "effective batch), or use trainer.precision=bf16-mixed"
        )
    if "DataLoader worker" in text and ("killed" in text or "exited unexpectedly" in text):
        return "a data worker died, usually for want of shared memory (/dev/shm) — try data.num_workers=0"
    return ""


def to_containers(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain containers.

    Raises:
        UserError: a mandatory value (``???``) is missing, or a resolver refuses what it is given.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise UserError(f"no value for {', '.join(missing)} — set it on the command line, e.g. {missing[0]}=…")
        return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise refusal(error) or error from None


def refusal(error: BaseException | None) -> UserError | None:
    """The user's error that a resolver raised, which OmegaConf has wrapped in one of its own; None where it is none."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error
