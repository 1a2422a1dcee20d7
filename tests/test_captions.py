"""Captioning against a server that misbehaves, the table it writes, and what a caption states."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter

import pytest
from PIL import Image

from lens_ref.data.captioner import (
    BRIEF_PROMPT,
    DENSE_PROMPT,
    CaptionRecord,
    CaptionRules,
    EndpointCaptioner,
    caption_files,
    caption_report,
    flaws,
    length,
    write_metadata,
)
from lens_ref.data.facts import coverage, coverage_table, false_claims, stated
from lens_ref.clients.chat import EndpointConfig
from lens_ref.core.config import ConfigError, DataError
from lens_ref.clients.endpoint import Endpoint
from lens_ref.data.wording import dense_caption
from lens_ref.data.world import Fact, Scene, Sign, Thing, sample_scene, scene_facts

from fake_endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, FakeEndpoint

GOOD = (
    "A tabby cat with green eyes lies on a striped blue cushion "
    "beside a half-open window in soft light."
)


def pictures(folder, n):
    for i in range(n):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i:03d}.png")
    return sorted(folder.glob("*.png"))


def captioner(server, cache=None, kind="dense", rules=None, **changes):
    c = EndpointConfig("vlm", urls=(server.url,), timeout=1.0, backoff=0.02, **changes)
    return EndpointCaptioner(Endpoint(c, cache), kind, rules=rules)


def ask_one(tmp_path, script=(), texts=None, **kwargs):
    texts = iter(texts or [])
    with FakeEndpoint({DENSE_PROMPT: script}, answer=lambda q, body: next(texts, GOOD)) as server:
        (c,) = captioner(server, **kwargs)(pictures(tmp_path, 1))
    return c, server


def test_a_caption_and_its_record(tmp_path):
    c, server = ask_one(
        tmp_path, texts=[GOOD.replace(" on ", "\non  ")], price_in=2.0, price_out=8.0
    )
    assert (c.status, c.text, c.source, c.asked, c.kind) == (
        "text",
        GOOD,
        "vlm",
        1,
        "dense",
    ) and len(c.sha256) == 64
    assert c.prompt_tokens == PROMPT_TOKENS and c.cost == pytest.approx(
        (2 * PROMPT_TOKENS + 8 * COMPLETION_TOKENS) / 1e6
    )
    content = server.calls[0]["body"]["messages"][0]["content"]
    assert content[0]["text"] == DENSE_PROMPT and content[1]["image_url"]["url"].startswith(
        "data:image/png;base64,"
    )


@pytest.mark.parametrize(
    "script, texts, status, asked",
    [
        (["refusal"], None, "text", 2),
        (["refusal"] * 9, None, "refusal", 2),
        ([], ["I'm sorry, but I can't help with that."], "text", 2),
        (["length"], None, "text", 2),
        (["length"] * 9, None, "truncated", 2),
        ([], ["- a list\n- of things"], "text", 2),
        ([], ["cat"] * 9, "flawed", 3),
        (["500"] * 99, None, "error", 1),
        (["empty"] * 99, None, "error", 1),
    ],
)
def test_rules_for_answers_that_will_not_do(tmp_path, script, texts, status, asked):
    c, server = ask_one(tmp_path, script, texts, attempts=2)
    assert (
        (c.status, c.asked) == (status, asked)
        and (c.text == GOOD) == (status == "text")
        and (c.text is None) == bool(c.reason)
    )
    if "length" in script:
        assert [x["body"]["max_tokens"] for x in server.calls] == [1024, 2048]
    if status == "flawed":
        assert (
            c.raw == "cat"
            and "too short" in c.reason
            and "too short" in server.calls[-1]["body"]["messages"][-1]["content"]
        )


@pytest.mark.parametrize(
    "settings, asked, sent",
    [
        (dict(max_tokens=None, extra=dict(max_completion_tokens=900)), 2, [900, 1800]),
        (dict(max_tokens=None), 1, [None]),
        (dict(extra=dict(max_tokens=50)), 2, [50, 100]),
    ],
)
def test_a_text_cut_short_gets_more_room_whatever_the_limit_is_called(
    tmp_path, settings, asked, sent
):
    c, server = ask_one(tmp_path, ["length"] * 9, price_in=2.0, price_out=8.0, **settings)
    assert (c.status, c.asked, c.completion_tokens) == (
        "truncated",
        asked,
        asked * COMPLETION_TOKENS,
    ) and len(server.calls) == asked
    assert [
        x["body"].get("max_completion_tokens", x["body"].get("max_tokens")) for x in server.calls
    ] == sent and c.cost == pytest.approx(asked * (2 * PROMPT_TOKENS + 8 * COMPLETION_TOKENS) / 1e6)


def test_rules_can_be_set(tmp_path):
    c, _ = ask_one(tmp_path, ["refusal"] * 3, rules=CaptionRules(refusal=3))
    assert (c.status, c.asked) == ("text", 4)
    with pytest.raises(ConfigError, match="refusal"):
        CaptionRules(refusal=-1)
    with pytest.raises(ConfigError, match="dense"):
        EndpointCaptioner(None, "dens")


def test_unreadable_files_are_records_and_the_others_go_on(tmp_path):
    files = pictures(tmp_path, 3)
    files[1].write_bytes(b"nothing")
    with FakeEndpoint(answer=lambda q, body: GOOD) as server:
        found = list(captioner(server)([*files, tmp_path / "none.png"]))
    assert (
        [c.status for c in found] == ["text", "error", "text", "error"]
        and "001.png" in found[1].reason
        and "none.png" in found[3].reason
    )


def test_brief_captions_have_their_own_prompt_and_limit(tmp_path):
    with FakeEndpoint(
        answer=lambda q, body: "a photo of a cat" if q == BRIEF_PROMPT else GOOD
    ) as server:
        (c,) = captioner(server, kind="brief")(pictures(tmp_path, 1))
    assert (c.text, c.kind) == ("a photo of a cat", "brief") and flaws(GOOD + GOOD, "brief") == [
        "too long"
    ]


JOB = textwrap.dedent("""
    import sys
    from pathlib import Path
    from lens_ref.data.captioner import EndpointCaptioner, caption_files
    from lens_ref.clients.chat import EndpointConfig
    from lens_ref.clients.endpoint import Endpoint
    url, folder = sys.argv[1], Path(sys.argv[2])
    config = EndpointConfig("vlm", urls=(url,), concurrency=4, backoff=0.05)
    captioner = EndpointCaptioner(Endpoint(config, folder / "answers.sqlite"))
    show = lambda column, n, c: print(c.file, flush=True)
    caption_files(sorted(folder.glob("*.png")), {"text": captioner}, folder, progress=show)
