import gc
import weakref

from text_generation.imports import quick_imports


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_the_garbage_of_others_is_still_found():
    """As of an engine that was closed because its servable was loaded again."""
    earlier = weakref.ref(Cycle())
    with quick_imports():
        assert earlier() is None
        meanwhile = weakref.ref(Cycle())
    gc.collect()
    assert meanwhile() is None, "nothing was imported, so nothing more stays"
