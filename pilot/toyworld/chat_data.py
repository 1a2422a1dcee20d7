"""Conversations about captions, from which a language model learns to read them and to answer."""

import random
from dataclasses import dataclass

from lens_ref.core.config import DataError

from .english_words import MEANINGS, PLURALS, with_article
from .wording import LANGUAGES, brief_caption, dense_caption
from .world import KINDS, SPRITES, Scene, sample_scene, scene_facts

NAMES = {"en": "English", "zh": "Chinese", "fr": "French", "ja": "Japanese", "es": "Spanish"}
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
OPPOSITE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "inside": "around",
    "around": "inside",
}


def common(meaning: str) -> str:
    "The most common English word for a meaning: 'medium' -> 'medium-sized'."
    return MEANINGS[meaning][0][0]


RELATIONS = {r: common(r) for r in OPPOSITE} | {"overlapping": "in front of"}


# ---- plain English
class Stated:
    "Facts by kind of fact, for writing and asking about them. `facts`: those a caption states."

    def __init__(self, facts):
        self.facts = tuple(dict.fromkeys(facts))
        seen = {
            f.args[0] for f in self.facts if f.what in ("object", "count", "color", "size", "place")
        }
        seen |= {k for f in self.facts if f.what == "relation" for k in (f.args[0], f.args[2])}
        self.kinds = [k for k in KINDS if k in seen]

    def of(self, what: str, kind: str | None = None) -> list:
        "The args of all facts of one sort, of one kind of thing if given (without the kind)."
        found = [f.args for f in self.facts if f.what == what]
        return found if kind is None else [a[1:] for a in found if a[0] == kind]

    def number(self, kind: str):
        "How many there are, or None if that is not stated."
        whole = [a[0] for a in self.of("count", kind) if len(a) == 1]
        return whole[0] if whole else None

    def colors(self, kind: str) -> tuple:
        "The colours of a kind; empty if not stated."
        found = self.of("color", kind)
        return found[0] if found else ()

    def by_color(self, kind: str) -> dict:
        "Numbers of each colour, where they are stated: {color: n}."
        return {a[1]: a[0] for a in self.of("count", kind) if len(a) == 2}

    def size(self, kind: str) -> str | None:
        "Small, medium or large; None if not stated."
        found = self.of("size", kind)
        return found[0][0] if found else None


def joined(words: list) -> str:
    "'a', 'a and b', 'a, b and c'."
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def several(stated: Stated, kind: str) -> bool:
    "Is there more than one, as far as is stated?"
    return (stated.number(kind) or 1) > 1 or len(stated.colors(kind)) > 1


def noun(kind: str, many: bool = False) -> str:
    "The common word for a kind."
    return PLURALS[common(kind)] if many else common(kind)


def things(stated: Stated, kind: str) -> str:
    "All of one kind: 'two small red cats', 'three cats (two red and one blue)'."
    n, colors, many = stated.number(kind), stated.colors(kind), several(stated, kind)
    words = [NUMBERS[n] if n and n > 1 else "some" if many else "a"]
    size, parts = stated.size(kind), stated.by_color(kind)
    words += [common(size)] if size else []
    if len(colors) == 1 or not parts:
        words += [joined(list(colors))] if colors else []
    text = with_article(" ".join([*words, noun(kind, many)]))
    if len(colors) != 1 and parts:
        text += f" ({joined([f'{NUMBERS[parts[c]]} {c}' for c in sorted(parts)])})"
    return text


def sign_sentence(stated: Stated) -> list:
    "A sentence on the sign, as a list of none or one."
    word, color, place = (stated.of(w) for w in ("word", "word color", "word place"))
    if not word + color + place:
        return []
    where = f" at the {place[0][0]}" if place else ""
    says = f' says "{word[0][0]}"' if word else " has a word"
    return [f"A sign{where}{says}" + (f" in {color[0][0]}." if color else ".")]


def related(a: str, relation: str, b: str) -> str:
    "'The cat is above the dog.' Of two that overlap the second is in front."
    if relation == "overlapping":
        a, b = b, a
    return f"The {noun(a)} is {RELATIONS[relation]} the {noun(b)}."


