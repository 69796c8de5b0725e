"""A stream of 40 responses, one every 50 ms, each of which names its replica."""

import os
import time

from pyovms import Tensor


class OvmsPythonModel:
    def execute(self, inputs):  # noqa: ARG002
        for _ in range(40):
            time.sleep(0.05)
            yield [Tensor("replica", os.environ["REPLICA"].encode())]
