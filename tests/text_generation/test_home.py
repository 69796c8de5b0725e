import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Imported once as root too: the other user may not be able to read the standard library, which is root's own then.
AS_NOBODY_KNOWN = """
import os, pathlib, sys
import text_generation
for module in [name for name in sys.modules if name.partition(".")[0] == "text_generation"]:
    del sys.modules[module]
os.environ.pop("HOME", None)
os.setuid(54321)
import text_generation
print(pathlib.Path.home())
"""


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_without_a_name_or_a_home_gets_one():
    result = subprocess.run(
        [sys.executable, "-c", AS_NOBODY_KNOWN], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.stdout.strip() == tempfile.gettempdir(), result.stderr