def plain_caption(facts) -> str:
    """The facts in plain English: the most common words, one frame for each, in a fixed order."""
    stated = Stated(facts)
    where = [common(f"where {a[0]}") for a in stated.of("setting")]
    out = []
    if stated.kinds:
        there = joined([things(stated, k) for k in stated.kinds])
        is_are = "There are" if several(stated, stated.kinds[0]) else "There is"
        out.append(" ".join([is_are, there, *where[:1]]) + ".")
    elif where:
        out.append(f"The picture is set {where[0]}.")
    for kind in stated.kinds:
        out += [f"The {noun(kind)} is {common(' '.join(p))}." for p in stated.of("place", kind)]
    facts = [_ordered(*args) for args in stated.of("relation")]
    out += [related(*args) for args in sorted(dict.fromkeys(facts), key=_pair_order)]
    return " ".join([*out, *sign_sentence(stated)])


def _pair_order(related):
    "Places in the world's list of the two kinds of a relation, to sort by."
    return list(KINDS).index(related[0]), list(KINDS).index(related[2])


def _ordered(a, relation, b):
    "The same relation, told of the kind that comes first in the world's list."
    if relation == "overlapping" or list(KINDS).index(a) < list(KINDS).index(b):
        return a, relation, b
    return b, OPPOSITE[relation], a


# ---- questions
def _number_questions(stated, kind):
    n, parts = stated.number(kind), stated.by_color(kind)
    out = [(f"how many {noun(kind, True)} are there?", NUMBERS[n])] if n else []
    return out + [
        (f"how many {c} {noun(kind, True)} are there?", NUMBERS[k]) for c, k in parts.items()
    ]


def _color_questions(stated, kind):
    n, colors = stated.number(kind) or 1, stated.colors(kind)
    verb, name = ("are", noun(kind, True)) if n > 1 else ("is", noun(kind))
    out = [(f"what color {verb} the {name}?", joined(sorted(colors)) if colors else "not said")]
    if len(colors) == 1 and sum(colors[0] in stated.colors(k) for k in stated.kinds) == 1:
        if all(stated.colors(k) for k in stated.kinds):
            out.append((f"what is {colors[0]}?", f"the {name}"))
    return out


def _size_questions(stated, kind):
    size, n = stated.size(kind), stated.number(kind) or 1
    verb, name = ("are", noun(kind, True)) if n > 1 else ("is", noun(kind))
    out = [(f"how big {verb} the {name}?", common(size) if size else "not said")]
    if size and all(stated.size(k) for k in stated.kinds):
        if sum(stated.size(k) == size for k in stated.kinds) == 1:
            out.append((f"what is {common(size)}?", f"the {name}"))
    return out


def _place_questions(stated, kind):
    out = []
    for place in stated.of("place", kind):
        name = common(" ".join(place))
        out.append((f"where is the {noun(kind)}?", name))
        out.append((f"what is {name}?", f"the {noun(kind)}"))
    return out


def _relation_questions(stated):
    out = []
    for a, relation, b in stated.of("relation"):
        back = OPPOSITE.get(relation, "behind")
        if relation == "overlapping":
            a, b = b, a
        for x, how, y in ((a, RELATIONS[relation], b), (b, RELATIONS.get(back, back), a)):
            out.append((f"where is the {noun(x)} from the {noun(y)}?", how))
            rivals = [r for r in stated.of("relation") if y in (r[0], r[2])]
            if len(rivals) == 1:
                out.append((f"what is {how} the {noun(y)}?", f"the {noun(x)}"))
    return out


def _sign_questions(stated):
    out = [("what does the sign say?", f'"{w}"') for (w,) in stated.of("word")]
    out += [("what color is the word?", c) for (c,) in stated.of("word color")]
    return out + [("where is the sign?", f"at the {p}") for (p,) in stated.of("word place")]


def questions(facts, rng) -> list:
    """Questions on what a caption states, in the most common words and in random order, each with
    its one answer and the sort of fact it is about: [(question, answer, sort), ...]."""
    stated, out = Stated(facts), {}
    for kind in stated.kinds:
        out.setdefault("count", []).extend(_number_questions(stated, kind))
        out.setdefault("color", []).extend(_color_questions(stated, kind))
        out.setdefault("size", []).extend(_size_questions(stated, kind) if kind != "ring" else [])
        out.setdefault("place", []).extend(_place_questions(stated, kind))
    out["relation"], out["sign"] = _relation_questions(stated), _sign_questions(stated)
    out["setting"] = [("where is this?", common(f"where {s}")) for (s,) in stated.of("setting")]
    if stated.kinds:
        names = [noun(k, several(stated, k)) for k in stated.kinds]
        out["object"] = [("what is there?", joined(names))]
    absent = [k for k in SPRITES if k not in stated.kinds]
    asked = rng.choice(stated.kinds) if stated.kinds and rng.random() < 0.5 else rng.choice(absent)
    answer = "yes" if asked in stated.kinds else "no"
    out.setdefault("object", []).append((with_article(f"is there a {noun(asked)}?"), answer))
    every = [(q, a, sort) for sort, pairs in out.items() for q, a in pairs]
    unsaid = [x for x in every if x[1] == "not said"]
    said = [x for x in every if x[1] != "not said"]
    rng.shuffle(said)
    return said + ([rng.choice(unsaid)] if unsaid and rng.random() < 0.3 else [])


