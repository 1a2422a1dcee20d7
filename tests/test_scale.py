"""Two processes against one, the planner and the launch.

Equal losses and weights, checkpoints across numbers of ranks, kill -9, SIGTERM, NaN, a full disk.
As a script it is the worker: `test_scale.py pair OUT` runs all that needs two live processes,
`torchrun test_scale.py killed OUT` loses one of them."""

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from lens_ref.dit import presets as dit_presets
from lens_ref.pretrain import cost as pretrain_cost
from lens_ref.pretrain import step as pretraining
from lens_ref.pretrain import planner as P
from lens_ref.pretrain import scale as S
from lens_ref.pretrain import sharding as D
from lens_ref.core import loop as T
from lens_ref.pretrain.buckets import Bucket, Buckets, MixedData, bucket_preset
from lens_ref.core.config import CheckpointError, ConfigError, DataError
from lens_ref.core.files import load_tensors, save_tensors, seed_everything
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights
from lens_ref.core.parallel import full, rank, together
from lens_ref.data.shards import make_sample, write_shards
from lens_ref.pretrain.caches import cache_shards
from test_shards import Encoders, picture
from test_train import config, same, tiny, tiny_data

HERE = Path(__file__).resolve()
ENV = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE.parent}",
    "HF_HUB_OFFLINE": "1",
}
WAYS = {
    "ddp": {},
    "fsdp": dict(parallel="fsdp"),
    "hsdp 2x1": dict(parallel="hsdp", shard=1),
    "hsdp 1x2": dict(parallel="hsdp", shard=2),
    "fsdp, recomputed": dict(parallel="fsdp", checkpointing=True),
    "fsdp, compiled": dict(parallel="fsdp", checkpointing=True, compile=True, backend="eager"),
    "ddp, recomputed": dict(checkpointing=True),
}


def settings(**changes):
    return config(
        **{
            **dict(steps=6, validate_every=0, sample_every=0, checkpoint_every=2, keep_last=2),
            **changes,
        }
    )


def data():
    return tiny_data(n=16, batch_size=8)


def numbers(learner):
    "Everything a run has learned, whole, in every process."
    return {k: full(v).detach().float().clone() for k, v in D.sharded_tensors(learner).items()}


def drain(learner, pieces=1, step=pretraining.pretrain_step, **kw):
    return [s.loss for s in T.train(learner, step, D.Pieces(data(), pieces), log=str, **kw)]


def mixed(number, n):
    "Several sizes, for one of `n` ranks."

    def cache(h, w, count):
        g = torch.Generator().manual_seed(h)
        return dict(
            latents=torch.randn(count, h * w, 8, generator=g),
            tokens=torch.randn(count * 3, 2, 12, generator=g),
            offsets=torch.arange(count + 1) * 3,
            grid=torch.tensor([h, w]),
        )

    return MixedData(
        {(2, 2): cache(2, 2, 13), (3, 4): cache(3, 4, 9)},
        {(2, 2): 6, (3, 4): 2},
        rank=number,
        world=n,
        log=str,
    )


class BothRanks:
    "What two ranks would train on, as batches whose gradients are averaged."

    def batch(self, step):
        return [mixed(number, 2).batch(step) for number in (0, 1)]


def drained(learner, batches, **kw):
    return dict(
        losses=[
            s.loss for s in T.train(learner, pretraining.pretrain_step, batches, log=str, **kw)
        ],
        numbers=numbers(learner),
    )


def told(fn):
    try:
        fn()
    except CheckpointError as e:
        return str(e)


def without_room(folder):
    "Begin a run on a disk that is nearly full; what this process was told."
    true = shutil.disk_usage
    shutil.disk_usage = lambda path: types.SimpleNamespace(free=1000 if rank() == 0 else 10**15)
    try:
        return told(lambda: drain(spread(), folder=folder))
    finally:
        shutil.disk_usage = true


def spread(changes=None, seed=0, **way):
    return D.ParallelLearner(tiny(seed), settings(**changes or {}), D.ScaleConfig(**way))


class Bad:
    "NaN at step 3, in one process."

    def __init__(self, number):
        self.number = number

    def __call__(self, model, batch, c, generator):
        loss, extra = pretraining.pretrain_step(model, batch, c, generator)
        self.calls = getattr(self, "calls", 0) + 1
        return (loss * math.nan if self.calls == 3 and rank() == self.number else loss), extra


