"""A Python servable of OpenVINO Model Server: a conversation comes in, the answer goes out piece by piece."""

import numpy as np
from chat_outputs import summary, text
from chat_settings import settings
from pyovms import Tensor

from text_generation.errors import client_message
from text_generation.serve import loading
from text_generation.serve.request import ChatRequest
from text_generation.serve.tensors import input_named, unpack_text


class OvmsPythonModel:
    """The server creates one object per graph definition and calls `execute` from several threads at once."""

    chat = None

    def initialize(self, kwargs):
        """Load the model; an exception makes the graph unavailable, with the reason in the server's log."""
        self.chat = loading.acquire(settings)

    def execute(self, inputs):
        """request BYTES [1], JSON -> a completion BYTES [1] per step, then its summary, then end_signal.

        A generator, as in servable_stream. A waiting client does not learn of exceptions, so errors are an output, too.
        """
        request = input_named("request", inputs)
        try:
            with self.chat.observe() as observation:
                self.chat.check_json_size(request.size)
                with self.chat.answer(ChatRequest.parse(unpack_text(request)), observation) as generation:
                    for [piece] in generation:
                        yield [text("completion", piece)]
                        yield []  # the server sends a set only once it has the next one, which this provides at once
            yield summary(generation)
        except Exception as error:
            yield [text("error_message", client_message(error))]
        yield [Tensor("end_signal", np.empty(0, dtype=np.uint8))]

    def finalize(self):
        """Release the model; the server also calls this if `initialize` failed."""
        if self.chat is not None:
            loading.release(self.chat)
