"""Make a tiny random Llama that a real vLLM serves (`make_tiny_model.py OUT_DIR`).

4 million parameters, ChatML, its own BPE of 4,096 tokens trained on the standard library. It says nothing sensible, at 20 times
the speed of SmolLM2: for load against the real server. Ten seconds.
"""

import sys
import sysconfig
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Train a small byte-level BPE, the same one every time."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = sorted(str(path) for path in Path(sysconfig.get_path("stdlib")).glob("*.py"))[:120]
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    bpe.train(texts, trainer)
    end, start, stop = SPECIALS
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=start, eos_token=stop, pad_token=end, unk_token=end, model_max_length=2048)
    fast.chat_template = TEMPLATE
    return fast


def main(out: str) -> None:
    """Write tokenizer, configuration and random weights (seed 0) into `out`."""
    fast = tokenizer()
    fast.save_pretrained(out)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(out)


if __name__ == "__main__":
    main(sys.argv[1])
