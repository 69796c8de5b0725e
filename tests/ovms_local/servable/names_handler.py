import script


class OvmsPythonModel:
    def execute(self, inputs):
        return [script.text("out", " ".join(tensor.name for tensor in inputs))]
