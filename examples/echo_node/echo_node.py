"""The smallest Python node of OpenVINO Model Server: it sends back what it gets."""

from pyovms import Tensor


class OvmsPythonModel:
    def execute(self, inputs):
        text = inputs[0]
        return [Tensor("echo", text.data, text.shape, text.datatype)]
