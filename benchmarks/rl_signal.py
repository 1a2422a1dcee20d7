"""How much of an RL round's gradient is signal: python benchmarks/rl_signal.py [--out FILE]

At each noise level of a round of DiffusionNFT, and what a step of each size along it brings; also
[--model data_samples/toy] [--prompts 32] [--images 12]. Signal is measured without bias by
splitting the round into groups of four prompts: gradients g_1..g_n of the groups have mean S and
spread N, and for i != j the mean of <g_i, g_j> is |S|^2. A step is Adam's first, every weight by
the gradient over its root mean square. Seven minutes on one quiet core with the defaults."""

import argparse
import json
import math

import torch

from lens_ref.core.files import atomic_write, data_path
from lens_ref.dit.flow import interpolate
from lens_ref.dit.solvers import sigma_schedule
from lens_ref.rl.nft import kl_to, nft_loss, optimality, useful
from lens_ref.pretrain.pipeline import LensPipeline, draw_noise, velocity_field
from lens_ref.rl.judges import ExactJudge
from lens_ref.rl.scene_prompts import toy_prompts
from lens_ref.rl.config import RLConfig
from lens_ref.rl.policies import draw_rollout, stream

GROUP, GRID, DISTANCES = 4, (4, 4), (0.003, 0.012, 0.04)


@torch.no_grad()
def drawn(pipe, prompts, images, config, name):
    "Groups of four prompts: (latents [4 * images, 16, C], features, mask), rewards [4, images]."
    judge = ExactJudge()
    for i in range(0, len(prompts), GROUP):
        some = prompts[i : i + GROUP]
        features, mask = pipe.encode_prompt([p.text for p in some])
        rows = torch.arange(len(some)).repeat_interleave(images)
        text = [x[rows] for x in features], mask[rows]
        latents, _ = draw_rollout(
            pipe.transformer, text, GRID, [(name, i, j) for j in range(len(rows))], config, "cpu"
        )
        seen = pipe.pixels(latents, GRID, "signed")
        verdicts = judge(seen, [p for p in some for _ in range(images)])
        yield (
            (latents, *text),
            torch.tensor([math.nan if v.reward is None else v.reward for v in verdicts]).view(
                len(some), images
            ),
        )


def velocities(model, latents, features, mask, t, name):
    "Velocity, noised latents and levels for one group at level t."
    levels = torch.full((len(latents),), float(t))
    x_t = interpolate(
        latents,
        draw_noise(latents.shape, [stream(name, j) for j in range(len(latents))], "cpu"),
        levels,
    )
    return velocity_field(model, features, mask, GRID)(x_t, levels), x_t, levels


def gradient(model, group, r, keep, t, config, name):
    "Gradient of the loss of one group's useful pictures at level t, flat."
    latents, features, mask = group[0][keep], [x[keep] for x in group[1]], group[2][keep]
    model.zero_grad()
    v, x_t, levels = velocities(model, latents, features, mask, t, name)
    nft_loss(
        v, v.detach(), x_t, latents, levels, r[keep], config.beta, config.adaptive, config.clip
    ).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def signal_share(g):
    "|S|^2 / |N|^2 of gradients [n, D]."
    products, n = g @ g.T, len(g)
    own = products.diagonal().sum()
    signal = (products.sum() - own) / (n * (n - 1))
    return (signal / (own / n - signal)).item()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(data_path("toy")))
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--out", default="rl_signal.json")
    a = parser.parse_args()
    torch.set_num_threads(1)
    pipe, config = LensPipeline.from_pretrained(a.model), RLConfig.preset("toy")
    model = pipe.transformer.requires_grad_(True)
    groups, rewards = zip(
        *drawn(pipe, toy_prompts(3000, 0)[: a.prompts], a.images, config, "learn")
    )
    r = optimality(torch.cat(rewards), config.spread, config.clip).flatten(1)
    keep = useful(torch.cat(rewards))
    parts = []
    for i, g in enumerate(groups):
        own = slice(i * GROUP, (i + 1) * GROUP)
        kept = keep[own].flatten().nonzero()[:, 0]
        if len(kept):
            parts.append((g, r[own].flatten(), kept))
    result, total = dict(model=a.model, pictures=a.prompts * a.images, levels={}, steps=[]), 0
    for t in sigma_schedule(GRID[0] * GRID[1], config.rollout_steps)[:-1].tolist():
        g = torch.stack(
            [gradient(model, *p, t, config, f"noise {i} {t}") for i, p in enumerate(parts)]
        )
        total = total + g
        share = round(signal_share(g), 4)
        result["levels"][f"{t:.2f}"] = share
        print(
            f"level {t:.2f}: signal is {share:.4f} of the noise in {GROUP * a.images} pictures",
            flush=True,
        )
    result["all levels"] = round(signal_share(total), 4)
    direction = -total.sum(0) / (total.square().mean(0).sqrt() + 1e-9)
    weights = [p for p in model.parameters() if p.grad is not None]
    start = [p.detach().clone() for p in weights]

    @torch.no_grad()
    def go(size):
        for p, w, d in zip(weights, start, direction.split([p.numel() for p in weights])):
            p.copy_(w + size * d.view_as(p))

    @torch.no_grad()
    def moved(size):
        go(0.0)
        before = velocities(model, *groups[0], 0.9, "moved")[0]
        go(size)
        return kl_to(velocities(model, *groups[0], 0.9, "moved")[0], before).mean().item()

    def measure():
        out = torch.cat([x for _, x in drawn(pipe, toy_prompts(70, 777), 4, config, "held out")])
        return dict(
            reward=round(out.nanmean().item(), 4),
            all_right=round((out > 0.999).float().mean().item(), 4),
        )

    go(0.0)
    result["steps"].append(dict(distance=0.0, **measure()))
    for distance in DISTANCES:
        size = 1e-5
        for _ in range(12):
            size *= (distance / max(moved(size), 1e-12)) ** 0.5
        go(size)
        result["steps"].append(
            dict(
                distance=distance,
                a_weight=size * direction.square().mean().sqrt().item(),
                **measure(),
            )
        )
        print(result["steps"][-1], flush=True)
    with atomic_write(a.out) as tmp:
        open(tmp, "w", encoding="utf8").write(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
