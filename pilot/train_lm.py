"""Train the toy's language model as a small chat model. Resumable: the same command goes on.

python train_lm.py OUT --minutes 30 --muon 5e-3 [--layers 7] [--width 160]; then export_lm.py."""

import argparse
import json
import signal
import time
from pathlib import Path

import torch
from toyworld.chat_data import TASKS, random_conversation
from toyworld.muon import Muon
from toyworld.packed import token_losses
from toyworld.tokenizer import WordTokenizer

from lens_ref.core.files import atomic_write
from lens_ref.text.gpt_oss import GptOss, TextConfig

ROW = 192  # tokens of a packed row
# What a token counts for: of a caption, of a wish or question, of an answer by task.
READING, ASKING = 1.0, 0.3
ANSWER = {"ask": 4.0, "reword": 1.5, "translate": 1.0, "wish": 1.0}
SAMPLED = 0.5  # share of the captions' tokens that enter the loss: the head costs time


def training_texts(count: int, seed: int = 0) -> list:
    "Texts of conversations, for the tokenizer."
    talks = (random_conversation(f"tokenizer {seed}", i) for i in range(count))
    return [text for talk in talks for _, text in talk.messages]


def tokens(talk, tokenizer) -> tuple:
    "(ids, weight of each, number of the task of each answer's token or -1)"
    ids, weights, tasks = [], [], []
    for i, (role, text) in enumerate(talk.messages):
        turn = tokenizer.turn(role, text)
        answer = role == "assistant"
        w = ANSWER[talk.task] if answer else READING if i == 0 else ASKING
        ids += turn
        weights += [0.1] * 3 + [w] * (len(turn) - 3)
        tasks += [-1] * 3 + [list(TASKS).index(talk.task) if answer else -2] * (len(turn) - 3)
    return ids, weights, tasks


class Rows:
    """Packed rows of an endless list of conversations, in order; `number`: of the next one."""

    def __init__(self, tokenizer, rows: int, seed: int = 0, number: int = 0):
        self.tokenizer, self.rows, self.seed, self.number = tokenizer, rows, seed, number
        self.waiting = []

    def row(self) -> dict:
        "One row of `ROW` + 1 tokens, filled from those waiting, the longest that fits first."
        while len(self.waiting) < 24:
            talk = random_conversation(self.seed, self.number)
            self.number += 1
            made = tokens(talk, self.tokenizer)
            if len(made[0]) <= ROW + 1:
                self.waiting.append(made)
        room, parts = ROW + 1, [self.waiting.pop(0)]
        room -= len(parts[0][0])
        while fits := [x for x in self.waiting if len(x[0]) <= room]:
            best = max(fits, key=lambda x: len(x[0]))
            self.waiting.remove(best)
            parts.append(best)
            room -= len(best[0])
        document = [i for i, p in enumerate(parts) for _ in p[0]] + [-1] * room
        return dict(
            ids=[x for p in parts for x in p[0]] + [self.tokenizer.pad] * room,
            weights=[x for p in parts for x in [0.0, *p[1][1:]]] + [0.0] * room,
            tasks=[x for p in parts for x in p[2]] + [-1] * room,
            document=document,
        )

    def batch(self) -> dict:
        "Tensors [rows, ROW + 1]."
        rows = [self.row() for _ in range(self.rows)]
        return {k: torch.tensor([r[k] for r in rows]) for k in rows[0]}


def optimisers(model, lr, muon_lr):
    "Muon for the matrices inside the layers, AdamW for the rest but sinks and routers' biases."
    matrices, others = [], []
    for name, p in model.named_parameters():
        if name.endswith(("router.bias", "sinks")):
            p.requires_grad_(False)
        elif p.ndim > 1 and "layers" in name and not name.endswith(("_bias", "router.weight")):
            matrices.append(p)
        else:
            others.append(p)
    adam = dict(betas=(0.9, 0.98), fused=True)
    if not muon_lr:
        groups = [dict(params=matrices, weight_decay=0.1), dict(params=others, weight_decay=0.0)]
        return [torch.optim.AdamW(groups, lr=lr, **adam)]
    rest = torch.optim.AdamW(others, lr=lr, weight_decay=0.0, **adam)
    return [Muon(matrices, lr=muon_lr, weight_decay=0.05), rest]


def factor(done: float) -> float:
    "Learning rate as a share of its top when `done` of the run is over: warm-up, hold, cooling."
    return min(1.0, done / 0.02 + 0.02, max(0.02, (1 - done) / 0.4))


def losses(model, batch, generator):
    "Weighted mean loss and, for the log, the sum and number of the losses of each task's answers."
    ids, document = batch["ids"], batch["document"]
    weight = batch["weights"][:, 1:] * (document[:, 1:] >= 0)
    task = batch["tasks"][:, 1:]
    drawn = torch.rand(weight.shape, generator=generator) < SAMPLED
    chosen = (weight > 0) & (drawn | (task >= 0))
    each, load = token_losses(model, ids, document, chosen)
    w, t = weight[chosen], task[chosen]
    table = torch.zeros(len(TASKS) + 1, 2)
    for row, number in enumerate([*range(len(TASKS)), -2]):
        own = each.detach()[t == number]
        table[row] += torch.tensor([own.sum(), len(own)])
    return (each * w).sum() / w.sum(), table, load


