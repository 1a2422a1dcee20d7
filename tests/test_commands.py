"""From a folder of pictures to a trained transformer by commands alone.

With the faults a user makes on the way."""

import json
import random
import subprocess
import sys

import pytest
import torch
from PIL import Image

from lens_ref.dit import transformer as dit_transformer
from lens_ref.pretrain import step as pretraining
from lens_ref.pretrain import scale as S
from lens_ref.pretrain import sharding as D
from lens_ref.core import loop as T
from lens_ref.cli.main import main
from lens_ref.core.config import ConfigError
from lens_ref.core.files import data_path, load_tensors
from lens_ref.dit.presets import preset
from lens_ref.pretrain.cost import count_flops
from lens_ref.data.shards import open_samples
from lens_ref.data.wording import dense_caption
from lens_ref.data.drawing import render
from lens_ref.data.world import ARTWORKS, sample_scene
from test_scale import ENV


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng, lines = tmp_path_factory.mktemp("pictures"), random.Random(4), []
    for i in range(40):
        scene = sample_scene(rng)
        Image.fromarray(render(scene, 64, 64)).save(folder / f"{i}.png")
        lines.append(json.dumps(dict(file_name=f"{i}.png", text=dense_caption(scene, rng))))
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:80])  # cut short
    (folder / "9.png").write_bytes((folder / "8.png").read_bytes())  # the same picture twice
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    (folder / "thresholds.json").write_text(json.dumps(dict(area=1024, clarity=0.1, entropy=0.1)))
    return folder


def test_folder_to_shards_to_weights(pictures, tmp_path, capsys):
    shards, cached = str(tmp_path / "shards"), str(tmp_path / "cached")
    assert (
        main(
            [
                "prepare",
                str(pictures),
                "--out",
                shards,
                "--thresholds",
                str(pictures / "thresholds.json"),
                "--per-shard",
                "16",
            ]
        )
        == 0
    )
    report = {
        x["path"]: x
        for x in map(json.loads, (tmp_path / "shards/report.jsonl").read_text().splitlines())
    }
    assert (
        len(report) == 40
        and not report["7.png"]["kept"]
        and {report["8.png"]["kept"], report["9.png"]["kept"]} == {True, False}
    )
    assert all(x["kept"] or x["filter"] for x in report.values())
    kept = sorted(n for n, x in report.items() if x["kept"])
    assert sorted(s.source for s in open_samples(shards)) == kept
    assert main(["cache", shards, "--out", cached, "--model", str(data_path("toy"))]) == 0
    assert (
        main(
            [
                "pretrain",
                "--cache",
                cached,
                "--out",
                str(tmp_path / "run"),
                "--steps",
                "3",
                "--batch-size",
                "8",
                "--log-every",
                "1",
            ]
        )
        == 0
    )
    assert (
        "step 3/3" in capsys.readouterr().out
        and len(load_tensors(tmp_path / "run/transformer/diffusion_pytorch_model.safetensors")[0])
        > 100
    )


