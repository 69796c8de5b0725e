import os
import sys

import script


class MuteError(Exception):
    def __str__(self):
        raise ValueError


class OvmsPythonModel:
    def initialize(self, kwargs):
        script.note("initialize " + " ".join(f"{key}={value}" for key, value in sorted(kwargs.items())))

    def execute(self, inputs):
        order = script.read(inputs)
        if "raise" in order:
            raise RuntimeError(order["raise"])
        if "mute" in order:
            raise MuteError
        if "exit" in order:
            sys.exit(order["exit"])
        if "wait_for" in order:
            script.note("waiting")
            script.wait_for(order["wait_for"])
        if "environment" in order:
            return [script.text("out", os.environ.get(order["environment"], "none"))]
        if "yield" in order:
            return iter([[script.text("out", "no")]])
        return script.make_output(order)

    def finalize(self):
        script.note("finalize scripted")
        raise RuntimeError("an exception in finalize does no harm")
