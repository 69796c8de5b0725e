"""A Python servable of OpenVINO Model Server: prompts come in, completions go out piece by piece."""

import numpy as np
from config import settings
from pyovms import Tensor

from text_generation.errors import client_message
from text_generation.serve import loading
from text_generation.serve.tensors import input_named, pack_texts, unpack_texts


class OvmsPythonModel:
    """The server creates one object per graph definition and calls `execute` from several threads at once."""

    chat = None

    def initialize(self, kwargs):
        """Load the model; an exception makes the graph unavailable, with the reason in the server's log."""
        self.chat = loading.acquire(settings)

    def execute(self, inputs):
        """pre_prompt BYTES [n] -> a completion BYTES [n] per step, then token_count INT32 [1], then end_signal.

        This is a generator: the graph's loop requests one set of outputs after another, and closes it when the client
        leaves, which ends the generation. A waiting client does not learn of exceptions, so errors are an output, too.
        """
        pre_prompt = input_named("pre_prompt", inputs)
        try:
            with self.chat.observe() as observation:
                self.chat.check_size(pre_prompt.name, pre_prompt.size)
                with self.chat.ask(unpack_texts(pre_prompt), observation) as generation:
                    for pieces in generation:
                        yield [Tensor("completion", pack_texts(pieces), shape=[len(pieces)], datatype="BYTES")]
                        yield []  # the server sends a set only once it has the next one, which this provides at once
            yield [Tensor("token_count", np.array([generation.token_count], dtype=np.int32))]
        except Exception as error:
            yield [Tensor("error_message", pack_texts([client_message(error)]), shape=[1], datatype="BYTES")]
        yield [Tensor("end_signal", np.empty(0, dtype=np.uint8))]

    def finalize(self):
        """Release the model; the server also calls this if `initialize` failed."""
        if self.chat is not None:
            loading.release(self.chat)
