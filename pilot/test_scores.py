"""Prompts and scores of the toy: splits of the same scenes, grading, intervals, freedom."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from lens_ref.core.config import DataError
from scipy.stats import norm

from toyworld.freedom import disagreement, free_facts, freedom, renders, vary_stated
from toyworld.reader import Reading
from toyworld.scores import (
    compare,
    evaluate,
    generate,
    grade,
    over_seeds,
    paired,
    ratio,
    share,
    summarize,
)
from toyworld.splits import HELD_OUT, SPLITS, WORDINGS, split
from toyworld.wording import NEEDED
from toyworld.world import SKILLS, Fact, novelties, sample_scene, scene_facts

FEW = 3  # prompts a skill


class Studio:
    "A pipeline that renders the scene `choose(prompt)`, and a reader that knows what was drawn."

    def __init__(self, prompts, choose):
        self.scenes, self.drawn = {p.text: choose(p) for p in prompts}, {}
        self.defaults = dict(num_inference_steps=20, guidance_scale=2.0)

    def show(self, scenes):
        images = renders(scenes)
        self.drawn |= {image.numpy().tobytes(): s for image, s in zip(images, scenes)}
        return images

    def __call__(self, prompts, generator=None, output_type=None, **kwargs):
        return SimpleNamespace(images=self.show([self.scenes[text] for text in prompts]))

    def read(self, images):
        scenes = [self.drawn[image.numpy().tobytes()] for image in images]
        return [reading_of(s) for s in scenes]


def reading_of(scene):
    return Reading(scene.things, (1.0,) * len(scene.things), scene.setting, scene.sign)


@pytest.mark.parametrize("name", SPLITS)
def test_prompts_state_true_facts_of_their_skill(name):
    prompts = split(name, FEW)
    assert len(prompts) == FEW * len(SKILLS)
    for p in prompts:
        assert p.text.strip() and set(p.facts) <= set(scene_facts(p.scene))
        assert p.needed and set(p.decides) >= set(NEEDED[p.skill])
        assert grade(p, reading_of(p.scene))["passed"]
        if name != "first":
            assert {f.what for f in p.needed} == set(p.decides)


def test_wordings_share_their_scenes():
    scenes = {name: [(p.name, p.scene) for p in split(name, FEW)] for name in WORDINGS}
    assert all(some == scenes["dense"] for some in scenes.values())
    dense, lower, first = (split(name, FEW) for name in ("dense", "lower", "first"))
    assert [p.text.lower() for p in lower] == [p.text.lower() for p in dense]
    assert all(p.text.islower() == (p.skill != "text") for p in lower)
    assert all(p.scene.sign.word in p.text for p in lower if p.scene.sign)
    same = [a.text.startswith(b.text) for a, b in zip(dense, first)]
    assert sum(same) > len(same) / 2
    assert all(set(b.facts) <= set(a.facts) for a, b, ok in zip(dense, first, same) if ok)


def test_more_prompts_begin_with_the_fewer():
    few = {p.name: p.text for p in split("brief", 2)}
    more = {p.name: p.text for p in split("brief", 4)}
    assert few.items() <= more.items()


def test_only_the_held_out_splits_hold_what_training_never_meets():
    for name in (*WORDINGS, *(f"{n}_known" for n in HELD_OUT)):
        assert all(novelties(p.scene) == {"scene"} for p in split(name, FEW))
    for name in HELD_OUT:
        what = {name.removesuffix("s")}
        held, known = split(name, FEW), split(f"{name}_known", FEW)
        assert all(novelties(p.scene) - {"scene"} == what for p in held)
        assert [p.name for p in held] == [p.name for p in known]
        assert {p.skill for p in held} == set(HELD_OUT[name].skills)
        for a, b in zip(held, known):
            new = set(scene_facts(a.scene)) - set(scene_facts(b.scene))
            assert any(f.what == HELD_OUT[name].what for f in new & set(a.needed))


def test_sealed_prompts_are_others():
    open_, sealed = split("dense", FEW), split("dense", FEW, sealed=True)
    assert not {p.scene for p in open_} & {p.scene for p in sealed}
    assert not {p.scene for p in open_} & {p.scene for p in split("dense", FEW, seed=1)}


def test_unknown_split_is_told():
    with pytest.raises(DataError, match="choose one of dense"):
        split("long")


def test_a_perfect_drawer_passes_and_a_deaf_one_does_not():
    prompts = split("dense", 10)
    studio = Studio(prompts, lambda p: p.scene)
    found = evaluate(studio, "dense", 10, steps=2, guidance=1.0, reader=studio, keep=True)
    assert found["overall"]["score"] == found["stated"]["score"] == 1
    assert found["all_facts"]["score"] == 1 and set(SKILLS) < set(found)
    assert json.loads(json.dumps(found))["prompts"][0]["text"] == prompts[0].text

    rng = random.Random(0)
    deaf = Studio(prompts, lambda p: sample_scene(rng, p.skill))
    lines = []
    other = evaluate(deaf, "dense", 10, reader=deaf, keep=True, progress=lines.append)
    assert len(lines) == 2 and lines[-1] == "70 of 70 pictures, ETA 0s"
    assert (other["steps"], other["guidance"], found["steps"]) == (20, 2.0, 2)
    assert other["overall"]["score"] < 0.15 and other["stated"]["score"] < 0.5
    gap = compare(other, found)["overall"]
    assert gap["low"] > 0.7 and gap["worse"] == 0 and gap["p"] < 1e-9


def test_only_stated_facts_are_graded():
    prompt = next(p for p in split("brief", 20) if p.skill == "single")
    wrong = random.Random(0)
    for _ in range(20):
        other = vary_stated(prompt.scene, prompt.facts, wrong)
        assert grade(prompt, reading_of(other))["wrong"] == []


def test_paired_interval_in_closed_form():
    # 12 better, 4 worse, 84 the same: Agresti and Min's adjusted interval of the difference
    first = [0] * 12 + [1] * 4 + [1] * 50 + [0] * 34
    second = [1] * 12 + [0] * 4 + [1] * 50 + [0] * 34
    found = paired(first, second)
    b, c, n = 12.5, 4.5, 102
    half = norm.ppf(0.975) * ((b + c) - (b - c) ** 2 / n) ** 0.5 / n
    assert found["difference"] == pytest.approx(0.08)
    assert found["low"] == pytest.approx((b - c) / n - half)
    assert found["high"] == pytest.approx((b - c) / n + half)
    assert (found["better"], found["worse"]) == (12, 4)
    assert found["p"] == pytest.approx(0.0768, abs=1e-4)  # McNemar's exact test
    same = paired([1] * 20, [1] * 20)
    assert same["low"] < 0 < same["high"] and same["p"] == 1
    with pytest.raises(DataError, match="same prompts"):
        paired([1], [1, 0])


def test_paired_interval_covers_the_truth():
    rng, covered = random.Random(0), 0
    for _ in range(400):
        easy = [rng.random() for _ in range(70)]
        a = [rng.random() < e for e in easy]
        b = [rng.random() < min(1, e + 0.1) for e in easy]
        found = paired(a, b)
        # the mean gain is 0.1 but for prompts that were easier than 0.9
        covered += found["low"] <= 0.095 <= found["high"]
    assert 0.92 < covered / 400 < 0.99


def test_ratio_counts_prompts():
    assert ratio([1, 1], [2, 2]) == dict(score=0.5, low=0.5, high=0.5, n=2)
    few, many = ratio([0, 2], [2, 2]), ratio([0, 2] * 50, [2, 2] * 50)
    assert few["high"] > 1 > many["high"] > many["score"] == 0.5
    with pytest.raises(DataError, match="at least two"):
        ratio([1], [1])


def test_overall_is_the_mean_of_skills():
    grades = [dict(skill="two", passed=True)] * 4 + [dict(skill="text", passed=False)] * 2
    table = summarize(grades)
    assert table["overall"]["score"] == 0.5 and table["two"] == share([True] * 4)


def test_seeds_average_prompt_by_prompt():
    rows = lambda *passed: dict(
        prompts=[dict(name=str(i), skill="two", passed=p) for i, p in enumerate(passed)]
    )
    runs = [rows(1, 0, 1, 1), rows(1, 1, 1, 0)]
    assert over_seeds(runs)["score"] == 0.75 and over_seeds(runs)["n"] == 4
    assert compare(runs, rows(1, 1, 1, 1))["two"]["difference"] == 0.25
    with pytest.raises(DataError, match="keep=True"):
        compare(dict(overall=1), runs)


def test_noise_depends_on_seed_and_place():
    class Pipe:
        def __call__(self, prompts, generator, **kwargs):
            return SimpleNamespace(
                images=torch.stack([torch.randn(3, generator=g) for g in generator])
            )

    a, b = (generate(Pipe(), list("abcdefg"), 1, batch) for batch in (2, 7))
    assert torch.equal(a, b) and not torch.equal(a, generate(Pipe(), list("abcdefg"), 2))


def test_vary_stated_keeps_what_is_stated_alone():
    rng = random.Random(1)
    for skill in SKILLS[:-1]:
        scene = sample_scene(rng, skill, "test")
        facts = [f for f in scene_facts(scene) if f.what in NEEDED[skill]]
        some = [vary_stated(scene, facts, rng) for _ in range(20)]
        assert all(set(facts) <= set(scene_facts(s)) for s in some)
        assert not any(novelties(s) - {"scene"} for s in some)
        assert len({s.setting for s in some}) > 3
        colors = {tuple(t.color for t in s.things) for s in some}
        told = "color" in NEEDED[skill] or any(len(f.args) == 3 for f in facts if f.what == "count")
        assert len(colors) == 1 if told else len(colors) > 3
    with pytest.raises(DataError, match="not true"):
        vary_stated(scene, [Fact("setting", ("nowhere",))], rng)


def test_disagreement_has_a_closed_form():
    assert disagreement(list("aabb")) == pytest.approx(2 / 3)
    assert disagreement(list("aaaa")) == disagreement(["a"]) == 0


def test_free_facts_are_those_not_stated():
    scene = sample_scene(random.Random(2), "single")
    kind = scene.things[0].kind
    every = free_facts(scene_facts(scene), reading_of(scene))
    assert {sort for sort, _ in every} == {"artwork", "mirror", "turn"}
    bare = free_facts([Fact("object", (kind,))], reading_of(scene))
    assert bare.keys() - every.keys() == {
        ("setting", ""),
        *((sort, f"{kind} 0") for sort in ("place", "size", "color")),
    }


@pytest.mark.parametrize("name", ["dense", "brief"])
def test_freedom_of_the_renderer_is_one_and_of_a_constant_drawer_none(name):
    prompts = split(name, 2)
    by_text, studio = {p.text: p for p in prompts}, Studio([], None)
    rng = random.Random(5)

    def renderer(texts, seed):
        return studio.show([vary_stated(by_text[t].scene, by_text[t].facts, rng) for t in texts])

    def constant(texts, seed):
        return studio.show([by_text[t].scene for t in texts])

    how = dict(noises=16, reader=studio, show=studio.show)
    own = freedom(renderer, prompts, **how)
    assert own["passed"] == 1
    for measure in ("pixels", "facts"):
        assert own[measure]["low"] - 0.03 < 1 < own[measure]["high"] + 0.03
        assert abs(own[measure]["score"] - 1) < 0.1
    none = freedom(constant, prompts, **how)
    assert none["pixels"]["score"] == pytest.approx(0, abs=1e-4) and none["facts"]["score"] == 0
