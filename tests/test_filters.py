"""The nine filters: what is dropped is named, the set depends on the pictures alone."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lens_ref.core.config import CheckpointError, ConfigError, DataError
from lens_ref.data.duplicates import (
    duplicates,
    has_faiss,
    hub_embedder,
    near_pairs,
    thumbnail_embedding,
)
from lens_ref.data.filters import (
    ORDER,
    Decision,
    Thresholds,
    clarity,
    entropy,
    filter_folder,
    filter_images,
    hub_classifier,
    run_filters,
    luminance,
    open_picture,
    filter_summary,
    tabled,
)


def photo(seed, size=(420, 400), grain=20):
    "Smooth colours with grain: what all exact filters keep."
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(30, 226, (6, 6, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    return Image.fromarray(
        (np.asarray(smooth) + rng.normal(0, grain, (size[1], size[0], 1)))
        .clip(0, 255)
        .astype(np.uint8)
    )


@pytest.fixture
def folder(tmp_path):
    "Eight good pictures and one for each fault that needs no model."
    for i in range(8):
        photo(i).save(tmp_path / f"good{i}.png")
    photo(0).resize((400, 390)).save(tmp_path / "again.jpg", quality=60)
    (tmp_path / "copy.png").write_bytes((tmp_path / "good1.png").read_bytes())
    photo(2).resize((840, 800)).save(tmp_path / "larger.png")
    photo(20, (300, 300)).save(tmp_path / "small.png")
    photo(21, grain=0).save(tmp_path / "smooth.png")
    Image.new("RGB", (400, 400), "white").save(tmp_path / "blank.png")
    dots = np.zeros((400, 400, 3), np.uint8)
    dots[::2, ::2] = 255
    Image.fromarray(dots).save(tmp_path / "dots.png")
    Image.eval(photo(22, grain=60), lambda v: v // 16).save(tmp_path / "dark.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good3.png").read_bytes()[:20_000])
    return tmp_path


EXPECTED = {
    "again.jpg": "duplicate",
    "small.png": "area",
    "smooth.png": "clarity",
    "blank.png": "clarity",
    "dots.png": "entropy",
    "dark.png": "luminance",
    "cut.png": "broken",
    "good2.png": "duplicate",
}


def result(decisions):
    return {Path(d.file).name: (d.keep, d.filter) for d in decisions}


@pytest.mark.parametrize(
    "engine",
    [
        "numpy",
        pytest.param("faiss", marks=pytest.mark.skipif(not has_faiss(), reason="needs faiss-cpu")),
    ],
)
def test_each_fault_is_found_and_named(folder, engine):
    files = sorted(folder.iterdir())
    decisions = list(filter_images(files, Thresholds(entropy=2.0), engine=engine, batch=4))
    assert len(decisions) == len(files)
    dropped = {Path(d.file).name: d for d in decisions if not d.keep}
    twin = {"copy.png", "good1.png"} & dropped.keys()
    assert {n: d.filter for n, d in dropped.items() if n not in twin} == EXPECTED and len(twin) == 1
    assert all(d.threshold is not None and d.score is not None for d in dropped.values())
    assert (
        "good0.png" in dropped["again.jpg"].detail
        and "larger.png" in dropped["good2.png"].detail
        and "cut.png" in dropped["cut.png"].detail
    )
    assert (
        dropped["small.png"].score == 90_000
        and dropped["small.png"].threshold == 384**2
        and dropped["again.jpg"].score > 0.985
    )


def test_the_set_depends_on_the_pictures_alone(folder):
    files = sorted(folder.iterdir())
    first = result(filter_images(files))
    for order, batch in (
        (files[::-1], 32),
        (list(np.random.default_rng(1).permutation(files)), 5),
        (files, 1),
    ):
        assert result(filter_images(order, batch=batch)) == first
    kept = [f for f in files if first[f.name][0]]
    assert all(keep for keep, _ in result(filter_images(kept)).values()) and len(kept) == 8


def test_a_chain_of_near_copies_leaves_no_two_that_are_close():
    rng = np.random.default_rng(0)
    angles = np.cumsum(rng.uniform(0.05, 0.2, 300))  # neighbours are close, the ends are not
    x = np.stack([np.cos(angles), np.sin(angles)], 1)
    for order in (range(300), rng.permutation(300)):
        drop = duplicates(x, order)
        left = [i for i in range(300) if i not in drop]
        assert not len(near_pairs(x[left])[0]) and all(
            stays not in drop and c > 0.985 for stays, c in drop.values()
        )
        place = {int(k): n for n, k in enumerate(order)}
        assert all(place[stays] < place[i] for i, (stays, _) in drop.items())


@pytest.mark.skipif(not has_faiss(), reason="needs faiss-cpu")
@pytest.mark.parametrize("n, d", [(2, 8), (3000, 32), (300, 768)])
def test_faiss_and_numpy_give_the_same_pairs(n, d):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, d))
    x[n // 2 :] = x[: n - n // 2] + rng.normal(size=(n - n // 2, d)) * rng.uniform(
        0.1, 0.25, (n - n // 2, 1)
    )  # many cosines close to the threshold
    a, b = near_pairs(x, engine="numpy"), near_pairs(x, engine="faiss")
    assert all(np.array_equal(p, q) for p, q in zip(a, b)) and (n < 10 or 10 < len(a[0]) < n // 2)
    brute = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert len(a[0]) == int((np.triu(brute @ brute.T, 1) > 0.985).sum())


def test_empty_and_zero_rows_are_no_duplicates():
    assert (
        len(near_pairs(np.zeros((0, 4)))[0])
        == len(near_pairs(np.zeros((5, 4)))[0])
        == len(near_pairs(np.ones((1, 4)))[0])
        == 0
    )
    assert list(filter_images([])) == []


def test_scores_against_their_definitions():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    im = Image.fromarray(x)
    g = np.asarray(im.convert("L")).astype(float)
    lap = [
        4 * g[i, j] - g[i - 1, j] - g[i + 1, j] - g[i, j - 1] - g[i, j + 1]
        for i in range(1, 511)
        for j in range(1, 511)
    ]
    assert clarity(im) == pytest.approx(np.var(lap), rel=1e-5)
    p = np.bincount(g.astype(int).ravel(), minlength=256) / g.size
    assert (
        entropy(im) == pytest.approx(-sum(v * math.log2(v) for v in p if v))
        and entropy(Image.new("RGB", (9, 9), "red")) == 0
    )
    assert luminance(im) == pytest.approx(x.max(2).mean() / 255) and luminance(
        Image.new("RGB", (9, 9), (0, 51, 0))
    ) == pytest.approx(0.2)


def test_clarity_does_not_depend_on_the_size_it_was_saved_in():
    at = lambda side: Image.fromarray(
        np.tile(
            np.kron(np.indices((16, 16)).sum(0) % 2, np.ones((side // 16,) * 2)).astype(np.uint8)[
                ..., None
            ]
            * 255,
            3,
        )
    )
    assert clarity(at(2048)) == pytest.approx(
        clarity(at(1024)), rel=0.1
    )  # not scaled, it would fall by half


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16", "1"])
def test_every_mode_is_read_as_rgb_on_white(mode, tmp_path):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    im = (
        Image.new(mode, (20, 10)) if mode != "RGBA" else Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    )
    im.save(path)
    p = open_picture(path)
    assert p.image.mode == "RGB" and (p.width, p.height) == (20, 10)
    if mode in ("RGBA", "LA"):
        assert p.image.getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_is_scaled_wherever_it_is_read(suffix, tmp_path):
    from lens_ref.data.folders import read_image
    from lens_ref.data.shards import make_sample

    grey = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(grey).save(path := tmp_path / f"a.{suffix}")
    readers = [
        open_picture(path).image,
        make_sample("k", path.read_bytes(), {"text": "a"}).pixels(),
        read_image(path, 64, 64),
    ]
    for got in readers:
        assert np.abs(np.asarray(got)[..., 0] - grey / 257).max() <= 0.51


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_file_that_is_cut_anywhere_is_broken(tmp_path, suffix):
    photo(0).save(tmp_path / f"a.{suffix}")
    data = (tmp_path / f"a.{suffix}").read_bytes()
    for share in (0, 0.01, 0.3, 0.9):
        (tmp_path / f"b.{suffix}").write_bytes(data[: int(share * len(data))])
        with pytest.raises(DataError, match=f"b.{suffix}"):
            open_picture(tmp_path / f"b.{suffix}")


def test_large_jpegs_keep_their_size_and_nearly_their_scores(tmp_path):
    big = photo(1, (2600, 2400), grain=0)
    big.save(tmp_path / "a.jpg", quality=95)
    p = open_picture(tmp_path / "a.jpg")
    assert (p.width, p.height) == (2600, 2400) and p.image.width < 2600
    assert entropy(p.image) == pytest.approx(entropy(big), abs=0.05) and luminance(
        p.image
    ) == pytest.approx(luminance(big), abs=0.01)


# ---- scorers


def test_model_scores_decide_in_the_papers_order(tmp_path):
    for i in range(4):
        photo(i).save(tmp_path / f"{i}.png")
    files = sorted(tmp_path.iterdir())
    calls = []

    def scorer(name, values):
        def f(images):
            calls.append((name, len(images)))
            return [values[Path(im.filename).stem] for im in images]

        return f

    scorers = dict(
        watermark=scorer("watermark", {"2": 0.9, "3": 0.1}),
        nsfw=scorer("nsfw", {"0": 0.6, "1": 0.1, "2": 0.1, "3": 0.1}),
        aesthetic=scorer("aesthetic", {"1": 2.9, "2": 9, "3": 3.0}),
    )
    found = result(filter_images(files, scorers=scorers))
    assert found == {
        "0.png": (False, "nsfw"),
        "1.png": (False, "aesthetic"),
        "2.png": (False, "watermark"),
        "3.png": (True, None),
    }
    assert calls == [("nsfw", 4), ("aesthetic", 3), ("watermark", 2)]


def test_a_scorer_that_returns_too_few_scores_is_named(tmp_path):
    for i in range(2):
        photo(i).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match="1 scores for 2"):
        list(filter_images(sorted(tmp_path.iterdir()), scorers=dict(nsfw=lambda ims: [0.1])))


class Fails:
    "A scorer that does as told on the picture `1.png`."

    def __init__(self, value):
        self.value = value

    def one(self, image):
        if Path(image.filename).name != "1.png":
            return 0.1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def __call__(self, images):
        return [self.one(im) for im in images]


@pytest.mark.parametrize("batch", [1, 2, 32])
@pytest.mark.parametrize(
    "value, why",
    [
        (float("nan"), "it gave nan"),
        (float("-inf"), "it gave -inf"),
        (None, "TypeError"),
        ("high", "ValueError"),
        (RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (KeyError("label"), "KeyError"),
        (MemoryError(), "MemoryError"),
    ],
    ids=str,
)
def test_a_picture_on_which_a_scorer_fails_is_dropped_and_named(tmp_path, value, why, batch):
    for i in range(4):
        photo(i).save(tmp_path / f"{i}.png")
    files = sorted(tmp_path.iterdir())
    found = list(filter_images(files, scorers=dict(aesthetic=Fails(value)), batch=batch))
    (bad,) = [d for d in found if Path(d.file).name == "1.png"]
    assert "1.png" in bad.detail and why in bad.detail and bad.score is None
    assert len(found) == 4 and {d.filter for d in found if d is not bad} == {"aesthetic"}  # 0.1 < 3


def test_an_embedder_that_fails_on_one_picture_loses_that_one(tmp_path):
    for i in range(4):
        photo(i).save(tmp_path / f"{i}.png")

    def embed(images):
        if any(Path(im.filename).name == "2.png" for im in images):
            raise RuntimeError("no such shape")
        return thumbnail_embedding(images)

    found = {Path(d.file).name: d for d in filter_images(sorted(tmp_path.iterdir()), embed=embed)}
    assert {n: d.keep for n, d in found.items()} == {f"{i}.png": i != 2 for i in range(4)}
    assert "no such shape" in found["2.png"].detail


def test_a_scorer_that_fails_on_all_pictures_ends_the_run(tmp_path):
    for i in range(5):
        photo(i).save(tmp_path / f"{i}.png")

    def broken(images):
        raise RuntimeError("no weights")

    for scorer in (broken, len):
        with pytest.raises(DataError, match="nsfw.*failed on .*0.png and 4 more"):
            list(filter_images(sorted(tmp_path.iterdir()), scorers=dict(nsfw=scorer)))


def test_no_unreadable_file_ends_a_run(tmp_path, monkeypatch):
    names = {"a.png": "Permission", "b.png": "folder", "c.png": "No such file", "d.png": "empty"}
    photo(0).save(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "d.png").touch()
    os.mkfifo(tmp_path / "e.png")
    (tmp_path / "f.png").write_text("<html>404</html>")
    photo(1).save(tmp_path / "good.png")
    names |= {"e.png": "pipe", "f.png": "no picture", "x/y.png": "No such file"}
    real = Path.read_bytes

    def read_bytes(self):
        if self.name == "a.png":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    found = {d.file: d for d in filter_images([tmp_path / n for n in (*names, "good.png")])}
    for name, why in names.items():
        d = found[str(tmp_path / name)]
        assert d.filter == "broken" and d.detail.startswith(d.file) and why in d.detail, d.detail
    assert found[str(tmp_path / "good.png")].keep


# ---- captions and duplicates


def test_of_two_equal_pictures_the_captioned_one_stays(folder):
    "Whatever its name, size and clearness, and whatever the order of the files."
    files = sorted(folder.iterdir())
    for captioned, gone in (
        (["good1.png"], "copy.png"),
        (["copy.png"], "good1.png"),
        (["again.jpg"], "good0.png"),
        (["good2.png"], "larger.png"),
    ):
        for order in (files, files[::-1]):
            told = {folder / n for n in captioned}
            found = {Path(d.file).name: d for d in filter_images(order, captioned=told)}
            assert all(found[n].keep for n in captioned) and found[gone].filter == "duplicate"
            assert captioned[0] in found[gone].detail and "caption" not in found[gone].detail
    told = {str(folder / n) for n in ("good1.png", "copy.png", "good3.png")}
    found = {Path(d.file).name: d for d in filter_images(files, captioned=told)}
    (lost,) = [d for n, d in found.items() if n in ("good1.png", "copy.png") and not d.keep]
    assert lost.detail.endswith("its caption falls with it") and found["good3.png"].keep


def test_in_a_chain_of_near_copies_no_captioned_one_falls_for_one_without(tmp_path):
    from lens_ref.data.filters import drop_duplicates

    angles = np.cumsum([0.0, *[0.12] * 8])  # each is close to its neighbours alone
    x = np.stack([np.cos(angles), np.sin(angles)], 1)
    rng = np.random.default_rng(0)
    for _ in range(40):
        told = {f"{i}.png" for i in range(9) if rng.random() < 0.4}
        rows = [
            (Decision(f"{i}.png", True, width=9 + int(rng.integers(9)), height=9, sha256=str(i)), v)
            for i, v in enumerate(x)
        ]
        done = {d.file: d for d in drop_duplicates(rows, captioned=told)}
        for d in done.values():
            if d.file in told and not d.keep:
                stays = d.detail.removeprefix("of ").split(";")[0]
                assert stays in told and done[stays].keep and "caption falls" in d.detail
        kept = [i for i in range(9) if done[f"{i}.png"].keep]
        assert all(b - a > 1 for a, b in zip(kept, kept[1:]))


def test_prepare_keeps_the_captioned_of_two_equal_pictures(tmp_path):
    from lens_ref.data.prepare import NineFilters, prepare
    from lens_ref.data.shards import open_samples

    raw = tmp_path / "raw"
    raw.mkdir()
    for i in range(2):
        photo(i).save(raw / f"{'ab'[i]}.png")
        photo(i).save(raw / f"{'yz'[i]}.png")
    lines = [dict(file_name=n, text=f"caption of {n}") for n in ("y.png", "b.png")]
    (raw / "metadata.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    counts = prepare(raw, tmp_path / "out", NineFilters(), log=lambda x: None)
    assert counts == dict(images=4, kept=2, dropped=dict(duplicate=2))
    texts = {s.source: s.caption() for s in open_samples(tmp_path / "out")}
    assert texts == {"b.png": "caption of b.png", "y.png": "caption of y.png"}


def test_hidden_pictures_are_not_filtered(tmp_path):
    for i, name in enumerate(
        (
            "a.png",
            ".ipynb_checkpoints/a.png",
            "x/.thumbnails/a.png",
            "__MACOSX/._a.png",
            "@eaDir/a.png",
        )
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        photo(i).save(tmp_path / name)
    (tmp_path / "Thumbs.db").touch()
    filter_folder(tmp_path, tmp_path / "out")
    report = (tmp_path / "out" / "report.jsonl").read_text().splitlines()
    assert [json.loads(x)["file"] for x in report] == [str(tmp_path / "a.png")]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["not_images"] == {}


def test_wrong_names_are_named(tmp_path):
    with pytest.raises(ConfigError, match="nsfw"):
        list(filter_images([], scorers=dict(nsfv=len)))
    with pytest.raises(ConfigError, match="darkest"):
        Thresholds(darkest=0.99)
    with pytest.raises(ConfigError, match="faiss"):
        near_pairs(np.ones((3, 2)), engine="fais")
    photo(0).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="a.png: not in the table"):
        list(filter_images([tmp_path / "a.png"], scorers=dict(nsfw=tabled({"b.png": 0}))))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A classifier with three labels, a regressor and a CLIP tower with random weights, saved as
    from a hub."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        ViTConfig,
        ViTForImageClassification,
        ViTImageProcessor,
    )

    root, size = (
        tmp_path_factory.mktemp("hub"),
        dict(
            image_size=32,
            patch_size=16,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        ),
    )
    torch.manual_seed(0)
    for name, labels in dict(classes=("low", "medium", "high"), regressor=("score",)).items():
        ViTForImageClassification(
            ViTConfig(
                **size,
                id2label=dict(enumerate(labels)),
                label2id={v: i for i, v in enumerate(labels)},
            )
        ).save_pretrained(root / name)
        ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(root / name)
    CLIPVisionModelWithProjection(CLIPVisionConfig(**size, projection_dim=8)).save_pretrained(
        root / "clip"
    )
    CLIPImageProcessor(
        size=dict(shortest_edge=32), crop_size=dict(height=32, width=32)
    ).save_pretrained(root / "clip")
    return root


def test_hub_classifiers_are_scorers(tiny):
    images = [photo(i) for i in range(3)]
    one, two, rest = (
        hub_classifier(str(tiny / "classes"), label)(images)
        for label in ("low", ("medium", "high"), ("low", "medium", "high"))
    )
    assert (
        np.allclose(np.add(one, two), 1, atol=1e-4)
        and np.allclose(rest, 1, atol=1e-4)
        and 0 < min(one) < max(one) < 1
    )
    raw = hub_classifier(str(tiny / "regressor"))(images)
    import torch
    from transformers import ViTForImageClassification, ViTImageProcessor

    model, processor = (
        ViTForImageClassification.from_pretrained(tiny / "regressor"),
        ViTImageProcessor.from_pretrained(tiny / "regressor"),
    )
    with torch.inference_mode():
        expected = model(**processor(images=images, return_tensors="pt")).logits[:, 0].tolist()
    assert np.allclose(raw, expected, atol=1e-4)
    with pytest.raises(ConfigError, match="low, medium, high"):
        hub_classifier(str(tiny / "classes"), "nsfw")


def test_hub_embedder_and_thumbnails_give_unit_rows(tiny):
    images = [photo(i) for i in range(3)]
    for embed, d in ((hub_embedder(str(tiny / "clip")), 8), (thumbnail_embedding, 768)):
        x = embed(images)
        assert (
            x.shape == (3, d)
            and np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
            and np.allclose(embed(images[1:2])[0], x[1], atol=1e-4)
        )


# ---- the report


def test_filter_folder_reports_every_file(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    (folder / "notes.txt").write_text("x")
    (folder / "deep").mkdir()
    photo(30).save(folder / "deep/a.webp")
    rows = {r["filter"]: r for r in filter_folder(folder, out, Thresholds(entropy=2.0))}
    assert (
        list(rows) == [*ORDER, "all"]
        and rows["nsfw"]["tested"] is None
        and rows["broken"]["dropped"] == 1
    )
    lines = [json.loads(x) for x in (out / "report.jsonl").read_text().splitlines()]
    assert (
        len(lines) == 18 == rows["all"]["tested"]
        and sum(r["dropped"] or 0 for k, r in rows.items() if k != "all")
        == sum(not x["keep"] for x in lines)
        == rows["all"]["dropped"]
    )
    kept = (out / "kept.txt").read_text().splitlines()
    assert (
        len(kept) == 9
        and "deep/a.webp" in kept
        and json.loads((out / "summary.json").read_text())["not_images"] == {".txt": 1}
    )


def test_faults_of_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="no images"):
        filter_folder(tmp_path, tmp_path / "out")
    photo(0).save(tmp_path / "a.png")
    (tmp_path / "out").write_text("a file in the way")
    with pytest.raises(CheckpointError, match="report.jsonl"):
        filter_folder(tmp_path, tmp_path / "out")


def test_without_an_embedder_duplicates_stay_and_the_summary_says_so(folder):
    decisions = list(filter_images(sorted(folder.iterdir()), embed=None))
    assert result(decisions)["copy.png"][0] and filter_summary(decisions, embed=None)[8] == dict(
        filter="duplicate", keeps="at most 0.985", tested=None, dropped=None
    )


def test_a_batch_is_judged_alone(folder):
    from lens_ref.data.filters import image_filters

    files, tests = sorted(folder.iterdir()), image_filters()
    together = run_filters(files, tests, thumbnail_embedding)
    alone = [run_filters([f], tests, thumbnail_embedding)[0] for f in files]
    assert [d for d, _ in together] == [d for d, _ in alone] and all(
        (v is not None) == d.keep for d, v in together
    )
    assert isinstance(together[0][0], Decision) and os.fspath(files[0]) == together[0][0].file
