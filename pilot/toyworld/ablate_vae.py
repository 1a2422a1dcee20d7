"""Which autoencoder makes a transformer learn fastest, among several made at equal cost."""

import json
import random
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from lens_ref.core.config import Config, ConfigError, DataError
from lens_ref.core.files import atomic_folder, atomic_write, load_tensors, save_tensors
from lens_ref.core.loop import Learner, train
from lens_ref.core.runs import keep_plan
from lens_ref.dit.presets import DiTConfig, preset
from lens_ref.dit.solvers import sample, sigma_schedule
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights
from lens_ref.pretrain.caches import CachedData, offsets_of
from lens_ref.pretrain.cost import count_flops
from lens_ref.pretrain.pipeline import velocity_field
from lens_ref.pretrain.step import TrainConfig, pretrain_step
from lens_ref.vae.autoencoder import ToyVAE, decode, encode, fit_statistics
from torch import Tensor

from .vae_arms import (
    ARMS,
    Arm,
    ArmStep,
    ConvMuon,
    FactNet,
    PictureBatches,
    arms_named,
    conv_config,
    draw_scenes,
    ends_of,
    fact_labels,
    fact_step,
    measure,
    new_pupil,
    scene_of,
    signed,
    steps_at_cost,
)
from .world import SKILLS, sample_scene, scene_facts

GRID = (4, 4)  # tokens of a picture of 64 by 64 pixels


@dataclass
class AblationConfig(Config):
    """Sizes of the comparison. Steps are those of the arm `few`; the others get as many as cost the
    same. A seed is of everything: weights, order and noise of autoencoder and transformer."""

    arms: tuple[str, ...] = tuple(ARMS)
    seeds: int = 3
    pictures: int = 20_000  # of 64 by 64 pixels, the same for all
    held_out: int = 512
    fact_steps: int = 2000  # of the network that knows the facts
    vae_steps: int = 1500
    vae_width: int = 32
    steps: int = 4000  # of the transformer
    batch_size: int = 64
    lr: float = 1e-3
    layers: int = 4
    score_every: int = 500
    per_skill: int = 30  # scenes of each skill whose pictures are scored
    sampling_steps: int = 20
    guidance: float = 3.0

    def validate(self):
        arms_named(self.arms)
        self.need(ARMS["few"].name in self.arms, "arms", "must have 'few', the measure of the rest")
        for name, value in self.to_dict().items():
            if name != "arms":
                self.need(value > 0, name, "must be positive")


# ---- the world as the transformer is told it
class FactTokens:
    """Stands in for a language model: every fact of a scene is one token, the sum of a fixed random
    vector for each of its words at its place. So the comparison is about pictures, not reading."""

    def __init__(self, width: int = 96):
        self.width, self.known = width, {}

    def vector(self, word) -> Tensor:
        "The vector [width] of a word, the same in every run."
        if word not in self.known:
            g = torch.Generator().manual_seed(zlib.crc32(str(word).encode()))
            self.known[word] = torch.randn(self.width, generator=g)
        return self.known[word]

    def token(self, fact) -> Tensor:
        "The token [width] of a fact."
        return sum(self.vector((i, str(w))) for i, w in enumerate((fact.what, *fact.args)))

    def encode(self, scenes: list) -> tuple[list, Tensor]:
        "Scenes -> (list of one [B, S, width], mask bool [B, S]), as a text encoder gives it."
        rows = [torch.stack([self.token(f) for f in scene_facts(s)]) for s in scenes]
        text = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(r) for r in rows])
        return [text], torch.arange(text.shape[1])[None] < lengths[:, None]


@dataclass
class Asked:
    """What a transformer is asked for and how its pictures are graded.

    `encoder.encode(prompts)` -> (list of [B, S, D], mask); `prompt(scene)` is what it reads;
    `score(images [B, 3, H, W] in [-1, 1], scenes, skills)` -> a number in [0, 1] for each picture.
    """

    encoder: object
    prompt: object
    score: object


def asked_by_facts(reader) -> Asked:
    "Scenes told by their facts, and graded by `reader.read` on the facts of their skill."
    from .reader import passes

    def score(images, scenes, skills):
        readings = reader.read(images)
        rows = zip(scenes, readings, skills)
        return [float(passes(scene_facts(s), r, skill)) for s, r, skill in rows]

    return Asked(FactTokens(), lambda scene: scene, score)


