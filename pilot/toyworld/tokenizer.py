"""An uncased byte-level BPE of words, in which a sign's word is spelled letter by letter."""

import re
import unicodedata

from lens_ref.core.config import ConfigError, DataError
from lens_ref.text.tokenizer import CJK, CONTROL, TextTokenizer, train_words

LATIN = r"[A-Za-zÀ-ÖØ-öø-ɏ]"
OPENING, CLOSING = '"“”„«‹「『', '"“”»›」』'
MARK = r"[.,!?。，、！？]?"
# A word of up to 12 letters in quotes; single quotes only where they are no apostrophes.
QUOTED = re.compile(
    rf"[{OPENING}]\s?({LATIN}{{1,12}})({MARK})\s?[{CLOSING}]"
    rf"|(?<!\w)['‘]({LATIN}{{1,12}})({MARK})['’](?!\w)"
)
WORD = re.compile(rf"(?<![{LATIN[1:-1]}\d'’]){LATIN}{{2,12}}(?![{LATIN[1:-1]}\d]|['’]{LATIN})")
STRAIGHT = str.maketrans("“”„«»‹›「」『』‘’", '"""""""""""' + "''")

# The pieces inside which merges stay: one character where no spaces are written, one capital of a
# spelled word, a word with the space before it, and apart from it what hangs on it: "l'", "-left".
LETTER = rf"(?:(?!{CJK})[\p{{L}}\p{{M}}])"
ELISION = rf" ?(?:[cdjlmnst]|qu|jusqu|lorsqu|puisqu)'(?={LETTER})"
REST = r" ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]|\s+"
PIECES = rf"{CJK}|\p{{Lu}}|{ELISION}| ?{LETTER}+|['-]{LETTER}+|{REST}"


def spelled(word: str) -> str:
    "A sign's word as the tokenizer takes it, the same whichever quotes it came in."
    return f' "{word.upper()}"'


def _uncased(text: str, mixed: bool) -> str:
    "Text outside quotes in lower case; where cases are `mixed`, words in capitals are spelled."
    parts, last = [], 0
    for found in WORD.finditer(text) if mixed else ():
        if found[0].isupper():
            parts += [text[last : found.start()].lower(), spelled(found[0])]
            last = found.end()
    return "".join([*parts, text[last:].lower()]).translate(STRAIGHT)


def normalise(text: str) -> str:
    """What is tokenised: lower case, straight quotes, single spaces, one space in front of a word
    that begins the text, and sign words spelled in capitals within quotes (our choice).

    A sign's word is one of up to 12 letters in quotes of any kind and either case, or one of two
    or more capitals in a text whose other words are not all in capitals. So `a sign "open"` and
    `a sign OPEN` are the same text, and `CAT` is `cat`. No normaliser of the `tokenizers` library
    can write capitals, so this is done before it."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    parts = [p or "" for p in QUOTED.split(text)]
    outside = parts[::5]
    mixed = any(c.isalpha() and not c.isupper() for part in outside for c in part)
    out = []
    for i, part in enumerate(outside):
        out.append(_uncased(part, mixed))
        if i < len(outside) - 1:
            double, mark, single, other = parts[5 * i + 1 : 5 * i + 5]
            out.append(spelled(double or single) + mark + other)
    text = " ".join("".join(out).split())
    return f" {text}" if text and not re.match(r"[\u3000-\u30ff\u4e00-\u9fff]", text) else text


class WordTokenizer(TextTokenizer):
    """Byte-level BPE on `normalise`d text, tokens span no phrases, with the toy's chat template
    `<|start|>user<|message|>{prompt}<|end|>`. What no word needs is still written in bytes.

    Raises `ConfigError` if the vocabulary lacks a control token."""

    @classmethod
    def train(cls, texts, vocab_size: int = 3072, min_count: int = 2) -> "WordTokenizer":
        """Learn merges until every piece that occurs `min_count` times is one token, or there are
        `vocab_size` of them. texts: list of str.

        Raises `ConfigError` for too small a vocabulary, `DataError` without texts."""
        least = 256 + len(CONTROL)
        if vocab_size < least:
            raise ConfigError(
                f"vocab_size: {vocab_size} is below the {least} byte and control tokens"
            )
        texts = [normalise(t) for t in texts]
        if not texts:
            raise DataError("texts: no captions to train a tokenizer on")
        texts += [" user assistant"] * min_count  # the roles of the template are one token each
        return cls(train_words(texts, vocab_size, PIECES, min_count))

    def encode(self, text: str) -> list:
        return self.bpe.encode(normalise(text), add_special_tokens=False).ids

    def decode(self, ids) -> str:
        "The text in lower case, without the space that `normalise` put in front."
        return self._text(ids).removeprefix(" ")

    def pieces(self, text: str) -> list:
        "The text of each token with its space; part of a character shows as �."
        return [self._text([i]) for i in self.encode(text)]

    def _text(self, ids) -> str:
        return self.bpe.decode(list(ids), skip_special_tokens=False)

    def turn(self, role: str, text: str) -> list:
        "Token ids of one message of a conversation: `<|start|>{role}<|message|>{text}<|end|>`."
        return [*self.opening(role), *self.encode(text), self.end]

    def opening(self, role: str) -> list:
        "Token ids after which a message of `role` is to be written."
        return [self.start, *self.encode(role), self.message]
