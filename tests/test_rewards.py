"""RL prompts and judges: faulty files, plans, servers that misbehave, scores that are not there."""

import base64
import io
import json
import random
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image

from lens_ref.rl import prompts as P
from lens_ref.rl import scene_prompts as T
from lens_ref.rl import writer as W
from lens_ref.clients.chat import EndpointConfig, EndpointError
from lens_ref.cli.main import main
from lens_ref.core.config import ConfigError, DataError
from lens_ref.core.pictures import from_uint8
from lens_ref.clients.endpoint import Endpoint
from lens_ref.pretrain.splits import split_prompts
from lens_ref.rl.judges import (
    Combined,
    EndpointJudge,
    ExactJudge,
    OcrJudge,
    Overlapped,
    ScorerJudge,
    Verdict,
    agreement,
    parse_digit,
)
from lens_ref.rl.prompts import STRUCTURE, RLPrompt, read_prompts, write_prompts
from lens_ref.rl.scene_prompts import toy_prompts
from lens_ref.data.drawing import render
from lens_ref.data.world import SKILLS, Scene, Sign, Thing

from fake_endpoint import FakeEndpoint


def client(server, cache=None, **changes):
    return Endpoint(
        EndpointConfig(
            "m", urls=(server.url,), **dict(timeout=0.5, backoff=0.01, attempts=4) | changes
        ),
        cache,
    )


def pictures(*scenes):
    return from_uint8([render(s) for s in scenes])


# ---- prompts and their file


def test_toy_prompts_survive_a_file_and_are_fit_for_training(tmp_path):
    prompts = toy_prompts(700, 3)
    prompts[0] = replace(
        prompts[0], rubric=prompts[0].rubric | {"Setting": 'Two\u2028lines\nand a "quote".'}
    )
    write_prompts(tmp_path / "p.jsonl", prompts)
    back = read_prompts(tmp_path / "p.jsonl")
    assert back == prompts and all(
        type(p.scene) is Scene and p.scene.groups == q.scene.groups for p, q in zip(back, prompts)
    )
    assert toy_prompts(700, 3)[1:] == prompts[1:] and not {p.text for p in prompts} & {
        p.text for p in toy_prompts(700, 4)
    }
    assert {k: sum(p.skill == k for p in prompts) for k in SKILLS} == dict.fromkeys(
        SKILLS, 100
    ) and {p.skill for p in toy_prompts(10, 0, ["text", "two"])} == {"text", "two"}
    assert all(
        set(T.scene_criteria(p.scene)) == set(p.rubric) and len(p.criteria) <= 11 for p in prompts
    )


@pytest.mark.parametrize("seed", [0, 10_000, 10_001])
def test_prompts_share_no_stream_with_the_evaluation(seed):
    held_out = {p.scene for sealed in (False, True) for p in split_prompts("dense", 100, 0, sealed)}
    met = held_out & {
        p.scene for p in toy_prompts(1500, seed)
    }  # by chance alone: one object, or a sign by itself
    assert len(met) <= 3 and all(len(s.things) <= 1 for s in met)


GOOD = dict(
    id="a",
    category="food",
    subcategory="soups",
    item="ramen",
    dimensions=["color"],
    text="A bowl of ramen.",
    rubric={"Colour (bowl)": "The bowl is red."},
    scene=dict(
        things=[dict(kind="cat", color="red", size="small", x=0.5, y=0.5)],
        setting="beach",
        sign=dict(word="HI", color="red", place="top"),
    ),
)


def damaged(**changes):
    return json.dumps(GOOD | changes)


