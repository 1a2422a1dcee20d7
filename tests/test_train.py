"""The training loop: exact resume, faults while saving, refusals, signals, non-finite losses."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_ref.core import averages, runs
from lens_ref.core import loop as T
from lens_ref.core.config import CheckpointError, ConfigError, DataError
from lens_ref.core.files import load_tensors
from lens_ref.dit.transformer import LensTransformer2DModel
from lens_ref.pretrain import step as pretraining

ROOT = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    config = dict(
        in_channels=8,
        out_channels=2,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        inner_dim=32,
        axes_dims_rope=[4, 6, 6],
        enc_hidden_dim=12,
        selected_layer_index=[0, 1],
    )
    return LensTransformer2DModel(**{**config, **changes})


def tiny_data(n=10, batch_size=4, seed=0):
    g = torch.Generator().manual_seed(3)
    mask = torch.arange(5) < torch.randint(1, 6, (n, 1), generator=g)
    return runs.InMemoryData(
        torch.randn(n, 4, 8, generator=g),
        [torch.randn(n, 5, 12, generator=g) for _ in range(2)],
        mask,
        (2, 2),
        batch_size,
        seed,
    )


def config(**changes):
    return pretraining.TrainConfig(
        **{
            **dict(
                steps=10,
                batch_size=4,
                warmup=2,
                log_every=3,
                validate_every=4,
                sample_every=5,
                checkpoint_every=5,
                ema=0.9,
            ),
            **changes,
        }
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or a != a and b != b


def drain(learner, step=pretraining.pretrain_step, data=None, **kw):
    return list(
        T.train(learner, step, data or tiny_data(), log=kw.pop("log", lambda line: None), **kw)
    )


def noisy_step(model, batch, config, generator):
    "Also draws from every global generator, so that a resume which forgets one is caught."
    loss, extra = pretraining.pretrain_step(model, batch, config, generator)
    return loss * (1 + torch.rand(()) + np.random.rand() + random.random()), extra


# ---- config


@pytest.mark.parametrize(
    "field, value",
    [
        ("steps", 0),
        ("batch_size", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("warmup", -1),
        ("warmup", 10_000),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
        ("weight_decay", -0.1),
        ("grad_clip", 0.0),
        ("ema", 1.0),
        ("ema", -0.1),
        ("caption_dropout", 1.5),
        ("mu", float("inf")),
        ("timestep_std", 0.0),
        ("precision", "fp16"),
        ("schedule", "linear"),
        ("keep_last", 0),
        ("checkpoint_every", -1),
        ("decay_fraction", 2.0),
        ("seed", -1),
    ],
)
def test_impossible_value_names_the_field(field, value):
    with pytest.raises(ConfigError, match=rf"TrainConfig\.{field}="):
        pretraining.TrainConfig(**{field: value})


def test_presets():
    lens = pretraining.TrainConfig.preset("lens")
    assert (lens.steps, lens.batch_size, lens.lr, lens.mu) == (400_000, 3072, 2e-4, 1.06)
    assert (lens.betas, lens.grad_clip, lens.precision) == ((0.9, 0.999), 1.0, "bf16")
    second = pretraining.TrainConfig.preset("lens-stage2", seed=3)
    assert (second.lr, second.mu, second.schedule) == (1e-4, None, "constant")
    assert second.seed == 3 and second.batch_size == 24 * 128
    for name in pretraining.TRAIN_PRESETS:
        c = pretraining.TrainConfig.preset(name)
        assert pretraining.TrainConfig.from_dict(json.loads(json.dumps(c.to_dict()))) == c
    with pytest.raises(ConfigError, match="no preset 'huge'"):
        pretraining.TrainConfig.preset("huge")


def test_learning_rate():
    for s in T.SCHEDULES:
        c = pretraining.TrainConfig(steps=100, warmup=10, schedule=s, lr=1.0, final_lr=0.1)
        lrs = [T.lr_at(i, c) for i in range(101)]
        assert all(0 < x <= 1 for x in lrs) and lrs[0] < 0.1 and lrs[9] < lrs[10] == 1.0
        assert lrs[-1] == pytest.approx(1.0 if s == "constant" else 0.1)
    wsd = pretraining.TrainConfig(steps=100, warmup=10, schedule="wsd", lr=1.0, decay_fraction=0.5)
    assert T.lr_at(50, wsd) == 1.0 and T.lr_at(75, wsd) == pytest.approx(0.5)


# ---- one step


def test_caption_dropout_masks_whole_captions_at_its_rate():
    mask = torch.ones(4000, 3, dtype=torch.bool)
    out = pretraining.drop_captions(mask, 0.1, torch.Generator().manual_seed(0))
    assert (out.any(1) == out.all(1)).all() and 0.08 < 1 - out.any(1).float().mean() < 0.12
    assert (
        pretraining.drop_captions(mask, 0.0).all()
        and not pretraining.drop_captions(mask, 1.0).any()
    )


def test_pretrain_step_depends_only_on_its_generator():
    model, batch = tiny(), tiny_data().batch(0)
    gen = lambda: torch.Generator().manual_seed(5)
    torch.manual_seed(1)
    a, extra = pretraining.pretrain_step(model, batch, config(), gen())
    torch.manual_seed(2)
    b, _ = pretraining.pretrain_step(model, batch, config(), gen())
    assert (
        torch.equal(a, b)
        and torch.allclose(a, extra["per_sample"].mean())
        and extra["t"].shape == extra["per_sample"].shape == (4,)
    )


def test_dropped_caption_equals_no_text():
    model, batch = tiny(), tiny_data().batch(0)
    empty = {**batch, "text_mask": torch.zeros_like(batch["text_mask"])}
    gen = lambda: torch.Generator().manual_seed(5)
    a, _ = pretraining.pretrain_step(model, batch, config(caption_dropout=1.0), gen())
    b, _ = pretraining.pretrain_step(model, empty, config(caption_dropout=0.0), gen())
    assert torch.equal(a, b)


def test_list_of_batches_averages_their_gradients():
    class Pairs:
        def batch(self, step):
            return [
                tiny_data(batch_size=2).batch(2 * step),
                tiny_data(batch_size=2).batch(2 * step + 1),
            ]

    def fixed(model, batch, config, generator):  # no randomness, so that two halves equal the whole
        noise, t = torch.ones_like(batch["latents"]), torch.full((len(batch["latents"]),), 0.5)
        return pretraining.velocity_errors(model, batch, batch["text_mask"], noise, t).mean(), {}

    a, b = T.Learner(tiny(), config()), T.Learner(tiny(), config())
    (one, *_), (two, *_) = drain(a, fixed), drain(b, fixed, Pairs())
    assert one.loss == pytest.approx(two.loss, rel=1e-5) and one.grad_norm == pytest.approx(
        two.grad_norm, rel=1e-4
    )


@pytest.mark.parametrize("name, rows", [("images", (4, 3, 8, 8)), ("ids", (2, 17))])
def test_a_batch_is_a_dict_of_any_tensors(tmp_path, name, rows):
    "The autoencoder's batch has only images, the language model's only ids."

    class Data:
        def batch(self, step):
            g = torch.Generator().manual_seed(step)
            return {name: torch.randint(0, 9, rows, generator=g)}

    def step(model, batch, config, generator):
        x = batch[name].float().flatten(1)
        return (model(x) - torch.rand(len(x), 1, generator=generator)).square().mean(), {}

    def learner(seed=0):
        torch.manual_seed(seed)
        model = torch.nn.Linear(int(np.prod(rows[1:])), 1)
        return T.Learner(model, T.LoopConfig(steps=6, warmup=1, log_every=2, validate_every=3))

    def walk(learner, stop=None, **kw):
        for s in T.train(learner, step, Data(), validate=lambda m: 0.5, log=str, **kw):
            if s.step == stop:
                break
        return learner, s

    whole, last = walk(learner())
    assert runs.batch_size_of(Data().batch(0)) == runs.batch_size_of([Data().batch(0)]) == rows[0]
    assert last.metrics == dict(val_loss=0.5, val_loss_ema=0.5) and last.rate > 0
    assert [r["step"] for r in whole.history if "loss" in r] == [2, 4, 6]
    assert all(m != m for m in whole.bins.mean())  # no noise levels: nothing is booked
    assert len(runs.plot_run(whole).axes) == 1  # and nothing drawn
    walk(learner(), stop=3, folder=tmp_path)
    again, _ = walk(learner(seed=1), folder=tmp_path)
    assert same(T.run_state(whole)["model"], T.run_state(again)["model"])
    with pytest.raises(ConfigError, match=r"LoopConfig\.lr=0.1"):
        other = learner()
        other.config = other.config.replace(lr=0.1)
        walk(other, folder=tmp_path)


def test_noise_levels_are_drawn_beside_the_losses():
    learner = T.Learner(tiny(), config())
    drain(learner)
    assert len(runs.plot_run(learner).axes) == 2


def test_a_batch_without_a_tensor_is_named():
    assert runs.batch_size_of(dict(grid=(2, 2), latents=torch.zeros(3, 4, 8))) == 3
    with pytest.raises(DataError, match="text"):
        runs.batch_size_of(dict(text=["a", "b"]))


def test_an_optimiser_of_ones_own_is_used_and_resumed(tmp_path):
    def learner():
        model = tiny()
        sgd = torch.optim.SGD(model.parameters(), momentum=0.9)
        return T.Learner(model, config(lr=0.1), sgd)

    whole, first, second = learner(), learner(), learner()
    drain(whole)
    for s in T.train(first, pretraining.pretrain_step, tiny_data(), folder=tmp_path, log=str):
        if s.step == 5:
            break
    drain(second, folder=tmp_path)
    assert isinstance(second.optimiser, torch.optim.SGD)
    assert second.optimiser.param_groups[0]["lr"] == 0.1  # the schedule's
    assert same(T.run_state(whole)["optimiser"], T.run_state(second)["optimiser"])
    assert same(T.kept_weights(whole.model), T.kept_weights(second.model))


def test_a_models_config_of_any_kind_goes_into_the_checkpoint():
    model = torch.nn.Linear(2, 2)
    assert T.model_config(model) == {}
    model.config = dict(width=2, betas=(1, 2), _name="x")
    assert T.model_config(model) == dict(width=2, betas=[1, 2])
    model.config = T.LoopConfig(steps=200)
    assert T.model_config(model)["steps"] == 200


def test_bf16_autocast_keeps_fp32_weights():
    learner = T.Learner(tiny(), config(steps=3, warmup=0, precision="bf16"))
    states = drain(learner)
    assert all(s.loss == s.loss for s in states) and {
        p.dtype for p in learner.model.parameters()
    } == {torch.float32}


def test_frozen_weights_are_neither_trained_nor_saved(tmp_path):
    model = tiny()
    for n, p in model.named_parameters():
        p.requires_grad_("transformer_blocks.1" in n)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    learner = T.Learner(model, config())
    drain(learner, folder=tmp_path)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all("transformer_blocks.1" in k for k in moved)
    assert all(
        "transformer_blocks.1" in k
        for k in runs.read_checkpoint(runs.latest_checkpoint(tmp_path))["model"]
    )
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable"):
        T.Learner(model, config())


# ---- averages and bands


def test_ema_follows_its_formula_and_gives_the_weights_back():
    model = torch.nn.Linear(3, 2)
    ema = averages.EMA(model, 0.9)
    want, own = model.weight.detach().clone(), None
    for i in range(30):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        d = min(0.9, (1 + i) / (10 + i))
        want = d * want + (1 - d) * model.weight.detach()
        ema.update(model, i)
    assert torch.allclose(ema.shadow["weight"], want, atol=1e-5)
    own = model.weight.detach().clone()
    with pytest.raises(KeyError), ema.applied(model):
        assert torch.equal(model.weight, ema.shadow["weight"])
        raise KeyError
    assert torch.equal(model.weight, own)


def test_noise_bins():
    bins = averages.NoiseBins(bins=4, decay=0.5)
    bins.update(torch.tensor([0.0, 0.1, 0.6, 1.0]), torch.tensor([1.0, 3.0, 5.0, 7.0]))
    first = bins.mean()
    assert first[0] == 2 and first[1] != first[1] and first[2:] == [5, 7]
    bins.update(torch.tensor([0.2]), torch.tensor([8.0]))
    assert bins.mean()[0] == pytest.approx((0.5 * 4 + 8) / (0.5 * 2 + 1))


def test_fixed_validation_is_fixed_and_spread():
    data, c = tiny_data(64), config()
    v, model = pretraining.FixedValidation(data.rows(slice(None)), c), tiny()
    assert v(model) == v(model) == pretraining.FixedValidation(data.rows(slice(None)), c)(model)
    z = torch.logit(v.t) - pretraining.timestep_mu(c, 4)
    assert abs(z.mean()) < 0.01 and 0.9 < z.std() < 1.05 and v.errors(model).shape == (64,)


# ---- data


def test_every_item_once_per_epoch_and_position_is_the_step():
    order = torch.cat([runs.batch_indices(s, 4, 10, seed=2) for s in range(10)])
    for epoch in order.split(10):
        assert torch.equal(epoch.sort().values, torch.arange(10))
    assert not torch.equal(order[:10], order[10:20])
    big = runs.batch_indices(3, 25, 10, seed=2)  # a batch larger than the set
    assert len(big) == 25 and big.bincount().min() >= 2


def test_bad_data_is_refused():
    x, text, mask = (
        torch.randn(4, 4, 8),
        [torch.randn(4, 5, 12)],
        torch.ones(4, 5, dtype=torch.bool),
    )
    with pytest.raises(DataError, match="grid"):
        runs.InMemoryData(x, text, mask, (2, 3), 2)
    with pytest.raises(DataError, match="4 latents"):
        runs.InMemoryData(x, text, mask[:3], (2, 2), 2)


class Counter:
    "A forward-only stream of batches with a state."

    def __init__(self):
        self.i, self.data = 0, tiny_data()

    def state_dict(self):
        return dict(i=self.i)

    def load_state_dict(self, s):
        self.i = s["i"]

    def batch(self, step):
        "The next batch, whatever the step."
        self.i += 1
        return self.data.batch(self.i * 7)


def test_data_that_only_move_forward_resume_exactly(tmp_path):
    whole = T.Learner(tiny(), config())
    drain(whole, data=Counter())
    for stop in (5, 10):
        learner = T.Learner(tiny(), config())
        run = T.train(learner, pretraining.pretrain_step, Counter(), folder=tmp_path, log=str)
        for s in run:
            if s.step == stop:
                break
    again, data = T.Learner(tiny(1), config()), Counter()
    drain(again, data=data, folder=tmp_path)
    assert data.i == 10 and same(T.kept_weights(whole.model), T.kept_weights(again.model))


# ---- exact resume


@pytest.mark.parametrize(
    "changes",
    [{}, dict(schedule="cosine"), dict(precision="bf16"), dict(weight_decay=0.1, ema=0.0)],
)
def test_ten_steps_equal_five_and_five(tmp_path, changes):
    c, v = config(**changes), pretraining.FixedValidation(tiny_data().rows(slice(None)), config())

    def go(learner, stop=None, folder=None):
        for s in T.train(
            learner,
            noisy_step,
            tiny_data(),
            folder=folder,
            validate=v,
            sample=lambda m: torch.rand(2, 3, 8, 8) * 2 - 1,
            log=lambda line: None,
        ):
            if s.step == stop:
                break
        return learner

    T_seed(0)
    whole = T.run_state(go(T.Learner(tiny(), c)), noisy_step, tiny_data())
    T_seed(0)
    go(T.Learner(tiny(), c), stop=5, folder=tmp_path)
    T_seed(9)
    two = T.run_state(go(T.Learner(tiny(4), c), folder=tmp_path), noisy_step, tiny_data())
    assert {k: same(whole[k], two[k]) for k in whole} == dict.fromkeys(whole, True)


def T_seed(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def test_sampling_and_validating_do_not_change_the_training():
    T_seed(0)
    a = T.Learner(tiny(), config())
    drain(a, noisy_step)
    T_seed(0)
    b = T.Learner(tiny(), config(sample_every=1, validate_every=1))
    drain(
        b,
        noisy_step,
        sample=lambda m: torch.rand(1, 3, 8, 8),
        validate=lambda m: torch.rand(()).item(),
    )
    assert same(T.kept_weights(a.model), T.kept_weights(b.model))


WORKER = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_train import *
T_seed(0)
out, stop, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None
learner, data = T.Learner(tiny(), config()), tiny_data()
for s in T.train(learner, noisy_step, data, folder=folder, log=str):
    if s.step == stop:
        break
torch.save(T.run_state(learner, noisy_step, data), out)
"""


