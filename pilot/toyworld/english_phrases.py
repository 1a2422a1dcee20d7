"""English phrases about a scene that keep count of the facts, frames and words they use."""

import re
from typing import NamedTuple

from . import english_frames
from .english_words import PLURALS, POOLS, with_article
from .world import Fact, place_name, related_pairs

WORD = "\ue000"  # stands for the word on a sign until letter case is settled
QUOTES = (('"', '"'), ("\u201c", "\u201d"), ("'", "'"))
# The same relation told from the other side.
INVERSE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "inside": "around",
    "around": "inside",
}


class Sentence(NamedTuple):
    "A sentence with the facts that it states and the ids of the frames and words that it uses."

    text: str
    facts: tuple
    frames: tuple
    words: tuple


def tidy(text: str) -> str:
    "The text with 'a' and 'an' put right, and no 'medium-sized in size'."
    return with_article(text).replace("sized in size", "sized")


def first_capital(text: str) -> str:
    "The text with a capital at its start."
    return text[:1].upper() + text[1:]


class Writer:
    """Writes about one scene. Phrases add to the facts, frames and words of the sentence at hand;
    `end` closes it."""

    def __init__(self, scene, rng, wording):
        self.scene, self.rng, self.wording = scene, rng, wording
        self.sentences, self.usual = [], {}
        self.groups = scene.groups
        self.told_frames = set()
        self.tight = False  # do only short words go with a noun?
        self.tags = False  # are nouns parts of a list of tags?
        self.pairs = related_pairs(scene)
        self.start()

    def start(self):
        "Forget the sentence at hand."
        self.facts, self.frames, self.used = {}, [], []

    def end(self, text: str, stop: str = "."):
        "Close the sentence at hand with this text."
        text = first_capital(tidy(text)) + stop
        told = tuple(self.facts), tuple(self.frames), tuple(self.used)
        self.sentences.append(Sentence(text, *told))
        self.start()

    def chance(self, p: float) -> bool:
        "True with probability p."
        return self.rng.random() < p

    def fact(self, what: str, *args):
        "Note a fact as stated."
        self.facts[Fact(what, args)] = True

    def word(self, meaning: str, keep: float = 0.0) -> str:
        "A word for a meaning; with probability `keep` the one that was used last."
        if meaning in self.usual and self.chance(keep):
            word = self.usual[meaning]
        else:
            word = POOLS[meaning][self.wording].pick(self.rng)
            for _ in range(9):  # a night full of stars is no place to count a star
                if not ("star" in word and meaning.endswith("night") and "star" in self.groups):
                    break
                word = POOLS[meaning][self.wording].pick(self.rng)
        self.usual[meaning] = word
        self.used.append(f"{meaning}/{word}")
        return word

    def frame(self, table: str, slots: dict, many: bool = False, near: bool = False) -> str:
        "A frame of a table, filled in."
        pool = english_frames.POOLS[table][self.wording]
        name, parts = pool.pick(self.rng)
        if table not in english_frames.PHRASES:
            for _ in range(4):  # not the same sentence twice
                if name not in self.told_frames:
                    break
                name, parts = pool.pick(self.rng)
            self.told_frames.add(name)
        self.frames.append(name)
        return english_frames.fill(parts, slots, many, near)

    # ---- words about kinds
    def noun(self, kind, n):
        "A name of a kind, singular or plural."
        word = self.word(kind, 0.85)
        return word if n == 1 else PLURALS[word]

    def color(self, kind):
        "The colour of a kind that has one."
        color = self.groups[kind][0].color
        self.fact("color", kind, color)
        return self.word(color, 0.75)

    def size(self, kind):
        "The size of a kind."
        size = self.groups[kind][0].size
        self.fact("size", kind, size)
        return self.word(size, 0.4)

    def place(self, kind, of=0.2):
        "The place of the only thing of a kind; with probability `of`, 'of the picture'."
        thing = self.groups[kind][0]
        row, column = place_name(thing.x, thing.y)
        self.fact("place", kind, row, column)
        tail = f" of the {self.rng.choice(PICTURE)}" if self.chance(of) else ""
        return self.word(f"{row} {column}") + tail

    def mixed(self, kind):
        "Has the kind several colours?"
        return len({t.color for t in self.groups[kind]}) > 1

    def counted(self, kind):
        "Note the kind and its number as stated."
        self.fact("object", kind)
        self.fact("count", kind, len(self.groups[kind]))

    # ---- noun phrases
    def thing(self, kind, attrs, bare=False):
        """'two small red cats': the kind with its number and those of 'color' and 'size' that are
        in `attrs`; without an article if `bare`."""
        n = len(self.groups[kind])
        self.counted(kind)
        if self.mixed(kind) and "color" in attrs:
            return self._colors(kind, "size" in attrs)
        number = lambda: "" if bare and n == 1 else self.word(str(n)) + " "
        return self._noun_phrase(kind, n, attrs, number, lambda: self.color(kind))

    def _noun_phrase(self, kind, n, attrs, number, color):
        what = [a for a in ("color", "size") if a in attrs and not (a == "size" and kind == "ring")]
        slots = {
            "size": lambda: self.size(kind),
            "color": color,
            "noun": lambda: self.noun(kind, n),
        }
        if not what:
            return number() + self.noun(kind, n)
        slots["n"] = lambda: number().rstrip()
        style = " tight" if self.tight else " bare" if self.tags else ""
        text = self.frame(f"noun {' '.join(what)}{style}", slots, n > 1)
        return " ".join(text.split()).replace("( ", "(")

    def _colors(self, kind, sized):
        "A group of two colours, told colour by colour."
        group = self.groups[kind]
        colors = dict.fromkeys(t.color for t in group)
        counts = [(c, sum(t.color == c for t in group)) for c in colors]
        self.fact("color", kind, *sorted(c for c, _ in counts))
        attrs = {"size"} if sized else ()
        number = lambda: self.word(str(len(group))) + " "
        slots = {
            "split": lambda: self._split(kind, counts, sized),
            "all": lambda: self._noun_phrase(kind, len(group), attrs, number, None),
            "parts": lambda: " and ".join(self._part(kind, c, n) for c, n in counts),
            "colors": lambda: " and ".join(self.word(c) for c, _ in counts),
            "noun": lambda: self.noun(kind, counts[-1][1]),
        }
        alone = len(self.groups) == 1 and not self.tight
        return self.frame("colors" if alone else "colors among", slots)

    def _part(self, kind, color, n):
        "'two red'"
        self.fact("count", kind, n, color)
        return f"{NUMBERS[n]} {self.word(color)}"

    def _split(self, kind, counts, sized):
        "'a red apple and two green ones'"
        (first, n), (second, m) = counts
        self.fact("count", kind, n, first)
        self.fact("count", kind, m, second)
        size = self.size(kind) + " " if sized and kind != "ring" else ""
        noun = self.noun(kind, n)
        other = ("one" if m == 1 else "ones") if self.chance(0.4) else self.noun(kind, m)
        number = lambda k: self.word(str(k))
        start = f"{number(n)} {size}{self.word(first)} {noun}"
        return f"{start} and {number(m)} {size}{self.word(second)} {other}"

    def the(self, kind, both=0.15):
        """A kind that was named before: 'the cat', 'the red cat', 'the two cats'; with probability
        `both`, 'both cats'."""
        n = len(self.groups[kind])
        self.fact("object", kind)
        if n == 1:
            self.fact("count", kind, 1)
        if n == 2 and self.chance(both):
            self.fact("count", kind, n)
            return f"both {self.noun(kind, n)}"
        if n > 1 and self.chance(0.4):
            self.fact("count", kind, n)
            return f"the {NUMBERS[n]} {self.noun(kind, n)}"
        color = self.color(kind) + " " if self.told(kind) and self.chance(0.3) else ""
        return f"the {color}{self.noun(kind, n)}"

    def told(self, kind):
        "Has the one colour of a kind been told in an earlier sentence?"
        if self.mixed(kind):
            return False
        fact = Fact("color", (kind, self.groups[kind][0].color))
        return any(fact in s.facts for s in self.sentences)

    def join(self, phrases: list) -> str:
        "'a, b and c'"
        if len(phrases) == 1:
            return phrases[0]
        slots = {"first": ", ".join(phrases[:-1]), "last": phrases[-1]}
        if len(phrases) > 2 and self.chance(0.6):
            return f"{slots['first']}{',' if self.chance(0.5) else ''} and {slots['last']}"
        return self.frame("join", slots)

    # ---- settings and signs
    def setting_slots(self):
        "Slots 'where', 'scene', 'back' and 'tag' that state the setting."
        setting = self.scene.setting

        def phrase(form):
            self.fact("setting", setting)
            return self.word(f"{form} {setting}")

        forms = ("where", "scene", "back", "tag")
        return {form: (lambda form=form: phrase(form)) for form in forms}

    def sign_slots(self, quoted=True):
        "Slots 'board', 'word', 'color' and 'at' of the sign."
        sign = self.scene.sign

        def word():
            self.fact("word", sign.word)
            i = self.rng.choices((0, 1, 2), (8, 2, 1))[0]
            return WORD.join(QUOTES[i]) if quoted else WORD

        def color():
            self.fact("word color", sign.color)
            return self.word(sign.color)

        def at():
            self.fact("word place", sign.place)
            return self.word(f"sign {sign.place}")

        return {
            "board": lambda: self.word("sign board", 0.8),
            "word": word,
            "color": color,
            "at": at,
        }

    # ---- relations
    def relation(self, pair, name, table=None):
        """A sentence or phrase that tells how the two things of a pair of `related_pairs` lie;
        `name(kind)` gives the noun phrases. `table`: prefix of the tables of frames."""
        a, r, b = pair
        self.fact("relation", a.kind, r, b.kind)
        if r == "around":
            a, b = b, a
        if r in ("inside", "around"):
            return self._close(a, b, self.free(f"{table} ring") if table else "inside", name)
        if r == "overlapping":
            frames = self.free(f"{table} overlap") if table else "overlapping"
            return self._close(a, b, frames, name)
        if self.chance(0.5):
            a, r, b = b, INVERSE[r], a
        slots = {"a": lambda: name(a.kind), "b": lambda: name(b.kind), "rel": lambda: self.word(r)}
        if table:
            inverse = lambda: self.word(INVERSE[r])
            return self.frame(self.free(f"{table} pair"), slots | {"inverse": inverse})
        return self.frame("relation", slots)

    def _close(self, a, b, table, name):
        slots = {"a": lambda: name(a.kind), "b": lambda: name(b.kind)}
        for meaning in ("inside", "around", "overlapping", "overlapped"):
            slots[meaning] = lambda meaning=meaning: self.word(meaning)
        return self.frame(table, slots)

    def free(self, table):
        "The table to use for a phrase that may have to stand in another."
        return table


_MANY = re.compile(
    r"(two|three|four|[234]|a (pair|couple|duo|trio|group|quartet|set) of"
    r"|the letters|([\w-]+ ){1,2}letters)\b"
)


def starts_plural(text: str) -> bool:
    "Is the first thing that a list names plural?"
    return bool(_MANY.match(text))


PICTURE = ("picture", "picture", "image", "frame", "scene")
NUMBERS = ("", "one", "two", "three", "four")
