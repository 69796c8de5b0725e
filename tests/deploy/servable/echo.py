"""A node that takes its time, one request after another, and says which replica it is in."""

import os
import threading
import time

from pyovms import Tensor


class OvmsPythonModel:
    def initialize(self, kwargs):  # noqa: ARG002
        self.one_at_a_time = threading.Lock()

    def execute(self, inputs):
        seconds = float(bytes(inputs[0])[4:])  # BYTES: four bytes of length go before
        with self.one_at_a_time:
            time.sleep(seconds)
        return [Tensor("replica", os.environ["REPLICA"].encode())]
