from pyovms import Tensor


class OvmsPythonModel:
    def execute(self, inputs):
        return [Tensor("out", tensor.data, tensor.shape, tensor.datatype) for tensor in inputs]
