"""Phrases in French and Spanish that agree in gender and number, and note what they state.

The words and frames of the languages are tables in `fr` and `es`; `romance_captions` makes captions
of the phrases. All of this is our choice.
"""

import functools
import re
from dataclasses import dataclass
from typing import Callable, NamedTuple

from .world import ROWS, Fact, close_together, place_name, related_pairs

MS, FS, MP, FP = range(4)  # masculine and feminine, singular and plural: the form of a phrase
INVERSE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "inside": "around",
    "around": "inside",
    "front": "behind",
    "behind": "front",
}


class Noun(NamedTuple):
    "A noun with its plural; `diminutive` ones are not used of large things."

    singular: str
    plural: str
    feminine: bool
    diminutive: bool


class Adjective(NamedTuple):
    """Four forms: masculine and feminine singular, masculine and feminine plural. `before`: it
    precedes its noun; `predicate`: "the cat is ..." may use it."""

    forms: tuple
    before: bool
    predicate: bool


class Phrase(NamedTuple):
    "Words and the form (MS, FS, MP, FP) in which a verb or an adjective agrees with them."

    text: str
    form: int


@dataclass(frozen=True)
class Grammar:
    """The words and frames of a language. Lists of synonyms begin with the commonest.

    `articles`: "a", "one" (alone: "uno"), "the" and "some", by form. `groups`: {n: [(words,
    feminine)]} such as "a pair of". `frames`: {kind of frame: [(name, template)]}; templates have
    slots in braces and alternatives in brackets, singular|plural or all four forms. `smooth` joins
    what runs together (du, l', del)."""

    lang: str
    nouns: dict
    colors: dict
    sizes: dict
    places: dict
    corners: dict
    relations: dict
    sides: dict
    within: dict
    brief_within: dict
    backdrops: dict
    sign_places: dict
    numbers: tuple
    articles: dict
    groups: dict
    join: tuple
    others: tuple
    letters: tuple
    hue: tuple
    quotes: tuple
    frames: dict
    smooth: Callable


# ---- reading the tables
def _noun(text):
    word, gender, plural = text.split("|")
    return Noun(word.lstrip("~"), plural, gender == "f", word.startswith("~"))


def _adjective(text):
    bare = text.lstrip("<")
    forms = bare.split("/")
    if len(forms) == 1:
        forms = forms * 4
    elif len(forms) == 2:
        forms = [forms[0], forms[0], forms[1], forms[1]]
    return Adjective(tuple(forms), text.startswith("<"), not text.startswith("<<"))


def _table(text, read=str):
    lines = re.sub(r"\n\s+", " ", text.strip()).split("\n")  # indented lines go on with a row
    rows = (line.split(":", 1) for line in lines)
    return {key.strip(): [read(w.strip()) for w in words.split(";")] for key, words in rows}


def nouns(text: str) -> dict:
    """{kind: [Noun, ...]} from lines "cat: chat|m|chats; ~chaton|m|chatons"; "~" marks a
    diminutive."""
    return _table(text, _noun)


def adjectives(text: str) -> dict:
    """{key: [Adjective, ...]} from lines "green: vert/verte/verts/vertes; vert vif". One form:
    invariable; two: singular and plural. "<" precedes its noun, "<<" does nothing else."""
    return _table(text, _adjective)


def phrases(text: str) -> dict:
    'Lists of phrases from lines "key: one; another"; the key "top left" becomes (top, left).'
    table = _table(text)
    cells = [key for key in table if " " in key and key.split()[0] in ROWS]
    return {tuple(key.split()) if key in cells else key: words for key, words in table.items()}


def frames(text: str) -> dict:
    """{kind of frame: [(name, template), ...]} from blocks: a line "[kind]", then lines
    "name: template"."""
    out = {}
    for line in text.strip().split("\n"):
        if line.startswith("["):
            rows = out[line.strip("[]")] = []
        else:
            name, template = line.split(":", 1)
            rows.append((name.strip(), template.strip()))
    return out


@functools.lru_cache(maxsize=None)
def agreed(template: str, form: int) -> str:
    'A template in a form: "[est|sont]" -> "est"; "[placé|placée|placés|placées]" -> "placée".'

    def choose(match):
        options = match[1].split("|")
        return options[form >= MP] if len(options) == 2 else options[form]

    return re.sub(r"\[([^\]]*\|[^\]]*)\]", choose, template)


_WEIGHTS = {n: [sum(1 / (i + 1) for i in range(k + 1)) for k in range(n)] for n in range(1, 12)}