# ---- conversations
@dataclass(frozen=True)
class Conversation:
    """Messages as (role, text), the first a caption; `task`: of `TASKS`; `sorts`: for each answer
    of "ask" the sort of fact it is about."""

    task: str
    messages: tuple
    lang: str = "en"
    sorts: tuple = ()


# Their shares in training (our choice).
TASKS = {"read": 8, "ask": 44, "reword": 22, "translate": 18, "wish": 8}
PLAINLY = ("in plain words", "say it in plain English", "rewrite it in simple words")
AT_LENGTH = ("describe it in detail", "write a detailed caption", "imagine the picture in detail")


def _caption(scene, rng, lang, dense: float):
    "A caption, dense with that probability."
    make = dense_caption if rng.random() < dense else brief_caption
    return make(scene, rng, lang, "all")


def _asked(scene, rng, lang):
    caption = _caption(scene, rng, lang, 0.75)
    some = questions(caption.facts, rng)[: rng.randint(4, 7)]
    rng.shuffle(some)
    messages = [("user", str(caption))]
    for question, answer, _ in some:
        messages += [("user", question), ("assistant", answer)]
    return Conversation("ask", tuple(messages), lang, tuple(sort for *_, sort in some))


def _pair(scene, rng, source, target):
    "Two captions of which the second states nothing that the first does not."
    for _ in range(6):
        one, two = _caption(scene, rng, source, 0.8), _caption(scene, rng, target, 0.4)
        if set(two.facts) <= set(one.facts):
            return str(one), str(two)
    two = _caption(scene, rng, target, 0.7)
    return plain_caption(two.facts), str(two)


def _translated(scene, rng, lang):
    target = rng.choice([x for x in LANGUAGES if x != lang])
    if lang == "en" and rng.random() < 0.7:
        two = _caption(scene, rng, target, 0.7)
        pair = plain_caption(two.facts), str(two)
    else:
        pair = _pair(scene, rng, lang, target)
    return _answered("translate", pair[0], f"in {NAMES[target]}", pair[1], lang)


def _answered(task, caption, wish, answer, lang):
    return Conversation(task, (("user", str(caption)), ("user", wish), ("assistant", answer)), lang)


def conversation(scene: Scene, rng, task: str, lang: str = "en") -> Conversation:
    """A conversation on a caption of `scene` in `lang`.

    read: the caption alone. ask: questions on what it states, in English. reword: the same facts in
    plain English. translate: into another language. wish: a brief caption, and a full description
    that fits it, in plain English. Raises `DataError` for an unknown task."""
    if task not in TASKS:
        raise DataError(f"task: {task!r} is unknown; choose one of {', '.join(TASKS)}")
    if task == "read":
        return Conversation(task, (("user", str(_caption(scene, rng, lang, 0.7))),), lang)
    if task == "ask":
        return _asked(scene, rng, lang)
    if task == "translate":
        return _translated(scene, rng, lang)
    if task == "reword":
        caption = _caption(scene, rng, lang, 0.7)
        return _answered(task, caption, rng.choice(PLAINLY), plain_caption(caption.facts), lang)
    brief = brief_caption(scene, rng, lang, "all")
    return _answered(task, brief, rng.choice(AT_LENGTH), plain_caption(scene_facts(scene)), lang)


def random_conversation(seed: int, number: int, part: str = "train") -> Conversation:
    """Conversation `number` of an endless list: half in English, half in the other languages.

    part: of the world (`world.PARTS`)."""
    rng = random.Random(f"{seed} {number}")
    task = rng.choices(list(TASKS), list(TASKS.values()))[0]
    lang = "en" if rng.random() < 0.5 else rng.choice(LANGUAGES[1:])
    return conversation(sample_scene(rng, part=part), rng, task, lang)
