"""Prompts to score a model with: one set of scenes in many wordings, and with things that training never met."""

import random
import re
from dataclasses import dataclass, replace

from lens_ref.core.config import DataError

from .sign_words import TEST_WORDS
from .wording import LANGUAGES, NEEDED, brief_caption, dense_caption, first_sentence
from .world import (
    HELD_OUT_LAYOUTS,
    HELD_OUT_PAIRS,
    LAYOUTS,
    SKILLS,
    Scene,
    _apart,
    _spot,
    close_together,
    novelties,
    sample_scene,
    scene_facts,
)


@dataclass(frozen=True)
class Prompt:
    """A text, the facts of `scene` that it states, and the skill that it tests.

    `decides`: the kinds of fact of which all that are stated must hold for a pass. `name` says
    which scene of its set this is: prompts of two splits with the same name can be compared."""

    text: str
    facts: tuple
    scene: Scene
    skill: str
    decides: tuple
    name: str

    @property
    def needed(self) -> tuple:
        "The stated facts that must all hold for a pass."
        return tuple(f for f in self.facts if f.what in self.decides)


# ---- wordings of a scene
def _lower(scene, rng, skill):
    "In lower case but for the letters of a sign, which are what is to be drawn."
    caption = dense_caption(scene, rng)
    word = scene.sign.word if scene.sign else "\n"
    parts = re.split(rf"\b({word})\b", caption)
    return "".join(part if part == word else part.lower() for part in parts), caption.facts


def _first(scene, rng, skill):
    caption = first_sentence(dense_caption(scene, rng))
    return str(caption), caption.facts


def _in_words(style, **how):
    "A function that words a scene for a skill: (text, facts)."

    def word(scene, rng, skill):
        more = dict(skill=skill) if style is brief_caption else {}
        caption = style(scene, rng, **how, **more)
        return str(caption), caption.facts

    return word


# Each takes (scene, rng, skill). The first three start from the same caption.
WORDINGS = {
    "dense": _in_words(dense_caption),
    "lower": _lower,
    "first": _first,
    "brief": _in_words(brief_caption),
    "other": _in_words(dense_caption, wording="other"),
    "synonyms": _in_words(dense_caption, wording="synonyms"),
    **{lang: _in_words(dense_caption, lang=lang) for lang in LANGUAGES if lang != "en"},
    **{f"brief_{lang}": _in_words(brief_caption, lang=lang) for lang in LANGUAGES if lang != "en"},
}


# ---- what training never meets, put into a scene of the test set
_NEW_COLOR = dict(sorted(HELD_OUT_PAIRS))  # {kind: the colour that training never gives it}


def _with_pair(scene, rng):
    "The scene, and the scene with one kind in the colour that training never gives it."
    kinds = [kind for kind in scene.groups if kind in _NEW_COLOR]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    old = rng.choice([color for k, color in scene.bunches if k == kind])
    new = [
        replace(t, color=_NEW_COLOR[kind]) if (t.kind, t.color) == (kind, old) else t
        for t in scene.things
    ]
    return scene, replace(scene, things=tuple(new))


def _moved(scene, layouts, rng):
    "The scene with its things on one of the layouts, in some order; None where they would touch."
    cells = list(rng.choice(layouts))
    rng.shuffle(cells)
    things = []
    for t, cell in zip(scene.things, cells):
        x, y = _spot(*cell, t.side, rng)
        things.append(replace(t, x=round(x, 4), y=round(y, 4)))
    return replace(scene, things=tuple(things)) if _apart(things) else None


def _with_layout(scene, rng):
    """The scene with its things on a layout of training, and on one that training never has.

    Only where every thing is the only one of its kind, so that captions can tell all places."""
    n = len(scene.things)
    if len(scene.groups) < n or scene.sign or close_together(scene):
        return None
    held_out = sorted(s for s in HELD_OUT_LAYOUTS if len(s) == n)
    known = [s for s in LAYOUTS[n] if s not in HELD_OUT_LAYOUTS]
    if not held_out:
        return None
    for _ in range(300):
        plain = _moved(scene, known, rng)
        if plain is None or novelties(plain) != {"scene"}:
            continue
        new = _moved(scene, held_out, rng)
        if new and _same_kinds_of_fact(plain, new):
            return plain, new
    return None


def _same_kinds_of_fact(a, b):
    kinds = lambda scene: sorted(f.what for f in scene_facts(scene))
    return kinds(a) == kinds(b)


def _with_word(scene, rng):
    "The scene, and the scene with a word of equal length that training never writes."
    if not scene.sign:
        return None
    word = rng.choice([w for w in TEST_WORDS if len(w) == len(scene.sign.word)])
    return scene, replace(scene, sign=replace(scene.sign, word=word))


