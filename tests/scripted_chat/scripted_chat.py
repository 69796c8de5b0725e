"""Answers a conversation in pieces, as instructed by its last question."""

import itertools
import json
import re
import time

import numpy as np
from pyovms import Tensor
from scripted_answers import ANSWERS
from tritonclient.utils import serialize_byte_tensor

MOST_MESSAGES = 5
LONGEST_QUESTION = 1000
MOST_TOKENS = 4096


def text_tensor(name: str, text: str) -> Tensor:
    packed = serialize_byte_tensor(np.array([text.encode()], dtype=np.object_)).item()
    return Tensor(name, packed, shape=[1], datatype="BYTES")


def number_tensor(name: str, number: int) -> Tensor:
    return Tensor(name, np.array([number], dtype=np.int32))


class OvmsPythonModel:
    def execute(self, inputs):
        request = json.loads(bytes(inputs[0])[4:])
        try:
            yield from self.outputs(request, request["messages"])
        finally:
            print("left", flush=True)

    def outputs(self, request, messages):
        command, _, rest = messages[-1]["content"].partition(" ")
        if (request.get("max_tokens") or 0) > MOST_TOKENS:
            message = f"max_tokens: is {request['max_tokens']}, but MAX_NEW_TOKENS of this server is {MOST_TOKENS}"
            yield [text_tensor("error_message", message)]
        elif len(messages) > MOST_MESSAGES or len(messages[-1]["content"]) > LONGEST_QUESTION:
            yield [text_tensor("error_message", f"too long: {len(messages)} messages do not fit")]
        elif command == "busy":
            yield [text_tensor("error_message", "busy: all places are taken: try again later")]
        else:
            count = 0
            for piece in self.pieces(command, rest, request, messages):
                count += 1
                yield [text_tensor("completion", piece)]
                yield []
            if command == "unfinished":
                return
            if command == "broken":
                yield [text_tensor("error_message", "the model broke")]
            yield [text_tensor("finish_reason", "length" if command == "cut" else "stop")]
            yield [number_tensor("prompt_tokens", len(messages))]
            yield [number_tensor("completion_tokens", count)]
        yield [Tensor("end_signal", np.empty(0, dtype=np.uint8))]

    def pieces(self, command, rest, request, messages):
        match command:
            case "endless":
                for number in itertools.count():
                    time.sleep(0.01)
                    yield f"word{number} "
            case "messages":
                yield json.dumps(messages, ensure_ascii=False)
            case "sampling":
                yield json.dumps({name: value for name, value in request.items() if name != "messages"})
            case "silence":
                yield ""
            case _:
                yield from re.findall(r"\s*\S+\s*", ANSWERS.get(command, rest or command))