def nudge(model, load, rate):
    "Balance the experts by their routers' biases (arXiv 2408.15664). load [layers, E]"
    for layer, share in zip(model.model.layers, load):
        layer.mlp.router.bias.data += rate * (share.mean() - share).sign()


class Run:
    "All of a run: model, optimisers, place in the data, seconds of training so far."

    def __init__(self, args):
        self.args, self.out = args, Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "tokenizer.json"
        if not path.is_file():
            WordTokenizer.train(training_texts(25_000), args.vocabulary, 6).save(path)
        self.tokenizer = WordTokenizer.load(path)
        kinds = tuple(
            ("sliding_attention", "full_attention")[i % 2 or i > 5] for i in range(args.layers)
        )
        sizes = TextConfig.toy(self.tokenizer.vocab_size).to_dict()
        sizes |= dict(hidden_size=args.width, num_hidden_layers=args.layers, layer_types=kinds)
        torch.manual_seed(args.seed)
        self.model = GptOss(TextConfig.from_dict(sizes))
        with atomic_write(self.out / "sizes.json") as tmp:
            Path(tmp).write_text(json.dumps(self.model.config.to_dict()), "utf8")
        self.optimisers = optimisers(self.model, args.lr, args.muon)
        self.rows = Rows(self.tokenizer, args.rows, args.seed)
        self.generator = torch.Generator().manual_seed(args.seed)
        self.step, self.seconds, self.tokens, self.stopped = 0, 0.0, 0, False
        self.resume()

    def resume(self):
        path = self.out / "run.pt"
        if path.is_file():
            saved = torch.load(path)
            self.model.load_state_dict(saved["model"])
            for o, s in zip(self.optimisers, saved["optimisers"]):
                o.load_state_dict(s)
            self.rows.number, self.step = saved["number"], saved["step"]
            self.seconds, self.tokens = saved["seconds"], saved["tokens"]
            print(f"goes on from step {self.step}, {self.seconds / 60:.1f} minutes", flush=True)

    def save(self):
        state = dict(model=self.model.state_dict(), step=self.step, seconds=self.seconds)
        state |= dict(optimisers=[o.state_dict() for o in self.optimisers])
        state |= dict(number=self.rows.number, tokens=self.tokens)
        with atomic_write(self.out / "run.pt") as tmp:
            torch.save(state, tmp)

    def advance(self) -> tuple:
        done = self.seconds / 60 / self.args.minutes
        for o, top in zip(self.optimisers, (self.args.muon, self.args.lr)[-len(self.optimisers) :]):
            for g in o.param_groups:
                g["lr"] = top * factor(done)
        with torch.autocast("cpu", torch.bfloat16):
            loss, table, load = losses(self.model, self.rows.batch(), self.generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for o in self.optimisers:
            o.step()
        self.model.zero_grad(set_to_none=True)
        nudge(self.model, load, 0.01 * factor(done))
        self.step += 1
        self.tokens += self.args.rows * ROW
        return loss.item(), table, load

    def train(self):
        args, mean, table, cpu = self.args, [], 0, time.process_time()
        last = saved = time.monotonic()
        while self.seconds < args.minutes * 60 and not self.stopped:
            loss, part, load = self.advance()
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            mean.append(loss)
            table = table + part
            if self.step % args.log == 0:
                by = " ".join(
                    f"{n} {a / max(1, b):.3f}" for n, (a, b) in zip([*TASKS, "captions"], table)
                )
                rate = self.args.rows * ROW * len(mean) / (time.process_time() - cpu)
                print(
                    f"step {self.step} min {self.seconds / 60:.1f} Mtok {self.tokens / 1e6:.2f} "
                    f"loss {sum(mean) / len(mean):.3f} | {by} | {rate:.0f} tok/cpu-s load "
                    f"{load.amin():.2f}-{load.amax():.2f}",
                    flush=True,
                )
                mean, table, cpu = [], 0, time.process_time()
            if now - saved > args.save * 60:
                self.save()
                saved = now
        self.save()


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("out")
    parse.add_argument("--minutes", type=float, default=30)
    parse.add_argument("--rows", type=int, default=16)
    parse.add_argument("--lr", type=float, default=3e-3)
    parse.add_argument("--muon", type=float, default=0.0, help="its learning rate; 0: AdamW alone")
    parse.add_argument("--layers", type=int, default=7)
    parse.add_argument("--width", type=int, default=160)
    parse.add_argument("--vocabulary", type=int, default=3600)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--log", type=int, default=25)
    parse.add_argument("--save", type=float, default=2.5, help="minutes between checkpoints")
    run = Run(parse.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: setattr(run, "stopped", True))
    run.train()


if __name__ == "__main__":
    main()