def real_pictures(folder):
    "Emoji by Microsoft's artists and parts of a photograph, in several sizes, each with a caption."
    from matplotlib.cbook import get_sample_data

    sheet, photo, said = (
        Image.open(data_path("art", "artwork.png")),
        Image.open(get_sample_data("grace_hopper.jpg")),
        {},
    )
    names = [f"{kind}-{k}" for kind, n in ARTWORKS.items() if kind != "ring" for k in range(n)]
    for i, name in enumerate(names[:24]):
        tile = sheet.crop((72 * (i % 12), 72 * (i // 12), 72 * (i % 12) + 72, 72 * (i // 12) + 72))
        tile.resize((96, 96)).convert("RGBA").save(folder / f"{name}.png")
        said[f"{name}.png"] = f"a {name[:-2]} in soft grey light on a white ground"
    for i, (x, y) in enumerate(
        [(0, 0), (130, 20), (300, 0), (0, 250), (180, 200), (330, 330), (60, 420), (250, 440)]
    ):
        photo.crop((x, y, x + 180, y + 120 + 8 * i)).save(folder / f"part-{i}.jpg")
        said[f"part-{i}.jpg"] = (
            f"part {i} of a photograph of a woman in a dark naval uniform before a flag"
        )
    (folder / "metadata.jsonl").write_text(
        "\n".join(json.dumps(dict(file_name=k, text=v)) for k, v in said.items())
    )
    (folder / "thresholds.json").write_text(json.dumps(dict(area=1024, clarity=0.1, entropy=0.1)))
    return len(said)


def losses(run):
    return {
        r["step"]: r["loss"]
        for r in torch.load(D.latest_sharded(run) / "rank_00000.pt", weights_only=True)["history"]
    }


@pytest.mark.timeout(300)
def test_real_pictures_train_the_same_model_in_one_process_and_under_torchrun(tmp_path, capsys):
    """Folder -> shards -> cache -> weights by commands alone.

    Losses of one process and of two agree to 1e-5 of their value: sums of halves are added in
    another order."""
    (folder := tmp_path / "pictures").mkdir()
    n, shards, cached = real_pictures(folder), str(tmp_path / "shards"), str(tmp_path / "cached")
    assert (
        main(
            [
                "prepare",
                str(folder),
                "--out",
                shards,
                "--thresholds",
                str(folder / "thresholds.json"),
                "--per-shard",
                "10",
            ]
        )
        == 0
    )
    kept = [
        x["path"]
        for x in map(json.loads, (tmp_path / "shards/report.jsonl").read_text().splitlines())
        if x["kept"]
    ]
    assert n == 32 and len(kept) >= 24 and {x.split(".")[1] for x in kept} == {"png", "jpg"}, kept
    assert main(["cache", shards, "--out", cached, "--sizes", "64x64", "--device", "cpu"]) == 0
    command = [
        "--cache",
        cached,
        "--steps",
        "6",
        "--batch-size",
        "8",
        "--device",
        "cpu",
        "--log-every",
        "1",
        "--warmup",
        "2",
        "--lr",
        "2e-3",
    ]
    assert main(["pretrain", "--out", str(tmp_path / "one"), *command]) == 0
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "lens_ref.pretrain.scale",
    ]
    done = subprocess.run(
        [*torchrun, "--out", str(tmp_path / "two"), *command],
        env=ENV,
        text=True,
        capture_output=True,
        timeout=200,
    )
    assert done.returncode == 0 and "2 x CPU" in done.stdout, (
        done.stdout[-2000:] + done.stderr[-4000:]
    )
    one, two = losses(tmp_path / "one/run"), losses(tmp_path / "two/run")
    assert (
        list(one) == list(range(1, 7))
        and two == pytest.approx(one, rel=1e-5)
        and len(set(one.values())) == 6
    )
    weights = [
        load_tensors(tmp_path / f"{k}/transformer/diffusion_pytorch_model.safetensors")[0]
        for k in ("one", "two")
    ]
    assert len(weights[0]) > 100 and all(
        (w.float() - weights[1][k].float()).abs().max() < 2e-3 for k, w in weights[0].items()
    )


def test_help_needs_no_model_library():
    "It answers at once: torch alone takes more than a second to import."
    asked = "import sys; from lens_ref.cli.main import main; main(['--help'])"
    code = f"import atexit, sys; atexit.register(lambda: print(*sys.modules)); {asked}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV)
    loaded = set(done.stdout.split())
    assert done.returncode == 0 and "lens_ref.cli.main" in loaded
    assert not loaded & {"torch", "diffusers", "transformers", "matplotlib", "PIL"}


@pytest.mark.parametrize(
    "argv, named",
    [
        (["prepare", "nowhere"], "nowhere"),
        (["prepare", "."], "images"),
        (["cache", "."], "shards"),
        (["cache", ".", "--sizes", "9x9"], "height: 9"),
        (["cache", ".", "--sizes", "big"], "'big'"),
        (["cache", ".", "--device", "tpu"], "--device: 'tpu'"),
        (["pretrain", "--cache", "nowhere", "--out", "x"], "nowhere"),
        (["ablate", "captions", "--points", "0"], "points"),
        (["prepare", ".", "--per-shard", "0"], "--per-shard"),
    ],
)
def test_commands_name_the_culprit(argv, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert named in err and err.count("\n") == 1, err


def test_a_mistyped_kind_leaves_no_trace(pictures, tmp_path, capsys):
    out, ask = (
        tmp_path / "shards",
        [
            "prepare",
            str(pictures),
            "--no-filters",
            "--out",
            str(tmp_path / "shards"),
            "--url",
            "http://127.0.0.1:9/v1",
            "--kinds",
        ],
    )
    assert (
        main([*ask, "dens"]) == 2
        and "did you mean 'dense'" in capsys.readouterr().err
        and not out.exists()
    )


def test_captions_stop_at_the_budget_and_go_on_with_a_larger_one(pictures, tmp_path, capsys):
    """What is under way when the budget is reached may still be paid, nothing after it.

    In this run or the next; a larger budget pays only for what is missing."""
    from fake_endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, FakeEndpoint

    price = (2 * PROMPT_TOKENS + 8 * COMPLETION_TOKENS) / 1e6
    with FakeEndpoint(answer=lambda q, body: "a photo of a cat") as server:

        def run(answers):
            paid = ["--price-in", "2", "--price-out", "8", "--budget", str(answers * price)]
            code = main(
                [
                    "prepare",
                    str(pictures),
                    "--no-filters",
                    "--out",
                    str(tmp_path / "shards"),
                    "--url",
                    server.url,
                    "--kinds",
                    "brief",
                    *paid,
                ]
            )
            return code, len(server.calls), capsys.readouterr()

        code, paid, said = run(4.5)
        assert (
            code == 2 and 5 <= paid <= 5 + 8 and "budget" in said.err and said.err.count("\n") == 1
        )
        assert run(4.5)[:2] == (2, paid)
        code, paid, said = run(1000)
        assert (
            code == 0 and paid == 38 and "39 of 40" in said.out
        )  # one cannot be read, and two are the same


@pytest.mark.parametrize(
    "more, named",
    [
        (["--budget", "1"], "--budget: is for a model"),
        (["--price-in", "-2"], "--price-in: -2.0 must not be negative"),
        (
            ["--url", "http://127.0.0.1:9/v1", "--budget", "1", "--price-in", "2"],
            "--budget: needs --price-out, dollars",
        ),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused_before_anything_is_written(
    pictures, tmp_path, capsys, more, named
):
    assert (
        main(["prepare", str(pictures), "--out", str(tmp_path / "x"), *more]) == 2
        and named in capsys.readouterr().err
        and not (tmp_path / "x").exists()
    )


def test_prepare_says_which_filters_are_not_run_and_takes_models_for_them(
    pictures, tmp_path, capsys, monkeypatch
):
    from lens_ref.data import filters

    given = {}

    def classifier(model, labels):
        given[model] = labels
        return lambda images: [0.0 for _ in images]

    monkeypatch.setattr(filters, "hub_classifier", classifier)
    ask = ["prepare", str(pictures), "--thresholds", str(pictures / "thresholds.json"), "--out"]
    assert (
        main([*ask, str(tmp_path / "a")]) == 0
        and "nsfw, aesthetic, watermark" in capsys.readouterr().out
    )
    assert (
        main([*ask, str(tmp_path / "b"), "--nsfw", "me/nsfw:medium,high", "--watermark", "marks"])
        == 0
    )
    out = capsys.readouterr().out
    assert (
        given == {"me/nsfw": ["medium", "high"], "marks": None}
        and "need a model: aesthetic;" in out
        and "38 of 40" in out
    )
    monkeypatch.undo()
    assert (
        main([*ask, str(tmp_path / "c"), "--nsfw", str(tmp_path / "none")]) == 2
        and "--nsfw" in (err := capsys.readouterr().err)
        and err.count("\n") == 1
    )
    assert (
        main([*ask, str(tmp_path / "c"), "--nsfw", "x", "--no-filters"]) == 2
        and not (tmp_path / "c").exists()
    )


def test_several_sizes_train_and_cost_the_same():
    """Two sizes: each step draws one, with as many pictures as make it cost the same.

    A batch cannot be gathered over passes then."""
    g, model = torch.Generator().manual_seed(0), preset("toy", num_layers=1)

    def cache(h, w, n=40):
        return dict(
            latents=torch.randn(n, h * w, 32, generator=g),
            tokens=torch.randn(n * 3, 3, 160, generator=g).bfloat16(),
            offsets=torch.arange(n + 1) * 3,
            grid=torch.tensor([h, w]),
        )

    caches = {(2, 2): cache(2, 2), (4, 6): cache(4, 6)}
    config = S.train_settings("toy", 12, 17, validate_every=0, sample_every=0, log_every=1)
    data = S.serve(caches, config, model, 1)
    drawn = {tuple(data.batch(i)["latents"].shape[:2]) for i in range(30)}
    cost = [n * count_flops(model, tokens, 3)["total"] for n, tokens in drawn]
    assert (
        {tokens for _, tokens in drawn} == {4, 24}
        and max(n for n, _ in drawn) <= 17
        and min(cost) > 0.9 * max(cost)
    ), drawn
    learner = D.ParallelLearner(
        dit_transformer.LensTransformer2DModel(**model.to_dict()), config, D.ScaleConfig()
    )
    losses = [s.loss for s in T.train(learner, pretraining.pretrain_step, data, log=str)]
    assert len(losses) == 12 and all(0 < x < 10 for x in losses)
    with pytest.raises(ConfigError, match="accumulate=1"):
        S.serve(caches, config, model, 2)
