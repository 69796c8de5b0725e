"""A Python servable of OpenVINO Model Server: a conversation comes in, the complete answer goes out."""

from chat_outputs import summary, text
from chat_settings import settings

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
        """request BYTES [1], JSON -> completion BYTES [1] and its summary; an exception becomes the client's error."""
        request = input_named("request", inputs)
        with self.chat.observe() as observation:
            self.chat.check_json_size(request.size)
            with self.chat.answer(ChatRequest.parse(unpack_text(request)), observation) as generation:
                [completion] = generation.join()
        return [text("completion", completion), *summary(generation)]

    def finalize(self):
        """Release the model; the server also calls this if `initialize` failed."""
        if self.chat is not None:
            loading.release(self.chat)
