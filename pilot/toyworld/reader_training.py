"""Trains the readers of pictures: one run each of minutes on one core."""

import argparse
import math
import random
import time

import numpy as np
import torch
from torch import Tensor

from . import reader_losses, second_losses
from .reader import ReaderNet, board_crops, load_net, save_net
from .reader_shards import Pictures, disturbed, make_shards, moved, split_labels
from .second_reader import SecondNet


def orthogonal(g: Tensor, rounds: int = 5) -> Tensor:
    """A matrix [m, n], m <= n, made nearly orthogonal by Newton and Schulz's iteration, with the
    coefficients of Muon (Jordan et al. 2024)."""
    x = g.bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for kernels and matrices of at least 32 by 32 numbers, Adam for the rest; the factor
    lets both share a learning rate (Liu et al. 2025)."""

    def __init__(self, net, lr=5e-3, momentum=0.95, betas=(0.9, 0.99), decay=1e-3):
        super().__init__(list(net.parameters()), dict(lr=lr))
        self.momentum, self.betas, self.decay, self.count = momentum, betas, decay, 0

    @torch.no_grad()
    def step(self):
        "One update of all parameters."
        self.count += 1
        lr = self.param_groups[0]["lr"]
        for p in self.param_groups[0]["params"]:
            if p.grad is None:
                continue
            if p.ndim > 1 and min(p.shape[0], p[0].numel()) >= 32:
                self._turn(p, lr)
            else:
                self._adam(p, lr)

    def _turn(self, p, lr):
        mean = self.state[p].setdefault("mean", torch.zeros_like(p))
        mean.lerp_(p.grad, 1 - self.momentum)
        g = p.grad.lerp(mean, self.momentum).flatten(1)
        o = orthogonal(g.mT).mT if g.shape[0] > g.shape[1] else orthogonal(g)
        p.mul_(1 - lr * self.decay)
        p.add_(o.reshape(p.shape), alpha=-0.2 * lr * max(g.shape) ** 0.5)

    def _adam(self, p, lr):
        state, (a, b) = self.state[p], self.betas
        mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 1 - a)
        square = state.setdefault("square", torch.zeros_like(p)).lerp_(p.grad**2, 1 - b)
        scale = (square / (1 - b**self.count)).sqrt() + 1e-8
        p.addcdiv_(mean / (1 - a**self.count), scale, value=-lr)


def learning_rate(done: float, peak: float) -> float:
    "Warm-up over the first twentieth of the run, then half a cosine. done: in [0, 1]."
    return peak * min(done / 0.05, 1) * (0.5 + 0.5 * math.cos(math.pi * min(done, 1)))


def _one_step(net, optimizer, pictures, losses_of, weights):
    "One batch: {name: loss}."
    x, labels = pictures.next()
    rows, rest = split_labels(labels)
    x, rows = moved(x, rows)
    x = disturbed(x)
    size = x.shape[-2:]
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x.contiguous(memory_format=torch.channels_last), board_crops(x, *size))
    losses = losses_of(out, torch.cat([rows.flatten(1), rest], 1), *size)
    optimizer.zero_grad(set_to_none=True)
    sum(weights[k] * v for k, v in losses.items()).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    optimizer.step()
    return {k: v.item() for k, v in losses.items()}


def train(net, losses_of, weights: dict, folder, steps: int, peak: float, seed: int = 0):
    """Train a net on the shards in `folder`, 64 pictures a step, in place. `losses_of(out, labels,
    height, width)` gives the losses by name, `weights` how much they count; `peak`: the highest
    learning rate. The seed decides the order of the pictures and what befalls them."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    net.train().to(memory_format=torch.channels_last)
    optimizer, pictures, mean = Muon(net), Pictures(folder), {}
    start = time.process_time()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step / steps, peak)
        for k, v in _one_step(net, optimizer, pictures, losses_of, weights).items():
            mean[k] = 0.98 * mean.get(k, v) + 0.02 * v
        if step % 100 == 0:
            line = " ".join(f"{k} {v:.3f}" for k, v in mean.items())
            print(f"step {step}  {time.process_time() - start:.0f} s  {line}", flush=True)


def train_reader(net, folder, steps: int, peak: float = 6e-3, seed: int = 0):
    "Train a `ReaderNet`; see `train`."
    train(net, reader_losses.losses, reader_losses.WEIGHTS, folder, steps, peak, seed)


def train_second(net, folder, steps: int, peak: float = 3e-3, seed: int = 1):
    "Train a `SecondNet`; see `train`."
    train(net, second_losses.losses, second_losses.WEIGHTS, folder, steps, peak, seed)


def main():
    "Command line: see --help."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="of the shards")
    parser.add_argument("--shards", type=int, nargs=2, default=(0, 0), help="make these first")
    parser.add_argument("--vae", nargs="*", default=(), help="folders of autoencoders")
    parser.add_argument("--start", help="weights to go on from")
    parser.add_argument("--second", action="store_true", help="train the second reader")
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--peak", type=float, help="highest learning rate")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_shards(args.folder, range(*args.shards), args.vae)
    make, run = (SecondNet, train_second) if args.second else (ReaderNet, train_reader)
    net = load_net(make, args.start) if args.start else make()
    run(net, args.folder, args.steps, **({"peak": args.peak} if args.peak else {}))
    save_net(net, args.out)


if __name__ == "__main__":
    main()