def in_scene(**changes):
    return damaged(scene=GOOD["scene"] | changes)


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "not JSON"),
        ("[1]", "must be a JSON object"),
        (damaged(category="foods"), "did you mean 'food'"),
        (damaged(id=" "), "id: ' '"),
        (damaged(text=7), "text: 7"),
        (damaged(extra=1), "no field 'extra'"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "item"}), "field 'item' is missing"),
        (damaged(dimensions=[]), "1 to 4"),
        (damaged(dimensions=["color", "color"]), "1 to 4"),
        (damaged(dimensions="color"), "1 to 4"),
        (damaged(dimensions=["colour"]), "did you mean 'color'"),
        (damaged(dimensions=[["color"]]), "dimensions: ['color']"),
        (in_scene(setting=["beach"]), "scene.setting: ['beach']"),
        (damaged(rubric={}), "1 to 10"),
        (damaged(rubric={str(i): "x" for i in range(11)}), "1 to 10"),
        (damaged(rubric={"a": ""}), "explanation"),
        (damaged(rubric=["a"]), "1 to 10"),
        (damaged(rubric={"structural integrity": "x"}), "leave out"),
        (
            damaged().replace('{"Colour (bowl)"', '{"Colour (bowl)": "x", "Colour (bowl)"'),
            "comes twice",
        ),
        (damaged(skill="sums"), "skill: 'sums'"),
        (in_scene(setting="moon"), "scene.setting"),
        (
            in_scene(things=[dict(kind="dog", color="red", size="small", x=0.5, y=0.5)]),
            "scene.things.kind: 'dog'",
        ),
        (
            in_scene(things=[dict(kind="cat", color="red", size="small", x=0.5)]),
            "field 'y' is missing",
        ),
        (
            in_scene(things=[dict(kind="cat", color="red", size="small", x=32, y=0.5)]),
            "scene.things.x: 32",
        ),
        (in_scene(things={}), "must be a list"),
        (in_scene(sign=dict(word="hello", color="red", place="top")), "scene.sign.word"),
        (damaged(), "id: the same as on line 1"),
        (damaged(id="b"), "text: the same as on line 1"),
    ],
)
def test_faults_of_a_file_name_line_and_cure(tmp_path, capsys, line, said):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        f"{json.dumps(GOOD)}\n\n{line}\n{damaged(id='last', text='Another.')}\n", "utf8"
    )
    with pytest.raises(DataError) as e:
        read_prompts(path)
    assert (
        str(e.value).startswith(f"{path}:3: ") and said in str(e.value) and "\n" not in str(e.value)
    )
    sound, faults = P.check_prompts(path)
    assert [p.id for p in sound] == ["a", "last"] and len(faults) == 1
    assert main(["rl-prompts", "--check", str(path)]) == 2
    assert f"{path}:3: " in capsys.readouterr().out


