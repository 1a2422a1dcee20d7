"""Write the text encoder of a training run: python export_lm.py RUN OUT"""

import json
import sys
from pathlib import Path

import torch
from toyworld.encoder import WordEncoder
from toyworld.tokenizer import WordTokenizer

from lens_ref.text.gpt_oss import GptOss, TextConfig


def export(run, out, layers=(1, 3, 5), max_length=224) -> WordEncoder:
    "The encoder of the last checkpoint of a run, saved in `out`."
    run = Path(run)
    model = GptOss(TextConfig.from_dict(json.loads((run / "sizes.json").read_text("utf8"))))
    saved = torch.load(run / "run.pt", map_location="cpu")
    model.load_state_dict(saved["model"])
    encoder = WordEncoder(model, WordTokenizer.load(run / "tokenizer.json"), layers, max_length)
    encoder.save(out)
    print(f"step {saved['step']}, {saved['tokens'] / 1e6:.2f} million tokens")
    return encoder


if __name__ == "__main__":
    export(*sys.argv[1:3])
