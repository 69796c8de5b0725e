"""The engines, by the names that ENGINE takes; importing one imports no other, since each brings seconds of imports."""

from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from text_generation.serve.engines.base import Engine

EngineName = Literal["optimum", "genai"]
_CLASSES = {"optimum": ("optimum", "OptimumEngine"), "genai": ("genai", "GenaiEngine")}


def engine_class(name: EngineName) -> "type[Engine]":
    """The class of an engine."""
    module, attribute = _CLASSES[name]
    found: type[Engine] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return found
