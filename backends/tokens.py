"""How many tokens a text is, and the most that a prompt can be: for estimates and holds, where no upstream has said.

Exact counting is tiktoken's, from rank files that ship with us (`ranks/`), so it works offline. It is meant for OpenAI's models and
is an estimate for any other. The bound costs microseconds and needs no tokenizer: a byte-level BPE makes at most one token of a
byte, and JSON's escapes only ever lengthen a text, so the bytes of the JSON bound the tokens of what it says.
"""

import base64
import gzip
import hashlib
import re
import threading
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import msgspec
import tiktoken

TEMPLATE_TOKENS = 256  # what a chat template adds by itself: a default system prompt, dates, the opening of the answer
MESSAGE_TOKENS = 8  # what it adds around one message: role, separators; the message's own JSON is longer, so the bound needs none
IMAGE_TOKENS_MAX = 4096  # per image part: above OpenAI's high detail (1,445 to 2,500) and a 3-megapixel image in Qwen2-VL
AUDIO_TOKENS_MAX = 8192  # per audio part: 13 minutes at OpenAI's 10 tokens a second
FILE_TOKENS_MAX = 32768  # per file or video part: a report of some 20 pages, text and page images

_SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
_ENDOFTEXT, _ENDOFPROMPT = "<|endoftext|>", "<|endofprompt|>"
_SPECIAL = {
    "o200k_base": {_ENDOFTEXT: 199999, _ENDOFPROMPT: 200018},
    "cl100k_base": {_ENDOFTEXT: 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260, _ENDOFPROMPT: 100276},
}
_WORD_END = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_PATTERN = {  # as in tiktoken_ext/openai_public.py, which only a test may import: it downloads
    "o200k_base": "|".join(
        [
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _WORD_END,
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _WORD_END,
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
    ),
    "cl100k_base": r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s""",
}
# gpt-4 but not gpt-4o, gpt-4.1 or gpt-4.5; a vendor's prefix ("openai/", "ft:") may stand before
_CL100K = re.compile(r"(?:^|[/:])(?:gpt-4(?![o.\d])|gpt-3\.?5|text-embedding-(?:3|ada-002)|davinci-002|babbage-002)")
_PIECE_CHARS = 16 * 1024
_loading = threading.Lock()

_NOT_PROMPT = frozenset(
    "model stream stream_options n best_of temperature top_p top_k min_p seed max_tokens max_completion_tokens stop user metadata store logprobs top_logprobs"
    " logit_bias presence_penalty frequency_penalty repetition_penalty parallel_tool_calls service_tier reasoning_effort verbosity priority echo"
    " encoding_format dimensions modalities prompt_cache_key safety_identifier".split()
)
_TEXT_MEMBERS = frozenset("role content text name arguments tool_calls function function_call reasoning_content reasoning refusal output summary input".split())
_WINDOW_BYTES = 64 * 1024  # a large member is looked through in pieces, so that 20 MB of images are never copied as a whole
_OVERLAP_BYTES = 256  # more than a marker is long
_LEAPS_MAX = 32  # from quote to quote, before a window is taken for one that has many
# A string that is a medium or points to one. Quotes inside JSON strings are escaped, so no text can look like it.
_MEDIUM = re.compile(rb'"(url|image_url|audio_url|video_url|file_url|file_data|file_id|image|data)"\s*:\s*"(data:[a-z]*)?')


def encoding_of(model: str) -> str:
    """Name the encoding that a model's name suggests; o200k_base for whatever is not known."""
    return "cl100k_base" if _CL100K.search(model) else "o200k_base"


def count(text: str, model: str) -> int:
    """Count the tokens of a text as the model's encoding has them. Text that looks like a special token counts as text.

    Loads the encoding on first use (half a second, 85 MB): call it off the event loop; it frees the interpreter's lock while it works.
    """
    encoding = _encoding(encoding_of(model))
    if len(text) <= _PIECE_CHARS:
        return _count_piece(encoding, text)
    # The encoder's time grows faster than a run of letters without a break does, so no one may hand it megabytes of one.
    return sum(_count_piece(encoding, text[start : start + _PIECE_CHARS]) for start in range(0, len(text), _PIECE_CHARS))


def _count_piece(encoding: tiktoken.Encoding, piece: str) -> int:
    try:
        return len(encoding.encode(piece, disallowed_special=()))
    except ValueError:
        return len(piece.encode("utf-8", "replace"))  # what it can be at most


def prompt_bound(members: Mapping[str, msgspec.Raw]) -> int:
    """Bound the prompt tokens of a request from above, from its JSON members; costs microseconds.

    Bytes of text count one token each. Images, audio and files count a fixed bound a part, whatever their bytes. A prompt of token
    ids counts its elements. A tokenizer that normalises text to something longer can exceed the bound; the settlement is exact.
    """
    bound = TEMPLATE_TOKENS
    for name, raw in members.items():
        if name in _NOT_PROMPT:
            continue
        size = len(raw)
        if name in ("prompt", "input"):
            bound += _ids(raw) or size
        if name in ("messages", "input") and (size > _WINDOW_BYTES or _may_hold_media(bytes(raw))):
            data_bytes, media_tokens = _media(memoryview(raw))
            bound += media_tokens - data_bytes
        if name not in ("prompt", "input"):
            bound += size
    return bound


def prompt_text(members: Mapping[str, msgspec.Raw]) -> str:
    """Return the text of a prompt, for `count`: messages, prompt or input, and tools. Media and token ids are no text."""
    pieces: list[str] = []
    for name, raw in members.items():
        if name in ("messages", "prompt", "input", "instructions", "suffix"):
            _gather(_decoded(raw), pieces)
        elif name in ("tools", "functions", "response_format"):
            pieces.append(bytes(raw).decode("utf-8", "replace"))
    return "\n".join(pieces)


def prompt_beside_text(members: Mapping[str, msgspec.Raw]) -> int:
    """Count what of a prompt is not in `prompt_text`: token ids, and `MESSAGE_TOKENS` for the template around each message.

    Media are left out: their bound would be charged as if it were a count.
    """
    ids = sum([_ids(raw) for name, raw in members.items() if name in ("prompt", "input")])
    messages = _decoded(members["messages"]) if "messages" in members else ()
    return ids + (MESSAGE_TOKENS * len(messages) if isinstance(messages, list) else 0)


def _ids(raw: msgspec.Raw) -> int:
    """Count the token ids of a prompt that consists of them, [1,2] or [[1,2],[3]]; 0 for any other."""
    if bytes(memoryview(raw)[:1]) != b"[":
        return 0
    text = bytes(raw)
    if text.rfind(b'"') >= 0 or text.rfind(b"{") >= 0 or not text.strip(b"[] \t\r\n"):
        return 0
    return text.count(b",") + 1


def _may_hold_media(messages: bytes) -> bool:
    return messages.rfind(b'"type"') >= 0 or messages.rfind(b'url"') >= 0


def _media(view: memoryview) -> tuple[int, int]:
    """Sum the bytes of the media strings in some messages, and the bounds of their tokens."""
    data_bytes = tokens = position = 0
    while position < len(view):
        window = bytes(view[position : position + _WINDOW_BYTES])
        found = _first_medium(window)
        if found is None:
            position += _WINDOW_BYTES - _OVERLAP_BYTES
            continue
        kind = found[2] or window[max(0, found.start() - 24) : found.start(1)] + found[1]
        tokens += _tokens_of(kind)
        start = position + found.end()
        position = _closing_quote(view, start)
        data_bytes += position - start
    return data_bytes, tokens


def _first_medium(window: bytes) -> re.Match[bytes] | None:
    """Find the first medium. A long text has few quotes, and from one to the next is a leap thirty times as fast as the search, which reads each byte."""
    quote = -1
    for _ in range(_LEAPS_MAX):
        quote = window.find(b'"', quote + 1)
        if quote < 0:
            return None
        found = _MEDIUM.match(window, quote)
        if found is not None:
            return found
    return _MEDIUM.search(window, quote + 1)


def _tokens_of(kind: bytes) -> int:
    """Bound the tokens of a medium by its MIME type, or by the names around it."""
    if b"audio" in kind:
        return AUDIO_TOKENS_MAX
    if b"video" in kind or b"file" in kind or b"application" in kind or b"text" in kind:
        return FILE_TOKENS_MAX
    return IMAGE_TOKENS_MAX


def _closing_quote(view: memoryview, start: int) -> int:
    for position in range(start, len(view), _WINDOW_BYTES):
        quote = bytes(view[position : position + _WINDOW_BYTES]).find(b'"')
        if quote >= 0:
            return position + quote
    return len(view)


def _decoded(raw: msgspec.Raw) -> object:
    """Decode a member, or take its bytes for text where it is no JSON that can be (broken UTF-8, depth)."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return bytes(raw).decode("utf-8", "replace")


def _gather(value: object, pieces: list[str]) -> None:
    """Collect the texts of messages: roles, contents, names and calls, but no media, ids or types."""
    if isinstance(value, str):
        pieces.append(value)
    elif isinstance(value, list):
        for item in value:
            _gather(item, pieces)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in _TEXT_MEMBERS:
                _gather(item, pieces)


def _encoding(name: str) -> tiktoken.Encoding:
    with _loading:  # two threads that need it at once must not both build it
        return _load(name)


@cache
def _load(name: str) -> tiktoken.Encoding:
    ranks = gzip.decompress((files("backends") / "ranks" / f"{name}.tiktoken.gz").read_bytes())
    if hashlib.sha256(ranks).hexdigest() != _SHA256[name]:
        raise RuntimeError(f"the rank file {name} that was shipped is damaged; install the package again")
    pairs = [line.split() for line in ranks.splitlines() if line]
    return tiktoken.Encoding(
        name, pat_str=_PATTERN[name], mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in pairs}, special_tokens=_SPECIAL[name]
    )