""")


def test_captioning_goes_on_after_kill_9_without_paying_again(tmp_path):
    files = pictures(tmp_path, 50)
    with FakeEndpoint(
        seconds=0.02,
        answer=lambda q, body: (
            f"{GOOD} {body['messages'][0]['content'][1]['image_url']['url'][-24:]}"
        ),
    ) as server:
        command = [sys.executable, "-c", JOB, server.url, str(tmp_path)]
        job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(15):
            job.stdout.readline()
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
        time.sleep(0.1)
        assert len(server.calls) < 50 and not (tmp_path / "metadata.jsonl").exists()
        subprocess.run(command, check=True, capture_output=True)
        image = lambda call: call["body"]["messages"][0]["content"][1]["image_url"]["url"]
        bought = Counter(image(c) for c in server.calls)
    assert len(bought) == 50 and sum(bought.values()) <= 54  # at most those in flight at the kill
    rows = [json.loads(x) for x in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [r["file_name"] for r in rows] == [f.name for f in files] and len(
        {r["text"] for r in rows}
    ) == 50


# ---- a folder that has captions already


def test_captioning_keeps_what_metadata_held(tmp_path):
    files = pictures(tmp_path, 4)
    before = [
        dict(file_name="./000.png", licence="CC0", text="old"),
        dict(file_name="001.png", text="old"),
        dict(file_name="002.png", licence="MIT"),
        dict(file_name="elsewhere.png", text="stays"),
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(r) for r in before))

    def some(paths):
        for p in paths:
            yield CaptionRecord(
                str(p),
                "dense",
                *(
                    ("flawed", None, "a list")
                    if p.name in ("001.png", "002.png")
                    else ("text", GOOD)
                ),
            )

    caption_files(files, {"text": some}, tmp_path)
    assert [json.loads(x) for x in (tmp_path / "metadata.jsonl").read_text().splitlines()] == [
        dict(file_name="000.png", licence="CC0", text=GOOD),
        dict(file_name="002.png", licence="MIT"),
        dict(file_name="elsewhere.png", text="stays"),
        dict(file_name="003.png", text=GOOD),
    ]
    (tmp_path / "metadata.jsonl").write_text("{broken")
    with pytest.raises(DataError, match="metadata.jsonl:1"):
        caption_files(files, {"text": lambda paths: pytest.fail("asked")}, tmp_path)


def test_only_pictures_with_every_caption_are_listed(tmp_path):
    files = pictures(tmp_path, 3)
    dense = [CaptionRecord(str(f), "dense", "text", GOOD) for f in files]
    brief = [CaptionRecord(str(f), "brief", "text", "a cat") for f in files[:2]] + [
        CaptionRecord(str(files[2]), "brief", "refusal", reason="no")
    ]
    assert write_metadata(dict(text=dense, brief=brief), tmp_path, tmp_path / "metadata.jsonl") == 2
    with pytest.raises(DataError, match="no image files"):
        caption_files([], {}, tmp_path)
    report = caption_report(brief)
    assert (
        report["status"] == dict(text=2, refusal=1)
        and report["cost"] is None
        and report["without_cost"] == 3
        and report["reasons"] == {"no": 1}
        and report["words"]["mean"] == 2
    )
    assert caption_report([])["words"] is None


# ---- what a text states

CAT, ROBOT, BELLS = (
    Thing("cat", "red", "small", 0.25, 0.25),
    Thing("robot", "blue", "large", 0.75, 0.25),
    (Thing("bell", "pink", "medium", 0.25, 0.75), Thing("bell", "green", "medium", 0.75, 0.75)),
)
SCENE = Scene((CAT, ROBOT, *BELLS), "beach", Sign("SALE", "green", "bottom"))


@pytest.mark.parametrize(
    "text, yes",
    [
        (
            "A small red cat in the top left.",
            "object: cat, color: cat red, size: cat small, count: cat 1, place: cat top left",
        ),
        ("Two bells.", "object: bell, count: bell 2"),
        (
            "A pink bell and a green handbell.",
            "object: bell, count: bell 2, count: bell 1 pink, count: bell 1 green,"
            " color: bell green pink",
        ),
        ("The red robot and the blue cat.", "object: robot, object: cat"),
        ("The cat is crimson. It is tiny.", "object: cat, color: cat red, size: cat small"),
        (
            "A kitten and a blue android on a sandy beach.",
            "object: cat, object: robot, color: robot blue, count: cat 1, count: robot 1,"
            " setting: beach",
        ),
        (
            "The robot is to the right of the cat.",
            "object: robot, object: cat, relation: cat left of robot",
        ),
        (
            "To the left of the robot is the cat.",
            "object: robot, object: cat, relation: cat left of robot",
        ),
        ("The robot is to the left of the cat.", "object: robot, object: cat"),
        (
            'A dark sign at the bottom reads "SALE" in green letters.',
            "word: SALE, word color: green, word place: bottom",
        ),
        ('The word "CAT" is wrong.', ""),
        ("IMG_1234", ""),
        ("", ""),
    ],
)
def test_facts_are_bound_to_their_object(text, yes):
    said = {str(f) for f, there in coverage(SCENE, text).items() if there}
    assert said == {f.strip() for f in yes.split(",") if f}


def test_of_a_pair_that_overlaps_the_one_in_front_is_told_apart():
    behind, front = Thing("cat", "red", "large", 0.4, 0.5), Thing("bell", "blue", "large", 0.6, 0.5)
    pair, fact = Scene((behind, front), "sea"), Fact("relation", ("cat", "overlapping", "bell"))
    assert fact in scene_facts(pair)
    for text in ("A bell in front of a cat.", "A cat behind a bell.", "The bell overlaps the cat."):
        assert coverage(pair, text)[fact]
    assert not coverage(pair, "A cat in front of a bell.")[fact]


def test_what_is_read_is_what_was_noted_and_scenes_are_told_apart():
    scenes = [sample_scene(random.Random(i)) for i in range(200)]
    dense = [dense_caption(s, random.Random(i)) for i, s in enumerate(scenes)]
    table = coverage_table(scenes, dense)
    assert table["object"][0] == table["object"][1] and table["word"][0] == table["word"][1]
    assert sum(bool(false_claims(s, c)) for s, c in zip(scenes, dense)) <= 2
    wrong = coverage_table(scenes, dense[1:] + dense[:1])
    assert wrong["color"][0] / wrong["color"][1] < 0.05
    assert wrong["all"][0] / wrong["all"][1] < 0.25


def test_a_lie_is_a_false_claim():
    lies = false_claims(SCENE, 'Three blue cats by a sign that reads "OPEN".')
    assert {str(f) for f in lies} == {"color: cat blue", "count: cat 3", "word: OPEN"}
    assert Fact("object", ("ghost",)) in stated("a cute phantom free download")


@pytest.mark.parametrize(
    "text, unit",
    [
        ("two red cats", "words"),
        ("两只红色的猫在草地上", "characters"),
        ("ป้ายสีแดง", "characters"),
        ("", "words"),
        ("Das Schild sagt 営業中 heute", "words"),
    ],
)
def test_lengths_are_counted_in_the_right_unit(text, unit):
    assert length(text)[1] == unit


@pytest.mark.parametrize(
    "text",
    [
        "The wall has no visible text or logos on it, and a large brown dog sleeps next to a door.",
        "No text is visible in the picture of a large brown dog that sleeps next to a door.",
    ],
)
def test_talk_of_missing_text_is_a_flaw(text):
    assert flaws(text) == ["speaks of missing text"]
    told = 'A large brown dog sleeps next to a door below a poster that reads "NO PARKING" in red.'
    assert flaws(told) == []
