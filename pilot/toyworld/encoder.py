"""The toy's text encoder with the tokenizer of words; all of the model is kept, to answer."""

from pathlib import Path

import torch

from lens_ref.text.encoders import TextEncoder

from .tokenizer import WordTokenizer


class WordEncoder(TextEncoder):
    """`TextEncoder` whose tokenizer is a `WordTokenizer`: encode(list of prompts) -> (list of
    float [B, S, D], one for each layer read; mask bool [B, S]).

    `save` writes the layers above the last one read and the head too, so that the model can also
    write: `answer`."""

    def _used(self, key: str) -> bool:
        return True

    @classmethod
    def load(cls, folder) -> "WordEncoder":
        "Read what `save` wrote, as float32. `CheckpointError` names the file that is wrong."
        read = TextEncoder.load(folder)
        tokenizer = WordTokenizer.load(Path(folder) / "tokenizer.json")
        return cls(read.model, tokenizer, read.layers, read.max_length)

    @torch.no_grad()
    def answer(self, *messages: str, most: int = 160) -> str:
        """The assistant's reply to the user's messages, the most likely token each time.

        As trained: a caption, and then what to do with it, such as "in French", "in plain words",
        "describe it in detail" or a question. most: tokens at most."""
        t = self.tokenizer
        ids = [i for m in messages for i in t.turn("user", m)] + t.opening("assistant")
        start = len(ids)
        while len(ids) - start < most:
            logits = self.model(torch.tensor([ids], device=self.device))
            best = int(logits[0, -1].argmax())
            if best == t.end:
                break
            ids.append(best)
        return t.decode(ids[start:])
