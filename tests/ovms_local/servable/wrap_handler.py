import script


class OvmsPythonModel:
    def initialize(self, kwargs):
        self.output = kwargs["output_names"][0]
        self.name = kwargs["node_name"]

    def execute(self, inputs):
        return [script.text(self.output, f"{self.name}({bytes(inputs[0])[4:].decode()})")]
