import numpy as np
import script
from pyovms import Tensor


class OvmsPythonModel:
    def execute(self, inputs):
        order = script.read(inputs)
        if "return" in order:
            return [script.text("out", order["return"])]
        return self._run(order)

    def _run(self, order):
        script.note("generator starts")
        buffers = {name: np.zeros(1, np.int32) for name in ("out", "other")}
        try:
            for step in range(order["count"]):
                self._wait(order, step)
                if step == order.get("fail_at"):
                    raise RuntimeError(order.get("fail_with", "failed on purpose"))
                yield self._set(order, step, buffers)
                if "then_nothing" in order:
                    yield []
            self._wait(order, order["count"])
        finally:
            script.note("generator ends")

    def _wait(self, order, step):
        if step == order.get("wait_at"):
            script.note("generator waits")
            script.wait_for(order["wait_for"])

    def _set(self, order, step, buffers):
        names = ("other", "out") if "both" in order else ("out",)
        if "size" in order:
            script.note(f"step {step}")
            return script.make_output({"make": "bytes", "size": order["size"], "datatype": "X"})
        if "make" in order:
            return script.make_output(order)
        if "refill" in order:
            for name in names:
                buffers[name][0] = step
            return [Tensor(name, buffers[name]) for name in names]
        return [script.text(name, f"{name} {step}") for name in names]

    def finalize(self):
        script.note("finalize stream")
