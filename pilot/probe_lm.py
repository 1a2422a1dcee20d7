"""What a text encoder's features hold (linear and attention probes), and how its model answers.

python probe_lm.py RUN_FOLDER [--captions 3000] [--untrained]"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from toyworld.chat_data import Stated, conversation
from toyworld.encoder import WordEncoder
from toyworld.packed import states, norm
from toyworld.tokenizer import WordTokenizer
from toyworld.wording import LANGUAGES, brief_caption, dense_caption
from toyworld.world import COLORS, COLUMNS, KINDS, ROWS, SETTINGS, SIZES, sample_scene
from train_lm import tokens

from lens_ref.text.gpt_oss import GptOss, TextConfig

KIND_LIST = list(KINDS)[:-1]
PLACES = [(r, c) for r in ROWS for c in COLUMNS]
FIELDS = {"color": 8, "count": 4, "size": 3, "place": 9}


def labels(caption) -> dict:
    "Targets by field: kinds present [24], and {field: [24] class or -1}; setting; letters [4]."
    s = Stated(caption.facts)
    out = dict(kinds=[float(k in s.kinds) for k in KIND_LIST], setting=-1, letters=[-1] * 4)
    out |= {f: [-1] * len(KIND_LIST) for f in FIELDS}
    for i, k in enumerate(KIND_LIST):
        if len(s.colors(k)) == 1:
            out["color"][i] = list(COLORS).index(s.colors(k)[0])
        if s.number(k):
            out["count"][i] = s.number(k) - 1
        if s.size(k):
            out["size"][i] = list(SIZES).index(s.size(k))
        for place in s.of("place", k):
            out["place"][i] = PLACES.index(tuple(place))
    for (name,) in s.of("setting"):
        out["setting"] = SETTINGS.index(name)
    for (word,) in s.of("word"):
        out["letters"] = [ord(c) - 65 for c in word] + [-1] * (4 - len(word))
    distinct = {c for c in out["color"] if c >= 0}
    out["mixed"] = len(distinct) > 1
    return out


def dataset(encoder, captions, batch=64) -> dict:
    "Features of captions [N, S, layers * D] in bfloat16, their mask and labels."
    rows, masks = [], []
    longest = 0
    for i in range(0, len(captions), batch):
        f, m = encoder.encode([str(c) for c in captions[i : i + batch]])
        rows.append(torch.cat(f, -1).bfloat16())
        masks.append(m)
        longest = max(longest, m.shape[1])
    pad = lambda x: F.pad(x, (0, 0, 0, longest - x.shape[1]))
    made = [labels(c) for c in captions]
    out = {k: torch.tensor([m[k] for m in made]) for k in made[0]}
    features = torch.cat([pad(r) for r in rows])
    mask = torch.cat([F.pad(m, (0, longest - m.shape[1])) for m in masks])
    return out | dict(features=features, mask=mask)


class Probe(nn.Module):
    """Linear read-outs: of the mean over tokens (kinds, setting), and of what a query for a kind,
    or for a letter's place, attends to (one head a field)."""

    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.kinds, self.setting = nn.Linear(dim, len(KIND_LIST)), nn.Linear(dim, len(SETTINGS))
        self.queries = nn.ParameterDict(
            {f: nn.Parameter(torch.randn(24, dim) * 0.05) for f in FIELDS}
            | {"letters": nn.Parameter(torch.randn(4, dim) * 0.05)}
        )
        self.values = nn.ModuleDict(
            {f: nn.Linear(dim, n) for f, n in {**FIELDS, "letters": 26}.items()}
        )

    def forward(self, x, mask):
        x = self.norm(x.float())
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        out = dict(kinds=self.kinds(mean), setting=self.setting(mean))
        for field, query in self.queries.items():
            score = torch.einsum("bsd,kd->bks", x, query) * 0.3
            weight = score.masked_fill(~mask[:, None], -1e9).softmax(-1)
            out[field] = weight @ self.values[field](x)
        return out


def probe_loss(out, batch):
    "Sum over fields."
    total = F.binary_cross_entropy_with_logits(out["kinds"], batch["kinds"]) * 4
    for field in (*FIELDS, "letters", "setting"):
        target = batch[field].flatten()
        if (target >= 0).any():
            total = total + F.cross_entropy(out[field].flatten(0, -2), target, ignore_index=-1)
    return total


def fit(data, steps=400, size=32):
    torch.manual_seed(0)
    probe = Probe(data["features"].shape[-1])
    opt = torch.optim.AdamW(probe.parameters(), lr=3e-3, weight_decay=0.05)
    for step in range(steps):
        i = torch.randint(len(data["mask"]), (size,))
        batch = {k: v[i] for k, v in data.items()}
        longest = int(batch["mask"].sum(1).max())
        loss = probe_loss(probe(batch["features"][:, :longest], batch["mask"][:, :longest]), batch)
        opt.zero_grad()
        loss.backward()
        for g in opt.param_groups:
            g["lr"] = 3e-3 * min(1, step / 50, (steps - step) / (0.5 * steps))
        opt.step()
    return probe