# ---- what runs in two processes


def on_full_disk(learner, folder):
    "Save while process 1 has no room; what each process was told."
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    try:
        learner.save(folder)
    except CheckpointError as e:
        return str(e)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def local_bytes(learner):
    part = lambda x: x.to_local() if hasattr(x, "to_local") else x
    size = lambda xs: sum(part(x).numel() * x.element_size() for x in xs)
    params = list(learner.model.parameters())
    return {
        "weights": size(params),
        "gradients": size(p.grad for p in params if p.grad is not None),
        "EMA": size(learner.ema.shadow.values()),
        "Adam": size(
            s[k] for s in learner.optimiser.state.values() for k in ("exp_avg", "exp_avg_sq")
        ),
    }


def pair(out):
    found = {}
    for name, way in WAYS.items():
        learner = spread(**way)
        found[name] = dict(losses=drain(learner), numbers=numbers(learner))
    for name, way in dict(ddp={}, fsdp=dict(parallel="fsdp")).items():
        learner = spread(**way)
        found[f"{name}, accumulated"] = dict(losses=drain(learner, 2), numbers=numbers(learner))
        learner = spread(**way)
        drain(learner, step=Bad(1))
        found[f"{name}, NaN"] = dict(skips=learner.skips, numbers=numbers(learner))
    for name, way in dict(ddp={}, fsdp=dict(parallel="fsdp")).items():
        found[f"{name}, mixed sizes"] = drained(
            spread(dict(steps=8), **way), mixed(rank(), 2), folder=out / f"mixed {name}"
        )
    said = [None, None]
    torch.distributed.all_gather_object(said, without_room(out / "full"))
    found["no room"] = said
    learner = spread(dict(precision="bf16"), parallel="fsdp")
    masters = {p.dtype for p in learner.model.parameters()}
    found["bf16"] = dict(losses=drain(learner), numbers=numbers(learner), masters=masters)
    # checkpoints: written by two, read by two and (in the test) by one; and the other way
    learner = spread(parallel="fsdp")
    drain(learner, folder=out / "two")
    found["bytes"] = local_bytes(learner)
    before = sorted(p.name for p in (out / "two").iterdir())
    learner.step += 1
    found["full disk"] = (
        on_full_disk(learner, out / "two"),
        before,
        sorted(p.name for p in (out / "two").iterdir()),
    )
    again = spread(seed=1, parallel="fsdp")
    again.resume(out / "two")
    found["read by two"] = numbers(again)
    for name, way in dict(ddp={}, fsdp=dict(parallel="fsdp")).items():
        fresh = spread(seed=1, **way)
        fresh.resume(out / "one", log=str)
        found[f"one read as {name}"] = dict(numbers=numbers(fresh), step=fresh.step)
    # averaged weights: inside they are there in every forward pass, afterwards the own ones
    own, validation = (
        numbers(learner),
        D.SharedValidation(tiny_data().rows(slice(None)), settings()),
    )
    plain = validation(learner.model)
    with learner.ema.applied(learner.model):
        averaged = validation(learner.model)
    found["EMA"] = dict(plain=plain, averaged=averaged, given_back=same(own, numbers(learner)))
    T.export(learner, out / "exported", command="test")
    if rank() == 0:
        torch.save(found, out / "found.pt")
    else:
        torch.save(found["full disk"][0], out / "told_1.pt")


def killed(out):
    "Under torchrun. Process 1 kills itself in step 5 of its first life."

    def step(model, batch, c, generator):
        mark = out / "was killed"
        if rank() == 1 and learner.step == 4 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return pretraining.pretrain_step(model, batch, c, generator)

    with D.launched("cpu"):
        learner = spread(parallel="fsdp")
        began = []
        for state in T.train(learner, step, D.Pieces(data(), 1), folder=out / "run", log=str):
            began.append(state.step)
        whole = numbers(learner)
        if rank() == 0:
            torch.save(dict(numbers=whole, began=began[0]), out / "found.pt")


if __name__ == "__main__":
    task, out = sys.argv[1], Path(sys.argv[2])
    together(2, pair, out) if task == "pair" else killed(out)
    D.leave(0)


# ---- equal to one process


