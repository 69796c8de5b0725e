"""A node that processes one request at a time, slowly, and names its replica."""

import os
import threading
import time

from pyovms import Tensor


class OvmsPythonModel:
    def initialize(self, kwargs):  # noqa: ARG002
        self.one_at_a_time = threading.Lock()

    def execute(self, inputs):
        seconds = float(bytes(inputs[0])[4:])  # BYTES: preceded by four bytes of length
        with self.one_at_a_time:
            time.sleep(seconds)
        return [Tensor("replica", os.environ["REPLICA"].encode())]
