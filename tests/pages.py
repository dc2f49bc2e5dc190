"""Documentation as the tests read it: the code blocks of a page and the commands in them."""

from __future__ import annotations

import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@dataclass(frozen=True)
class Command:
    """``python -m module arguments``, as a page shows it."""

    module: str
    arguments: tuple[str, ...]
    own: bool
    """With ``PYTHONPATH``: it needs files of a project that the page describes."""

    def __str__(self) -> str:
        return shlex.join([self.module, *self.arguments])


def blocks(page: Path | str, language: str) -> list[str]:
    """The code blocks of one language, in order."""
    text = page if isinstance(page, str) else page.read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(page: Path | str, module: str | None = None) -> list[Command]:
    """Every ``python -m seglab.…`` of a page's shell blocks, or those of one module; variables as the shell has them."""
    found = []
    for block in blocks(page, "bash"):
        variables = dict(re.findall(r'^(\w+)="(.*?)"', block.replace("\\\n", " "), re.DOTALL | re.MULTILINE))
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            words = shlex.split(line, comments=True)
            if "-m" in words and (start := words.index("-m") + 1) < len(words):
                name, arguments = words[start], tuple(words[start + 1 :])
                if name.startswith("seglab.") and module in (None, name):
                    found.append(Command(name, arguments, own=words[0].startswith("PYTHONPATH=")))
    return found


def files(page: Path) -> dict[str, str]:
    """The files that a page shows in full, by the path in the comment of their first line, which is not part of them."""
    found = {}
    for block in blocks(page, "python") + blocks(page, "yaml"):
        first, _, rest = block.partition("\n")
        if match := re.fullmatch(r"# (my_\w+/[\w/]+\.(?:py|yaml))", first):
            found[match[1]] = rest
    return found


def script(name: str) -> ModuleType:
    """A file of ``scripts/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