def pick(words: list, rng):
    "One of the synonyms; the first most often (weights 1, 1/2, 1/3, ...)."
    if len(words) == 1:
        return words[0]
    return rng.choices(words, cum_weights=_WEIGHTS[len(words)])[0]


def capital(text):
    "The first letter of a sentence, after quotes and signs, made a capital."
    for i, char in enumerate(text):
        if char.isalpha():
            return text[:i] + char.upper() + text[i + 1 :]
    return text


def count_words(text: str) -> int:
    "Words of a caption; quotes and marks are none."
    return len(re.findall(r"[\w'’-]*\w", text))


class Phrases:
    """Phrases about one scene that agree, each noting the facts that it states in `said` and the
    frames that it uses in `used`. `plain`: the commonest words only."""

    def __init__(self, grammar: Grammar, scene, rng, plain: bool = False):
        self.g, self.scene, self.rng, self.plain = grammar, scene, rng, plain
        self.said, self.used = {}, []
        self.groups = scene.groups
        self.placeable = not close_together(scene)
        self.pairs = related_pairs(scene)
        self._nouns, self._colors, self._sizes = {}, {}, {}

    def chance(self, p: float) -> bool:
        "True with probability `p`; never where words are to be plain."
        return not self.plain and self.rng.random() < p

    def say(self, what: str, *args):
        "Note that the text states this fact."
        self.said[Fact(what, args)] = None

    def pick(self, words: list):
        "A synonym; the commonest where words are to be plain."
        return words[0] if self.plain else pick(words, self.rng)

    def frame(self, kind: str, form: int = MS, **slots) -> str:
        "A sentence or phrase by a random frame of this kind, in the form of its subject."
        rows = self.g.frames[kind]
        for _ in range(3):  # rather not the same frame twice
            name, template = rows[0] if self.plain else self.rng.choice(rows)
            if f"{self.g.lang}.{kind}.{name}" not in self.used:
                break
        self.used.append(f"{self.g.lang}.{kind}.{name}")
        return agreed(template, form).format_map(slots)

    def noun(self, kind: str) -> Noun:
        "The name of a kind: one and the same throughout a caption."
        if kind not in self._nouns:
            words = self.g.nouns[kind]
            if kind in self.groups and self.groups[kind][0].size == "large":
                words = [w for w in words if not w.diminutive]
            self._nouns[kind] = self.pick(words)
        return self._nouns[kind]

    def color(self, color: str) -> Adjective:
        "The name of a colour: one and the same throughout a caption."
        if color not in self._colors:
            self._colors[color] = self.pick(self.g.colors[color])
        return self._colors[color]

    def _qualified(self, noun, form, color, size):
        "The noun with its adjectives: those that precede it, short ones, then those with 'de'."
        words = noun.plural if form >= MP else noun.singular
        chosen = [self.color(color)] if color else []
        if size and (noun, size) not in self._sizes:
            self._sizes[noun, size] = self.pick(self.g.sizes[size])
        chosen += [self._sizes[noun, size]] if size else []
        before = [a.forms[form] for a in chosen if a.before]
        behind = [a.forms[form] for a in chosen if not a.before]
        short = [w for w in behind if not w.startswith("de ")]
        long = [w for w in behind if w.startswith("de ")]
        return " ".join([*before, words, *short, self.g.join[1].join(long)]).rstrip()

    def item(self, kind: str, n: int, color=None, size=None, article: str = "a") -> Phrase:
        'A group of one colour: "deux petits chats rouges". `article`: a, the, some, bare.'
        noun = self.noun(kind)
        form = (n > 1) * 2 + noun.feminine
        words = self._qualified(noun, form, color, size)
        if article == "bare":
            return Phrase(words, form)
        if article == "a" and n > 1:
            if self.chance(0.1):
                head, feminine = self.pick(self.g.groups[n])
                return Phrase(f"{head} {words}", int(feminine))
            return Phrase(f"{self.g.numbers[n]} {words}", form)
        some = self.g.articles[article]
        # French: "des chats", but "de petits chats"
        head = some[form]
        if article == "some" and not words.startswith(noun.plural):
            head = self.g.articles.get("some before", head)
        return Phrase(f"{head} {words}", form)

    def _split(self, kind, colors, size):
        "A group of two colours: the number of all, then of each colour."
        noun, total = self.noun(kind), sum(colors.values())
        parts = []
        for color, n in colors.items():
            form = (n > 1) * 2 + noun.feminine
            head = self.g.numbers[n] if n > 1 else self.g.articles["one"][form]
            parts.append(f"{head} {self.color(color).forms[form]}")
        if total == 2 and self.chance(0.6):
            first, second = (self.color(c).forms[FS if noun.feminine else MS] for c in colors)
            tail = self.pick(self.g.others)[noun.feminine].format(a=first, b=second)
        else:
            tail = self.g.join[1].join(parts)
        words = self._qualified(noun, MP + noun.feminine, None, size)
        return Phrase(f"{self.g.numbers[total]} {words} ({tail})", MP + noun.feminine)

    def group(self, kind: str, color=True, size=True, article: str = "a") -> list[Phrase]:
        """A group with its number, colours and size, each if wanted: one phrase, or two if its
        colours differ. Notes what they state."""
        things = self.groups[kind]
        size = things[0].size if size and kind != "ring" else None
        self.say("object", kind)
        if article == "a":
            self.say("count", kind, len(things))
        if size:
            self.say("size", kind, size)
        if not color:
            return [self.item(kind, len(things), None, size, article)]
        colors = {}
        for t in things:
            colors[t.color] = colors.get(t.color, 0) + 1
        self.say("color", kind, *sorted(colors))
        if len(colors) == 1:
            return [self.item(kind, len(things), things[0].color, size, article)]
        self.say("count", kind, len(things))
        for c, n in colors.items():
            self.say("count", kind, n, c)
        if self.chance(0.4):
            return [self._split(kind, colors, size)]
        return [self.item(kind, n, c, size) for c, n in colors.items()]

    def listed(self, items: list[Phrase]) -> Phrase:
        "Phrases joined as a list, with the form of all together."
        comma, last = self.g.join[0], self.pick(self.g.join[1:])
        if len(items) == 1:
            return items[0]
        text = comma.join(i.text for i in items[:-1]) + last + items[-1].text
        return Phrase(text, FP if all(i.form in (FS, FP) for i in items) else MP)

    def the(self, kind: str, color: float = 0.3) -> Phrase:
        'What was mentioned: "le chat", or "le chat rouge" with the given chance.'
        things = self.groups[kind]
        if len({t.color for t in things}) > 1 or not self.chance(color):
            return self.item(kind, len(things), article="the")
        color = things[0].color
        self.say("color", kind, color)
        if self.color(color).forms[MS].startswith("de "):  # too heavy to say again
            self._colors[color] = self.g.colors[color][0]
        return self.item(kind, len(things), color, article="the")

    def place(self, kind: str, table: dict = None) -> str:
        "Where the only thing of its kind is."
        t = self.groups[kind][0]
        name = place_name(t.x, t.y)
        self.say("place", kind, *name)
        return self.pick((table or self.g.places)[name])

    def setting(self, table: dict) -> str:
        "A phrase for the setting from one of the tables of it."
        self.say("setting", self.scene.setting)
        return self.pick(table[self.scene.setting])

    def relation(self, pair: tuple, form: int = MS) -> str:
        "The words between two things, agreeing with the first; a pair as `turned` gives it."
        return agreed(self.pick(self.g.relations[pair[1]]), form)

    def turned(self, pair: tuple) -> tuple:
        """A pair of `related_pairs` seen from one of its two sides, (kind, relation, kind); of two
        that overlap the one drawn later is in front."""
        a, r, b = pair
        self.say("relation", a.kind, r, b.kind)
        r = "behind" if r == "overlapping" else r
        if self.rng.random() < 0.5:
            return b.kind, INVERSE[r], a.kind
        return a.kind, r, b.kind

    def quoted(self) -> str:
        "The word of the sign in quotes."
        self.say("word", self.scene.sign.word)
        return self.pick(self.g.quotes).format(self.scene.sign.word)

    def lettering(self) -> str:
        'The colour of the word: "en lettres rouges", "en rouge".'
        color = self.scene.sign.color
        self.say("word color", color)
        if self.chance(0.55):
            return self.pick(self.g.letters).format(self.color(color).forms[FP])
        first, *others = (a.forms for a in self.g.colors[color])
        names = [first, *(f for f in others if len(set(f)) == 1 and not f[0].startswith("de "))]
        return self.pick(self.g.hue).format(self.pick(names)[MS])

    def board(self) -> str:
        "The sign itself: 'un panneau'."
        return self.item("sign", 1).text

    def board_place(self) -> str:
        "Where the sign is."
        self.say("word place", self.scene.sign.place)
        return self.pick(self.g.sign_places[self.scene.sign.place])