def launch(*args, seconds=240, **kw):
    return subprocess.run(
        ["timeout", "-k", "5", str(seconds), sys.executable, *map(str, args)],
        env=ENV,
        text=True,
        capture_output=True,
        **kw,
    )


def alone(**changes):
    learner = T.Learner(tiny(), settings(**changes))
    losses = [s.loss for s in T.train(learner, pretraining.pretrain_step, data())]
    return dict(losses=losses, numbers=numbers(learner))


@pytest.fixture(scope="module")
def one():
    return alone()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("pair")
    learner = spread()  # a single process writes what two will read
    drain(learner, folder=out / "one")
    done = launch(HERE, "pair", out)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return types.SimpleNamespace(
        out=out, found=torch.load(out / "found.pt", weights_only=False), one=numbers(learner)
    )


def apart(a, b):
    assert a.keys() == b.keys()
    return max((a[k] - b[k]).abs().max().item() for k in a)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [*WAYS, "ddp, accumulated", "fsdp, accumulated"])
def test_losses_and_weights_equal_one_process(one, two, name):
    got = two.found[name]
    assert (
        got["losses"] == pytest.approx(one["losses"], rel=1e-5)
        and apart(got["numbers"], one["numbers"]) < 2e-5
    )
    assert one["losses"][0] != one["losses"][-1]


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_processes_with_sizes_of_their_own_equal_their_work_in_one(two, name):
    "Each process draws its own size; one that averages over both ranks' batches learns the same."
    drawn = {tuple(len(b["latents"]) for b in BothRanks().batch(step)) for step in range(8)}
    assert {(2, 6), (6, 2)} & drawn, drawn  # sizes did differ within a step
    got, want = (
        two.found[f"{name}, mixed sizes"],
        drained(T.Learner(tiny(), settings(steps=8)), BothRanks()),
    )
    assert (
        got["losses"] == pytest.approx(want["losses"], rel=1e-5)
        and apart(got["numbers"], want["numbers"]) < 2e-5
    )


def test_mixed_sizes_go_on_with_another_number_of_processes_if_asked(two, tmp_path):
    shutil.copytree(two.out / "mixed ddp", tmp_path / "run")
    learner, data = spread(dict(steps=10), seed=1), mixed(0, 1)
    with pytest.raises(ConfigError, match="data.world: .* 2, this run has 1"):
        drained(learner, data, folder=tmp_path / "run")
    data.allow = ["world"]
    after = drained(learner, data, folder=tmp_path / "run", allow=["world"])
    assert learner.step == 10 and len(after["losses"]) == 2 and data.since[0] == 8


def test_both_are_told_that_there_is_no_room(two):
    assert (
        len(set(two.found["no room"])) == 1
        and "keep_last=2 more checkpoints need" in two.found["no room"][0]
    )


def test_bf16_computes_in_halves_and_keeps_masters(two):
    got, reference = two.found["bf16"], alone(precision="bf16")
    assert got["masters"] == {torch.float32}
    assert got["losses"] == pytest.approx(reference["losses"], rel=2e-2) and got[
        "losses"
    ] != pytest.approx(alone()["losses"], rel=1e-5)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_nan_in_one_process_is_skipped_by_all(two, way):
    got, reference = two.found[f"{way}, NaN"], T.Learner(tiny(), settings())
    for _ in T.train(reference, Bad(0), data()):
        pass
    assert got["skips"] == reference.skips == 1 and apart(got["numbers"], numbers(reference)) < 2e-5


def test_weights_without_gradient_are_the_ones_named():
    model = tiny()
    pretraining.pretrain_step(model, data().batch(0), settings(), torch.Generator())[0].backward()
    without = {n for n, p in model.named_parameters() if p.grad is None}
    assert without and without == {n for n, _ in model.named_parameters() if P.is_unused(n, 2)}


def test_average_under_fsdp(one, two):
    ema, reference = two.found["EMA"], T.Learner(tiny(), settings())
    for _ in T.train(reference, pretraining.pretrain_step, data()):
        pass
    validation = pretraining.FixedValidation(tiny_data().rows(slice(None)), settings())
    with reference.ema.applied(reference.model):
        expected = validation(reference.model)
    assert (
        ema["given_back"]
        and ema["averaged"] == pytest.approx(expected, rel=1e-4)
        and ema["plain"] == pytest.approx(validation(reference.model), rel=1e-4)
    )
    assert ema["averaged"] != pytest.approx(ema["plain"], rel=1e-4)