@torch.no_grad()
def accuracy(probe, data) -> dict:
    out, score = probe(data["features"], data["mask"]), {}
    right = ((out["kinds"] > 0) == (data["kinds"] > 0)).all(1)
    score["all kinds"] = right.float().mean().item()
    for field in (*FIELDS, "letters", "setting"):
        known = data[field] >= 0
        hit = out[field].argmax(-1) == data[field]
        if known.any():
            score[field] = hit[known].float().mean().item()
        if field == "color" and data["mixed"].any():
            known = known & data["mixed"][:, None]
            score["binding"] = hit[known].float().mean().item()
    return score


def captions(n, lang, wording, dense=True, seed=0, part="test"):
    rng = random.Random(f"probe {seed} {lang} {wording} {dense} {part}")
    make = dense_caption if dense else brief_caption
    return [make(sample_scene(rng, part=part), rng, lang, wording) for _ in range(n)]


@torch.no_grad()
def answers(model, tokenizer, lang, task, n=150) -> dict:
    "Share of answers that greedy decoding gets exactly, by sort of fact; nats per caption token."
    rng = random.Random(f"answers {lang} {task}")
    hits, caption, count = {}, 0.0, 0
    talks = [conversation(sample_scene(rng, part="test"), rng, task, lang) for _ in range(n)]
    for talk in talks:
        ids, _, marks = tokens(talk, tokenizer)
        ids, marks = torch.tensor([ids]), torch.tensor(marks[1:])
        hidden, _ = states(model, ids, torch.zeros_like(ids))
        logits = model.lm_head(norm(model.model.norm, hidden[-1]))[0, :-1]
        nll = F.cross_entropy(logits, ids[0, 1:], reduction="none")
        own = len(tokenizer.chat(talk.messages[0][1])) - 4
        caption, count = caption + nll[2 : 2 + own].sum().item(), count + own
        right = logits.argmax(-1) == ids[0, 1:]
        at, sorts = 0, iter(talk.sorts or (task,) * 9)
        for role, text in talk.messages:
            size = len(tokenizer.turn(role, text))
            if role == "assistant":
                hits.setdefault(next(sorts), []).append(right[at + 2 : at + size - 1].all().item())
            at += size
    out = {k: round(sum(v) / len(v), 3) for k, v in sorted(hits.items())}
    return out | dict(perplexity=round(float(torch.tensor(caption / count).exp()), 2))


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("run")
    parse.add_argument("--captions", type=int, default=2500)
    parse.add_argument("--held", type=int, default=200)
    parse.add_argument("--untrained", action="store_true")
    parse.add_argument("--quick", action="store_true")
    args = parse.parse_args()
    folder, start = Path(args.run), time.process_time()
    tokenizer = WordTokenizer.load(folder / "tokenizer.json")
    saved = torch.load(folder / "run.pt")
    sizes = TextConfig.from_dict(json.loads((folder / "sizes.json").read_text()))
    torch.manual_seed(0)
    model = GptOss(sizes)
    if not args.untrained:
        model.load_state_dict(saved["model"])
    model.eval()
    result = dict(step=saved["step"], tokens=saved["tokens"], untrained=args.untrained)
    if not args.untrained:
        for lang in LANGUAGES[: 1 if args.quick else None]:
            for task in ("ask", "reword", "wish", "translate"):
                n = {"ask": 120, "reword": 100}.get(task, 40)
                result[f"{lang} {task}"] = answers(model, tokenizer, lang, task, n)
                print(lang, task, result[f"{lang} {task}"], flush=True)
    encoder = WordEncoder(model, tokenizer, (1, 3, 5), 224)
    half = args.captions // 2
    train = captions(half, "en", "train", True, 0, "train") + captions(
        half, "en", "train", False, 0, "train"
    )
    probe = fit(dataset(encoder, train))
    splits = {
        "dense": ("en", "train"),
        "other frames": ("en", "other"),
        "synonyms": ("en", "synonyms"),
    }
    splits |= {x: (x, "train") for x in LANGUAGES[1:]}
    for name, (lang, wording) in splits.items():
        for dense in (True, False):
            score = accuracy(probe, dataset(encoder, captions(args.held, lang, wording, dense, 1)))
            key = f"probe {name}" + ("" if dense else " brief")
            result[key] = {k: round(v, 3) for k, v in score.items()}
            print(key, result[key], flush=True)
    name = "probes_untrained.json" if args.untrained else f"probes_{saved['step']}.json"
    (folder / name).write_text(json.dumps(result, indent=1))
    print(f"{time.process_time() - start:.0f} s of CPU")


if __name__ == "__main__":
    main()
