"""Shards and the way to them: kills, damage, other tools' layouts, Ray."""

import functools
import io
import json
import os
import pathlib
import pickle
import random
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from lens_ref.core.config import ConfigError, DataError
from lens_ref.core.files import json_bytes
from lens_ref.data.filters import Thresholds
from lens_ref.data.folders import read_image, read_metadata
from lens_ref.data.prepare import AskedCaptions, NineFilters, on_ray, prepare
from lens_ref.data.shards import (
    Damage,
    LostShard,
    Sample,
    image_rows,
    make_sample,
    open_samples,
    pack_sample,
    read_shard,
    scan,
    unpack_sample,
    write_shards,
    write_tar,
)
from lens_ref.pretrain.caches import cache_shards, cut, fit_16

TESTS = pathlib.Path(__file__).parent
quiet = lambda line: None


def picture(i, height=24, width=32):
    "An incompressible PNG that differs for each i."
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)).save(
        out, "png"
    )
    return out.getvalue()


def sample(i):
    return make_sample(
        f"{i:08d}",
        picture(i),
        {"dense": f"picture {i}", "dense:fr": f"l'image {i}", "brief": f"{i}"},
        f"{i}.png",
    )


def make(rows):
    return map(sample, rows)


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def keys(samples):
    return [int(s.key) for s in samples]


@pytest.fixture
def shards(tmp_path):
    write_shards(list(range(30)), make, tmp_path / "s", per_shard=7, log=quiet)
    return tmp_path / "s"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    (root / "deep").mkdir(parents=True)
    names = [f"{'deep/' if i % 3 == 0 else ''}{i:02d}.png" for i in range(20)]
    for i, name in enumerate(names):
        (root / name).write_bytes(picture(i))
    (root / "metadata.jsonl").write_text(
        "".join(
            json.dumps(dict(file_name=n, text=f"picture {i}")) + "\n" for i, n in enumerate(names)
        )
    )
    return root


# ---- writing

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_shards import sample, write_shards, quiet
def make(rows):
    for i in rows:
        if i == {at}: os.kill(os.getpid(), signal.SIGKILL)
        yield sample(i)
