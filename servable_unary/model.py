"""A Python servable of OpenVINO Model Server: prompts come in, complete answers go out."""

import numpy as np
from config import settings
from pyovms import Tensor

from text_generation.serve import loading
from text_generation.serve.tensors import input_named, pack_texts, unpack_texts


class OvmsPythonModel:
    """The server creates one object per graph definition and calls `execute` from several threads at once."""

    chat = None

    def initialize(self, kwargs):
        """Load the model; an exception makes the graph unavailable, with the reason in the server's log."""
        self.chat = loading.acquire(settings)

    def execute(self, inputs):
        """pre_prompt BYTES [n] -> completion BYTES [n], token_count INT32 [1]; an exception is the client's error."""
        pre_prompt = input_named("pre_prompt", inputs)
        with self.chat.observe() as observation:
            self.chat.check_size(pre_prompt.name, pre_prompt.size)
            with self.chat.ask(unpack_texts(pre_prompt), observation) as generation:
                completions = generation.join()
        return [
            Tensor("completion", pack_texts(completions), shape=[len(completions)], datatype="BYTES"),
            Tensor("token_count", np.array([generation.token_count], dtype=np.int32)),
        ]

    def finalize(self):
        """Release the model; the server also calls this if `initialize` failed."""
        if self.chat is not None:
            loading.release(self.chat)
