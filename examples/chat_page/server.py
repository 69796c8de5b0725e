"""Client of a model server's graph chat_stream: sends a conversation and receives the answer piece by piece."""

import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc
import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

DIRECTLY = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]


class Failed(Exception):
    """There is no answer, or only a partial one; the message explains why in plain words."""


class TooLong(Failed):
    """The conversation is too long for the model."""


class TooManyTokens(Failed):
    """The request asks for a longer answer than the server allows, which is `ceiling` tokens."""

    def __init__(self, ceiling: int):
        super().__init__(f"This server's answers have at most {ceiling} tokens: choose a smaller longest answer.")
        self.ceiling = ceiling


async def longest_possible_answer(url: str) -> int | None:
    """Return the maximum length of this server's answers in tokens, from its refusal of a longer one, or None."""
    request = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 2**31 - 1}
    try:
        async with aclosing(outputs(url, request)) as pieces:
            await anext(pieces, None)
    except TooManyTokens as refused:
        return refused.ceiling
    except Failed:
        pass  # the first question will show the reason
    return None


async def outputs(url: str, request: dict) -> AsyncGenerator[tuple[str, np.ndarray]]:
    """Yield name and value of each output of chat_stream. Closing the generator ends the generation on the server."""
    tensor = InferInput("request", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([json.dumps(request).encode()], dtype=np.object_))

    async def requests():
        yield {"model_name": "chat_stream", "inputs": [tensor]}

    async with InferenceServerClient(url, channel_args=DIRECTLY) as client:
        call, begun = client.stream_infer(requests()), False
        try:
            async for result, error in call:
                if error:
                    raise Failed(f"The server could not answer: {error.message()}")
                for name in (output.name for output in result.get_response().outputs):
                    value = result.as_numpy(name)
                    if name == "error_message":
                        raise refusal(value[0].decode(errors="replace"))
                    if name == "end_signal":
                        return
                    yield name, value
                    begun = True
            raise Failed("The server ended in the middle of the answer.")
        except grpc.RpcError as error:
            if begun:
                raise Failed("The server ended in the middle of the answer.") from error
            try:
                await client.is_server_live(client_timeout=5)
            except Exception:
                raise Failed(f"No server answers at {url}. It may not be running yet.") from error
            raise Failed("The server is running, but its chat model is not ready. It may still be loading.") from error
        finally:
            call.cancel()


def refusal(message: str) -> Failed:
    """Return the servable's error, reworded where it names settings that a user of the page does not know."""
    if message.startswith("busy: "):
        return Failed("The server is busy with other requests. Try again in a moment.")
    if message.startswith("too long: "):
        return TooLong("This is too long for the model. Ask something shorter, or start a new conversation.")
    if ceiling := re.search(r"MAX_NEW_TOKENS of this server is (\d+)", message):
        return TooManyTokens(int(ceiling[1]))
    return Failed(f"The server could not answer: {message}")
