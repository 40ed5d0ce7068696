"""llama.cpp's OpenAI-compatible server as a process: `python -m fleet.local.model_server --model FILE --port N …`.

It has no signal handler on purpose: SIGTERM ends the process at once, while an orderly end in mid-stream takes llama.cpp
15 s and more.
"""

import argparse
import os
import signal


def main() -> None:
    """Serves on loopback until a signal."""
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server for one GGUF file, on loopback.")
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--name", required=True, help="the model's name in requests and answers")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--parallel", type=int, default=6, help="requests worked on at once")
    parser.add_argument("--context-tokens", type=int, default=2048, help="tokens of prompt and answer of one request")
    given = parser.parse_args()

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.model_alias = {given.name}
    params.hostnames = ["127.0.0.1"]
    params.port = given.port
    params.n_parallel = given.parallel
    params.n_ctx = given.parallel * given.context_tokens
    # The rest of the stack lives on the same cores: threads of llama.cpp that wait for each other's turn while others have
    # the core made three answers on two busy cores take 88 s, where one thread took 24 s.
    threads = max(1, (os.cpu_count() or 2) // 2)
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads
    # A little more than one usual prompt: a council asks with several at once, and in one batch all would wait for the last.
    params.n_batch = 384
    params.endpoint_metrics = True
    params.ui = False
    server = xllamacpp.Server(params)  # returns when it listens, and serves from threads as long as it is held
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while server:
        signal.pause()


if __name__ == "__main__":
    main()
