"""Counting and bounding tokens, offline."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import msgspec
import pytest
import tiktoken.load

import backends.tokens
from backends.tokens import (
    AUDIO_TOKENS_MAX,
    FILE_TOKENS_MAX,
    IMAGE_TOKENS_MAX,
    MESSAGE_TOKENS,
    TEMPLATE_TOKENS,
    count,
    encoding_of,
    prompt_beside_text,
    prompt_bound,
    prompt_text,
)

TEXTS = [
    "",
    "hello world",
    "def f(x):\n    return x**2\n\n\n",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "It's 12345 o'clock   now",
    "\U0001f600\u00e9\u0301",
    "<|endoftext|>",
]


def members(body: object, *, ascii_only: bool = True) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(json.dumps(body, ensure_ascii=ascii_only).encode(), type=dict[str, msgspec.Raw])


def user(content: object) -> dict[str, msgspec.Raw]:
    return members({"model": "m", "messages": [{"role": "user", "content": content}]})


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        *[
            (model, "o200k_base")
            for model in ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.5-preview", "gpt-5", "gpt-5.1", "o1", "o3-mini", "o4-mini", "gpt-oss-120b")
        ],
        *[(model, "o200k_base") for model in ("openai/gpt-4o", "smollm2", "qwen3-gpt-4o", "", "ft:gpt-4o:x")],
        *[
            (model, "cl100k_base")
            for model in ("gpt-4", "gpt-4-turbo", "gpt-4-0613", "gpt-3.5-turbo", "gpt-35-turbo", "text-embedding-3-small", "openai/gpt-4", "ft:gpt-3.5-turbo:x")
        ],
        ("text-embedding-ada-002", "cl100k_base"),
    ],
)
def test_the_encoding_follows_the_model(model: str, encoding: str) -> None:
    assert encoding_of(model) == encoding


@pytest.mark.parametrize(
    ("model", "text", "tokens"), [("gpt-4o", "hello world", 2), ("gpt-4", "hello world", 2), ("gpt-4o", "\u4f60\u597d\uff0c\u4e16\u754c", 3)]
)
def test_known_counts(model: str, text: str, tokens: int) -> None:
    assert count(text, model) == tokens


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_our_encodings_are_tiktokens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pattern, ranks and special tokens as tiktoken's own constructor, whose download is answered from our file."""
    import tiktoken_ext.openai_public as public  # type: ignore[import-untyped]

    ours = backends.tokens._encoding(name)
    expected: list[str] = []

    def load(_: str, expected_hash: str) -> dict[bytes, int]:
        expected.append(expected_hash)
        return ours._mergeable_ranks

    monkeypatch.setattr(public, "load_tiktoken_bpe", load)
    theirs = getattr(public, name)()
    assert (theirs["pat_str"], theirs["special_tokens"]) == (ours._pat_str, ours._special_tokens)
    assert expected == [backends.tokens._SHA256[name]]
    assert len(ours._mergeable_ranks) + len(ours._special_tokens) <= ours.n_vocab


def test_a_damaged_rank_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.tokens._SHA256, "cl100k_base", hashlib.sha256(b"other").hexdigest())
    with pytest.raises(RuntimeError, match="damaged"):
        backends.tokens._load.__wrapped__("cl100k_base")


def test_rank_files_are_package_data() -> None:
    assert {path.name for path in (files("backends") / "ranks").iterdir()} == {"README.md", "o200k_base.tiktoken.gz", "cl100k_base.tiktoken.gz"}


def test_an_encoding_is_built_once_by_many_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        encodings = list(pool.map(lambda _: backends.tokens._encoding("o200k_base"), range(32)))
    assert len(set(map(id, encodings))) == 1


def test_no_text_can_stop_the_count() -> None:
    assert count("<|endoftext|>" * 3, "gpt-4o") > 3
    assert count("\ud800", "gpt-4o") > 0
    spaces = " " * 1_000_000  # too long a run for the pattern's stack
    assert 0 < count(spaces, "gpt-4o") <= len(spaces)


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_the_bound_is_above_the_count(text: str, ascii_only: bool) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "system", "content": text}, {"role": "user", "content": [{"type": "text", "text": text}]}] * 3}
    known = members(body, ascii_only=ascii_only)
    assert prompt_bound(known) >= count(prompt_text(known), "gpt-4o") + prompt_beside_text(known) - 6 * MESSAGE_TOKENS


def test_the_bound_grows_with_text_by_bytes() -> None:
    assert prompt_bound(user("x" * 1000)) - prompt_bound(user("")) == 1000
    assert prompt_bound({}) == TEMPLATE_TOKENS


def test_parameters_are_no_prompt() -> None:
    assert prompt_bound(members({"model": "m" * 500, "temperature": 1, "user": "u" * 500, "metadata": {"a": "b" * 500}})) == TEMPLATE_TOKENS


