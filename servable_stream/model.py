"""A Python servable of OpenVINO Model Server: prompts come in, completions go out piece by piece."""

import numpy as np
from config import settings
from pyovms import Tensor

from text_generation.errors import client_message
from text_generation.serve import engine
from text_generation.serve.tensors import pack_texts, unpack_texts


class OvmsPythonModel:
    """The server makes one object per graph definition and calls `execute` from several threads at once."""

    def initialize(self, kwargs):
        """Load the model; an exception leaves the graph unavailable, with the reason in the server's log."""
        self.prompts, self.engine = engine.load(settings)

    def execute(self, inputs):
        """pre_prompt BYTES [n] -> a completion BYTES [n] per step, then token_count INT32 [1], then end_signal.

        A generator: the graph's loop asks it for one set of outputs after another, and closes it when the client
        leaves, which ends the generation. A waiting client is not told of an exception, so errors are an output too.
        """
        pre_prompt = inputs[0]
        try:
            questions = unpack_texts(
                "pre_prompt", pre_prompt.data, pre_prompt.shape, pre_prompt.datatype, self.prompts.max_bytes
            )
            with self.engine.submit(self.prompts.encode(questions), settings.sampling) as generation:
                for pieces in generation:
                    yield [Tensor("completion", pack_texts(pieces), shape=[len(pieces)], datatype="BYTES")]
            yield [Tensor("token_count", np.array([generation.token_count], dtype=np.int32))]
        except Exception as error:
            yield [Tensor("error_message", pack_texts([client_message(error)]), shape=[1], datatype="BYTES")]
        yield [Tensor("end_signal", np.empty(0, dtype=np.uint8))]

    def finalize(self):
        """Stop what still runs."""
        self.engine.close()