# ---- checkpoints


def test_two_wrote_and_two_read_bit_for_bit(two):
    assert same(two.found["read by two"], two.found["fsdp"]["numbers"])


def test_two_wrote_and_one_goes_on(two, tmp_path):
    learner = spread(dict(steps=8), seed=1)
    assert D.resume_sharded(two.out / "two", learner).name == "step_00000006" and same(
        numbers(learner), two.found["fsdp"]["numbers"]
    )
    assert drain(learner) == pytest.approx(alone(steps=8)["losses"][6:], rel=1e-5)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_one_wrote_and_two_read(two, way):
    got = two.found[f"one read as {way}"]
    assert got["step"] == 6 and same(got["numbers"], two.one)


def test_exported_weights_are_the_whole_average(two):
    model = LensTransformer2DModel.from_pretrained(two.out / "exported")
    expected = {k[4:]: v for k, v in two.found["fsdp"]["numbers"].items() if k.startswith("ema/")}
    assert same(
        {k: v.float() for k, v in model.state_dict().items()},
        {k: v.bfloat16().float() for k, v in expected.items()},
    )
    assert (
        json.loads((two.out / "exported/config.json").read_text())["_class_name"]
        == "LensTransformer2DModel"
    )


def test_full_disk_in_one_process_is_told_to_both_and_leaves_nothing(two):
    told, before, after = two.found["full disk"]
    assert "step_00000007: could not be written" in told and "step_00000007" in torch.load(
        two.out / "told_1.pt"
    )
    assert before == after == ["step_00000004", "step_00000006"]


def test_exact_resume_alone_with_every_generator(tmp_path):
    from test_train import noisy_step

    runs = []
    for stops in ((6,), (3, 6)):
        for i, stop in enumerate(stops):
            seed_everything(5)
            learner = spread(dict(checkpoint_every=3), seed=i)
            for state in T.train(
                learner, noisy_step, D.Pieces(data(), 1), folder=tmp_path / str(len(stops)), log=str
            ):
                if state.step == stop:
                    break
        runs.append(numbers(learner))
    assert same(*runs)


def test_damaged_missing_and_foreign_checkpoints(tmp_path):
    drain(spread(), folder=tmp_path)
    newest, older = D.sharded_checkpoints(tmp_path)
    part = next(newest.glob("*.distcp"))
    part.write_bytes(part.read_bytes()[:-1])
    said = []
    assert D.latest_sharded(tmp_path, said.append) == older and str(newest) in said[0]
    (older / "files.json").unlink()
    with pytest.raises(CheckpointError, match="none of its 2"):
        D.latest_sharded(tmp_path, str)
    assert D.latest_sharded(tmp_path / "nothing") is None


def test_other_settings_and_models_are_refused_before_anything_changes(tmp_path):
    drain(spread(), folder=tmp_path)
    learner = spread(dict(lr=1e-4))
    before = numbers(learner)
    with pytest.raises(ConfigError, match="TrainConfig.lr"):
        learner.resume(tmp_path)
    with pytest.raises(ConfigError, match="num_layers"):
        D.ParallelLearner(tiny(num_layers=3), settings(), D.ScaleConfig()).resume(tmp_path)
    assert same(before, numbers(learner)) and learner.step == 0
    learner.resume(tmp_path, allow=["lr"])
    assert learner.step == 6


def test_data_that_stood_elsewhere_in_each_process_needs_as_many(tmp_path):
    path = drain(spread(), folder=tmp_path) and D.latest_sharded(tmp_path)
    books = torch.load(path / "rank_00000.pt", weights_only=True)
    for i in (0, 1):
        torch.save(books | dict(data=dict(next=i)), path / f"rank_{i:05d}.pt")
    with pytest.raises(CheckpointError, match="different places in their data; resume with 2"):
        D.read_books(path)


# ---- launches


