"""A node that holds its requests until a file exists."""

import os
import time
from pathlib import Path

from pyovms import Tensor


class OvmsPythonModel:
    def execute(self, inputs):  # noqa: ARG002
        while not Path(os.environ["GATE"]).exists():
            time.sleep(0.01)
        return [Tensor("replica", os.environ["REPLICA"].encode())]
