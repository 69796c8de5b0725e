"""The requirements of installed distributions, and the imports of sources."""

import ast
import sys
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(*requirements: str) -> set[str]:
    """Return these distributions and everything they require, with the requested extras."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    left = [Requirement(requirement) for requirement in requirements]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            needed = map(Requirement, requires(name) or [])
            left += [need for need in needed if not need.marker or need.marker.evaluate({"extra": extra})]
    return found


def imported_packages(files: Iterable[Path]) -> set[str]:
    """Return the top-level packages that these sources import, without the standard library."""
    trees = [ast.walk(ast.parse(file.read_text(encoding="utf-8"))) for file in files]
    nodes = [node for tree in trees for node in tree]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {module.split(".")[0] for module in modules} - sys.stdlib_module_names