def worker(*args, **kw):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER.format(tests=str(ROOT / "tests")), *map(str, args)],
        env=ENV,
        text=True,
        stderr=subprocess.PIPE,
        **kw,
    )


def test_exact_resume_in_fresh_processes(tmp_path):
    for args in (("a.pt", 99), ("b.pt", 5, "run"), ("c.pt", 99, "run")):
        p = worker(tmp_path / args[0], args[1], *(tmp_path / x for x in args[2:]))
        _, err = p.communicate(timeout=200)
        assert p.returncode == 0, err
    a, c = (torch.load(tmp_path / n, weights_only=True) for n in ("a.pt", "c.pt"))
    assert {k: same(a[k], c[k]) for k in a} == dict.fromkeys(a, True)


# ---- checkpoints and faults


def test_keeps_the_last_and_resumes_a_finished_run(tmp_path):
    learner = T.Learner(tiny(), config(checkpoint_every=2, keep_last=2))
    drain(learner, folder=tmp_path)
    assert [p.name for p in runs.checkpoints(tmp_path)] == ["step_00000010.pt", "step_00000008.pt"]
    assert drain(T.Learner(tiny(), config()), folder=tmp_path) == []
    more = T.Learner(tiny(), config(steps=12))  # a constant schedule may be prolonged
    assert [s.step for s in drain(more, folder=tmp_path)] == [11, 12]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_newest_is_named_and_the_previous_used(tmp_path, damage):
    drain(T.Learner(tiny(), config()), folder=tmp_path)
    newest = runs.checkpoints(tmp_path)[0]
    raw = bytearray(newest.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 0xFF
    newest.write_bytes({"cut": raw[: len(raw) // 2], "flip": raw, "empty": b""}[damage])
    said = []
    learner = T.Learner(tiny(), config())
    T.resume(tmp_path, learner, log=said.append)
    assert learner.step == 5 and len(said) == 1 and newest.name in said[0]
    with pytest.raises(CheckpointError, match=newest.name):
        runs.read_checkpoint(newest)
    for p in runs.checkpoints(tmp_path):
        p.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="none of its 3 checkpoints"):
        runs.latest_checkpoint(tmp_path, log=str)


def test_pruning_never_counts_a_damaged_file(tmp_path):
    learner = T.Learner(tiny(), config(keep_last=2))
    for learner.step in (1, 2, 3):
        T.save_checkpoint(tmp_path, learner)
    good, bad = tmp_path / "step_00000002.pt", tmp_path / "step_00000003.pt"
    bad.write_bytes(b"cut")
    learner.step = 4
    T.save_checkpoint(tmp_path, learner)
    assert good.exists() and runs.latest_checkpoint(tmp_path, log=str).name == "step_00000004.pt"


def test_missing_and_foreign_files(tmp_path):
    assert runs.latest_checkpoint(tmp_path / "nowhere") is None
    with pytest.raises(CheckpointError, match="no such file"):
        runs.read_checkpoint(tmp_path / "step_1.pt")

    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save(Evil(), tmp_path / "step_2.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        runs.read_checkpoint(tmp_path / "step_2.pt")


FULL = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
from test_train import *
folder = sys.argv[1]
learner, straight = T.Learner(tiny(), config()), T.Learner(tiny(), config())
drain(straight)
run = T.train(learner, pretraining.pretrain_step, tiny_data(), folder=folder, log=str)
for s in run:
    if s.step == 4:
        break
run.close()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
# Writes now fail as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
before = sorted(p.name for p in Path(folder).iterdir())
try:
    drain(learner, folder=folder)
    print("saved?")
except CheckpointError as e:
    print("ERROR", e)
assert sorted(p.name for p in Path(folder).iterdir()) == before, "left something behind"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert runs.is_whole(runs.latest_checkpoint(folder), deep=True)
drain(learner, folder=folder)
assert learner.step == 10
assert same(T.kept_weights(learner.model), T.kept_weights(straight.model)), "it was harmed"
print("unharmed")
"""


def test_full_disk_while_saving(tmp_path):
    pytest.importorskip("resource")
    p = subprocess.run(
        [sys.executable, "-c", FULL.format(tests=str(ROOT / "tests")), str(tmp_path / "run")],
        env=ENV,
        text=True,
        capture_output=True,
    )
    assert p.returncode == 0, p.stderr
    assert (
        "ERROR" in p.stdout
        and "step_000000" in p.stdout
        and "unharmed" in p.stdout
        and "saved?" not in p.stdout
    )


def test_no_room_is_said_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda p: type("Usage", (), dict(free=1000)))
    with pytest.raises(CheckpointError, match="keep_last=3 more checkpoints need"):
        drain(T.Learner(tiny(), config()), folder=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file"):
        drain(T.Learner(tiny(), config()), folder=tmp_path / "file")


@pytest.mark.parametrize(
    "field, change",
    [
        ("lr", dict(lr=1e-4)),
        ("seed", dict(seed=1)),
        ("precision", dict(precision="bf16")),
        ("betas", dict(betas=(0.9, 0.99))),
    ],
)
def test_other_config_is_refused_by_name_unless_allowed(tmp_path, field, change):
    drain(T.Learner(tiny(), config()), folder=tmp_path)
    other = T.Learner(tiny(), config(steps=12, **change))
    weights = {k: v.clone() for k, v in T.kept_weights(other.model).items()}
    with pytest.raises(ConfigError, match=rf"TrainConfig\.{field}="):
        drain(other, folder=tmp_path)
    assert other.step == 0 and same(weights, T.kept_weights(other.model))
    states = drain(other, folder=tmp_path, allow=[field])
    assert [s.step for s in states] == [11, 12] and other.optimiser.param_groups[0][
        "betas"
    ] == other.config.betas
    assert states[-1].lr == other.config.lr


def test_other_model_data_or_schedule_length_is_refused(tmp_path):
    c = config(schedule="cosine")
    drain(T.Learner(tiny(), c), folder=tmp_path)
    with pytest.raises(ConfigError, match="model config.num_layers=3"):
        drain(T.Learner(tiny(num_layers=3), c), folder=tmp_path)
    with pytest.raises(ConfigError, match="data.items"):
        drain(T.Learner(tiny(), c), data=tiny_data(11), folder=tmp_path)
    with pytest.raises(ConfigError, match="TrainConfig.steps=20"):
        drain(T.Learner(tiny(), c.replace(steps=20)), folder=tmp_path)
    drain(
        T.Learner(tiny(), c.replace(log_every=1, keep_last=9, checkpoint_every=1)), folder=tmp_path
    )
    plain = torch.nn.Linear(2, 2)
    saved = T.run_state(T.Learner(plain, c))
    with pytest.raises(CheckpointError, match=r"weight (bias|weight) is \[2"):
        T.load_run(saved, T.Learner(torch.nn.Linear(3, 3), c))


# ---- non-finite losses and signals


class Sometimes:
    "NaN loss at the given steps; counts its own calls, which go into the checkpoint."

    def __init__(self, bad):
        self.bad, self.calls = bad, 0

    def __call__(self, model, batch, config, generator):
        loss, extra = pretraining.pretrain_step(model, batch, config, generator)
        self.calls += 1
        return (loss * float("nan") if self.calls in self.bad else loss), {
            **extra,
            "calls": self.calls,
        }

    def state_dict(self):
        return dict(calls=self.calls)

    def load_state_dict(self, s):
        self.calls = s["calls"]


def test_a_bad_step_is_skipped_and_leaves_no_trace():
    learner = T.Learner(tiny(), config(steps=3))
    run = T.train(learner, Sometimes({2}), tiny_data())
    next(run)
    before = (
        {k: v.clone() for k, v in T.kept_weights(learner.model).items()},
        {k: v.clone() for k, v in learner.ema.shadow.items()},
    )
    state = next(run)
    assert state.skipped and learner.skips == 1 and "SKIPPED" in runs.status_line(state, 3)
    assert same(before, (T.kept_weights(learner.model), learner.ema.shadow))
    assert (
        not next(run).skipped
        and learner.skips_in_row == 0
        and all(m == m or True for m in learner.bins.mean())
    )


def test_too_many_bad_steps_end_the_run():
    with pytest.raises(T.DivergedError, match="step 6.*3 times in a row.*lr"):
        drain(T.Learner(tiny(), config(max_skips=3)), Sometimes(set(range(4, 99))))


def test_a_step_with_state_is_resumed(tmp_path):
    first, second = Sometimes(()), Sometimes(())
    for s in T.train(T.Learner(tiny(), config()), first, tiny_data(), folder=tmp_path):
        if s.step == 5:
            break
    states = drain(T.Learner(tiny(), config()), second, folder=tmp_path)
    assert second.calls == 10 and states[-1].metrics["calls"] == 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_step_saves_and_ends(tmp_path, number):
    def step(model, batch, config, generator):
        if learner.step == 2:
            signal.raise_signal(number)
        return pretraining.pretrain_step(model, batch, config, generator)

    learner, handlers, said = (
        T.Learner(tiny(), config()),
        (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)),
        [],
    )
    T.fit(
        learner,
        step,
        tiny_data(),
        folder=tmp_path,
        progress=runs.Progress(learner, "lines", log=said.append),
    )
    assert learner.step == 3 and learner.stopped == number and number.name in said[-1]
    assert runs.latest_checkpoint(tmp_path).name == "step_00000003.pt"
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    whole = T.Learner(tiny(), config())
    drain(whole)
    drain(learner, folder=tmp_path)
    assert learner.stopped is None and same(
        T.kept_weights(whole.model), T.kept_weights(learner.model)
    )


def test_signal_while_the_plot_is_drawn(tmp_path):
    learner = T.Learner(tiny(), config())

    class Watcher(runs.Progress):
        def update(self, state):
            if state.step == 4:
                signal.raise_signal(signal.SIGINT)

    T.fit(
        learner,
        pretraining.pretrain_step,
        tiny_data(),
        folder=tmp_path,
        progress=Watcher(learner, "lines", log=str),
    )
    assert (
        learner.step == 4
        and learner.stopped == signal.SIGINT
        and runs.latest_checkpoint(tmp_path).name == "step_00000004.pt"
    )


def test_second_signal_strikes_at_once():
    with pytest.raises(KeyboardInterrupt), runs.StopSignal():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from test_train import *
def slow(*args):
    time.sleep(0.05)
    return pretraining.pretrain_step(*args)
learner = T.Learner(tiny(), config(steps=100_000, checkpoint_every=0))
watch = runs.Progress(learner, "lines", seconds=0.0, log=lambda s: print(s, flush=True))
T.fit(learner, slow, tiny_data(), folder=sys.argv[1], progress=watch)
print("ended at", learner.step)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_sigterm_to_a_real_process(tmp_path):
    p = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(tests=str(ROOT / "tests")), str(tmp_path)],
        env=ENV,
        text=True,
        stdout=subprocess.PIPE,
    )
    while not p.stdout.readline().startswith("step 3/"):
        assert p.poll() is None
    time.sleep(0.1)
    p.terminate()
    out, _ = p.communicate(timeout=60)
    steps = int(out.rsplit("ended at", 1)[1])
    assert p.returncode == 0 and runs.latest_checkpoint(tmp_path).name == f"step_{steps:08d}.pt"


# ---- display and export


def test_terminal_lines_have_units(capsys):
    learner = T.Learner(tiny(), config())
    T.fit(
        learner,
        pretraining.pretrain_step,
        tiny_data(),
        validate=lambda m: 0.5,
        progress=runs.Progress(learner, "lines"),
    )
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].startswith("step 1/10  loss ")
        and "samples/s  ETA" in lines[0]
        and "val_loss 0.5000  val_loss_ema 0.5000" in lines[1]
        and lines[-1].startswith("step 10/10")
    )
    assert [runs.duration(s) for s in (4.6, 75, 3700)] == ["5s", "1m15s", "1h01m"]


def test_display_mode(monkeypatch):
    monkeypatch.setenv("IN_TEST", "1")
    assert runs.display_mode() == "quiet"
    monkeypatch.delenv("IN_TEST")
    assert runs.display_mode() == "lines"


def test_export(tmp_path):
    learner = T.Learner(tiny(), config())
    drain(learner)
    file = T.export(
        learner, tmp_path / "w.safetensors", scores=dict(geneval=0.9), command="lens-ref train"
    )
    tensors, meta = load_tensors(file)
    assert {v.dtype for v in tensors.values()} == {
        torch.bfloat16
    } and tensors.keys() == learner.model.state_dict().keys()
    assert all(torch.equal(tensors[k], v.bfloat16()) for k, v in learner.ema.shadow.items())
    assert (meta["command"], meta["seed"], meta["step"], meta["scores"]) == (
        "lens-ref train",
        0,
        10,
        {"geneval": 0.9},
    ) and "commit" in meta
    assert str(tmp_path) not in json.dumps(meta)
    T.export(learner, tmp_path / "model", averaged=False)
    again = LensTransformer2DModel.from_pretrained(tmp_path / "model")
    assert all(
        torch.equal(v.bfloat16(), learner.model.state_dict()[k].bfloat16())
        for k, v in again.state_dict().items()
    )


def test_mixed_sizes_in_one_batch_train_as_each_alone():
    "Padding, its noise, its loss, its mu: each sample has the error and level that it has alone."
    from lens_ref.dit.flow import training_mu
    from lens_ref.pretrain.buckets import pad_batches

    g = torch.Generator().manual_seed(3)
    one = lambda grid: dict(
        latents=torch.randn(1, grid[0] * grid[1], 8, generator=g),
        text=[torch.randn(1, 5, 12, generator=g) for _ in range(2)],
        text_mask=torch.ones(1, 5, dtype=torch.bool),
        grid=grid,
    )
    model, alone = tiny(), [one((1, 2)), one((3, 2)), one((2, 2))]
    for p in model.parameters():
        p.data += 0.02 * torch.randn(p.shape, generator=g)
    together, extra = pretraining.pretrain_step(
        model, pad_batches(alone), config(), torch.Generator().manual_seed(1)
    )
    for i, batch in enumerate(alone):
        loss, own = pretraining.pretrain_step(
            model, batch | dict(place=[i]), config(), torch.Generator().manual_seed(1)
        )
        assert torch.allclose(own["t"], extra["t"][i : i + 1]) and torch.allclose(
            loss, extra["per_sample"][i], atol=1e-5
        )
    assert torch.allclose(together, extra["per_sample"].mean())
    fixed, even = (
        pretraining.FixedValidation(pad_batches(alone), config()),
        (torch.randperm(3, generator=torch.Generator().manual_seed(1234)) + 0.5) / 3,
    )
    assert torch.allclose(
        torch.logit(fixed.t) - torch.special.ndtri(even),
        torch.tensor([training_mu(n) for n in (2, 6, 4)]),
        atol=1e-4,
    )
