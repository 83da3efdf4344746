"""Requests as they travel: the bytes of a message, and what a client holds of it once it is sent."""

import json
import re
import subprocess
import sys
from concurrent import futures
from threading import Event

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

from fv2es.client import _Blocking
from fv2es.errors import DeadlineExceeded, ServerUnreachable
from fv2es.wire import INFER_METHOD, Tensor, encode_message, encode_request, infer_inputs

MESSAGE_BYTES = 20_000_000
NUM_MESSAGES = 4
MOST_HELD_BYTES = 40_000_000
"""By a client with four messages of 20 MB that are sent and not answered. Measured: 0.4 MB; 160 where calls hold what they sent."""

SENDER = """
import ctypes, json, sys, time
from pathlib import Path
from fv2es.client import _Blocking
from fv2es.wire import Tensor

def held_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

address, size, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
transport = _Blocking(address)
before = held_bytes()
calls = [
    transport.infer("emotion", [Tensor(name="CLIP", data_type="UINT8", shape=(size,), content=bytes([7]) * size)], timeout_s=60)
    for _ in range(count)
]
print("sent", flush=True)
sys.stdin.readline()  # all have arrived
time.sleep(0.5)
ctypes.CDLL(None).malloc_trim(0)
held = held_bytes() - before
print(json.dumps({"held": held, "open": sum(not each.done() for each in calls)}), flush=True)
sys.stdin.readline()  # all may be answered
print(json.dumps([each.result(timeout=30).as_numpy("SIZE").tolist() for each in calls]), flush=True)
"""


class Slow(grpc.GenericRpcHandler):
    """Takes messages in and answers with their sizes when it is told to."""

    def __init__(self) -> None:
        self.num_arrived = 0
        self.all_arrived, self.may_answer = Event(), Event()

    def service(self, details):
        assert details.method == INFER_METHOD

        def answer(message: bytes, context) -> bytes:
            (content,) = service_pb2.ModelInferRequest.FromString(message).raw_input_contents
            del message
            self.num_arrived += 1
            if self.num_arrived == NUM_MESSAGES:
                self.all_arrived.set()
            self.may_answer.wait(60)
            output = service_pb2.ModelInferResponse.InferOutputTensor(name="SIZE", datatype="INT64", shape=[1])
            size = np.array([len(content)], np.int64).tobytes()
            return service_pb2.ModelInferResponse(outputs=[output], raw_output_contents=[size]).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


def test_what_is_sent_is_held_no_longer():
    slow = Slow()
    server = grpc.server(futures.ThreadPoolExecutor(NUM_MESSAGES), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((slow,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    command = [sys.executable, "-c", SENDER, f"127.0.0.1:{port}", str(MESSAGE_BYTES), str(NUM_MESSAGES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender:
        try:
            assert sender.stdout.readline() == "sent\n"
            assert slow.all_arrived.wait(60)
            sender.stdin.write("arrived\n")
            sender.stdin.flush()
            seen = json.loads(sender.stdout.readline())
            assert seen["open"] == NUM_MESSAGES, "all must be under way when memory is looked at"
            assert seen["held"] <= MOST_HELD_BYTES
            slow.may_answer.set()
            sender.stdin.write("answer\n")
            sender.stdin.flush()
            assert json.loads(sender.stdout.readline()) == [[MESSAGE_BYTES]] * NUM_MESSAGES
        finally:
            slow.may_answer.set()
            sender.kill()
            server.stop(None).wait()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_a_message_holds_what_was_put_in(size: int):
    clip = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    words = ["so glad", "", "ü" * 300]
    request = service_pb2.ModelInferRequest.FromString(
        encode_message("emotion", encode_request(clip, [(0.0, 1.5), (1.5, 2.0), (2.0, 3.0)], words))
    )
    assert request.model_name == "emotion"
    assert [(each.name, each.datatype, list(each.shape)) for each in request.inputs] == [
        ("CLIP", "UINT8", [size]),
        ("UTTERANCES", "FP64", [3, 2]),
        ("WORDS", "BYTES", [3]),
    ]
    contents = request.raw_input_contents
    assert contents[0] == clip
    np.testing.assert_array_equal(np.frombuffer(contents[1]), [0.0, 1.5, 1.5, 2.0, 2.0, 3.0])
    assert [each.decode() for each in triton.deserialize_bytes_tensor(contents[2])] == words


def test_tritonclient_sends_the_same(monkeypatch: pytest.MonkeyPatch):
    tensors = [
        Tensor.of("MASK", "BOOL", np.array([[True, False, True]])),
        *encode_request(b"film", [(0.0, 1.0)], ["a word"]),
    ]
    with triton.InferenceServerClient("127.0.0.1:9") as client:
        sent = []
        monkeypatch.setattr(client._client_stub, "ModelInfer", lambda request, **_: sent.append(request))
        client.infer("emotion", infer_inputs(tensors))
    assert service_pb2.ModelInferRequest.FromString(encode_message("emotion", tensors)) == sent[0]


def test_where_nobody_listens_the_error_is_typed():
    transport = _Blocking("127.0.0.1:9")
    pending = transport.infer("emotion", encode_request(b"film", [(0.0, 1.0)], [""]), timeout_s=20)
    with pytest.raises(ServerUnreachable, match=re.escape("127.0.0.1:9")):
        pending.result(timeout=30)
    transport.close()


def test_what_is_given_up_ends():
    slow = Slow()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((slow,))
    transport = _Blocking(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    try:
        tensors = [Tensor(name="CLIP", data_type="UINT8", shape=(4,), content=b"film")]
        late = transport.infer("emotion", tensors, timeout_s=0.5)
        with pytest.raises(DeadlineExceeded):
            late.result(timeout=30)
        pending = transport.infer("emotion", tensors, timeout_s=60)
        pending.give_up()
        assert pending.exception(timeout=30) is not None
    finally:
        slow.may_answer.set()
        transport.close()
        server.stop(None).wait()