@dataclass(frozen=True)
class HeldOut:
    """How something that training never meets is put into scenes: `put(scene, rng)` gives (scene
    without, scene with it) or None, for scenes of `skills`; facts of kind `what` are about it."""

    skills: tuple
    what: str
    put: object


HELD_OUT = {
    "pairs": HeldOut(SKILLS[:-1], "color", _with_pair),
    "layouts": HeldOut(("two", "position", "attribute"), "place", _with_layout),
    "signs": HeldOut(("text",), "word", _with_word),
}
SPLITS = (*WORDINGS, *HELD_OUT, *(f"{name}_known" for name in HELD_OUT))


# ---- prompts
def _counts(skills, total):
    "How many prompts of each skill: as equal as can be."
    return {s: total // len(skills) + (i < total % len(skills)) for i, s in enumerate(skills)}


def _worded(word, scene, skill, key, states):
    "The first wording of the scene that `states(facts)` accepts: (text, facts), or None."
    for attempt in range(200):
        text, facts = word(scene, random.Random(f"{key} words {attempt}"), skill)
        if states(facts):
            return text, tuple(facts)
    return None


def _states_all(kinds):
    return lambda facts: set(kinds) <= {f.what for f in facts}


def _states_any(kinds):
    return lambda facts: any(f.what in kinds for f in facts)


def _states_new(kinds, scene, other, what):
    """Are facts of all kinds stated, and of those about what was put in (of kind `what`, true of
    the scene and not of the other) at least one?"""
    new = {f for f in scene_facts(scene) if f.what == what} - set(scene_facts(other))
    return lambda facts: _states_all(kinds)(facts) and not new.isdisjoint(facts)


def _test_scenes(skill, key):
    "Scenes kept from training that have facts of all kinds the skill is about: (name, scene, rng)."
    for attempt in range(1000):
        name = f"{key} {attempt}"
        rng = random.Random(name)
        scene = sample_scene(rng, skill, "test")
        if _states_all(NEEDED[skill])(scene_facts(scene)):
            yield name, scene, rng


def _plain_prompt(split, skill, key):
    "A prompt of a split that differs in wording."
    name, scene, _ = next(_test_scenes(skill, key))
    states = (_states_any if split == "first" else _states_all)(NEEDED[skill])
    found = _worded(WORDINGS[split], scene, skill, name, states)
    if found is None:
        raise DataError(f"split: {split!r} has no wording of scene {name!r} that tests its skill")
    return Prompt(*found, scene, skill, NEEDED[skill], name)


def _held_out_prompt(split, skill, key):
    "A dense prompt with something held out, or, for a split that ends in `_known`, without it."
    how, known = HELD_OUT[split.removesuffix("_known")], split.endswith("_known")
    decides = tuple(dict.fromkeys((*NEEDED[skill], how.what)))
    for name, scene, rng in _test_scenes(skill, key):
        pair = how.put(scene, rng)
        if pair is None:
            continue
        scene, other = pair if known else pair[::-1]
        states = _states_new(decides, scene, other, how.what)
        found = _worded(WORDINGS["dense"], scene, skill, name, states)
        if found:
            return Prompt(*found, scene, skill, decides, name)
    raise DataError(f"split: {split!r} finds no scene for skill {skill!r}")


def split(name: str, per_skill: int = 100, seed: int = 0, sealed: bool = False) -> list[Prompt]:
    """`per_skill` prompts for each of the seven skills: of the split `name`, one of `SPLITS`.

    All splits that differ in wording are about the same scenes, which training never has. 'dense',
    'lower' and 'first' (its first sentence) start from the same caption. 'pairs', 'layouts' and
    'signs' put something into these scenes that training never meets, share as many prompts among
    the skills in which that can be, and count its facts among those that decide; 'pairs_known'
    and so on are their controls: the same scenes, graded alike, without it.

    `sealed`: the test set whose scores go into tables; no choice may be made by it. By default
    the development set. Raises `DataError` for an unknown split. Our choice."""
    if name not in SPLITS:
        raise DataError(f"split: {name!r} is unknown; choose one of {', '.join(SPLITS)}")
    plain = name in WORDINGS
    skills = SKILLS if plain else HELD_OUT[name.removesuffix("_known")].skills
    prompt = _plain_prompt if plain else _held_out_prompt
    part = "sealed" if sealed else "development"
    counts = _counts(skills, per_skill * len(SKILLS))
    return [prompt(name, s, f"{part} {seed} {s} {i}") for s in skills for i in range(counts[s])]
