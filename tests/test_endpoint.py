"""The chat client and a bad server: nothing lost or paid twice, order and limits kept."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from lens_ref.core.config import CheckpointError, ConfigError, DataError
from lens_ref.clients.chat import (
    EndpointConfig,
    EndpointError,
    chat,
    image_url,
    request_body,
    request_key,
)
from lens_ref.clients.endpoint import AnswerCache, Endpoint

from fake_endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, FakeEndpoint

PRICE = (PROMPT_TOKENS * 2 + COMPLETION_TOKENS * 8) / 1e6


def config(*servers, **changes):
    return EndpointConfig(
        "m",
        **(
            dict(
                urls=tuple(s.url for s in servers),
                timeout=10.0,
                backoff=0.02,
                longest_wait=0.2,
                price_in=2.0,
                price_out=8.0,
            )
            | changes
        ),
    )


def ask(script, schema=None, answer=None, **changes):
    "One question, 'q', that meets `script`: (answer, the server)."
    with FakeEndpoint({"q": script}, answer=answer) as server:
        return Endpoint(config(server, **changes)).ask(chat("q", schema=schema)), server


# ---- one fault at a time


@pytest.mark.parametrize(
    "mood", ["429", "429:0.1", "500", "503:0.1", "hang", "drip", "garbage", "cut", "drop", "page"]
)
def test_faults_that_pass_are_retried(mood):
    a, server = ask([mood, mood], timeout=0.5 if mood in ("hang", "drip") else 10.0)
    assert (a.kind, a.text, a.attempts, len(server.calls)) == ("text", "answer to q", 3, 3)
    assert [t["outcome"] for t in a.tries] == [
        {"4": "later"}.get(mood[0], "later" if ":" in mood else "failed")
    ] * 2 + ["text"]
    assert a.cost == pytest.approx(PRICE) and a.prompt_tokens == PROMPT_TOKENS


@pytest.mark.parametrize("mood", ["500", "hang", "drip", "garbage", "cut", "drop", "page"])
def test_faults_that_stay_are_an_error_with_a_reason_and_a_bound(mood):
    a, server = ask([mood] * 9, attempts=3, timeout=0.2 if mood in ("hang", "drip") else 10.0)
    assert (
        a.kind == "error"
        and a.text is None
        and a.cost is None
        and not a.final
        and len(server.calls) == 3
    )
    assert {
        "500": "HTTP 500",
        "hang": "0.2 s",
        "drip": "0.2 s",
        "cut": "connection",
        "drop": "connection",
    }.get(mood, "not a chat completion") in a.reason
    with pytest.raises(EndpointError, match="no text but error after 3 attempts"):
        a.need()


def test_a_busy_server_does_not_use_up_the_attempts():
    a, server = ask(["429:0.02"] * 12, attempts=3)
    assert a.kind == "text" and a.attempts == 13
    a, server = ask(["429:0.1"] * 50, patience=0.3)
    assert a.kind == "error" and "429" in a.reason and a.attempts < 6


@pytest.mark.parametrize(
    "mood, kind, raw",
    [
        ("refusal", "refusal", "I will not."),
        ("moderated", "refusal", None),
        ("length", "truncated", "answer to q"),
    ],
)
def test_refusals_and_cut_texts_are_not_texts(mood, kind, raw):
    a, server = ask([mood] * 9)
    assert (a.kind, a.text, a.raw, a.attempts, a.final) == (kind, None, raw, 1, True)


def test_empty_answers_are_asked_for_again_and_every_one_is_paid():
    a, server = ask(["empty", "ok"])
    assert (
        a.text == "answer to q"
        and a.cost == pytest.approx(2 * PRICE)
        and a.completion_tokens == 2 * COMPLETION_TOKENS
    )
    a, server = ask(["empty"] * 9, reasks=2)
    assert (
        a.kind == "error"
        and a.text is None
        and "empty" in a.reason
        and len(server.calls) == 3
        and a.cost == pytest.approx(3 * PRICE)
    )


def test_unknown_numbers_stay_unknown():
    a, _ = ask(["nousage"])
    assert a.kind == "text" and a.prompt_tokens is None and a.cost is None
    a, _ = ask(["ok"], price_in=None, price_out=None)
    assert a.prompt_tokens == PROMPT_TOKENS and a.cost is None


@pytest.mark.parametrize(
    "mood, says", [("401", "LENS_TEST_KEY"), ("404", "/v1"), ("nomoney", "credit")]
)
def test_hopeless_faults_stop_at_once_and_say_what_to_do(mood, says):
    with FakeEndpoint({"q": [mood] * 9}) as server, pytest.raises(EndpointError, match=says):
        list(Endpoint(config(server, key_env="LENS_TEST_KEY")).map([chat("q")] * 3))
    assert len(server.calls) <= 3


def test_a_rejected_request_is_recorded_and_the_others_go_on():
    with FakeEndpoint({"b": ["400"] * 9}) as server:
        a, b, c = Endpoint(config(server)).map(chat(q) for q in "abc")
    assert (
        (a.kind, b.kind, c.kind) == ("text", "error", "text")
        and "400" in b.reason
        and b.attempts == 1
    )


def test_a_dead_server_ends_the_run_after_a_bounded_number_of_errors():
    with FakeEndpoint() as gone:
        pass
    client = Endpoint(config(gone, attempts=1, give_up_after=5, concurrency=2))
    with pytest.raises(EndpointError, match="the last . requests all failed"):
        list(client.map(chat(f"{i}") for i in range(1000)))
    assert client.ledger.summary()["error"] < 20


def test_a_rest_longer_than_patience_ends_the_run():
    with (
        FakeEndpoint({"q": ["429:9999"]}) as server,
        pytest.raises(EndpointError, match="asks for a rest of"),
    ):
        Endpoint(config(server, patience=5.0)).ask(chat("q"))


# ---- JSON

SCHEMA = dict(
    type="object",
    properties=dict(n=dict(type="integer")),
    required=["n"],
    additionalProperties=False,
)


def test_json_is_checked_and_the_complaint_reaches_the_model():
    texts = iter(["seven", '{"n": "seven"}', '{"n": 7}'])
    a, server = ask([], schema=SCHEMA, answer=lambda q, body: next(texts))
    assert (
        a.kind == "text"
        and a.data == {"n": 7}
        and a.attempts == 3
        and a.cost == pytest.approx(3 * PRICE)
    )
    sent = server.calls[2]["body"]
    assert [m["role"] for m in sent["messages"]] == [
        "user",
        "assistant",
        "user",
    ] and "breaks the schema at $.n" in sent["messages"][2]["content"]
    assert sent["response_format"]["json_schema"] == dict(name="answer", schema=SCHEMA, strict=True)


def test_json_that_never_comes_is_an_error_and_is_not_bought_again(tmp_path):
    with FakeEndpoint(answer=lambda q, body: "no") as server:
        for cached in (False, True):
            a = Endpoint(config(server, reasks=1), tmp_path / "a.db").ask(chat("q", schema=SCHEMA))
            assert (a.kind, a.data, a.raw, a.cached) == (
                "error",
                None,
                "no",
                cached,
            ) and "not JSON" in a.reason
        assert len(server.calls) == 2


# ---- many at once

MOODS = ["429:0.05", "500", "hang", "garbage", "empty", "cut", "drop", "length", "refusal", "drip"]


def test_a_long_bad_day_loses_nothing(tmp_path):
    names = [f"q{i}" for i in range(120)]
    script = {q: [MOODS[i % 10]] * (1 + i % 2) for i, q in enumerate(names) if i % 3 == 0}
    with FakeEndpoint(script, seconds=0.01) as server:
        client = Endpoint(config(server, timeout=0.5, attempts=9, concurrency=7), tmp_path / "a.db")
        answers = list(client.map((chat(q, tag=q) for q in names), window=40))
    assert [a.tag for a in answers] == names
    expect = {
        q: {"length": "truncated", "refusal": "refusal"}.get(script.get(q, [""])[0], "text")
        for q in names
    }
    assert {a.tag: a.kind for a in answers} == expect and all(
        (a.text == f"answer to {a.tag}") == (a.kind == "text") for a in answers
    )
    assert 3 < server.most_at_once <= 7
    totals = client.ledger.summary()
    assert totals["answers"] == 120 == totals["text"] + totals["refusal"] + totals[
        "truncated"
    ] and totals["cost"] == pytest.approx(sum(a.cost for a in answers))
    assert len(AnswerCache(tmp_path / "a.db")) == 120


def test_order_is_kept_though_the_first_is_the_slowest():
    with FakeEndpoint({"q0": ["hang", "500", "500"]}) as server:
        client = Endpoint(config(server, timeout=0.5))
        assert [a.tag for a in client.map(chat(f"q{i}", tag=f"q{i}") for i in range(30))] == [
            f"q{i}" for i in range(30)
        ]
        assert server.calls[-1]["question"] == "q0"


def test_requests_are_taken_from_the_source_as_needed():
    taken = []

    def source():
        for i in range(10_000):
            taken.append(i)
            yield chat(f"q{i}")

    with FakeEndpoint() as server:
        run = Endpoint(config(server)).map(source(), window=10)
        for _ in range(5):
            next(run)
        assert len(taken) <= 15
        run.close()
        sent = len(server.calls)
        time.sleep(0.1)
        assert sent == len(server.calls) <= 15


def test_the_server_rests_for_everyone_when_it_asks_to():
    with FakeEndpoint({"q0": ["429:2"]}) as server:
        client = Endpoint(config(server, concurrency=2, longest_wait=5.0))
        list(client.map(chat(f"q{i}") for i in range(12)))
    told = min(c["end"] for c in server.calls if c["mood"].startswith("429"))
    early = [
        c for c in server.calls if told + 0.8 < c["start"] < told + 1.9
    ]  # the client may hear of it late on a busy machine
    assert not early and len(server.calls) == 13


def test_a_used_up_allowance_in_a_good_reply_is_honoured():
    with FakeEndpoint({"a": ["spent"]}) as server:
        client = Endpoint(config(server, longest_wait=5.0))
        client.ask(chat("a"))
        client.ask(chat("b"))
    assert server.calls[1]["start"] - server.calls[0]["end"] > 0.35


def test_a_pool_shares_the_work_and_survives_the_loss_of_a_server():
    with FakeEndpoint() as a, FakeEndpoint() as b:
        list(Endpoint(config(a, b)).map(chat(f"q{i}") for i in range(40)))
        assert len(a.calls) == len(b.calls) == 20
    with FakeEndpoint() as gone:
        pass
    with FakeEndpoint() as b:
        answers = list(Endpoint(config(gone, b)).map(chat(f"q{i}") for i in range(40)))
        assert all(x.kind == "text" for x in answers) and len(b.calls) == 40


def test_equal_questions_under_way_are_sent_once():
    with FakeEndpoint(seconds=0.05) as server:
        client = Endpoint(config(server))
        answers = list(client.map(chat("q", tag=f"{i}") for i in range(20)))
    assert (
        len(server.calls) == 1
        and [a.tag for a in answers] == [f"{i}" for i in range(20)]
        and sum(not a.cached for a in answers) == 1
    )
    assert client.ledger.summary()["cost"] == pytest.approx(PRICE)


def test_the_budget_is_kept(tmp_path):
    with FakeEndpoint() as server:
        client = Endpoint(config(server, budget=4.5 * PRICE, concurrency=1), tmp_path / "a.db")
        with pytest.raises(EndpointError, match="budget"):
            list(client.map(chat(f"q{i}") for i in range(50)))
        assert len(server.calls) == 5 == len(client.cache)


def test_the_budget_outlives_the_process_and_covers_its_neighbours(tmp_path):
    def buy(client, names):
        return list(client.map(chat(q) for q in names))

    with FakeEndpoint() as server:
        budget = config(server, budget=4.5 * PRICE, concurrency=1)
        buy(Endpoint(budget, tmp_path / "a.db"), "abc")
        resumed, neighbour, other = (
            Endpoint(budget, tmp_path / "a.db"),
            Endpoint(budget, tmp_path / "a.db"),
            Endpoint(budget.replace(model="n"), tmp_path / "a.db"),
        )
        assert [a.cached for a in buy(resumed, "abcd")] == [True] * 3 + [False]
        with pytest.raises(EndpointError, match="budget"):
            buy(neighbour, "xyz")
        with pytest.raises(EndpointError, match="budget"):
            buy(resumed, "z")
        assert len(server.calls) == 5 and resumed.ledger.summary()["cost"] == pytest.approx(
            PRICE
        )  # the books are of this process
        assert (
            len(buy(other, "ab")) == 2
            and len(buy(Endpoint(budget.replace(budget=6.5 * PRICE), tmp_path / "a.db"), "yz")) == 2
        )


# ---- the cache

JOB = textwrap.dedent("""
    import sys
    from lens_ref.clients.chat import EndpointConfig, chat
    from lens_ref.clients.endpoint import Endpoint
    config = EndpointConfig("m", urls=(sys.argv[1],), concurrency=4, backoff=0.05)
    client = Endpoint(config, sys.argv[2])
    for a in client.map(chat(f"q{i}", tag=f"q{i}") for i in range(60)):
        print(a.tag, a.kind, a.text, flush=True)