def exam(per_skill: int) -> tuple[list, list]:
    "Scenes of the test part, `per_skill` of each skill, the same in every run; and their skills."
    skills = [skill for skill in SKILLS for _ in range(per_skill)]
    rngs = [random.Random(f"exam {i}") for i in range(len(skills))]
    return [sample_scene(rng, k, "test") for rng, k in zip(rngs, skills)], skills


# ---- files
def read_json(path) -> dict | None:
    "What a JSON file holds, or None where there is none."
    path = Path(path)
    return json.loads(path.read_text("utf8")) if path.is_file() else None


def write_json(value: dict, path):
    "Write a JSON file, whole or not at all."
    with atomic_write(path) as tmp:
        Path(tmp).write_text(json.dumps(value, indent=1), "utf8")


# ---- what all arms share
def pictures_of(out: Path, config: AblationConfig) -> tuple[Tensor, Tensor]:
    "Pictures for training and held-out ones, uint8 [N, 3, 64, 64], drawn once into `out`."
    path = out / "pictures.safetensors"
    if not path.is_file():
        parts = dict(train=config.pictures, test=config.held_out)
        drawn = {p: draw_scenes(scene_of(i, p) for i in range(n)) for p, n in parts.items()}
        save_tensors(drawn, path)
    found = load_tensors(path)[0]
    return found["train"], found["test"]


def judge_of(out: Path, config: AblationConfig, images: Tensor, log=print) -> FactNet:
    "The network that knows the facts, frozen; trained into `out` unless it is there."
    path = out / "facts.safetensors"
    torch.manual_seed(0)
    net = FactNet().to(memory_format=torch.channels_last)
    if not path.is_file():
        labels = fact_labels([scene_of(i) for i in range(len(images))])
        data = PictureBatches(images, 16, labels=labels)
        settings = conv_config(config.fact_steps)
        learner = Learner(net, settings, ConvMuon(net, settings, aside=[net.fine[1].weight]))
        for state in train(learner, fact_step, data, folder=out / "facts_run", log=log):
            if state.step % 100 == 0:
                log(f"facts  step {state.step}  loss {state.loss:.3f}  {state.metrics}")
        save_tensors(net.state_dict(), path)
        shutil.rmtree(out / "facts_run", ignore_errors=True)
    net.load_state_dict(load_tensors(path)[0])
    return net.eval().requires_grad_(False)


@torch.no_grad()
def judged(net: FactNet, images: Tensor, labels: dict) -> dict:
    "Shares of right kinds (on things and letters), hues and settings on pictures in [-1, 1]."
    answers = [net(x) for x in images.split(64)]
    guess = {k: torch.cat([a[k] for a in answers]).argmax(1) for k in answers[0]}
    seen = labels["kinds"] > 0
    right = {k: guess[k] == labels[k] for k in guess}
    where = dict(kinds=seen, hues=seen, setting=slice(None))
    return {k: right[k][where[k]].float().mean().item() for k in right}


# ---- one autoencoder
def train_arm(arm: Arm, seed: int, shared: dict, config, folder, log=print) -> ToyVAE:
    "The autoencoder of an arm, trained in `folder` (from its last checkpoint, if any)."
    net, images = shared["net"], shared["images"]
    steps = steps_at_cost(arm, net, config.vae_width, config.vae_steps)
    pupil = new_pupil(arm, config.vae_width, 4 * net.width, seed)
    settings = conv_config(steps, seed=seed)
    learner = Learner(pupil, settings, ConvMuon(pupil, settings, ends_of(pupil.vae)))
    data = PictureBatches(images, settings.batch_size, seed)
    for state in train(learner, ArmStep(arm, net), data, folder=folder, log=log):
        if state.step % 100 == 0:
            log(f"{arm.name} {seed}  step {state.step}/{steps}  {state.metrics['psnr']:.2f} dB")
    if learner.step < steps:
        raise InterruptedError(f"{arm.name}: stopped at step {learner.step}; run it again to go on")
    vae = pupil.vae.eval()
    fit_statistics(vae, signed(images[:1024]))
    return vae


