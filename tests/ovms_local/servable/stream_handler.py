import script


class OvmsPythonModel:
    def execute(self, inputs):
        order = script.read(inputs)
        if "return" in order:
            return [script.text("out", order["return"])]
        return self._run(order)

    def _run(self, order):
        script.note("generator starts")
        try:
            for step in range(order["count"]):
                if step == order.get("fail_at"):
                    raise RuntimeError("failed on purpose")
                if step == order.get("wait_at"):
                    script.note("generator waits")
                    script.wait_for(order["wait_for"])
                if "size" in order:
                    script.note(f"step {step}")
                    yield script.make_output({"make": "bytes", "size": order["size"], "datatype": "X"})
                elif order.get("both"):
                    yield [script.text("other", f"other {step}"), script.text("out", f"out {step}")]
                elif "make" in order:
                    yield script.make_output(order)
                else:
                    yield [script.text("out", f"out {step}")]
        finally:
            script.note("generator ends")

    def finalize(self):
        script.note("finalize stream")
