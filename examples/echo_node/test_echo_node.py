from pathlib import Path

import numpy as np
import tritonclient.grpc as grpcclient

from ovms_local.testing import serve


def test_the_texts_come_back():
    texts = grpcclient.InferInput("text", [2], "BYTES")
    texts.set_data_from_numpy(np.array(["Grüße", ""], dtype=object))
    with serve(Path(__file__).parent) as server, grpcclient.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer("echo", [texts])
    assert [text.decode() for text in answer.as_numpy("echo")] == ["Grüße", ""]
    assert "WARNING" not in server.log