def arm_vae(arm: Arm, seed: int, shared: dict, config, out: Path, log=print) -> ToyVAE:
    "The autoencoder of an arm and seed, trained and measured into `out` unless it is there."
    home, notes = out / f"vae_{arm.name}_{seed}", out / f"vae_{arm.name}_{seed}.json"
    run = out / f"run_vae_{arm.name}_{seed}"
    if not (home / "config.json").is_file():
        vae = train_arm(arm, seed, shared, config, run, log)
        with atomic_folder(home) as tmp:
            vae.save_pretrained(tmp)
        shutil.rmtree(run, ignore_errors=True)
    vae = ToyVAE.from_pretrained(home).eval()
    if read_json(notes) is None:
        found = measure(vae, shared["net"], signed(shared["held_out"]), shared["labels"])
        found |= dict(arm=arm.to_dict(), seed=seed, kept=kept(vae, shared))
        found["steps"] = steps_at_cost(arm, shared["net"], config.vae_width, config.vae_steps)
        write_json(found, notes)
    return vae


def kept(vae: ToyVAE, shared: dict) -> float:
    "Score of the renderer's pictures of the exam after a round trip: the transformer's ceiling."
    scenes, skills = shared["exam"]
    images = signed(draw_scenes(scenes))
    return fmean(shared["asked"].score(decode(vae, encode(vae, images), GRID), scenes, skills))


# ---- one transformer
@torch.no_grad()
def text_of(asked: Asked, scenes: list, batch: int = 256) -> dict:
    "Features of the scenes' prompts, as a cache has them: dict(tokens [T, layers, D], offsets)."
    tokens, lengths = [], []
    for i in range(0, len(scenes), batch):
        text, mask = asked.encoder.encode([asked.prompt(s) for s in scenes[i : i + batch]])
        tokens.append(torch.stack(text, 2)[mask].bfloat16())
        lengths.append(mask.sum(1))
    return dict(tokens=torch.cat(tokens), offsets=offsets_of(torch.cat(lengths)))


def cache_of(vae: ToyVAE, images: Tensor, text: dict) -> dict:
    "Latents of pictures uint8 [N, 3, 64, 64] and the features of their prompts, for `CachedData`."
    latents = torch.cat([encode(vae, signed(x)).half() for x in images.split(64)])
    return dict(latents=latents, grid=torch.tensor(GRID), **text)


def transformer_sizes(arm: Arm, text: dict, layers: int) -> DiTConfig:
    "The toy preset with the channels of an arm and the width of the text."
    _, depth, width = text["tokens"].shape
    return preset(
        "toy",
        in_channels=4 * arm.channels,
        out_channels=arm.channels,
        num_layers=layers,
        enc_hidden_dim=width,
        selected_layer_index=tuple(range(depth)),
    )


def equal_steps(arm: Arm, text: dict, config: AblationConfig) -> int:
    "Steps of the transformer that cost what `config.steps` cost in the arm `few`."
    words = round(text["offsets"].diff().float().mean().item())
    costs = [
        count_flops(transformer_sizes(a, text, config.layers), GRID[0] * GRID[1], words)["total"]
        for a in (ARMS["few"], arm)
    ]
    return max(2, round(config.steps * costs[0] / costs[1]))


@torch.no_grad()
def pictures_by(model, vae: ToyVAE, text: tuple, config: AblationConfig, seed: int) -> Tensor:
    "Pictures [B, 3, 64, 64] for features (list of [B, S, D], mask); noise by place in the batch."
    rows, tokens = len(text[1]), GRID[0] * GRID[1]
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, tokens, model.config.in_channels, generator=g)
    field = velocity_field(model.eval(), *text, GRID, config.guidance)
    levels = sigma_schedule(tokens, config.sampling_steps)
    return decode(vae, sample(field, noise, levels), GRID)


def grades_of(model, vae: ToyVAE, shared: dict, config: AblationConfig, seed: int) -> list:
    "The score in [0, 1] of the model's picture of each scene of the exam."
    (scenes, skills), asked, out = shared["exam"], shared["asked"], []
    for i in range(0, len(scenes), 50):
        some = scenes[i : i + 50]
        text = asked.encoder.encode([asked.prompt(s) for s in some])
        images = pictures_by(model, vae, text, config, 1000 * seed + i)
        out += asked.score(images, some, skills[i : i + 50])
    return [float(g) for g in out]


