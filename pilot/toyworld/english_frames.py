"""How the sentence frames of the English captions are chosen and filled in."""

import re

from .english_frames_dense import DENSE
from .english_frames_more import BRIEF, SETTINGS
from .english_words import choices, kept_back
from .world import SETTINGS as SETTING_NAMES

TABLES = DENSE | SETTINGS | BRIEF
# Phrases within a sentence.
_PHRASE = ("noun", "colors", "join", "placed", "both", "brief tags")
PHRASES = tuple(t for t in TABLES if t.startswith(_PHRASE))


def _compiled(text):
    """A frame as a list of strings and of (kind, ...) tuples: ('slot', name), ('number', one, many),
    ('near', one, many)."""
    parts = []
    for piece in re.split(r"(\{\w+\}|\[[^]]*\]|<[^>]*>)", text):
        if piece.startswith("{"):
            parts.append(("slot", piece[1:-1]))
        elif piece.startswith(("[", "<")):
            one, many = piece[1:-1].split("|")
            parts.append(("number" if piece[0] == "[" else "near", one, many))
        elif piece:
            parts.append(piece)
    return parts


def frame_id(table: str, text: str) -> str:
    "Name of a frame; frames that differ in punctuation alone share it."
    return f"{table}: {' '.join(re.sub(r'[,.:;()-]', ' ', text).split())}"


def _weighted(line):
    "'3 text' -> (3, 'text'); without a number the weight is 1."
    weight, _, rest = line.partition(" ")
    return (float(weight), rest) if weight.isdigit() else (1.0, line)


def _pools(table, held):
    "The `Choice` of (id, parts, slots) of a table under each wording."
    lines = [_weighted(line) for line in TABLES[table].strip().split("\n")]
    items = [(frame_id(table, text), _compiled(text)) for _, text in lines]
    weights = [weight for weight, _ in lines]
    pools = choices(items, weights, [name in held for name, _ in items])
    # A test of other sentences has phrases and asides of all kinds, as common as they are.
    asides = (*PHRASES, *SETTING_NAMES)
    other = pools["all" if table in asides or table.startswith("filler") else "held out"]
    return {
        "train": pools["train"],
        "synonyms": pools["train"],
        "all": pools["all"],
        "other": other,
    }


def _ids(table):
    "The distinct frames of a table, in order."
    lines = TABLES[table].strip().split("\n")
    return list(dict.fromkeys(frame_id(table, _weighted(line)[1]) for line in lines))


FRAMES = {table: _ids(table) for table in TABLES}
HELD_OUT_FRAMES = frozenset(name for ids in FRAMES.values() for name in kept_back(ids, 1))
POOLS = {table: _pools(table, HELD_OUT_FRAMES) for table in TABLES}


def fill(parts: list, slots: dict, many: bool = False, near: bool = False) -> str:
    """The text of a frame. `slots`: name -> string or function; only functions that the frame has
    a slot for are called, in order of the text. `many`, `near`: is the subject, is the first thing
    plural?"""
    out = []
    for part in parts:
        if part.__class__ is str:
            out.append(part)
        elif part[0] == "slot":
            value = slots[part[1]]
            out.append(value if value.__class__ is str else value())
        else:
            plural = many if part[0] == "number" else near
            out.append(part[2] if plural else part[1])
    return "".join(out)