write_shards(list(range(30)), make, {out!r}, per_shard=7, log=quiet)
"""


@pytest.mark.parametrize("at", [3, 17])
def test_a_killed_writer_goes_on_to_the_same_bytes(shards, tmp_path, at):
    out = tmp_path / "killed"
    code = KILLED.format(tests=str(TESTS), at=at, out=str(out))
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent).returncode == -signal.SIGKILL
    )
    assert len(list(out.glob("shard-*.tar"))) == at // 7 and list(
        out.glob(".*.tmp")
    )  # whole shards only, and what the kill left
    write_shards(list(range(30)), make, out, per_shard=7, log=quiet)
    assert contents(out) == contents(shards)


def test_finished_shards_are_not_made_again_and_cut_ones_are(shards):
    before = contents(shards)
    asked = []

    def watch(rows):
        asked.append(rows)
        return make(rows)

    (shards / "shard-00001.tar").write_bytes(before["shard-00001.tar"][:3000])
    (shards / "shard-00003.json").unlink()  # killed between the tar and its list
    write_shards(list(range(30)), watch, shards, per_shard=7, log=quiet)
    assert [r[0] for r in asked] == [7, 21] and contents(shards) == before


@pytest.mark.parametrize(
    "change", [dict(rows=list(range(29))), dict(per_shard=8), dict(settings=dict(kind="brief"))]
)
def test_another_run_in_the_same_folder_is_refused(shards, change):
    kw = dict(rows=list(range(30)), per_shard=7, settings=None) | change
    write_shards(list(range(30)), make, shards, per_shard=7, log=quiet)
    if "settings" in change:  # a new setting, and a changed one
        write_shards(
            list(range(30)),
            make,
            shards.parent / "t",
            per_shard=7,
            settings=dict(kind="dense"),
            log=quiet,
        )
        with pytest.raises(ConfigError, match="kind"):
            write_shards(
                kw["rows"], make, shards.parent / "t", kw["per_shard"], kw["settings"], log=quiet
            )
    with pytest.raises(
        ConfigError, match=next(iter(change)) if "settings" not in change else "kind"
    ):
        write_shards(kw["rows"], make, shards, kw["per_shard"], kw["settings"], log=quiet)


def test_a_sample_survives_the_archive_with_all_its_captions_and_features():
    s = sample(3)
    s.features = dict(
        latents=torch.randn(4, 64).half(),
        tokens=torch.randn(5, 3, 8).bfloat16(),
        grid=torch.tensor([2, 2]),
    )
    again = unpack_sample(s.key, pack_sample(s))
    assert (
        again.captions == {"dense": "picture 3", "dense:fr": "l'image 3", "brief": "3"}
        and again.sha256 == s.sha256
    )
    assert all(torch.equal(again.features[k], v) for k, v in s.features.items()) and pack_sample(
        again
    ) == pack_sample(s)
    assert s.caption() == s.caption("dense") == "picture 3"
    with pytest.raises(DataError, match="00000003.*'alt'"):
        s.caption("alt")


def test_the_turn_of_a_camera_is_honoured():
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(out, "jpeg", exif=exif)
    s = make_sample("k", out.getvalue(), {"text": "a"})
    assert (s.height, s.width) == (40, 20) == s.pixels().size[::-1] and s.type == "jpg"


# ---- damage


def flip(path, at, n=1):
    raw = bytearray(path.read_bytes())
    for i in range(at, at + n):
        raw[i] ^= 255
    path.write_bytes(raw)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "hurt, lost",
    [
        ("image", {9}),
        ("caption", {9}),
        ("image header", {9}),
        ("json header", {9}),
        ("both headers", {9}),
        ("cut in it", {9, 10, 11, 12, 13}),
        ("cut before it", {9, 10, 11, 12, 13}),
        ("all of the first half", {7, 8, 9}),
    ],
)
def test_damage_costs_only_what_it_hits(shards, hurt, lost, listed):
    path = shards / "shard-00001.tar"
    start, stop = {int(k): (a, b) for k, a, b in scan(path, Damage())}[9]
    with tarfile.open(path) as tar:
        middle = tar.getmember("00000009.json").offset
    if not listed:
        path.with_suffix(".json").unlink()
    if hurt == "image":
        flip(path, start + 900)
    if hurt == "caption":
        flip(path, middle + 512 + 60, 1)
    if "image header" in hurt or hurt == "both headers":
        flip(path, start + 100, 30)
    if hurt in ("json header", "both headers"):
        flip(path, middle + 100, 30)
    if hurt == "cut in it":
        path.write_bytes(path.read_bytes()[: start + 1000])
    if hurt == "cut before it":
        path.write_bytes(path.read_bytes()[:start])
    if hurt == "all of the first half":
        flip(path, 0, stop)
    damage = Damage(log=quiet)
    assert set(range(30)) - set(keys(open_samples(shards, damage=damage))) == lost
    assert len(damage.found) >= (len(lost) if listed else 1) and all(
        "shard-00001" in where for where in damage.found
    )
    with pytest.raises(DataError, match="shard-00001"):
        list(open_samples(shards, strict=True))


def test_a_lost_shard_stops_every_reader_by_name(shards, tmp_path):
    """Unmounted while a run reads it (listed beside it or not), or gone before: never passed
    over as if it were damaged, nor written into a cache as dropped."""
    e, lost = Encoders(), shards / "shard-00002.tar"
    listed = open_samples(shards, log=quiet)
    assert next(listed).key == "00000000"
    lost.rename(tmp_path / "away")
    lost.symlink_to(tmp_path / "nowhere")  # a link to what is not mounted
    named = r"shard-00002.tar: cannot be opened \(No such file or directory\); mount"
    readers = [
        lambda: list(listed),
        lambda: cache_shards(shards, tmp_path / "c", e.vae, e, log=quiet),
    ]
    for read in readers:
        with pytest.raises(LostShard, match=named):
            read()
    assert not list((tmp_path / "c").glob("*.tar"))
    lost.with_suffix(".json").unlink()
    with pytest.raises(LostShard, match=named):
        list(open_samples(shards, log=quiet))
    lost.unlink()
    with pytest.raises(LostShard, match="shard-00002.tar: is not there, and index.json"):
        open_samples(shards)
    (shards / "index.json").unlink()
    assert len(list(open_samples(shards, log=quiet))) == 23
    (shards / "index.json").write_text(json.dumps(dict(version=2, shards=[])))  # another tool's
    (tmp_path / "away").rename(lost)
    assert len(list(open_samples(shards, log=quiet))) == 30


def test_a_disk_that_fails_in_the_middle_costs_only_what_it_hits(shards, monkeypatch):
    from lens_ref.data import shards as module

    bad = next(
        start for k, start, _ in scan(shards / "shard-00001.tar", Damage()) if k == "00000009"
    )

    class Failing(io.FileIO):
        def read(self, n=-1):
            if self.tell() == bad and str(self.name).endswith("shard-00001.tar"):
                raise OSError(5, "Input/output error")
            return super().read(n)

    monkeypatch.setattr(module, "opened", Failing)
    damage = Damage(log=quiet)
    assert set(range(30)) - set(keys(open_samples(shards, damage=damage))) == {
        9
    } and "Input/output error" in str(damage.found)


def test_a_file_that_is_no_tar_is_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(random.Random(0).randbytes(5000))
    damage = Damage(log=quiet)
    assert not list(read_shard(tmp_path / "a.tar", damage)) and len(damage.found) == 1


# ---- reading what others made


def test_tars_of_other_tools_are_read(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for i, (name, data) in enumerate(
            [
                ("x/é1.jpg.png", b""),
                ("x/1.png", picture(1)),
                ("x/1.txt", b"one"),
                ("x/2.png", picture(2)),
                ("x/2.json", b'{"caption": "two"}'),
                ("x/3.png", picture(3)),
                ("README", b"hello"),
                ("x/" + "4" * 120 + ".png", picture(4)),
                ("x/" + "4" * 120 + ".txt", b"four"),
            ]
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    damage = Damage(log=quiet)
    assert [s.caption() for s in open_samples(tmp_path, damage=damage)] == ["one", "two", "four"]
    assert len(damage.found) == 3 and any("no caption" in why for why in damage.found.values())


def test_mixed_and_missing_sources_are_named(tmp_path, folder):
    (tmp_path / "m").mkdir()
    for name in ("a.tar", "b.parquet"):
        (tmp_path / "m" / name).write_bytes(b"")
    with pytest.raises(DataError, match="both"):
        open_samples(tmp_path / "m")
    with pytest.raises(DataError, match="no such file"):
        open_samples(tmp_path / "nothing")
    with pytest.raises(DataError, match="not a folder"):
        open_samples(folder / "metadata.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        open_samples(tmp_path / "empty")
    with open(folder / "metadata.jsonl", "a") as f:
        f.write("{broken\n")
    with pytest.raises(DataError, match="metadata.jsonl:21"):
        open_samples(folder)


def test_a_folder_of_images_names_the_line_at_fault(tmp_path):
    Image.new("RGB", (80, 40), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    meta = tmp_path / "metadata.jsonl"
    lines = lambda *rows: meta.write_text("\n".join(json.dumps(r) for r in rows))
    lines(dict(file_name="a.png", text="a red bar"))
    ((path, text),) = read_metadata(tmp_path)
    image = read_image(path, 64, 64)
    assert image.shape == (64, 64, 3) and text == "a red bar" and (image == (255, 0, 0)).all()
    said = []
    lines(dict(file_name="a.png", text=" "), dict(file_name="a.png", text="a red bar"))
    assert [text for _, text in read_metadata(tmp_path, log=said.append)] == ["a red bar"]
    assert any("metadata.jsonl:1: a.png: the caption `text` is empty" in x for x in said)
    lines(dict(file_name="a.png", text=7))
    with pytest.raises(DataError, match=r"metadata.jsonl:1: the caption"):
        read_metadata(tmp_path)
    meta.write_bytes(b"[1]\n")
    with pytest.raises(DataError, match=r"metadata.jsonl:1: not a JSON object"):
        read_metadata(tmp_path)
    meta.write_bytes('{"file_name": "a.png", "text": "caf\u00e9"}'.encode("latin1"))
    with pytest.raises(DataError, match=r"metadata.jsonl:1: not a JSON object in UTF-8"):
        read_metadata(tmp_path)
    lines(dict(file_name="c.png", text="x"))
    with pytest.raises(DataError, match=r"metadata.jsonl:1: file_name 'c.png'"):
        read_metadata(tmp_path)
    with pytest.raises(DataError, match="b.png: not a readable image"):
        read_image(tmp_path / "b.png", 64, 64)


def test_a_folder_skips_and_names_what_it_cannot_use(folder):
    (folder / "zz.jpg").write_bytes(b"no")
    (folder / "01.png").unlink()
    (folder / "extra.png").write_bytes(picture(99))
    damage = Damage(log=quiet)
    assert len(list(open_samples(folder, damage=damage))) == 19
    assert {k: v.split(": ")[1].split(" (")[0] for k, v in damage.found.items()} == {
        "zz.jpg": "not a readable image",
        "01.png": "no such file",
        "extra.png": "has no caption",
    }


@pytest.mark.parametrize(
    "line, says",
    [
        (b'{"file_name": 5}', "file_name is 5"),
        ('{"file_name": "é.png"}'.encode("latin1"), "UTF-8"),
        (b"[1]", "list"),
        (b"{", "JSON"),
        (b'{"text": "a"}', "file_name is None"),
    ],
)
def test_a_faulty_line_is_named_and_sound_ones_are_read(folder, line, says):
    name = "x" * 300 + ".png"  # a name that no disk takes
    sound = [
        dict(file_name="./00.png"),
        dict(file_name="deep/../01.png", text="one\u2028picture\x85"),
        dict(file_name=str(folder.absolute() / "02.png"), captions=["two", "twin"]),
        dict(file_name=name, text="a"),
    ]
    (folder / "00.png").write_bytes(picture(0))
    sound[0]["captions"] = [
        dict(kind="dense", text="none", language="en"),
        dict(kind="dense", text="rien", language="fr"),
    ]
    (folder / "metadata.jsonl").write_bytes(
        b"\n\r\n".join(json.dumps(r, ensure_ascii=False).encode() for r in sound)
    )
    rows = {r["path"]: r["captions"] for r in image_rows(folder)}
    assert (
        len(rows) == 22
        and rows["00.png"] == {"dense": "none", "dense:fr": "rien"}
        and rows["01.png"] == {"text": "one\u2028picture\x85"}
        and rows["02.png"] == {"text": "two"}
    )
    assert prepare(folder, folder.parent / "out", log=quiet) == dict(
        images=22, kept=3, dropped=dict(read=19)
    )
    with open(folder / "metadata.jsonl", "ab") as f:
        f.write(b"\n" + line)
    with pytest.raises(DataError, match=f"metadata.jsonl:8: .*{says}"):
        image_rows(folder)


def test_a_name_that_is_not_utf8_goes_all_the_way(folder, tmp_path, capsys):
    from lens_ref.data.filters import filter_folder

    odd = os.fsdecode(b"caf\xe9.png")
    for name in (odd, "café.png"):
        (folder / name).write_bytes(picture(77))
    with open(folder / "metadata.jsonl", "ab") as f:
        f.write(json_bytes(dict(file_name=odd, text="un café")) + b"\n")
    counts = prepare(folder, tmp_path / "out", light, per_shard=30, log=quiet)
    report = {
        x["path"]: x
        for x in map(json.loads, (tmp_path / "out/report.jsonl").read_bytes().splitlines())
    }
    assert (
        report[odd]["kept"]
        and report["café.png"]["stage"] == "read"
        and counts["images"] == 22
        and "café.png" in (tmp_path / "out/report.jsonl").read_text("utf8")
    )
    assert {s.source: s.caption() for s in open_samples(tmp_path / "out", strict=True)}[
        odd
    ] == "un café"
    assert prepare(folder, tmp_path / "out", light, per_shard=30, log=quiet) == counts
    filter_folder(folder, tmp_path / "f", embed=None)
    assert odd in {
        pathlib.Path(json.loads(x)["file"]).name
        for x in (tmp_path / "f/report.jsonl").read_bytes().splitlines()
    }
    Damage()(odd, "x")  # can be printed
    assert "caf\\udce9.png" in capsys.readouterr().out


def test_a_file_that_may_not_be_read_is_dropped_by_name(folder, tmp_path, monkeypatch):
    whole = pathlib.Path.read_bytes

    def refuse(path):
        if path.name == "01.png":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
    assert prepare(folder, tmp_path / "out", log=quiet) == dict(
        images=20, kept=19, dropped=dict(read=1)
    )
    assert (
        "01.png: cannot be read (Permission denied)" in (tmp_path / "out/report.jsonl").read_text()
    )


def test_odd_rows_of_parquet_are_skipped_by_name(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = dict(bytes=picture(1), path=None)
    rows = [
        dict(image=good, captions=["a cat", "one cat"]),
        dict(image=None, captions=["null"]),
        dict(image=dict(bytes=None, path="gone.png"), captions=["gone"]),
        dict(image=dict(bytes=None, path=None), captions=["neither"]),
        dict(image=good, captions=[]),
        dict(image=good, captions=["last"]),
    ]
    for name in ("a", "b", "c"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    cut = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(cut[: len(cut) // 2])
    damage = Damage(log=quiet)
    assert [s.caption() for s in open_samples(tmp_path, damage=damage)] == ["a cat", "last"] * 2
    assert (
        len(damage.found) == 9
        and "b.parquet" in " ".join(damage.found)
        and any("gone.png: no such file" in why for why in damage.found.values())
    )
    with pytest.raises(DataError, match="00000001"):
        list(open_samples(tmp_path, strict=True))


# ---- filter, caption, pack


def light(paths):
    for p in paths:
        yield dict(path=p, kept=not p.endswith("4.png"), filter="light", score=0.5, threshold=0.6)


light.whole_set = False


class Decision:
    def __init__(self, path, kept):
        self.path, self.kept, self.filter, self.score, self.threshold = (
            path,
            kept,
            "first",
            np.float32(0.25),
            1,
        )


def first_half(paths):
    return [Decision(p, i < len(paths) / 2) for i, p in enumerate(paths)][::-1]  # in any order


def caption(paths):
    return [
        dict(reason="refused", cost=1)
        if p.endswith("2.png")
        else dict(dense="long " + p[-6:], cost=2)
        for p in paths
    ]


def test_every_image_is_accounted_for(folder, tmp_path):
    counts = prepare(folder, tmp_path / "out", [light, first_half], caption, per_shard=3, log=quiet)
    rows = [json.loads(x) for x in (tmp_path / "out/report.jsonl").read_text().splitlines()]
    assert len(rows) == 20 and counts == dict(
        images=20, kept=sum(r["kept"] for r in rows), dropped=dict(caption=1, first=9, light=2)
    )
    kept = list(open_samples(tmp_path / "out", strict=True))
    assert [s.source for s in kept] == [r["path"] for r in rows if r["kept"]] and all(
        s.caption().startswith("long") and s.caption("text") for s in kept
    )
    assert next(r for r in rows if r["stage"] == "filter" and r["filter"] == "first") | dict(
        path=""
    ) == dict(
        path="", stage="filter", reason=None, kept=False, filter="first", score=0.25, threshold=1.0
    )
    assert prepare(
        folder, tmp_path / "again", [light, first_half], caption, per_shard=3, log=quiet
    ) == counts and contents(tmp_path / "again") == contents(tmp_path / "out")
    assert str(tmp_path) not in "".join(
        p.read_text("latin1") for p in (tmp_path / "out").iterdir()
    )  # shards do not carry this machine's paths


def test_another_filter_is_refused(folder, tmp_path):
    prepare(folder, tmp_path / "out", light, log=quiet)
    with pytest.raises(ConfigError, match="filters"):
        prepare(folder, tmp_path / "out", first_half, log=quiet)


def test_a_filter_that_forgets_an_image_is_named(folder, tmp_path):
    def forgetful(paths):
        return first_half(paths)[1:]

    with pytest.raises(DataError, match="forgetful.*no decision"):
        prepare(folder, tmp_path / "out", forgetful, log=quiet)


def test_all_shards_share_one_budget_and_so_do_later_runs(folder, tmp_path):
    from fake_endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, FakeEndpoint
    from lens_ref.clients.chat import EndpointConfig, EndpointError

    price = (2 * PROMPT_TOKENS + 8 * COMPLETION_TOKENS) / 1e6
    with FakeEndpoint(answer=lambda q, body: "a photo of a cat") as server:

        def run(budget):
            config = EndpointConfig(
                "vlm",
                urls=(server.url,),
                concurrency=1,
                price_in=2.0,
                price_out=8.0,
                budget=budget * price,
            )
            captioner = pickle.loads(
                pickle.dumps(AskedCaptions(config, tmp_path / "answers.sqlite", ["brief"]))
            )
            return prepare(folder, tmp_path / "out", captioner=captioner, per_shard=1, log=quiet)

        for budget, paid in ((2.5, 3), (2.5, 3), (5.5, 6)):
            with pytest.raises(EndpointError, match="budget"):
                run(budget)
            assert len(server.calls) == paid
        assert run(100)["kept"] == 20 == len(server.calls)


def test_the_nine_filters_carry_what_decides_in_their_name_and_say_what_they_found(
    folder, tmp_path
):
    from lens_ref.data.filters import tabled

    def embed(images):
        return np.stack([np.asarray(im.resize((4, 4))).ravel() / 255.0 for im in images])

    scorer = lambda x: dict(aesthetic=tabled(x))
    names = [
        NineFilters(*how).name
        for how in (
            (),
            (None, None, embed),
            (None, None, None),
            (None, scorer({"a": 5})),
            (None, scorer({"a": 6})),
        )
    ]
    assert (
        len(set(names)) == 5
        and NineFilters(None, scorer({})).not_run == ["nsfw", "watermark"]
        and NineFilters(embed=None).not_run[-1] == "duplicate"
    )
    with pytest.raises(ConfigError, match="nsfw"):
        NineFilters(scorers=dict(nfsw=embed))
    (folder / "zz.png").write_bytes((folder / "02.png").read_bytes())
    (folder / "cut.png").write_bytes(picture(1)[:90])
    for name in ("a.HEIC", "deep/b.avif", "notes.txt", ".hidden.heic"):
        (folder / name).write_bytes(b"x")
    said = []
    counts = prepare(
        folder,
        tmp_path / "out",
        NineFilters(Thresholds(area=1, clarity=0, entropy=0)),
        log=said.append,
    )
    report = {
        x["path"]: x
        for x in map(json.loads, (tmp_path / "out/report.jsonl").read_text().splitlines())
    }
    copy = next(x for x in report.values() if x["filter"] == "duplicate")
    assert {copy["path"], copy["reason"].removeprefix("of ")} == {"02.png", "zz.png"} and report[
        "cut.png"
    ]["reason"].startswith("cut.png: not a readable image")
    assert (
        counts == dict(images=24, kept=20, dropped=dict(broken=1, duplicate=1, type=2))
        and report["deep/b.avif"]["stage"] == "type"
        and ".HEIC" in report["a.HEIC"]["reason"]
    )
    assert list(report["a.HEIC"]) == list(report["01.png"]) and any(
        "1 .txt" in line for line in said
    )


def test_two_ray_workers_give_the_identical_set(folder, tmp_path):
    ray = pytest.importorskip("ray")
    try:
        counts = prepare(
            folder,
            tmp_path / "ray",
            [light, first_half],
            caption,
            per_shard=3,
            run=on_ray(workers=2),
            log=quiet,
        )
    finally:
        ray.shutdown()
    assert counts == prepare(
        folder, tmp_path / "here", [light, first_half], caption, per_shard=3, log=quiet
    )
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


# ---- features


class Encoders:
    "Stand-ins that leave a trace of what they were given."

    def __init__(self):
        from lens_ref.vae.autoencoder import ToyVAE

        torch.manual_seed(0)
        self.vae = ToyVAE(width=8).eval()

    def encode(self, prompts):
        n = [len(p) for p in prompts]
        mask = torch.arange(max(n))[None] < torch.tensor(n)[:, None]
        return [
            torch.tensor(n)[:, None, None] * mask[..., None].expand(-1, -1, 4).float()
            for _ in range(2)
        ], mask


def test_features_join_the_samples_and_survive_a_kill(shards, tmp_path):
    e = Encoders()
    flip(shards / "shard-00002.tar", 700, 4)
    write = functools.partial(cache_shards, shards, vae=e.vae, encoder=e, kind="brief", per_shard=4)
    write(tmp_path / "a", log=quiet)
    got = list(open_samples(tmp_path / "a"))
    assert len(got) == 29 and all(
        s.features["latents"].shape == (2, 32)
        and len(s.features["tokens"]) == len(s.caption("brief"))
        for s in got
    )
    dropped = [
        d
        for p in (tmp_path / "a").glob("shard-*.json")
        for d in json.loads(p.read_text())["dropped"]
    ]
    assert [(d["path"], d["stage"]) for d in dropped] == [("shard-00002.tar:00000014", "read")]

    class Dies(Encoders):
        calls = 0

        def encode(self, prompts):
            Dies.calls += 1
            if Dies.calls == 3:
                raise KeyboardInterrupt
            return super().encode(prompts)

    Dies.__name__ = "Encoders"  # the same encoder, in a run that is killed
    with pytest.raises(KeyboardInterrupt):
        cache_shards(shards, tmp_path / "b", e.vae, Dies(), kind="brief", per_shard=4, log=quiet)
    write(tmp_path / "b", log=quiet)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_features_of_two_models_do_not_mix(shards, tmp_path):
    from lens_ref.core.files import data_path
    from lens_ref.pretrain.caches import weights_fingerprint
    from lens_ref.text.encoders import TextEncoder
    from lens_ref.vae.autoencoder import ToyVAE

    load = lambda: (
        ToyVAE.from_pretrained(data_path("toy", "vae")),
        TextEncoder.load(data_path("toy", "text_encoder")),
    )
    (vae, encoder), again = load(), load()
    assert list(map(weights_fingerprint, again)) == [
        weights_fingerprint(vae),
        weights_fingerprint(encoder),
    ]  # what is loaded twice is the same, unused layers or not
    few = tmp_path / "few"
    write_shards(list(range(2)), make, few, log=quiet)
    cache_shards(few, tmp_path / "c", vae, encoder, log=quiet)
    with torch.no_grad():
        for p in again[0].parameters():
            p.mul_(1.001)
        again[1].model.model.layers[max(encoder.layers)].self_attn.o_proj.weight.mul_(1.001)
    for name, pair in dict(vae=(again[0], encoder), encoder=(vae, again[1])).items():
        with pytest.raises(ConfigError, match=f"begun with {name}="):
            cache_shards(few, tmp_path / "c", *pair, log=quiet)
    cache_shards(few, tmp_path / "c", vae, encoder, log=quiet)


def test_long_keys_are_written_and_short_ones_as_ever(tmp_path):
    """A WebDataset of another tool with keys of 180 characters goes through `cache_shards`; keys
    that fit give the plainest tar."""
    key, e = "a" * 180, Encoders()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(2):
            for kind, data in dict(png=picture(i), txt=b"a caption").items():
                info = tarfile.TarInfo(f"{key}{i}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    assert cache_shards(tmp_path / "a.tar", tmp_path / "c", e.vae, e, log=quiet) == {
        "shard-00000.tar": 2
    }
    listed, read = (
        list(open_samples(tmp_path / "c")),
        list(read_shard(tmp_path / "c" / "shard-00000.tar")),
    )
    (tmp_path / "c" / "shard-00000.json").unlink()
    scanned = list(read_shard(tmp_path / "c" / "shard-00000.tar"))
    assert all(
        [s.key for s in xs] == [f"{key}0", f"{key}1"] and xs[0].features
        for xs in (listed, read, scanned)
    )
    write_tar(tmp_path / "b.tar", make(range(3)))
    with tarfile.open(tmp_path / "plain.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for s in make(range(3)):
            for kind, data in pack_sample(s).items():
                info = tarfile.TarInfo(f"{s.key}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    assert (tmp_path / "b.tar").read_bytes() == (tmp_path / "plain.tar").read_bytes()


@pytest.mark.parametrize("size", [(300, 412), (90, 500), (64, 64), (37, 51), (1000, 700)])
def test_cutting_before_scaling_equals_scaling_before_cutting(size):
    from lens_ref.pretrain.buckets import Buckets

    fit, noise = (
        Buckets.preset("toy"),
        np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8),
    )
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "png")
    (h, w), box = fit(*size)
    whole = np.asarray(
        Image.fromarray(noise).resize((w, h), Image.Resampling.LANCZOS).crop(box)
    ).astype(int)
    assert abs(cut(make_sample("k", out.getvalue(), {"text": "a"}), fit) - whole).max() <= 1


def test_a_strip_is_cut_without_growing_all_of_it():
    from lens_ref.pretrain.buckets import Buckets

    out = io.BytesIO()
    Image.new("RGB", (10, 30_000), "red").save(out, "png")
    assert (
        cut(make_sample("k", out.getvalue(), {"text": "a"}), Buckets.preset("lens")) == (255, 0, 0)
    ).all()


def test_cutting_is_in_the_middle():
    rows = np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None, None], (24, 40, 3))
    out = io.BytesIO()
    Image.fromarray(rows).save(out, "png")
    assert fit_16(24, 40) == ((24, 40), (4, 4, 36, 20))
    assert (
        cut(Sample("k", out.getvalue(), "png", 24, 40, {"text": "a"}))[:, 0, 0] == np.arange(4, 20)
    ).all()
    with pytest.raises(DataError, match="smaller than 16"):
        fit_16(24, 15)


def test_a_tar_is_written_whole_or_not_at_all(tmp_path):
    write_tar(tmp_path / "a.tar", make(range(3)))
    before = (tmp_path / "a.tar").read_bytes()

    def breaks():
        yield sample(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tar(tmp_path / "a.tar", breaks())
    assert contents(tmp_path) == {"a.tar": before}
