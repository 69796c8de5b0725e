import script


class OvmsPythonModel:
    def execute(self, inputs):
        for step in range(script.read(inputs)["count"]):
            yield [script.text("middle", str(step))]