@pytest.mark.timeout(300)
def test_kill_9_of_one_process_and_torchrun_starts_both_again(two, tmp_path):
    done = launch(
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        2,
        "--max-restarts",
        1,
        "--monitor-interval",
        "0.2",
        HERE,
        "killed",
        tmp_path,
    )
    assert done.returncode == 0 and (tmp_path / "was killed").exists(), done.stderr[-4000:]
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    assert found["began"] == 5 and same(found["numbers"], two.found["fsdp"]["numbers"])
    assert not list((tmp_path / "run").glob(".*"))


def toy_cache(path, n=16, channels=32, layers=3):
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 6, (n,), generator=g)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    save_tensors(
        dict(
            latents=torch.randn(n, 4, channels, generator=g).half(),
            tokens=torch.randn(int(offsets[-1]), layers, 160, generator=g).bfloat16(),
            offsets=offsets,
            grid=torch.tensor([2, 2]),
        ),
        path,
    )
    return path


@pytest.mark.timeout(300)
def test_sigterm_to_the_launcher_stops_with_a_checkpoint_and_the_run_goes_on(tmp_path):
    cache, out = toy_cache(tmp_path / "cache.safetensors"), tmp_path / "run"
    options = [
        "--cache",
        cache,
        "--out",
        out,
        "--parallel",
        "fsdp",
        "--batch-size",
        4,
        "--device",
        "cpu",
        "--warmup",
        2,
        "--log-every",
        1,
        "--checkpoint-every",
        0,
    ]
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        2,
        "-m",
        "lens_ref.pretrain.scale",
        *options,
    ]
    p = subprocess.Popen(
        [sys.executable, *map(str, command), "--steps", "100000"],
        env=ENV,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        seen = []
        for line in p.stdout:
            seen.append(line)
            if line.startswith("step 3/"):
                break
        assert seen and seen[-1].startswith("step 3/"), "".join(seen)
        p.terminate()
        rest, _ = p.communicate(timeout=60)
    finally:
        p.kill()
    stopped = int(rest.rsplit("stopped at step ", 1)[1].split(";")[0])
    path = D.latest_sharded(out / "run")
    assert path.name == f"step_{stopped:08d}" and len(list(path.glob("rank_*.pt"))) == 2
    lines = []
    learner = S.pretrain(
        cache,
        out,
        scale=D.ScaleConfig(),
        device="cpu",
        log=lines.append,
        steps=stopped + 2,
        batch_size=4,
        warmup=2,
        log_every=1,
        checkpoint_every=0,
    )
    assert (
        learner.step == stopped + 2
        and any(f"resumed at step {stopped:,}" in x for x in lines)
        and (out / "transformer/config.json").is_file()
    )


@pytest.mark.parametrize(
    "change, named",
    [
        (
            ["--batch-size", "5", "--accumulate", "2"],
            "TrainConfig.batch_size=5: cannot be cut evenly for 1 processes x accumulate=2",
        ),
        (["--batch-size", "64"], "batch_size=64: is more than the 16 samples"),
        (["--parallel", "zero"], "ScaleConfig.parallel='zero'"),
        (["--preset", "lens"], "in_channels=128, and the cache has 32"),
        (["--lr", "fast"], "--lr: 'fast' is no finite number"),
        (["--set", "lerning=1"], "lerning"),
        (["--logs", "tensorbord"], "did you mean 'tensorboard'"),
        (["--held-out", "16"], "held_out=16"),
        (["--cache", "nowhere"], "nowhere: no .safetensors"),
        (["--parallel", "hsdp", "--shard", "2"], "shard"),
    ],
)
def test_faults_are_one_line(tmp_path, capsys, change, named):
    cache = toy_cache(tmp_path / "cache.safetensors")
    code = S.pretrain_main(
        [
            "--cache",
            str(cache),
            "--out",
            str(tmp_path / "run"),
            "--batch-size",
            "4",
            "--steps",
            "4",
            "--device",
            "cpu",
            *change,
        ]
    )
    err = capsys.readouterr().err
    assert code == 2 and named in err and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("run/run/step_*"))