def transformer_config(config: AblationConfig, steps: int, seed: int) -> TrainConfig:
    "A constant rate and averaged weights, so that every point of a curve is a finished model."
    return TrainConfig.preset(
        "toy",
        steps=steps,
        batch_size=config.batch_size,
        lr=config.lr,
        warmup=min(100, steps // 4),
        betas=(0.9, 0.99),
        ema=0.998,
        precision="bf16",
        validate_every=0,
        sample_every=0,
        checkpoint_every=0,  # saved after each look
        keep_last=1,
        seed=seed,
    )


def looks(steps: int, config: AblationConfig) -> list[int]:
    """The steps after which a transformer is scored: at the same shares of the cost in all arms,
    the last one at the end."""
    count = max(1, config.steps // config.score_every)
    return [round(steps * (i + 1) / count) for i in range(count)]


def curve(arm: Arm, seed: int, vae: ToyVAE, shared: dict, config, out: Path, log=print) -> dict:
    """The scores of an arm's transformer over its training, kept in `out` after every look and
    taken up there: dict(arm, seed, steps, rows, grades, done)."""
    path, run = out / f"dit_{arm.name}_{seed}.json", out / f"run_dit_{arm.name}_{seed}"
    found = read_json(path) or {}
    if found.get("done"):
        return found
    text = shared["text"]
    steps = equal_steps(arm, text, config)
    torch.manual_seed(seed)
    sizes = transformer_sizes(arm, text, config.layers)
    model = init_weights(LensTransformer2DModel(**sizes.to_dict()))
    learner = Learner(model, transformer_config(config, steps, seed))
    data = CachedData(cache_of(vae, shared["images"], text), config.batch_size, seed)
    rows = {r["step"]: r for r in found.get("rows", [])}
    for state in train(learner, pretrain_step, data, folder=run, log=log):
        if state.step not in looks(steps, config):
            continue
        with learner.ema.applied(model):
            grades = grades_of(model, vae, shared, config, seed)
        cost = state.step / steps  # share of the budget, which is the same for all arms
        loss = fmean(r["loss"] for r in learner.history[-20:]) if learner.history else state.loss
        row = dict(step=state.step, cost=cost, loss=loss, score=fmean(grades))
        rows[state.step] = row
        log(f"{arm.name} {seed}  {row}")
        found = dict(arm=arm.name, seed=seed, steps=steps, rows=list(rows.values()))
        write_json(found | dict(grades=grades, done=state.step == steps), path)
        learner.save(run, pretrain_step, data)
    if learner.step < steps:
        raise InterruptedError(f"{arm.name}: stopped at step {learner.step}; run it again to go on")
    shutil.rmtree(run, ignore_errors=True)
    return read_json(path)


# ---- all of it
def shared_parts(out, config: AblationConfig, asked: Asked, log=print) -> dict:
    "What all arms share, made in `out` where it is missing: pictures, judge, prompts, exam."
    out = Path(out)
    keep_plan(out, config.to_dict(), ("arms", "seeds"))
    images, held_out = pictures_of(out, config)
    net = judge_of(out, config, images, log)
    labels = fact_labels([scene_of(i, "test") for i in range(len(held_out))])
    if read_json(out / "judge.json") is None:
        write_json(judged(net, signed(held_out), labels), out / "judge.json")
    text = text_of(asked, [scene_of(i) for i in range(len(images))])
    shared = dict(images=images, held_out=held_out, labels=labels, net=net)
    return shared | dict(text=text, asked=asked, exam=exam(config.per_skill))


def ablate(out, config: AblationConfig, asked: Asked, part: int = 0, parts: int = 1, log=print):
    """Run the comparison in folder `out`, going on where it stopped. Returns what `gathered` does;
    None while other processes still have to finish their share.

    `part` of `parts`: this process takes every `parts`-th pair of arm and seed. Processes may start
    once `judge.json` is in `out`; the first one makes it. Raises `ConfigError` for an `out` that
    was begun with other settings."""
    if not 0 <= part < parts:
        raise ConfigError(f"part={part}: must be from 0 to parts - 1 = {parts - 1}")
    out = Path(out)
    if part and not (out / "judge.json").is_file():
        raise DataError(f"{out}: has no judge.json yet; start part 0 first and wait for it")
    shared = shared_parts(out, config, asked, log)
    pairs = [(arm, seed) for seed in range(config.seeds) for arm in arms_named(config.arms)]
    for arm, seed in pairs[part::parts]:
        vae = arm_vae(arm, seed, shared, config, out, log)
        curve(arm, seed, vae, shared, config, out, log)
    result = gathered(out, config)
    if all(len(found["curves"]) == config.seeds for found in result["arms"].values()):
        write_json(result, out / "ablation.json")
        return result
    return None


def gathered(out, config: AblationConfig) -> dict:
    """What is in `out` so far: dict(config, judge, arms={name: dict(vae=[measures of each seed],
    curves=[finished curves])})."""
    out, arms = Path(out), {}
    for name in config.arms:
        notes = [read_json(out / f"vae_{name}_{s}.json") for s in range(config.seeds)]
        curves = [read_json(out / f"dit_{name}_{s}.json") for s in range(config.seeds)]
        arms[name] = dict(
            vae=[n for n in notes if n],
            curves=[c for c in curves if c and c["done"]],
        )
    return dict(config=config.to_dict(), judge=read_json(out / "judge.json"), arms=arms)


# ---- reading the result
MEASURES = dict(
    db="dB",
    distance="distance",
    db_rough="dB, rough",
    kept="kept",
    facts="facts",
    neighbours="neighbours",
    rank_share="rank",
    nats="nats",
)


def final_scores(found: dict) -> list[float]:
    "Score at the end of training, of each seed of an arm."
    return [c["rows"][-1]["score"] for c in found["curves"]]


def mean_and_spread(values: list) -> tuple[float, float]:
    "Mean, and standard deviation over seeds (0 for one)."
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def table(result: dict) -> str:
    "Markdown: the measures of each arm, and its transformer's score, means over seeds."
    head = ["arm", *MEASURES.values(), "score", "spread", "against few"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    base = fmean(final_scores(result["arms"]["few"]))
    for name, found in result["arms"].items():
        values = [fmean(v[m] for v in found["vae"]) for m in MEASURES]
        mean, spread = mean_and_spread(final_scores(found))
        cells = [f"{v:.1f}" if abs(v) >= 10 else f"{v:.3f}" for v in values]
        cells += [f"{mean:.3f}", f"{spread:.3f}", f"{mean - base:+.3f}"]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def predictors(result: dict) -> dict:
    """{measure: Spearman's rank correlation with the final score}, over all arms and seeds: does
    reconstruction predict the score, or something else?"""
    from scipy.stats import spearmanr

    pairs = [
        (v, c["rows"][-1]["score"])
        for found in result["arms"].values()
        for v, c in zip(found["vae"], found["curves"])
    ]
    scores = [score for _, score in pairs]
    return {m: float(spearmanr([v[m] for v, _ in pairs], scores).statistic) for m in MEASURES}


def plot(result: dict):
    """Figure: scores over the cost of training (mean, and range over seeds); final score against
    dB; final score against the share that neighbours explain."""
    import matplotlib.pyplot as plt

    figure, (left, *right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for name, found in result["arms"].items():
        scores = np.array([[r["score"] for r in c["rows"]] for c in found["curves"]])
        cost = [r["cost"] for r in found["curves"][0]["rows"]]
        (line,) = left.plot(cost, scores.mean(0), label=name)
        left.fill_between(cost, scores.min(0), scores.max(0), alpha=0.15, color=line.get_color())
        for ax, name_of in zip(right, ("db", "neighbours")):
            values = [v[name_of] for v in found["vae"]]
            ax.scatter(values, scores[:, -1], color=line.get_color(), s=18)
            ax.annotate(name, (fmean(values), scores[:, -1].mean()), fontsize=8)
    left.set(xlabel="share of the training", ylabel="score", ylim=(0, None))
    left.legend(fontsize=8)
    right[0].set(xlabel="dB of reconstruction", ylabel="final score")
    right[1].set(xlabel="variance explained by neighbours", ylabel="final score")
    return figure