def test_files_that_are_no_files_of_prompts(tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("empty", "binary", "missing"):
        with pytest.raises(DataError, match=name):
            read_prompts(tmp_path / name)
    p = toy_prompts(1, 0)[0]
    with pytest.raises(DataError, match="two prompts have the id"):
        write_prompts(tmp_path / "out", [p, replace(p, text="other")])
    assert not (tmp_path / "out").exists()


def test_taxonomy_and_plan_are_balanced(tmp_path):
    items = W.read_taxonomy()
    assert (
        len(items) >= 400
        and len({i.name.casefold() for i in items}) == len(items)
        and {i.category for i in items} == set(P.CATEGORIES)
    )
    for n in (1, 37, 2003):
        rows = W.plan_prompts(n, 1)
        counts = Counter(r.category for r in rows)
        assert (
            len(rows) == n == len({r.id for r in rows})
            and max(counts.values()) - min(counts[c] for c in P.CATEGORIES) <= 1
        )
    assert {len(r.dimensions) for r in rows} == {1, 2, 3, 4} and min(
        Counter(d for r in rows for d in r.dimensions).values()
    ) > 0.9 * max(Counter(d for r in rows for d in r.dimensions).values())
    first = W.plan_prompts(400, 1)
    assert len({r.item for r in first}) == 400 and first != W.plan_prompts(
        400, 2
    )  # no item twice before its category is used up
    subs = Counter((r.category, r.subcategory) for r in first)
    assert (
        max(subs.values()) - min(subs.values()) <= 1
        and len(subs) == len({(i.category, i.subcategory) for i in items}) >= 80
    )
    for text, said in [
        ("food\tsoups", "three columns"),
        ("fod\tsoups\tramen", "'food'"),
        ("food\ta\tramen\nfood\tb\tpho; Ramen", ":2: 'Ramen' is on line 1"),
        ("# no", "holds no item"),
    ]:
        (tmp_path / "t.tsv").write_text(text)
        with pytest.raises(DataError, match=said):
            W.read_taxonomy(tmp_path / "t.tsv")


@pytest.mark.parametrize("code, end", [("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("utf-8", "\n")])
def test_a_taxonomy_saved_by_an_editor_on_windows_is_the_same(tmp_path, code, end):
    rows = end.join(["food\tsoups\tramen; pho", "# a remark", "", "food\tbread\tbaguette"])
    (tmp_path / "t.tsv").write_bytes(rows.encode(code))
    items = W.read_taxonomy(tmp_path / "t.tsv")
    assert [(i.category, i.name) for i in items] == [
        ("food", "ramen"),
        ("food", "pho"),
        ("food", "baguette"),
    ]


def test_near_duplicates():
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(999)}" for _ in range(40)) for _ in range(30)]
    changed = texts[4].split()
    changed[7] = "else"
    assert W.near_duplicates(texts) == {} and W.near_duplicates(
        [*texts, " ".join(changed), texts[2].upper()]
    ) == {30: 4, 31: 2}


# ---- writing with a model


def story(q, body):
    "A writer that does as it is told: text with the subject, rubric with what is quoted."
    if body["messages"][0]["content"] == W.RUBRIC_WRITER:
        return json.dumps(
            dict(
                criteria=[
                    *(dict(name=f"C{i}", explanation="Seen.") for i in range(5)),
                    *(dict(name="Text (x)", explanation=f'Reads "{t}".') for t in P.quoted(q)),
                ]
            )
        )
    item, rng = q.split("Subject: ")[1].split("\n")[0], random.Random(q)
    return json.dumps(
        dict(prompt=f'{item} {" ".join(f"w{rng.randrange(9999)}" for _ in range(30))} "GO ON"')
    )


def test_writer_loses_nothing_to_a_bad_server_and_a_second_run_pays_nothing(tmp_path):
    plan = W.plan_prompts(30)
    ask = [W._ask_text(r) for r in plan]
    script = {
        ask[1]: ["500", "drop"],
        ask[2]: ["429:0.1"],
        ask[3]: ["garbage", "cut"],
        ask[4]: ["hang"],
        ask[5]: ["refusal"],
        ask[6]: ["refusal"] * 9,
        ask[7]: ["empty"],
        ask[8]: ["length"],
        ask[9]: ["500"] * 4,
    }
    bad_once = {ask[10]: "Too short.", ask[11]: "no json"}
    seen = Counter()

    def answer(q, body):
        seen[q] += 1
        if q in bad_once and seen[q] == 1:
            return json.dumps(dict(prompt=bad_once[q])) if "." in bad_once[q] else bad_once[q]
        if q == ask[12]:
            return story(ask[13], body).replace(
                plan[13].item, f"{plan[13].item} {plan[12].item}", 1
            )
        return story(q, body)

    cache = tmp_path / "answers.sqlite"
    with FakeEndpoint(script, answer, hang=2) as server:
        prompts, report = W.write_prompts_with(client(server, cache), plan)
        lost = {d["id"]: d["stage"] for d in report["dropped"]}
        assert lost == {plan[6].id: "prompt", plan[9].id: "prompt", plan[13].id: "duplicate"} and [
            p.id for p in prompts
        ] == [r.id for r in plan if r.id not in lost]
        assert (
            report["asked"] == 30
            and report["written"] == 27 == sum(report["categories"].values())
            and "refus" in next(d["reason"] for d in report["dropped"] if d["id"] == plan[6].id)
        )
        before = len(server.calls)
        again, _ = W.write_prompts_with(client(server, cache), plan)
        new = server.calls[before:]
        assert {c["question"] for c in new} == {
            ask[9],
            again[[p.id for p in again].index(plan[9].id)].text,
        } and len(again) == 28  # only what had no answer is asked for
    write_prompts(tmp_path / "p.jsonl", again)
    assert read_prompts(tmp_path / "p.jsonl") == again


def test_command_writes_a_set_and_its_report(tmp_path, capsys):
    out = tmp_path / "p.jsonl"
    assert (
        main(["rl-prompts", "--toy", "--n", "60", "--out", str(out)]) == 0
        and len(read_prompts(out)) == 60
    )
    assert (
        json.loads((tmp_path / "p.jsonl.report.json").read_text())["written"] == 60
        and main(["rl-prompts", "--check", str(out)]) == 0
    )
    with FakeEndpoint(answer=story) as server:
        assert main(["rl-prompts", "--url", server.url, "--n", "20", "--out", str(out)]) == 0
        n = len(server.calls)
        assert (
            n == 40
            and main(["rl-prompts", "--url", server.url, "--n", "20", "--out", str(out)]) == 0
            and len(server.calls) == n
        )
    assert Counter(p.category for p in read_prompts(out)) == dict.fromkeys(P.CATEGORIES, 2)
    capsys.readouterr()
    assert (
        main(["rl-prompts"])
        == main(["rl-prompts", "--toy", "--check", "x"])
        == main(["rl-prompts", "--toy", "--n", "0"])
        == 2
    )
    assert capsys.readouterr().err.count("\n") == 3


# ---- verdicts and the exact judge


def test_a_missing_score_is_never_a_zero():
    assert (
        Verdict({"a": 1, "b": None}).reward == 1.0
        and Verdict({"a": 1, "b": None, "c": None}).reward is None
        and Verdict({"a": None}).reward is Verdict({}).reward is None
    )
    assert Verdict({"a": 0, "b": 0}).reward == 0.0
    for bad in (2, 0.5, "1", -1, float("nan")):
        with pytest.raises(DataError, match="'a'"):
            Verdict({"a": bad})


def test_exact_judge_passes_what_is_drawn_right():
    prompts = toy_prompts(70, 5)
    for v, p in zip(ExactJudge()(pictures(*(p.scene for p in prompts)), prompts), prompts):
        assert v.scores == dict.fromkeys(p.criteria, 1), (p.scene, v.scores)


CAT, BELL = Thing("cat", "red", "large", 0.25, 0.25), Thing("bell", "blue", "medium", 0.75, 0.75)
SCENE = Scene((CAT, BELL), "beach", None)


@pytest.mark.parametrize(
    "drawn, fails",
    [
        (replace(SCENE, things=(replace(CAT, color="green"), BELL)), {"Colour (cat)"}),
        (
            replace(SCENE, things=(replace(CAT, kind="house"), BELL)),
            {
                "Presence (cat)",
                "Count (cat)",
                "Colour (cat)",
                "Size (all)",
                "Place (cat)",
                STRUCTURE[0],
            },
        ),
        (
            replace(SCENE, things=(CAT, BELL, replace(BELL, x=0.75, y=0.25))),
            {"Count (bell)", STRUCTURE[0]},
        ),
        (
            replace(SCENE, things=(CAT, BELL, Thing("star", "pink", "small", 0.75, 0.25))),
            {STRUCTURE[0]},
        ),
        (replace(SCENE, setting="night"), {"Setting"}),
        (replace(SCENE, things=(CAT, replace(BELL, size="small"))), {"Size (all)"}),
    ],
)
def test_exact_judge_fails_what_is_wrong_and_nothing_else(drawn, fails):
    prompt = RLPrompt("x", "animal", "cat", "cat", ("color",), "t", T.toy_rubric(SCENE), SCENE)
    (v,) = ExactJudge()(pictures(drawn), [prompt])
    assert None not in v.scores.values() and {k for k, s in v.scores.items() if s == 0} == fails


def test_a_sign_nobody_asked_for_is_not_sound():
    scene = replace(SCENE, things=(CAT,))
    (v,) = ExactJudge()(
        pictures(replace(scene, sign=Sign("HI", "red", "bottom"))),
        [RLPrompt("x", "animal", "cat", "cat", ("color",), "t", T.toy_rubric(scene), scene)],
    )
    assert {k for k, s in v.scores.items() if s == 0} == {STRUCTURE[0]}


def test_a_smear_is_not_sound_and_what_cannot_be_judged_is_none():
    prompts = toy_prompts(7, 6)
    for v in ExactJudge()(torch.zeros(7, 3, 64, 64), prompts):
        assert v.scores[STRUCTURE[0]] == 0
    own = RLPrompt(
        "y",
        "animal",
        "cat",
        "cat",
        ("color",),
        "t",
        {"Mood": "It is happy.", "Colour (cat)": "The cat is red."},
        SCENE,
    )
    (a, b) = ExactJudge()(pictures(SCENE, SCENE), [own, replace(own, scene=None)])
    assert (
        a.scores == {"Mood": None, "Colour (cat)": 1, STRUCTURE[0]: 1}
        and set(b.scores.values()) == {None}
        and b.reward is None
    )
    with pytest.raises(DataError, match="7 pictures and 6"):
        ExactJudge()(torch.zeros(7, 3, 64, 64), prompts[:6])


# ---- a judge behind a server


def asked_for(p):
    return [f"Criterion: {k}. {why}" for k, why in p.criteria.items()]


def test_judge_behind_a_bad_server_loses_nothing(tmp_path):
    prompts = toy_prompts(6, 8)
    images, q = pictures(*(p.scene for p in prompts)), [asked_for(p) for p in prompts]
    moods = [
        ["500", "drop"],
        ["429:0.1"],
        ["garbage"],
        ["cut", "page"],
        ["hang"],
        ["drip"],
        ["refusal"] * 9,
        ["empty"],
        ["length"] * 9,
        ["500"] * 4,
    ]
    own = [
        RLPrompt(f"p{i}", "food", "a", "b", ("color",), f"text {i}", {f"c{i}": f"{m[0]}"})
        for i, m in enumerate(moods)
    ]
    many = torch.cat(
        [images, torch.linspace(-1, 1, len(own))[:, None, None, None].expand(-1, 3, 64, 64)]
    )
    script = {asked_for(p)[0]: m for p, m in zip(own, moods)}
    words = {
        q[0][0]: ["I see 1 cat."] * 9,
        q[1][0]: ["maybe", "1"],
        q[2][0]: [" **0**. "],
        q[3][0]: ["10"] * 9,
    }
    seen, lock = Counter(), threading.Lock()

    def answer(question, body):
        with lock:
            seen[question] += 1
        said = words.get(question)
        return said[seen[question] - 1] if said else "1"

    with FakeEndpoint(script, answer, hang=3) as server:
        cache = tmp_path / "judge.sqlite"
        judge = EndpointJudge(client(server, cache, concurrency=6))
        verdicts = judge(many, [*prompts, *own])
        calls = len(server.calls)
        again = EndpointJudge(client(server, cache))(many, [*prompts, *own])
        repeated = {c["question"] for c in server.calls[calls:]}
        part = server.calls[0]["body"]["messages"][1]["content"]
        asked_once = Counter(c["question"] for c in server.calls[:calls])
    assert [list(v.scores) for v in verdicts] == [list(p.criteria) for p in [*prompts, *own]]
    assert [v.scores[list(v.scores)[0]] for v in verdicts[:4]] == [None, 1, 0, None]
    assert [v.scores[f"c{i}"] for i, v in enumerate(verdicts[6:])] == [
        1,
        1,
        1,
        1,
        1,
        1,
        None,
        1,
        None,
        None,
    ] and all(v.scores[STRUCTURE[0]] == 1 for v in verdicts)
    assert judge.missing == {"no verdict": 2, "refusal": 1, "truncated": 1, "error": 1} and all(
        v.reward == 1 for v in verdicts[6:]
    )
    assert (
        again[:-1] == verdicts[:-1]
        and again[-1].scores["c9"] == 1
        and repeated == {asked_for(own[9])[0]}
    )  # only the one without an answer
    assert [x["type"] for x in part] == ["image_url", "text", "text"] and asked_once[q[0][0]] >= 2


def test_a_server_that_is_gone_stops_the_run():
    prompts = toy_prompts(3, 9)
    with (
        FakeEndpoint({q: ["401"] for p in prompts for q in asked_for(p)}) as server,
        pytest.raises(EndpointError, match="OPENAI_API_KEY"),
    ):
        EndpointJudge(client(server))(torch.zeros(3, 3, 64, 64), prompts)
    with FakeEndpoint() as server:
        gone = client(server, attempts=1, give_up_after=3, concurrency=1)
    with pytest.raises(EndpointError, match="all failed"):
        EndpointJudge(gone)(torch.zeros(3, 3, 64, 64), prompts)


MET = [
    "1",
    " 1.\n",
    '"1"',
    "yes",
    "1.0",
    "Score: 1",
    "Score: 5/5",
    "Final score: 10 out of 10",
    '{"score": "1"}',
    '```json\n{"verdict": "yes", "why": "x"}\n```',
    'Here is my verdict:\n{"criterion_met": true}',
    '{"result": {"score": 1}}',
    "one",
    "Yes, the cat is red.",
    "yes.",
    "Yes, it does.",
    "There are 3 cats.\n\n1",
    "Score: 0 at first glance, but on a closer look, final score: 1",
    "Answer: 1 (fully met)",
    "The answer is 1.",
    "1 - the cat is red",
    "1: the cat is red",
    "1, since the cat is red",
    "The picture fully meets the criterion.",
    "Criterion met: Yes",
    "\\boxed{1}",
    "I would give it a 1.",
    "Score (0 or 1): 1",
    "Reason: two cats\nVerdict: 1",
    "100%",
    "True",
    "Output: 1",
    "answer:1",
    "(1)",
    "The score should be 1",
    "Score: **1**/1",
    "Score:\n1",
    "1/1",
    "The score is 1, not 0.",
    "<score>1</score>",
    "The cat is red. 1",
    "1\ufe0f\u20e3",
    "Yes",
    "YES!",
    "Step 1: look. Step 2: count. The answer: 1.",
]
UNMET = [
    "0",
    "**0**",
    "No",
    "**Score: 4/5**",
    '{"score": 0, "reason": "the score: 1"}',
    "No — because there are 2.",
    "The picture shows 1 red cat. Final answer: 0",
    "The answer is **no**.",
    "0\n\nThe cat is blue.",
    "Verdict: not met",
    "The picture does not meet the criterion.",
    "The final answer is \\boxed{0}.",
    "I'd rate this 7 out of 10.",
    "**Verdict:** 0\n\n**Reason:** two cats",
    "Rating: 80%",
    "FALSE",
    "Result = 0",
    "[0]",
    "0/1",
    "Not met",
    "Score: 0.0",
    "<reasoning>2 cats</reasoning>\n<verdict>0</verdict>",
    "The picture doesn't meet the criterion.",
    "Score: 1 if met, 0 if not.\nScore: 0",
]
UNCLEAR = [
    "10",
    "-1",
    "1 or 0",
    "0.5",
    "",
    "Final score: 7",
    '{"score": "4"}',
    "four",
    "maybe",
    "I cannot say without more context.",
    "There are 3 cats and 1 dog.",
    "1. First I look.\n2. Then",
    "1, 2, 3 loaves",
    "0 apples are there",
    "No cat is visible",
    "Yes, but only partly",
    "I check whether it meets the criterion.",
    "Score: 1 or 0?",
    "<b>1</b>",
    "1/0",
    "1 ✅",
    "It is 1",
    "1\n1\n0",
    "Score: -1",
    "score: 11",
    "I give 1 point for the colour.",
    "The criterion is partially met.",
    "The picture partly meets the criterion.",
    "It meets the criterion in part.",
    "It doesn't look as though it meets the criterion.",
    "I'd give a 1 rather than 0.",
    "Score: 1 if the picture fully meets the criterion, 0 if it does not.",
]


@pytest.mark.parametrize(
    "text, score",
    [(t, s) for texts, s in ((MET, 1), (UNMET, 0), (UNCLEAR, None)) for t in texts],
)
def test_an_explicit_verdict_is_a_score_and_a_number_in_between_is_none(text, score):
    assert parse_digit(text) is score


def test_a_judge_that_never_says_a_verdict_is_not_asked_twice_for_ever():
    prompts = toy_prompts(6, 9)
    with FakeEndpoint(answer=lambda q, body: "I see 1 cat.") as server:
        judge = EndpointJudge(client(server, concurrency=1))
        verdicts = judge(torch.zeros(6, 3, 64, 64), prompts)
    asked, n = len(server.calls), sum(len(p.criteria) for p in prompts)
    assert n + 10 <= asked <= n + 12 and all(v.reward is None for v in verdicts)
    assert judge.missing == {"no verdict": n} and judge.examples == {"no verdict": "I see 1 cat."}


def test_large_pictures_are_scaled_down():
    p = RLPrompt("p", "food", "a", "b", ("color",), "t", {"c": "d"})
    sizes = []

    def answer(q, body):
        sizes.append(
            Image.open(
                io.BytesIO(
                    base64.b64decode(
                        body["messages"][1]["content"][0]["image_url"]["url"].split(",")[1]
                    )
                )
            ).size
        )
        return "1"

    with FakeEndpoint(answer=answer) as server:
        EndpointJudge(client(server, image_side=96))(torch.zeros(1, 3, 64, 192), [p])
    assert set(sizes) == {(96, 32)}


# ---- text, scorers, several judges


def test_ocr_judge_wants_every_text_letter_for_letter():
    p = RLPrompt(
        "p",
        "text",
        "a",
        "b",
        ("color",),
        'A poster reads "GRAND OPENING".',
        {
            "Text (poster)": 'It reads "GRAND OPENING".',
            "Colour": "It is red.",
            "OCR Alignment": "The words are right.",
        },
    )
    images = torch.zeros(4, 3, 32, 32)
    lines = iter([["GRAND", "OPENING", "today"], ["GRAND CLOSING"], [], ["grand opening"]])
    verdicts = OcrJudge(lambda pixels: next(lines))(images, [p] * 4)
    assert [v.scores for v in verdicts] == [
        {"Text (poster)": s, "OCR Alignment": s} for s in (1, 0, 0, 0)
    ]
    assert (
        OcrJudge(lambda pixels: 1 / 0)(images[:1], [replace(p, rubric={"Colour": "red"})])[0].scores
        == {}
    )  # nothing to read: not asked
    assert OcrJudge(lambda pixels: [])(
        images[:1], [replace(p, text="No quotes.", rubric={"Text": "The name."})]
    )[0].scores == {"Text": None}


def test_rapidocr_reads_signs():
    pytest.importorskip("rapidocr")
    prompts = toy_prompts(16, 2, ["text"])
    right, wrong = (
        OcrJudge()(pictures(*(p.scene for p in prompts)), wanted)
        for wanted in (prompts, prompts[1:] + prompts[:1])
    )
    assert (
        sum(v.scores["Text"] for v in right) >= 12 and sum(v.scores["Text"] for v in wrong) <= 1
    )  # it misreads some, and not the same ones on every processor


def test_scorers_and_several_judges_as_one():
    prompts, images = (
        toy_prompts(4, 0),
        torch.tensor([-1.0, 0, 1, float("nan")])[:, None, None, None].expand(4, 3, 8, 8),
    )
    bright = ScorerJudge(lambda x, texts: x.mean((1, 2, 3)), 0, "Bright")
    assert [v.scores["Bright"] for v in bright(images, prompts)] == [0, 1, 1, None]
    with pytest.raises(DataError, match="one number for each"):
        ScorerJudge(lambda x, t: x, 0)(images, prompts)
    fixed = lambda **s: lambda images, prompts: [Verdict(s)] * len(prompts)
    assert Combined(fixed(a=None, b=1), fixed(a=0, b=0, c=1))(images, prompts)[0].scores == dict(
        a=0, b=1, c=1
    )


def test_agreement_counts_what_both_judged():
    a = [
        Verdict({"Colour (cat)": 1, "Colour (bell)": 1, "Size": 0}),
        Verdict({"Colour (cat)": None, "Size": 0, "Mood": 1}),
    ]
    b = [
        Verdict({"Colour (cat)": 1, "Colour (bell)": 0, "Size": 1}),
        Verdict({"Colour (cat)": 0, "Size": 0}),
    ]
    table = agreement(a, b)
    assert table["Colour"] == dict(
        share=0.5, n=2, agree=1, only_a=1, only_b=0, unknown=1
    ) and table["Size"] == dict(share=0.5, n=2, agree=1, only_a=0, only_b=1, unknown=0)
    assert (
        table["Mood"]["share"] is None
        and table["all"] == dict(share=0.5, n=4, agree=2, only_a=1, only_b=1, unknown=2)
        and list(table)[-1] == "all"
    )
    with pytest.raises(DataError, match="2 verdicts and 1"):
        agreement(a, b[:1])


# ---- in the background


def test_overlapped_judges_while_the_caller_goes_on():
    go, begun = threading.Event(), threading.Event()

    def slow(images, prompts):
        begun.set()
        go.wait(10)
        return [Verdict({"a": int(x)}) for x in images[:, 0, 0, 0]]

    images, prompts = torch.ones(2, 3, 8, 8), toy_prompts(2, 0)
    with Overlapped(slow) as background:
        first = background.submit(images, prompts)
        assert begun.wait(5) and not first.done()
        images.zero_()  # the sampler goes on in the same memory
        second = background.submit(images, prompts)
        with pytest.raises(DataError):
            background.submit(images, prompts[:1])
        go.set()
        assert [v.reward for v in first.result()] == [1, 1] and [
            v.reward for v in second.result()
        ] == [0, 0]

    def broken(images, prompts):
        raise EndpointError("gone")

    with Overlapped(broken, workers=2) as background, pytest.raises(EndpointError, match="gone"):
        background(images, prompts)
    with pytest.raises(ConfigError, match="workers"):
        Overlapped(slow, 0)


def test_close_waits_for_what_runs_and_drops_the_rest():
    done = []

    def slow(images, prompts):
        time.sleep(0.2)
        done.append(1)
        return []

    background = Overlapped(slow)
    futures = [background.submit(torch.zeros(1, 3, 8, 8), toy_prompts(1, 0)) for _ in range(5)]
    time.sleep(0.05)
    background.close()
    assert len(done) == 1 and futures[0].result() == [] and all(f.cancelled() for f in futures[1:])