def test_what_we_do_not_know_counts_as_prompt() -> None:
    assert prompt_bound(members({"documents": ["d" * 500]})) > 500
    assert prompt_bound(members({"tools": [{"type": "function", "function": {"name": "f", "description": "d" * 500}}]})) > 500


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000_000}}, IMAGE_TOKENS_MAX),
        ({"type": "image_url", "image_url": {"url": "https://a.example/b.png", "detail": "high"}}, IMAGE_TOKENS_MAX),
        ({"image_url": "https://a.example/b.png"}, IMAGE_TOKENS_MAX),
        ({"type": "input_image", "image_url": "data:image/jpeg;base64," + "A" * 70_000}, IMAGE_TOKENS_MAX),
        ({"type": "input_audio", "input_audio": {"data": "A" * 1_000_000, "format": "wav"}}, AUDIO_TOKENS_MAX),
        ({"type": "audio_url", "audio_url": {"url": "https://a.example/b.wav"}}, AUDIO_TOKENS_MAX),
        ({"type": "video_url", "video_url": {"url": "https://a.example/b.mp4"}}, FILE_TOKENS_MAX),
        ({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "A" * 1_000_000}}, FILE_TOKENS_MAX),
    ],
)
def test_media_count_by_the_part(part: dict, tokens: int) -> None:
    plain = {"type": "text", "text": "what is this?"}
    for parts in ([plain, part], [part, plain], [part, plain, part]):
        number = parts.count(part)
        assert tokens * number <= prompt_bound(user(parts)) <= tokens * number + 700


def test_media_are_found_wherever_a_window_ends() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}
    for text in range(65_300, 65_700, 7):
        bound = prompt_bound(user([{"type": "text", "text": "x" * text}, image, image]))
        assert 2 * IMAGE_TOKENS_MAX + text <= bound <= 2 * IMAGE_TOKENS_MAX + text + 700


@pytest.mark.parametrize("quotes", [0, 10, 30, 31, 32, 33, 40, 5000])
def test_media_are_found_behind_any_number_of_quotes(quotes: int) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    sound = {"input_audio": {"data": "A" * 100_000, "format": "wav"}}  # names no type
    text = '"' * quotes + "x" * 70_000
    bound = prompt_bound(user([{"type": "text", "text": text}, image, sound]))
    media = IMAGE_TOKENS_MAX + AUDIO_TOKENS_MAX
    assert media + len(text) <= bound <= media + len(text) + quotes + 700


def test_a_text_that_looks_like_an_image_is_text() -> None:
    fake = '{"url":"data:image/png;base64,' + "A" * 1000
    assert prompt_bound(user([{"type": "text", "text": fake}])) >= 1000 + TEMPLATE_TOKENS


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": [1, 2, 3]}, 3),
        ({"input": [[100000, 2], [3]]}, 3),
        ({"prompt": [7]}, 1),
        ({"input": []}, 2),
        ({"prompt": ["ab", "c"]}, 11),
        ({"prompt": "12,3"}, 6),
    ],
)
def test_token_ids_count_by_number(body: dict, tokens: int) -> None:
    assert prompt_bound(members(body)) == TEMPLATE_TOKENS + tokens


def test_text_of_a_prompt_is_what_the_model_reads() -> None:
    calls = [{"id": "call_123", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]
    body = {
        "model": "secret-model",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {"role": "assistant", "content": None, "tool_calls": calls},
        ],
        "tools": [{"type": "function"}],
        "temperature": 0,
    }
    assert prompt_text(members(body)).split("\n") == ["system", "be brief", "user", "look", "assistant", "f", '{"a":1}', '[{"type": "function"}]']
    assert prompt_text(members({"prompt": ["a", "b"]})) == "a\nb"
    assert prompt_text(members({"input": [1, 2, 3]})) == ""


def test_an_estimate_adds_what_stands_around_messages() -> None:
    assert prompt_beside_text(members({"prompt": "hello world"})) == 0
    assert prompt_beside_text(members({"prompt": [5, 6, 7]})) == 3
    assert prompt_beside_text(members({"input": [[5, 6], [7]]})) == 3
    assert prompt_beside_text(user("hello world")) == MESSAGE_TOKENS


def test_text_that_cannot_be_decoded_still_counts() -> None:
    broken = msgspec.json.decode(b'{"prompt":"\xff abc"}', type=dict[str, msgspec.Raw])
    assert count(prompt_text(broken), "gpt-4o") + prompt_beside_text(broken) > 0


def test_counting_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise AssertionError("tiktoken reached for the network")

    monkeypatch.setattr(tiktoken.load, "read_file", refuse)
    backends.tokens._load.cache_clear()
    assert count("offline", "gpt-4o") == 1


def test_a_long_text_is_counted_in_pieces_because_a_run_without_a_break_costs_more_than_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    count_piece = backends.tokens._count_piece

    def counted(encoding: tiktoken.Encoding, piece: str) -> int:
        lengths.append(len(piece))
        return count_piece(encoding, piece)

    monkeypatch.setattr(backends.tokens, "_count_piece", counted)
    assert count("x" * 1_000_000, "gpt-4o") == pytest.approx(125_000, abs=100)
    assert sum(lengths) == 1_000_000
    assert max(lengths) <= 16 * 1024