def test_two_stages_at_scale(tmp_path):
    "Stage 1 on one size, stage 2 on two from its weights alone; other shapes are refused by name."
    toy_cache(tmp_path / "one.safetensors")
    e, sizes = Encoders(), [Bucket(32, 32, 32), Bucket(32, 48, 32)]
    write_shards(
        list(range(12)),
        lambda rows: [
            make_sample(f"{i:08d}", picture(i, 32, 32 + i % 2 * 16), {"text": "w" * (i + 1)})
            for i in rows
        ],
        tmp_path / "s",
        log=str,
    )

    class Three(Encoders):
        def encode(self, prompts):
            return [
                x.repeat(1, 1, 40) for x in [super().encode(prompts)[0][0]] * 3
            ], super().encode(prompts)[1]

    cache_shards(tmp_path / "s", tmp_path / "two", e.vae, Three(), Buckets(sizes), log=str)
    options = dict(device="cpu", steps=3, batch_size=4, warmup=0, log_every=1, lr=1e-3)
    S.pretrain(tmp_path / "one.safetensors", tmp_path / "stage1", log=str, **options)
    begun, said = [], []

    def step(model, *args):
        begun.append({k: v.detach().clone() for k, v in model.state_dict().items()})
        return pretraining.pretrain_step(model, *args)

    second = S.pretrain(
        tmp_path / "two",
        tmp_path / "stage2",
        init=tmp_path / "stage1",
        step_fn=step,
        log=said.append,
        **options,
    )
    weights = load_tensors(tmp_path / "stage1/transformer/diffusion_pytorch_model.safetensors")[0]
    assert (
        same({k: v.float() for k, v in weights.items()}, begun[0])
        and second.step == 3
        and f"begins with the weights in {tmp_path / 'stage1'}" in said
    )
    second = S.pretrain(
        tmp_path / "two",
        tmp_path / "stage2",
        init=tmp_path / "stage1",
        step_fn=step,
        log=said.append,
        **{**options, "steps": 5},
    )
    assert second.step == 5 and not same(
        begun[3], begun[0]
    )  # a run that has begun goes on from its own checkpoint
    shutil.copytree(tmp_path / "stage1/transformer", tmp_path / "other")
    save_tensors(
        weights | dict(img_in=torch.zeros(3)),
        tmp_path / "other/diffusion_pytorch_model.safetensors",
    )
    for folder, why in (
        (tmp_path / "other", "weight img_in is only in the checkpoint"),
        (tmp_path / "s", "no .safetensors weights; give the folder of a finished run"),
    ):
        with pytest.raises(CheckpointError, match=why):
            S.pretrain(tmp_path / "two", tmp_path / "x", init=folder, log=str, **options)
    wide = {
        k: torch.zeros(*v.shape[:-1], v.shape[-1] + 1) if k == "img_in.weight" else v
        for k, v in weights.items()
    }
    save_tensors(wide, tmp_path / "other/diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match=r"weight img_in.weight is \[128, 33\] there"):
        S.pretrain(tmp_path / "two", tmp_path / "x", init=tmp_path / "other", log=str, **options)


def test_the_papers_second_stage_has_its_batches(monkeypatch):
    "128 processes on the 27 sizes: 24, 10 and 6 pictures, from the preset's batch of 3,072."
    monkeypatch.setattr(S, "world_size", lambda: 128)
    listed = lambda b: dict(
        latents=[None] * 4096, offsets=torch.arange(4097) * 150, grid=torch.tensor(b.grid)
    )
    caches = {b.grid: listed(b) for b in bucket_preset("lens")}
    config = S.train_settings("lens-stage2")
    S.check_share(config, 1, 27 * 4096)
    data = S.serve(caches, config, preset("lens"), 1, log=str)
    counts = dict(zip(data.grids, (d.batch_size for d in data.data)))
    assert {(b.base, counts[b.grid]) for b in bucket_preset("lens")} == {
        (512, 24),
        (768, 10),
        (1024, 6),
    }
    one = dict(
        latents=torch.zeros(1, 1024, 128),
        tokens=torch.zeros(5, 4, 2880),
        offsets=torch.tensor([0, 5]),
        grid=torch.tensor([32, 32]),
    )
    assert S.model_settings("lens-stage2", {(32, 32): one}) == preset("lens")


def test_pieces_cover_the_batch_and_keep_places():
    pieces = D.Pieces(data(), 4).batch(0)
    assert [b["place"] for b in pieces] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    whole = data().batch(0)
    assert all(
        torch.equal(b["latents"], whole["latents"][b["place"]])
        and torch.equal(b["text"][1], whole["text"][1][b["place"]])
        for b in pieces
    )


def test_logs(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    calls = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **kw: (
        calls.append(kw)
        or types.SimpleNamespace(log=lambda values, step: calls.append((step, values)))
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    learner = S.pretrain(
        toy_cache(tmp_path / "c.safetensors"),
        tmp_path / "run",
        device="cpu",
        log=str,
        logs=("tensorboard", "wandb"),
        steps=6,
        batch_size=4,
        log_every=2,
        held_out=4,
        validate_every=3,
    )
    events = EventAccumulator(str(tmp_path / "run/logs"))
    events.Reload()
    read = {
        k: [(e.step, e.value) for e in events.Scalars(k)] for k in ("loss", "val_loss", "skipped")
    }
    assert [s for s, _ in read["loss"]] == [2, 4, 6] and [s for s, _ in read["val_loss"]] == [6]
    assert calls[0]["config"]["train"]["steps"] == 6 and [s for s, _ in calls[1:]] == [2, 4, 6]
    assert (
        calls[-1][1]["loss"] == pytest.approx(read["loss"][-1][1], rel=1e-6) and learner.step == 6
    )
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        S.open_logs(["wandb"], tmp_path, {})


def test_parallelize_refuses_what_it_cannot_wrap():
    with pytest.raises(ConfigError, match="names no blocks"):
        D.parallelize(torch.nn.Linear(2, 2), D.ScaleConfig(checkpointing=True))
    with pytest.raises(ConfigError, match="no process group"):
        D.parallelize(tiny(), D.ScaleConfig(parallel="fsdp"))


# ---- planner


def test_planned_bytes_are_those_of_two_processes(two):
    model = dit_presets.DiTConfig.from_dict({k: v for k, v in T.model_config(tiny()).items()})
    assert P.resident(P.Plan(model=model, gpus=2, parallel="fsdp")) == two.found["bytes"]


def saved_bytes(run, weights):
    "Bytes that autograd keeps for the backward pass of `run()`: each storage once, no `weights`."
    kept, own = {}, {w.untyped_storage().data_ptr() for w in weights}

    def note(x):
        at = x.untyped_storage()
        if at.data_ptr() not in own:
            kept[at.data_ptr()] = at.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        out = run()
    del out
    return sum(kept.values())


def test_activations_with_and_without_recomputation():
    model = preset("toy", num_layers=12, inner_dim=384, num_attention_heads=12)
    plan = P.Plan(
        model=model,
        gpus=1,
        parallel="ddp",
        images=2,
        image_tokens=64,
        text_tokens=24,
        precision="fp32",
        checkpointing=True,
    )

    def kept(scale):
        torch.manual_seed(0)
        net = init_weights(LensTransformer2DModel(**model.to_dict()))
        D.parallelize(net, scale)
        g = torch.Generator().manual_seed(0)
        args = (
            torch.randn(2, 64, 32, generator=g),
            [torch.randn(2, 24, 160, generator=g) for _ in range(3)],
            None,
            torch.rand(2, generator=g),
            (8, 8),
        )
        return saved_bytes(lambda: net(*args), net.parameters())

    everything, inputs = kept(D.ScaleConfig()), kept(D.ScaleConfig(checkpointing=True))
    planned = {
        c: sum(
            P.passing(plan.replace(checkpointing=c))[k] for k in ("activations", "text features")
        )
        for c in (True, False)
    }
    assert everything == pytest.approx(planned[False], rel=0.05)
    assert inputs < 0.06 * everything and inputs == pytest.approx(
        planned[True] - P.block_bytes(plan), rel=0.2
    )


@pytest.mark.parametrize(
    "wish",
    [
        dict(parallel="ddp"),
        dict(checkpointing=False),
        dict(gpus=1, parallel="fsdp"),
        dict(gpus=8, images=200),
        dict(gpus=8, parallel="hsdp", image_tokens=4096, images=100),
        dict(gpus=1, parallel="ddp", gpu="A100-40"),
    ],
)
def test_what_a_refusal_suggests_does_fit(wish):
    plan = P.Plan(**wish)
    with pytest.raises(ConfigError, match=r"needs \d+ GB per GPU and A100") as e:
        P.check_plan(plan)
    for change, gb in P.remedies(plan):
        assert P.memory(P.check_plan(plan.replace(**change)))["total"] == gb <= plan.available
        assert (
            all(f"{k}={v}" in str(e.value) for k, v in change.items()) or len(P.remedies(plan)) > 4
        )


def page_launches():
    "(processes, options) of every launch on the page of the run."
    page = json.loads((HERE.parents[1] / "nbs/08_pretrain/scale.ipynb").read_text("utf8"))
    text = "".join("".join(c["source"]) for c in page["cells"] if c["cell_type"] == "markdown")
    for block in re.findall(r"```bash\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if "-m lens_ref.pretrain.scale" in line:
                torchrun, options = line.split("-m lens_ref.pretrain.scale")
                count = dict(re.findall(r"--(nnodes|nproc-per-node) (\d+)", torchrun))
                n = int(count.get("nnodes", 1)) * int(count["nproc-per-node"])
                yield n, shlex.split(options)


@pytest.mark.parametrize("n, options", list(page_launches()))
def test_the_planner_accepts_what_the_page_tells_to_type(n, options, monkeypatch):
    "On 80 GB a card, with captions of 256 tokens; and the batch can be cut."
    monkeypatch.setattr(S, "world_size", lambda: n)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(min(n, 8)))
    a = S.run_pretrain.parse(options)
    scale = D.ScaleConfig.from_dict(a.fields["ScaleConfig"])
    config = S.train_settings(a.preset, **a.fields["TrainConfig"])
    S.check_share(config, a.accumulate, 10**6)
    caches = {(32, 32): dict(offsets=torch.arange(3) * 256)}
    model = preset(a.preset.removesuffix("-stage2"))
    card = ("CPU", 8.0) if a.device == "cpu" else ("H100", 80.0)
    plan = S.this_plan(model, config, scale, caches, a.accumulate, card)
    assert P.check_plan(plan) is plan
    if a.preset == "lens":
        assert plan.gpus * plan.images * plan.accumulate == 3072


def test_the_page_launches_the_paper_on_one_machine_and_on_sixteen():
    assert [n for n, _ in page_launches()] == [8, 2, 8, 128]


def test_a_refusal_names_options_that_exist_and_fit(monkeypatch):
    "What `lens-ref pretrain` says to a plan that does not fit can be typed, and then fits."
    monkeypatch.setattr(S, "world_size", lambda: 8)
    caches = {(32, 32): dict(offsets=torch.arange(3) * 256)}
    model = preset("lens")

    def plan_of(options):
        a = S.run_pretrain.parse(["--cache", "c", "--out", "o", *options])
        scale = D.ScaleConfig.from_dict(a.fields["ScaleConfig"])
        config = S.train_settings("lens", **a.fields["TrainConfig"])
        return S.this_plan(model, config, scale, caches, a.accumulate, ("H100", 80.0))

    for begun in (["--parallel", "fsdp"], ["--parallel", "fsdp", "--checkpointing"]):
        plan = plan_of(begun)
        for mixed in (False, True):
            said = []
            with pytest.raises(ConfigError, match="It fits with --"):
                P.check_plan(plan, lambda c: said.append(S.as_options(c, plan, mixed)) or said[-1])
            assert said
            for words in said:
                assert P.check_plan(plan_of([*begun, *words.split()]))


def test_paper_recipe_fits_and_counts():
    plan = P.check_plan(P.Plan())
    assert P.speed(plan)["pictures"] == 3072 and P.speed(plan)["PFLOP"] == pytest.approx(
        3072 * 3 * pretrain_cost.count_flops(plan.model, 1024, 256)["total"] / 1e15
    )
    assert P.speed(plan.replace(mfu=0.2))["seconds"] == pytest.approx(2 * P.speed(plan)["seconds"])
    assert "128 x A100-80, fsdp (one copy in 128 parts)" in P.plan_report(plan)


@pytest.mark.parametrize(
    "field, value",
    [
        ("gpus", 0),
        ("gpu", "V100"),
        ("parallel", "zero"),
        ("precision", "fp16"),
        ("mfu", 0.0),
        ("mfu", 1.5),
        ("images", 0),
    ],
)
def test_impossible_plan_names_the_field(field, value):
    with pytest.raises(ConfigError, match=f"Plan.{field}="):
        P.Plan(**{field: value})


def test_missing_cache_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="build_cache"):
        S.cache_files(tmp_path)
