"""The toy from the outside: bad input is named, a saved pipeline is the same pipeline, the reader
sees planted errors."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_ref.data.reader import holds, shipped_reader
from lens_ref.cli.main import main
from lens_ref.core.config import CheckpointError, ConfigError, DataError
from lens_ref.core.files import data_path
from lens_ref.core.pictures import from_uint8
from lens_ref.data.folders import read_metadata
from lens_ref.pretrain.caches import CachedData
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights
from lens_ref.pretrain.toy import ToyWorld
from lens_ref.pretrain.pipeline import LensPipeline, velocity_field
from lens_ref.text.encoders import TextEncoder
from lens_ref.text.gpt_oss import GptOss, TextConfig
from lens_ref.text.tokenizer import TextTokenizer
from lens_ref.vae.autoencoder import ToyVAE
from lens_ref.data.wording import LANGUAGES, dense_caption
from lens_ref.data.drawing import render
from lens_ref.data.world import Fact, Scene, Thing, sample_scene, scene_facts


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    rng = random.Random(0)
    tokenizer = TextTokenizer.train(
        [dense_caption(sample_scene(rng), rng, lang) for lang in LANGUAGES for _ in range(40)],
        vocab_size=600,
        words=500,
    )
    encoder = TextEncoder(GptOss(TextConfig.toy(tokenizer.vocab_size)), tokenizer)
    dit = init_weights(
        LensTransformer2DModel(
            **preset("toy", num_layers=2, enc_hidden_dim=encoder.width).to_dict()
        )
    )
    for p in dit.parameters():
        p.data += 0.02 * torch.randn_like(p)  # leave the zeros of the initialisation
    return LensPipeline(dit, ToyVAE(width=16), encoder, dict(num_inference_steps=3))


def pixels(pipe, *args, **kw):
    return pipe(
        *args, generator=torch.Generator().manual_seed(1), output_type="signed", **kw
    ).images


def test_pipeline_survives_saving(pipe, tmp_path):
    before = pixels(pipe, "a large red cat")
    pipe.save_pretrained(tmp_path / "p")
    after = pixels(LensPipeline.from_pretrained(tmp_path / "p"), "a large red cat")
    assert (before - after).abs().max() < 0.1  # bfloat16 on disk
    assert LensPipeline.from_pretrained(tmp_path / "p").defaults["num_inference_steps"] == 3


def test_a_loaded_pipeline_saves_without_its_folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    LensPipeline.from_pretrained(tmp_path / "p").save_pretrained(tmp_path / "q")
    for file in (tmp_path / "q").rglob("*.json"):
        assert str(tmp_path) not in file.read_text("utf8"), file


def test_folders_of_before_the_move_load_and_save_under_top_level_names(tmp_path):
    "Their index names modules; only the name of the class is looked at."
    import lens_ref

    folder = shutil.copytree(data_path("toy"), tmp_path / "old")
    index = json.loads((folder / "model_index.json").read_text())
    old = dict(
        transformer=["lens_ref.dit", "LensTransformer2DModel"],
        vae=["lens_ref.vae", "ToyVAE"],
        text_encoder=["lens_ref.text", "TextEncoder"],
    )
    (folder / "model_index.json").write_text(json.dumps(index | old))
    loaded = LensPipeline.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "new")
    again = json.loads((tmp_path / "new/model_index.json").read_text())
    for part in old:
        library, name = again[part]
        assert library == "lens_ref" and getattr(lens_ref, name) is type(getattr(loaded, part))
    assert index.items() <= again.items()


@pytest.mark.parametrize("name", ["toy", "toy-rl", "toy-turbo"])
def test_shipped_checkpoints_draw_what_they_always_drew(name):
    "To one step of 255, in the size they were trained at and in another one."
    golden = Path(__file__).parent / "golden"
    prompts = json.loads((golden / "toy_prompts.json").read_text())
    pipe = LensPipeline.from_pretrained(data_path(name))
    with np.load(golden / "toy_pictures.npz") as reference:
        for key, count, seed, size in (
            (name, 4, 0, {}),
            (f"{name}-wide", 1, 1, dict(height=64, width=96)),
        ):
            g = torch.Generator().manual_seed(seed)
            images = pipe(prompts[:count], generator=g, output_type="np", **size).images
            drawn = np.rint(255 * images).clip(0, 255).astype(int)
            assert drawn.shape == reference[key].shape
            assert abs(drawn - reference[key]).max() <= 1


def test_padding_never_changes_an_image(pipe):
    noise = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(2))
    long = (
        "a large red cat in the top left and a small blue fish in the bottom right of the picture, "
        "against a dark night sky full of stars"
    )
    alone = pipe("a red cat", latents=noise, output_type="signed").images
    beside = pipe(["a red cat", long], latents=noise.repeat(2, 1, 1), output_type="signed").images[
        :1
    ]
    assert torch.allclose(alone, beside, atol=1e-4)


def test_guidance_one_is_a_single_pass(pipe):
    text, mask = pipe.text_encoder.encode(["a red cat"])
    x, t, seen = torch.randn(1, 16, 32), torch.tensor([0.5]), []
    spy = lambda latents, *a: seen.append(len(latents)) or pipe.transformer(latents, *a)
    velocity_field(spy, text, mask, (4, 4), 1.0)(x, t)
    velocity_field(spy, text, mask, (4, 4), 3.0)(x, t)
    assert seen == [1, 2]


@pytest.mark.parametrize(
    "break_it, named",
    [
        (lambda p: (p / "model_index.json").unlink(), "model_index.json"),
        (lambda p: (p / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"x" * 40), "vae"),
        (lambda p: (p / "text_encoder/model.safetensors").unlink(), "text_encoder"),
    ],
)
def test_damaged_pipeline_is_named(pipe, tmp_path, break_it, named):
    pipe.save_pretrained(tmp_path / "p")
    break_it(tmp_path / "p")
    with pytest.raises(CheckpointError, match=named):
        LensPipeline.from_pretrained(tmp_path / "p")


@pytest.mark.parametrize(
    "argv, named",
    [
        (["generate", "a cat", "--height", "70"], "height: 70"),
        (["generate", "a cat", "--model", "nowhere"], "nowhere"),
        (["evaluate", "--model", "nowhere"], "nowhere"),
        (["train", "--steps", "0", "--out", "x"], "steps"),
        (["info", "--preset", "huge"], "huge"),
        (["train", "--config", "typo.json"], "'step': did you mean 'steps'"),
        (["train", "--config", "nowhere.json"], "nowhere.json"),
        (["train", "--images", "nowhere"], "metadata.jsonl"),
        (["emoji", "--art", "nowhere.tgz"], "emojibase-data-17.0.0.tgz"),
        (["train", "--preset", "huge"], "huge"),
        (["train", "--out", "typo.json"], "typo.json"),
        (["train", "--base", "nowhere", "--mixed-steps", "9"], "nowhere has no vae/config.json"),
        (["train", "--base", "nowhere"], "set mixed_steps"),
        (["train", "--per-skill", "0"], "--per-skill"),
        (["train", "--workers", "5"], "workers"),
        (["generate", "a cat", "--out", "a.xyz"], "a.xyz"),
        (["generate", "a cat", "--out", "no/a.png"], "no is no folder"),
        (["generate", "a cat", "--device", "gpu"], "'gpu'"),
        (["generate", "a cat", "--height", "0"], "--height"),
    ],
)
def test_command_line_names_the_culprit(argv, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "typo.json").write_text('{"step": 5}')
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert named in err and err.count("\n") == 1


def test_help_states_the_sizes_of_the_lineage(capsys):
    from lens_ref.pretrain.toy import LineageConfig

    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out.split("settings of LineageConfig")[1].split("examples:")[0]
    words = said.split("\n  --")
    shown = {" ".join(w.split()).split(" ")[0]: " ".join(w.split()) for w in words}
    for name, value in LineageConfig().to_dict().items():
        assert value in ("", 0) or f"({value})" in shown[name.replace("_", "-")]


def test_a_run_folder_keeps_its_settings(tmp_path):
    from lens_ref.pretrain.toy import LineageConfig, open_folder

    open_folder(tmp_path / "run", LineageConfig(), ToyWorld())
    open_folder(tmp_path / "run", LineageConfig(steps=9000, workers=1), ToyWorld())
    with pytest.raises(ConfigError, match="settings.seed=1.*another --out"):
        open_folder(tmp_path / "run", LineageConfig(seed=1), ToyWorld())


@pytest.mark.parametrize("height, width", [(90, 91), (333, 777), (37, 300), (500, 64)])
def test_a_picture_is_cut_and_scaled_without_shift_or_stretch(tmp_path, height, width):
    """Against the mean of a smooth picture, known as a formula, over what each pixel covers.
    Scaling all of it to whole pixels first was off by up to 7 levels."""
    from PIL import Image
    from lens_ref.data.folders import read_image

    def drawn(y, x):
        return np.stack(
            [
                127 + 120 * np.sin(x / 37 + y / 51),
                127 + 120 * np.cos(x / 23 - y / 61),
                127 + 120 * np.sin((x + y) / 45),
            ],
            -1,
        )

    Image.fromarray(drawn(*np.mgrid[:height, :width]).round().astype(np.uint8)).save(
        tmp_path / "a.png"
    )
    side, k = min(height, width), 8
    at = (np.arange(64 * k) + 0.5) * side / 64 / k - 0.5
    want = (
        drawn(*np.meshgrid(at + (height - side) / 2, at + (width - side) / 2, indexing="ij"))
        .reshape(64, k, 64, k, 3)
        .mean((1, 3))
    )
    assert np.sqrt(((read_image(tmp_path / "a.png", 64, 64) - want) ** 2).mean()) < 0.6


def run(code, **env):
    "Lines of a fresh process: (exit code, stdout, stderr)."
    p = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}
    )
    return p.returncode, p.stdout, p.stderr


TINY = dict(vae_steps=2, texts=100, text_steps=2, samples=48, steps=2, batch_size=16)


def test_train_command_on_a_full_disk_and_on_real_pictures(tmp_path):
    """An emoji package in miniature -> folder -> train; the disk refuses the VAE the first time;
    the second run goes on and draws the grid."""
    from PIL import Image

    def package(name, **files):
        with tarfile.open(tmp_path / name, "w:gz") as t:
            for k, data in files.items():
                info = tarfile.TarInfo(f"package/{k}")
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))

    pictures, rows = {}, []
    for i in range(40):
        buffer = io.BytesIO()
        Image.new("RGBA", (32, 32), (6 * i, 255 - 6 * i, 90, 255)).save(
            buffer, "webp", lossless=True
        )
        pictures[f"assets/{i + 160:04x}{'-fe0f' * (i % 2)}.webp"] = buffer.getvalue()
        rows.append(
            dict(
                label=f"square {i}",
                tags=["box", "tile"],
                hexcode=f"{i + 160:04X}",
                group=9 if i == 39 else 0,
            )
        )
    package("art.tgz", **pictures)
    package(
        "names.tgz",
        **{
            "en/data.json": json.dumps(rows).encode(),
            "en/messages.json": json.dumps(dict(groups=[dict(key="flags", order=9)])).encode(),
        },
    )
    folder = tmp_path / "emoji"
    assert (
        main(
            [
                "emoji",
                "--art",
                str(tmp_path / "art.tgz"),
                "--names",
                str(tmp_path / "names.tgz"),
                "--out",
                str(folder),
            ]
        )
        == 0
    )
    assert sorted(text for _, text in read_metadata(folder)) == sorted(
        f"square {i}: box, tile" for i in range(39)
    )

    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    argv = [
        "train",
        "--images",
        str(folder),
        "--config",
        str(tmp_path / "tiny.json"),
        "--out",
        str(tmp_path / "model"),
    ]
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000));"
    )
    code, _, err = run(
        f"import sys; {limit} from lens_ref.cli.main import main; sys.exit(main({argv!r}))"
    )
    assert (
        code == 2
        and err.count("could not be written") == 1
        and str(tmp_path / "model") in err
        and "Traceback" not in err
    ), err
    code, out, err = run(
        f"import sys; from lens_ref.cli.main import main; sys.exit(main({argv!r}))"
    )
    assert (
        code == 0
        and Image.open(tmp_path / "model/grid.png").width > 400
        and LensPipeline.from_pretrained(tmp_path / "model/pipeline")
    ), err


def test_unreadable_picture_stops_before_training(tmp_path, capsys):
    from PIL import Image

    for i in range(30):
        Image.new("RGB", (64, 64), (i, i, i)).save(tmp_path / f"{i}.png")
    (tmp_path / "7.png").write_bytes((tmp_path / "7.png").read_bytes()[:60])
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps(dict(file_name=f"{i}.png", text="a grey square")) for i in range(30))
    )
    assert main(["train", "--images", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert (
        "7.png: not a readable image" in capsys.readouterr().err and not (tmp_path / "out").exists()
    )


def test_reader_sees_planted_errors():
    rng = random.Random(5)
    scenes = [sample_scene(rng, "attribute") for _ in range(6)]
    wrong = [
        replace(
            s,
            things=tuple(
                replace(t, color="green" if t.color != "green" else "red") for t in s.things
            ),
        )
        for s in scenes
    ]
    readings = shipped_reader().read(from_uint8([render(s) for s in wrong]))
    for s, r in zip(scenes, readings):
        assert not any(holds(f, r) for f in scene_facts(s) if f.what == "color")
        assert all(holds(f, r) for f in scene_facts(s) if f.what == "object")


def test_reader_reads_other_sizes_and_an_empty_scene():
    read = shipped_reader().read
    assert read(from_uint8([render(Scene((), "beach"))]))[0].things == ()
    s = Scene(
        (Thing("cat", "red", "large", 0.25, 0.5), Thing("bell", "blue", "large", 0.75, 0.5)), "snow"
    )
    for size in ((64, 128), (96, 96)):
        (reading,) = read(from_uint8([render(s, *size)]))
        assert all(holds(f, reading) for f in scene_facts(s))
    with pytest.raises(DataError, match="'mood' is unknown"):
        holds(Fact("mood", ("happy",)), reading)


def test_every_batch_order_is_its_own_step():
    n = 64
    cache = dict(
        latents=torch.arange(n).float().view(n, 1, 1),
        tokens=torch.ones(n * 2, 1, 4).bfloat16(),
        offsets=torch.arange(n + 1) * 2,
        grid=torch.tensor([1, 1]),
    )
    data = CachedData(cache, 8, seed=3)
    later = data.batch(13)["latents"]
    assert torch.equal(later, CachedData(cache, 8, seed=3).batch(13)["latents"])
    for epoch in (0, 1):
        assert sorted(
            np.concatenate(
                [data.batch(epoch * 8 + i)["latents"].flatten().numpy() for i in range(8)]
            )
        ) == list(range(n))


def test_an_ablation_never_takes_runs_of_other_settings_for_its_own(tmp_path):
    from lens_ref.pretrain.findings import AblationConfig, ablate_captions
    from lens_ref.rl.findings import RLAblationConfig, ablate_rl
    from lens_ref.core.runs import keep_plan

    for what, run, config in (
        ("captions", ablate_captions, AblationConfig()),
        ("rl", ablate_rl, RLAblationConfig()),
    ):
        keep_plan(tmp_path / what, dict(what=what, base="here", **config.to_dict()))
        with pytest.raises(ConfigError, match="settings.per_skill=3.*another --out"):
            run(tmp_path / what, config.replace(per_skill=3), "here")
        with pytest.raises(ConfigError, match="settings.base='elsewhere'"):
            run(tmp_path / what, config, "elsewhere")
        assert [p.name for p in (tmp_path / what).iterdir()] == ["settings.json"]
