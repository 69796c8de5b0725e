import gc
import os
import subprocess
import sys
import weakref

import pytest

from text_generation.imports import quick_imports

WAITING = ("OMP_WAIT_POLICY", "OPENBLAS_THREAD_TIMEOUT")
RUN_A_COMMAND = f"""
import os, sys
from text_generation.prepare.running import run
run(lambda: print([os.environ[name] for name in {WAITING}], "numpy" in sys.modules))
"""


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


@pytest.mark.slow
def test_threads_of_a_command_sleep_while_they_wait():
    """Libraries read these variables when they are loaded."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    command = [sys.executable, "-c", RUN_A_COMMAND]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert printed == "['PASSIVE', '4'] False\n"