""")


def test_kill_9_in_the_middle_loses_nothing_and_buys_nothing_twice(tmp_path):
    script = {f"q{i}": ["500"] for i in range(0, 60, 7)}
    with FakeEndpoint(script, seconds=0.02) as server:
        command = [sys.executable, "-c", JOB, server.url, str(tmp_path / "a.db")]
        job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        seen = [job.stdout.readline().split()[0] for _ in range(20)]
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
        time.sleep(0.1)
        bought, stored = (
            Counter(c["question"] for c in server.calls if c["mood"] == "ok"),
            {a.tag for a in AnswerCache(tmp_path / "a.db")},
        )
        assert set(seen) <= stored and len(bought) < 60
        assert len(set(bought) - stored) <= 4  # in flight at the kill: at most `concurrency`
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [f"q{i} text answer to q{i}" for i in range(60)]
        again = Counter(c["question"] for c in server.calls if c["mood"] == "ok")
        assert all(again[q] == 1 for q in stored) and sum(again.values()) - 60 <= 4


def test_errors_are_asked_again_and_paid_outcomes_are_not(tmp_path):
    with FakeEndpoint({"a": ["500"], "b": ["refusal"]}) as server:
        first = Endpoint(config(server, attempts=1), tmp_path / "a.db")
        assert [x.kind for x in first.map([chat("a"), chat("b")])] == ["error", "refusal"]
        second = Endpoint(config(server), tmp_path / "a.db")
        a, b, c = second.map([chat("a"), chat("b"), chat("b", again=1)])
        assert (a.kind, a.cached, b.kind, b.cached, c.kind) == (
            "text",
            False,
            "refusal",
            True,
            "text",
        )


def test_the_key_depends_on_what_is_asked_and_on_nothing_else(tmp_path):
    red, blue = (Image.new("RGB", (8, 8), c) for c in ("red", "blue"))
    red.save(tmp_path / "a.png")
    red.save(tmp_path / "b.png")
    c = EndpointConfig("m")
    key = lambda *parts, c=c, **k: request_key(c, chat(*parts, **k))
    assert key("q", tmp_path / "a.png") == key("q", tmp_path / "b.png", tag="other")
    assert (
        key("q", red)
        == key("q", red.copy())
        == key("q", red, c=c.replace(urls=("http://other/v1",), timeout=1.0, concurrency=1))
    )
    different = [
        key("q", red),
        key("q", blue),
        key("p", red),
        key(red, "q"),
        key("q", red, system="s"),
        key("q", red, again=1),
        key("q", red, schema=SCHEMA),
        key("q", red, settings=dict(temperature=1)),
        *(
            key("q", red, c=c.replace(**x))
            for x in (dict(model="n"), dict(image_side=4), dict(extra=dict(seed=1)))
        ),
    ]
    assert len(set(different)) == len(different)


def test_a_damaged_or_full_cache_stops_the_run_with_its_name(tmp_path):
    (tmp_path / "a.db").write_bytes(b"not a database" * 100)
    with pytest.raises(CheckpointError, match="a.db"):
        AnswerCache(tmp_path / "a.db")
    with FakeEndpoint() as server:
        client = Endpoint(config(server, concurrency=2), tmp_path / "b.db")
        fails = "begin select raise(abort, 'disk is full'); end"
        client.cache.db.execute(f"create trigger full before insert on answers {fails}")
        with pytest.raises(CheckpointError, match="b.db.*written.*disk is full"):
            list(client.map((chat(f"q{i}") for i in range(200)), window=8))
        assert len(server.calls) < 20


def test_a_tag_that_is_not_unicode_is_kept_and_an_answer_is_cleaned(tmp_path):
    odd = os.fsdecode(b"caf\xe9.png")
    with FakeEndpoint(answer=lambda q, body: "half a pair: \ud83d") as server:
        answer = Endpoint(config(server), tmp_path / "a.db").ask(chat("q", tag=odd))
    (stored,) = AnswerCache(tmp_path / "a.db")
    assert (answer.tag, answer.text) == (stored.tag, stored.text) == (odd, "half a pair:")


def test_two_processes_may_share_a_cache(tmp_path):
    caches = [AnswerCache(tmp_path / "a.db") for _ in range(2)]
    from lens_ref.clients.chat import Answer

    def fill(cache, name):
        for i in range(50):
            cache.put(Answer("text", text="x", key=f"{name}{i}"))

    threads = [threading.Thread(target=fill, args=(c, n)) for c, n in zip(caches, "ab")]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(caches[0]) == 100 and sqlite3.connect(tmp_path / "a.db").execute(
        "pragma integrity_check"
    ).fetchone() == ("ok",)


# ---- pictures and settings


def test_pictures_are_sent_as_they_are_if_small_and_scaled_if_not(tmp_path):
    import base64
    import io

    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.jpg")
    Image.fromarray(np.zeros((300, 100, 3), np.uint8)).save(tmp_path / "b.bmp")

    def sent(image, side):
        kind, data = image_url(image, side).split(";base64,")
        return kind, base64.b64decode(data)

    assert sent(tmp_path / "a.jpg", 64) == ("data:image/jpeg", (tmp_path / "a.jpg").read_bytes())
    kind, data = sent(tmp_path / "b.bmp", 60)
    assert kind == "data:image/jpeg" and Image.open(io.BytesIO(data)).size == (20, 60)
    kind, data = sent(Image.new("RGBA", (10, 10)), 60)  # as it is trained on: on white
    assert (
        kind == "data:image/png" and Image.open(io.BytesIO(data)).getextrema() == ((255, 255),) * 3
    )
    (tmp_path / "c.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="c.png"):
        image_url(tmp_path / "c.png")
    with pytest.raises(DataError, match="d.png"):
        request_key(EndpointConfig("m"), chat("q", tmp_path / "d.png"))


@pytest.mark.parametrize("side, suffix", [(None, "jpg"), (16, "jpg"), (None, "png"), (16, "png")])
def test_pictures_are_sent_upright_and_grey_of_16_bits_is_not_white(tmp_path, side, suffix):
    import base64
    import io

    def sent(image):
        return Image.open(
            io.BytesIO(base64.b64decode(image_url(image, side).split(",")[1]))
        ).convert("L")

    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter clockwise: what is left in the file is on top
    half = Image.fromarray(np.repeat(np.repeat([[255, 0]], 20, 1), 20, 0).astype(np.uint8))
    half.save(tmp_path / f"a.{suffix}", exif=exif)
    seen = np.asarray(sent(tmp_path / f"a.{suffix}"))
    assert (
        seen.shape == ((40, 20) if side is None else (16, 8))
        and seen[1].mean() > 200
        and seen[-2].mean() < 50
    )
    Image.fromarray(np.full((20, 20), 20_000, np.uint16)).save(tmp_path / "b.png")
    assert np.asarray(sent(tmp_path / "b.png")).mean() == pytest.approx(20_000 / 257, abs=2)


def test_the_key_and_unknown_fields_are_sent_and_the_key_is_not_stored(monkeypatch, tmp_path):
    monkeypatch.setenv("LENS_TEST_KEY", "secret-123")
    with FakeEndpoint() as server:
        seen = {}
        server.answer = lambda q, body: seen.update(body) or "x"
        Endpoint(
            config(
                server,
                key_env="LENS_TEST_KEY",
                extra=dict(chat_template_kwargs=dict(thinking=False), seed=3),
            ),
            tmp_path / "a.db",
        ).ask(chat("q"))
    assert (
        seen["chat_template_kwargs"] == dict(thinking=False)
        and seen["seed"] == 3
        and seen["max_tokens"] == 1024
    )
    assert all(b"secret-123" not in p.read_bytes() for p in tmp_path.iterdir())


@pytest.mark.parametrize(
    "bad",
    [
        dict(urls=()),
        dict(urls=("localhost",)),
        dict(timeout=0.0),
        dict(attempts=0),
        dict(budget=1.0),
        dict(price_in=-1.0),
        dict(concurency=3),
        dict(urls=(1,)),
    ],
)
def test_impossible_settings_are_named(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        EndpointConfig.from_dict(dict(model="m") | bad)


def test_only_objects_that_name_all_keys_are_asked_for_strictly():
    open_schema = dict(SCHEMA, additionalProperties=True)
    strict = lambda s: request_body(EndpointConfig("m"), chat("q", schema=s))["response_format"][
        "json_schema"
    ]["strict"]
    assert (
        strict(SCHEMA)
        and not strict(open_schema)
        and not strict(dict(type="array", items=open_schema))
        and json.dumps(SCHEMA)
    )
