"""A Python servable of OpenVINO Model Server: prompts come in, whole completions go out."""

import numpy as np
from config import settings
from pyovms import Tensor

from text_generation.serve import engine
from text_generation.serve.tensors import pack_texts, unpack_texts


class OvmsPythonModel:
    """The server makes one object per graph definition and calls `execute` from several threads at once."""

    def initialize(self, kwargs):
        """Load the model; an exception leaves the graph unavailable, with the reason in the server's log."""
        self.prompts, self.engine = engine.load(settings)

    def execute(self, inputs):
        """pre_prompt BYTES [n] -> completion BYTES [n], token_count INT32 [1]; an exception is the client's error."""
        pre_prompt = inputs[0]
        questions = unpack_texts(
            "pre_prompt", pre_prompt.data, pre_prompt.shape, pre_prompt.datatype, self.prompts.max_bytes
        )
        with self.engine.submit(self.prompts.encode(questions), settings.sampling) as generation:
            completions = generation.join()
        return [
            Tensor("completion", pack_texts(completions), shape=[len(completions)], datatype="BYTES"),
            Tensor("token_count", np.array([generation.token_count], dtype=np.int32)),
        ]

    def finalize(self):
        """Stop what still runs."""
        self.engine.close()
