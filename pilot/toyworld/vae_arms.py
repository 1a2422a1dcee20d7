"""Autoencoders that differ in one thing each, and what can be measured of them."""

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from lens_ref.core.config import Config, ConfigError
from lens_ref.core.loop import LoopConfig
from lens_ref.vae.autoencoder import (
    ResBlock,
    ToyVAE,
    decibels,
    decode,
    edges,
    encode,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from .drawing import corner, letter_boxes, render, spaced
from .muon import orthogonalised
from .world import COLORS, KINDS, SETTINGS, sample_scene

CELL = 8  # pixels on each side of a latent position


# ---- pictures
def scene_of(number: int, part: str = "train"):
    "Scene `number` of a part of the world, the same in every run."
    return sample_scene(random.Random(f"{part} {number}"), part=part)


def draw_scenes(scenes) -> Tensor:
    "Scenes -> pictures uint8 [N, 3, 64, 64]."
    return torch.from_numpy(np.stack([render(s) for s in scenes])).permute(0, 3, 1, 2).contiguous()


def signed(images: Tensor) -> Tensor:
    "Pictures uint8 [B, 3, H, W] -> float32 in [-1, 1], channels last in memory."
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def shuffled(count: int, size: int, step: int, seed: int) -> np.ndarray:
    "Indices [size] of the batch of a step: epochs of `count` samples, each in an order of its own."
    epoch, i = divmod(step, count // size)
    return np.random.default_rng((seed, epoch)).permutation(count)[i * size : (i + 1) * size]


class PictureBatches:
    "Batches for the loop: dict(images [B, 3, H, W] in [-1, 1]) and, where given, rows of `labels`."

    def __init__(self, images: Tensor, size: int, seed: int = 0, labels: dict | None = None):
        self.images, self.size, self.seed, self.labels = images, size, seed, labels or {}

    def batch(self, step: int) -> dict:
        rows = torch.from_numpy(shuffled(len(self.images), self.size, step, self.seed))
        more = {name: value[rows] for name, value in self.labels.items()}
        return dict(images=signed(self.images[rows]), **more)


# ---- what lies where: the facts of a picture on the grid of the latents
NAMES = ("nothing", *KINDS, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")  # of the map of kinds; "sign": a board
HUES = ("none", *COLORS)


def _covered(thing, height, width, rows, columns):
    "Which cells [H/8, W/8] have their centre on the thing: on its disc, or on the tube of a ring."
    top, left, side = corner(thing, height, width)
    far = np.hypot(rows - top - side / 2, columns - left - side / 2) / side
    return (far > 0.34) & (far < 0.52) if thing.kind == "ring" else far < 0.42


def fact_maps(scene, height: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    """Which of `NAMES` and which of `HUES` is seen at the centre of each 8 by 8 pixels:
    two long [H/8, W/8]."""
    rows, columns = np.mgrid[CELL // 2 : height : CELL, CELL // 2 : width : CELL]
    kinds, hues = np.zeros(rows.shape, np.int64), np.zeros(rows.shape, np.int64)
    for thing in spaced(scene.things, height, width):
        where = _covered(thing, height, width, rows, columns)
        kinds[where] = NAMES.index(thing.kind)
        hues[where] = HUES.index(thing.color)
    if scene.sign:
        boxes, slot = letter_boxes(len(scene.sign.word), scene.sign.place, height, width)
        for char, (top, left) in zip(scene.sign.word, boxes):
            where = (rows >= top) & (rows < top + slot)
            where &= (columns >= left) & (columns < left + slot)
            kinds[where] = NAMES.index(char)
            hues[where] = HUES.index(scene.sign.color)
    return torch.from_numpy(kinds), torch.from_numpy(hues)


def fact_labels(scenes) -> dict:
    "dict(kinds and hues, long [N, 8, 8], setting long [N]) of scenes drawn at 64 by 64."
    kinds, hues = zip(*map(fact_maps, scenes))
    setting = torch.tensor([SETTINGS.index(s.setting) for s in scenes])
    return dict(kinds=torch.stack(kinds), hues=torch.stack(hues), setting=setting)


class FactNet(nn.Module):
    """Names what is seen at each 8 by 8 pixels, in which colour, and the setting. Its architecture
    is our choice. Frozen, it judges how alike two pictures look, and teaches the semantic arm.

    `forward(x [B, 3, H, W])` -> logits dict(kinds [B, 51, H/8, W/8], hues [B, 9, H/8, W/8],
    setting [B, 8]); `features(x)` -> maps of H/2, H/4 and H/8."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.width = width
        self.fine = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, width, 3, padding=1), ResBlock(width)
        )
        self.middle = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), ResBlock(2 * width))
        self.coarse = nn.Sequential(
            nn.Conv2d(2 * width, 4 * width, 3, 2, 1), ResBlock(4 * width), ResBlock(4 * width)
        )
        self.norm = nn.GroupNorm(8, 4 * width)
        self.kinds = nn.Conv2d(4 * width, len(NAMES), 1)
        self.hues = nn.Conv2d(4 * width, len(HUES), 1)
        self.setting = nn.Linear(4 * width, len(SETTINGS))

    def features(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x)
        middle = self.middle(fine)
        return [fine, middle, self.norm(self.coarse(middle))]

    def forward(self, x: Tensor) -> dict:
        last = F.silu(self.features(x)[-1])
        setting = self.setting(last.mean((2, 3)))
        return dict(kinds=self.kinds(last), hues=self.hues(last), setting=setting)


def _weights(logits):
    "Of the classes of an answer: maps are four fifths nothing, which counts a tenth."
    weights = torch.ones(logits.shape[1])
    if logits.ndim == 4:
        weights[0] = 0.1
    return weights


def fact_step(model: FactNet, batch: dict, config, generator) -> tuple[Tensor, dict]:
    "Step of the loop: cross-entropies of the three answers; share of right kinds on things."
    answers = model(batch["images"])
    parts = [
        F.cross_entropy(answers[name], batch[name], _weights(answers[name])) for name in answers
    ]
    seen = batch["kinds"] > 0
    right = (answers["kinds"].argmax(1) == batch["kinds"])[seen].float().mean()
    return sum(parts), dict(kinds_right=right)


@torch.no_grad()
def distance(net: FactNet, images: Tensor, originals: Tensor) -> Tensor:
    """How different pictures look to the network, [B]: squared differences of its features, each
    position scaled to length 1, averaged over positions and added over three depths. The form of
    LPIPS (Zhang et al. 2018) without its learned weights; the network is our own."""
    pairs = zip(net.features(images), net.features(originals))
    parts = [(F.normalize(a) - F.normalize(b)).square().sum(1).mean((1, 2)) for a, b in pairs]
    return torch.stack(parts).sum(0)


# ---- the arms
@dataclass
class Arm(Config):
    """What sets an autoencoder apart. `kl` multiplies the usual price of a bit, which is the same
    for any number of channels. `semantic`: weight of the loss that draws latents to features of a
    `FactNet` (after VA-VAE, Yao et al. 2025). `noise`: largest share of noise that is mixed into
    the latents before the decoder (after l-DeTok, Yang et al. 2025). All weights are our choice."""

    name: str
    channels: int = 8
    kl: float = 1.0
    semantic: float = 0.0
    noise: float = 0.0

    def validate(self):
        self.need(self.channels > 0, "channels", "must be positive")
        self.need(0 <= self.kl < math.inf, "kl", "must be 0 or more, and finite")
        self.need(0 <= self.semantic < math.inf, "semantic", "must be 0 or more, and finite")
        self.need(0 <= self.noise < 1, "noise", "is a share: 0 up to, not including, 1")


ARMS = {
    arm.name: arm
    for arm in (
        Arm("few"),  # 24 pixel values to one number
        Arm("many", channels=32),  # 6 to one, as in FLUX.2
        Arm("loose", kl=0.05),
        Arm("tight", kl=20.0),
        Arm("semantic", semantic=0.5),
        Arm("noisy", noise=0.5),
        Arm("many_semantic", channels=32, semantic=0.5),
    )
}
PRICE = 5e-3  # weight of the KL divergence at 8 channels


def arms_named(names) -> list[Arm]:
    "Arms by name. Raises `ConfigError` for an unknown one."
    unknown = [n for n in names if n not in ARMS]
    if unknown:
        raise ConfigError(f"arms: {unknown[0]!r} is unknown; choose from {', '.join(ARMS)}")
    return [ARMS[n] for n in names]


class Pupil(nn.Module):
    """An autoencoder and, for the semantic loss, the linear map from its latents to the features:
    at each position from the 3 by 3 around it, since few numbers cannot tell fifty kinds apart."""

    def __init__(self, vae: ToyVAE, features: int):
        super().__init__()
        self.vae = vae
        self.head = nn.Conv2d(vae.config.latent_channels, features, 3, padding=1)


def picture_loss(y: Tensor, images: Tensor) -> Tensor:
    "How far pictures [B, 3, H, W] are from the originals: absolute, squared, and in their edges."
    outlines = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(images)))
    return F.l1_loss(y, images) + 8 * F.mse_loss(y, images) + outlines


class ArmStep:
    """Step of the loop for one arm: dict(images) -> loss, dict(psnr in dB). `net`: the frozen
    teacher of a semantic arm."""

    def __init__(self, arm: Arm, net: FactNet):
        self.arm, self.net = arm, net

    def __call__(self, pupil: Pupil, batch: dict, config, generator) -> tuple[Tensor, dict]:
        arm, images = self.arm, batch["images"].contiguous(memory_format=torch.channels_last)
        dist = pupil.vae.encode(images).latent_dist
        draw = lambda: torch.randn(dist.mean.shape, generator=generator)
        z = dist.mean + dist.std * draw()
        given = z
        if arm.noise:
            share = arm.noise * torch.rand(len(z), 1, 1, 1, generator=generator)
            given = (1 - share) * z + share * draw()
        y = pupil.vae.decode(given).sample
        kl = 0.5 * (dist.mean**2 + dist.var - 1 - dist.logvar).mean()
        # The KL is a mean over numbers, the loss one over pixels: of more numbers each weighs less.
        loss = picture_loss(y, images) + PRICE * arm.kl * arm.channels / 8 * kl
        if arm.semantic:
            loss = loss + arm.semantic * self.estrangement(pupil.head(z), images)
        return loss, dict(psnr=decibels(y.detach(), images))

    def estrangement(self, guess: Tensor, images: Tensor) -> Tensor:
        "1 - cosine between the mapped latents [B, F, H/8, W/8] and the teacher's features there."
        with torch.no_grad():
            target = self.net.features(images)[-1]
        return 1 - F.cosine_similarity(guess, target, dim=1).mean()


# ---- training
class ConvMuon(torch.optim.Optimizer):
    """Muon (Jordan 2024) for the kernels of convolutions, read as matrices [out, in * 9]; Adam for
    biases, norms and the kernels `aside`. An update of a kernel is 0.2 sqrt(longer side) times its
    orthogonalised Nesterov momentum, so that one `lr` serves both."""

    def __init__(self, model, config: LoopConfig, aside=(), momentum: float = 0.95):
        aside = {id(p) for p in aside}
        params = [p for p in model.parameters() if p.requires_grad]
        kernels = [p for p in params if p.ndim == 4 and id(p) not in aside]
        turned = {id(p) for p in kernels}
        rest = [p for p in params if id(p) not in turned]
        groups = [dict(params=kernels, turned=True), dict(params=rest, turned=False)]
        settings = dict(lr=config.lr, momentum=momentum, decay=config.weight_decay)
        super().__init__(groups, settings | dict(betas=config.betas, eps=config.eps))

    @torch.no_grad()
    def step(self):
        "One update of all weights that have a gradient."
        for group in self.param_groups:
            update = self._turn if group["turned"] else self._adam
            for p in group["params"]:
                if p.grad is not None:
                    update(p, self.state[p], group)

    def _turn(self, p, state, group):
        past = state.setdefault("momentum", torch.zeros_like(p))
        past.lerp_(p.grad, 1 - group["momentum"])
        update = p.grad.lerp(past, group["momentum"]).flatten(1)
        size = 0.2 * math.sqrt(max(update.shape))
        p.mul_(1 - group["lr"] * group["decay"])
        update = orthogonalised(update[None]).reshape(p.shape).to(p.dtype)
        p.add_(update, alpha=-group["lr"] * size)

    def _adam(self, p, state, group):
        a, b = group["betas"]
        mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 1 - a)
        square = state.setdefault("square", torch.zeros_like(p)).lerp_(p.grad**2, 1 - b)
        count = state["count"] = state.get("count", 0) + 1
        size = (square / (1 - b**count)).sqrt_().add_(group["eps"])
        p.addcdiv_(mean, size, value=-group["lr"] / (1 - a**count))


def conv_config(steps: int, **changes) -> LoopConfig:
    "Settings of the loop for a convolutional network of this module (our choice)."
    recipe = dict(batch_size=16, lr=8e-3, warmup=min(50, steps // 4), schedule="cosine")
    recipe |= dict(betas=(0.9, 0.99), weight_decay=1e-3, ema=0.0, precision="bf16")
    recipe |= dict(validate_every=0, sample_every=0, checkpoint_every=200, keep_last=1)
    return LoopConfig(steps=steps, **(recipe | changes))


def ends_of(vae: ToyVAE) -> list:
    "The kernels that touch pixels: Muon leaves first and last layers to AdamW."
    return [vae.encoder[1].weight, vae.decoder[-2].weight]


def new_pupil(arm: Arm, width: int, features: int, seed: int) -> Pupil:
    "The untrained autoencoder of an arm; `features`: channels of the teacher's last map."
    torch.manual_seed(seed)
    pupil = Pupil(ToyVAE(arm.channels, width), features)
    pupil.head.requires_grad_(arm.semantic > 0)
    return pupil.to(memory_format=torch.channels_last)


def step_flops(arm: Arm, net: FactNet, width: int, size: int = 64) -> int:
    "FLOPs of one training step of an arm on one picture, its teacher's included."
    pupil = new_pupil(arm, width, 4 * net.width, 0)
    batch = dict(images=torch.zeros(1, 3, size, size))
    with FlopCounterMode(display=False) as counted:
        loss, _ = ArmStep(arm, net)(pupil, batch, None, torch.Generator())
        loss.backward()
    return counted.get_total_flops()


def steps_at_cost(arm: Arm, net: FactNet, width: int, steps: int) -> int:
    "Steps that cost what `steps` of the arm `few` cost."
    usual = step_flops(ARMS["few"], net, width)
    return max(2, round(steps * usual / step_flops(arm, net, width)))


# ---- measures
def neighbours_explain(z: Tensor, ridge: float = 1e-3) -> float:
    """Share of the variance of latents [N, c, h, w] that a linear map of the four neighbours
    explains, on the half of the pictures that it was not fitted on: high where latents are smooth.
    """
    z = z - z.mean((0, 2, 3), keepdim=True)
    middle = z[..., 1:-1, 1:-1]
    around = [z[..., :-2, 1:-1], z[..., 2:, 1:-1], z[..., 1:-1, :-2], z[..., 1:-1, 2:]]
    flat = lambda x: x.permute(0, 2, 3, 1).flatten(1, 2).double()  # [N, positions, channels]
    x, y = flat(torch.cat(around, 1)), flat(middle)
    guess, truth = _least_squares(x, y, ridge)
    return 1 - ((truth - guess).square().sum() / truth.square().sum()).item()


def _least_squares(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    "Fit y [N, P, b] from x [N, P, a] on the first half of N; (guess, truth) of the second half."
    half = len(x) // 2
    (a, test_x), (b, test_y) = ((v[:half].flatten(0, 1), v[half:].flatten(0, 1)) for v in (x, y))
    square = a.mT @ a
    size = ridge * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    return test_x @ torch.linalg.solve(square + size, a.mT @ b), test_y


def facts_in_latents(z: Tensor, kinds: Tensor) -> float:
    """How much of what is seen at a position can be read linearly from the 3 by 3 latents around
    it: share of right kinds, of `NAMES`, at positions on a thing or a letter, on the half of the
    pictures that the map was not fitted on. z [N, c, h, w], kinds long [N, h, w]."""
    around = F.unfold(z, 3, padding=1).mT.double()  # [N, h * w, 9 c]
    x = torch.cat([around, torch.ones_like(around[..., :1])], -1)
    y = F.one_hot(kinds.flatten(1), len(NAMES)).double()
    y[..., 0] *= 0.0  # "nothing" is no answer, so it must not win
    guess, truth = _least_squares(x, y, 1e-3)
    seen = truth.sum(1) > 0
    return (guess[seen].argmax(1) == truth[seen].argmax(1)).double().mean().item()


def spectrum(tokens: Tensor) -> tuple[list, float]:
    """Eigenvalues of the covariance of tokens [N, T, C], falling, as shares of their sum; and the
    effective rank, e to the power of their entropy (Roy and Vetterli 2007): from 1 to C."""
    flat = tokens.flatten(0, 1).double()
    share = torch.linalg.eigvalsh(torch.cov(flat.T)).flip(0).clamp(min=0)
    share = share / share.sum()
    return share.tolist(), torch.special.entr(share).sum().exp().item()


@torch.no_grad()
def spread(vae: ToyVAE, images: Tensor) -> dict:
    "How the latents of pictures [N, 3, H, W] in [-1, 1] are distributed, ready for JSON."
    dists = [vae.encode(x).latent_dist for x in images.split(64)]
    mean, std = (torch.cat([getattr(d, name) for d in dists]) for name in ("mean", "std"))
    nats = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log())
    tokens = encode(vae, images)
    shares, rank = spectrum(tokens)
    return dict(
        nats=nats.sum().item() / len(images),
        channel_std=mean.std((0, 2, 3)).tolist(),
        posterior_std=std.mean((0, 2, 3)).tolist(),
        spectrum=shares,
        rank=rank,
        rank_share=rank / tokens.shape[-1],
        neighbours=neighbours_explain(mean),
    )


@torch.no_grad()
def quality(vae: ToyVAE, net: FactNet, images: Tensor, error: float = 0.0) -> dict:
    """dict(db, distance) of pictures [N, 3, H, W] in [-1, 1] after a round trip through tokens, to
    which noise with `error` of their standard deviation is added: a transformer's tokens are never
    exact."""
    grid = tuple(n // 16 for n in images.shape[-2:])
    tokens = encode(vae, images)
    noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    tokens = tokens + error * noise
    y = torch.cat([decode(vae, z, grid) for z in tokens.split(64)])
    far = torch.cat([distance(net, a, b) for a, b in zip(y.split(64), images.split(64))])
    return dict(db=decibels(y, images).item(), distance=far.mean().item())


@torch.no_grad()
def measure(vae: ToyVAE, net: FactNet, images: Tensor, labels: dict) -> dict:
    "All measures of an autoencoder on held-out pictures [N, 3, H, W] in [-1, 1], ready for JSON."
    z = torch.cat([vae.encode(x).latent_dist.mode() for x in images.split(64)])
    rough = quality(vae, net, images, error=0.3)
    return dict(
        **quality(vae, net, images),
        db_rough=rough["db"],
        distance_rough=rough["distance"],
        facts=facts_in_latents(z, labels["kinds"]),
        **spread(vae, images),
    )
