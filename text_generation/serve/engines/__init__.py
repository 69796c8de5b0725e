"""The engines by their ENGINE names. Importing one does not import the others, since each adds seconds of imports."""

from importlib import import_module
from typing import TYPE_CHECKING, Literal

from text_generation.imports import quick_imports

if TYPE_CHECKING:
    from text_generation.serve.engines.base import Engine

EngineName = Literal["optimum", "genai"]
_CLASSES = {"optimum": ("optimum", "OptimumEngine"), "genai": ("genai", "GenaiEngine")}


def engine_class(name: EngineName) -> "type[Engine]":
    """Return the class of an engine."""
    module, attribute = _CLASSES[name]
    with quick_imports():
        found: type[Engine] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return found
