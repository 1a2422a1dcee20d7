"""Captions of scenes in five languages, each with the facts that it states."""

import importlib

from lens_ref.core.config import DataError

from . import english, english_brief
from .english_brief import alt_text  # noqa: F401
from .english_words import WORDINGS
from .world import SKILLS

LANGUAGES = ("en", "zh", "fr", "ja", "es")
# The kinds of fact that decide whether a picture passes a test of a skill (as in GenEval).
NEEDED = {
    "single": ("object",),
    "two": ("object",),
    "counting": ("count",),
    "colors": ("color",),
    "position": ("object", "relation"),
    "attribute": ("object", "color"),
    "text": ("word",),
}


class Caption(str):
    """A caption that knows what it states. `facts`: the `Fact`s of the scene that a reader could
    check; `frames`, `words`: ids of the sentence frames and of the synonyms ('cat/kitten') that it
    uses; `sentences`: a `Caption` of each sentence."""

    def __new__(cls, text, facts=(), frames=(), words=(), sentences=()):
        self = super().__new__(cls, text)
        self.facts, self.frames, self.words = tuple(facts), tuple(frames), tuple(words)
        self._sentences = tuple(sentences)
        return self

    @property
    def sentences(self) -> tuple:
        "A `Caption` for each sentence (English only; elsewhere the whole)."
        return self._sentences or (self,)

    def __reduce__(self):
        return Caption, (str(self), self.facts, self.frames, self.words, self._sentences)


def _once(parts):
    "The items of tuples, each once, in order."
    return tuple(dict.fromkeys(item for part in parts for item in part))


def _caption(sentences):
    "A `Caption` from English sentences."
    parts = [Caption(*s) for s in sentences]
    if len(parts) == 1:
        return parts[0]
    fields = [_once([getattr(p, name) for p in parts]) for name in ("facts", "frames", "words")]
    return Caption(" ".join(parts), *fields, parts)


def _check(lang, wording):
    if lang not in LANGUAGES:
        raise DataError(f"lang: {lang!r} is unknown; choose one of {', '.join(LANGUAGES)}")
    if wording not in WORDINGS:
        raise DataError(f"wording: {wording!r} is unknown; choose one of {', '.join(WORDINGS)}")


def _language(lang):
    return importlib.import_module(f".{lang}", __package__)


def dense_caption(scene, rng, lang: str = "en", wording: str = "train") -> Caption:
    """A caption of most of the scene.

    Always stated: every kind with number and colour and what is written; mostly size, place,
    a relation or two, and the setting. `rng`: a `random.Random`. `wording` (English): 'train' has
    no held-out frame or synonym; 'all' may have any; 'other' has held-out frames; 'synonyms' has
    held-out words for kinds, colours, sizes, places and relations. Raises `DataError` for an
    unknown language or wording."""
    _check(lang, wording)
    if lang == "en":
        return _caption(english.dense(scene, rng, wording))
    return Caption(*_language(lang).dense(scene, rng))


def brief_caption(
    scene, rng, lang: str = "en", wording: str = "train", skill: str | None = None
) -> Caption:
    """A caption of 2 to 14 words (or nothing but the word on a sign) that leaves much unsaid.

    With `skill`, one of `SKILLS`, it states the facts that decide a pass (`NEEDED`): of numbers
    those of whole kinds, of relations one. Other arguments and errors as for `dense_caption`."""
    _check(lang, wording)
    if skill not in (None, *SKILLS):
        raise DataError(f"skill: {skill!r} is unknown; choose one of {', '.join(SKILLS)}")
    if lang == "en":
        return _caption(english_brief.brief(scene, rng, wording, skill))
    return Caption(*_language(lang).brief(scene, rng, skill=skill))


def first_sentence(caption: Caption, scene=None) -> Caption:
    "The first sentence of a caption, with the facts that it states."
    return caption.sentences[0]
