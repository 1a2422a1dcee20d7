"""Folders, tables and archives as other tools leave them, and folders that grow."""

import gzip
import io
import json
import os
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from lens_ref.core.config import ConfigError, DataError
from lens_ref.core.files import json_bytes, json_lines
from lens_ref.data.captioner import CaptionRecord, write_metadata
from lens_ref.data.filters import Thresholds
from lens_ref.data.folders import read_metadata
from lens_ref.data.names import FileNames, seen_as
from lens_ref.data.prepare import NineFilters, prepare
from lens_ref.data.shards import Damage, layout_of, open_samples, write_shards
from lens_ref.data.sources import FolderCaptions, captions_of, clean_caption

quiet = lambda line: None


def picture(i, height=24, width=32, kind="png"):
    "Noise that differs for each i."
    out = io.BytesIO()
    noise = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(out, kind)
    return out.getvalue()


def fill(root, files):
    "Files of a folder: bytes, text, or a value that is written as JSON (a list: as JSON lines)."
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, list):
            value = b"\n".join(map(json_bytes, value))
        if isinstance(value, dict):
            value = json_bytes(value)
        path.write_bytes(value.encode() if isinstance(value, str) else value)
    return root


def said(root, **how):
    "{picture: captions} of a folder."
    return {s.source: s.captions for s in open_samples(root, log=quiet, **how)}


def line(name="a.png", **captions):
    return dict(file_name=name, **captions)


A = {"a.png": picture(1)}


# ---- captions of a record


@pytest.mark.parametrize(
    "record, captions",
    [
        (dict(text="x"), dict(text="x")),
        (dict(caption="x"), dict(text="x")),
        (dict(prompt="x", negative_prompt="ugly"), dict(text="x")),
        (dict(TEXT="x", URL="http://a"), dict(text="x")),
        (dict(Caption="x"), dict(text="x")),
        (dict(captions="x"), dict(text="x")),
        (dict(captions=["x", "y"]), dict(text="x")),
        (dict(captions='["x", "y"]'), dict(text="x")),
        (dict(captions=dict(dense="d", brief="b")), dict(dense="d", brief="b")),
        (dict(captions=dict(en="e", fr="f", **{"pt-BR": "p"})),) * 1
        + ({"text": "e", "text:fr": "f", "text:pt-BR": "p"},),
        (dict(captions=dict(dense=dict(en="e", de="d"))), {"dense": "e", "dense:de": "d"}),
        (dict(captions=dict(llava="l")), dict(llava="l")),
        (dict(captions=[dict(caption="x", language="de"), "y"]), {"text:de": "x", "text": "y"}),
        (dict(captions=[dict(kind="brief", text="b", score=0.5)]), dict(brief="b")),
        (dict(brief="b", caption="x"), dict(brief="b", text="x")),
        (dict(text=None, caption="x"), dict(text="x")),
        (dict(text=" ", caption="x"), dict(text="x")),
        ({"dense:fr": "f"}, {"dense:fr": "f"}),
        (dict(text=np.array(["x", "y"], object)), dict(text="x")),
        (dict(text=b"\xef\xbb\xbfx"), dict(text="x")),
    ],
)
def test_captions_of_a_record(record, captions):
    assert captions_of(record)[0] == captions


@pytest.mark.parametrize(
    "text, clean",
    [
        ("a red cat \ud83d", "a red cat "),
        ("\ud83d\ude00 smiles", "\U0001f600 smiles"),
        ("\ufeffa cat", "a cat"),
        ("a\0cat\x07", "acat"),
        ("one\r\ntwo\rthree\x0bfour", "one\ntwo\nthree four"),
        ("two\u2028lines\x85", "two\u2028lines\x85"),
        ("none", "none"),
    ],
)
def test_text_from_outside_is_cleaned(text, clean):
    assert clean_caption(text) == clean
    clean_caption(text).encode()  # which a half character cannot


@pytest.mark.parametrize(
    "value",
    [7, 1.5, float("nan"), None, True, {}, "", " \n", "\u200b\ufeff", "nan", "<NA>", b"\xff"],
)
def test_what_is_no_caption_is_named(value):
    captions, notes = captions_of(dict(caption=value))
    assert captions == {} and len(notes) == 1 and "`caption`" in notes[0]


def test_a_second_caption_of_one_kind_is_told():
    assert "2 more text captions" in captions_of(dict(captions=["x", "y", "z"]))[1][0]
    assert captions_of(dict(text="x", caption="x "))[1] == []
    assert captions_of(dict(text="x", caption="y"), "caption") == (dict(text="y"), [])


# ---- folders


@pytest.mark.parametrize(
    "files",
    [
        {"metadata.jsonl": [line(text="x")]},
        {"metadata.jsonl": [dict(image="a.png", caption="x")]},
        {"metadata.jsonl": [dict(image=dict(path="./a.png", bytes=None), prompt="x")]},
        {"metadata.jsonl": b'[\n{"file_name": "a.png", "text": "x"}\n]'},
        {"metadata.jsonl": b'{"file_name": "a.png", "text": "x"},\r\n'},
        {"metadata.jsonl": b'\xef\xbb\xbf{"file_name": "a.png", "text": "x"}\r\n'},
        {"metadata.jsonl": '{"file_name": "a.png", "text": "x"}\r\n'.encode("utf-16")},
        {"metadata.csv": "file_name,text\na.png,x\n"},
        {"metadata.csv": b'\xef\xbb\xbffile_name;text\r\n"a.png";"x"\r\n'},
        {"metadata.csv": 'Filename, Caption\r\na.png, "x"\r\n'.encode("utf-16")},
        {"metadata.tsv": "path\tprompt\n.\\a.png\tx\n"},
        {"metadata.json": b'[{"file_name": "a.png", "text": "x"}]'},
        {"metadata.json": {"a.png": "x"}},
        {"meta_cap.json": {"/home/me/train/a": dict(caption="x", tags="t")}},
        {"a.txt": b"\xef\xbb\xbfx\r\n"},
        {"a.TXT": "x".encode("utf-16")},
        {"a.png.txt": "x"},
        {"a.caption": "x"},
        {"a.json": dict(caption="x", url="http://a", width=3)},
        {"a.json": b'"x"'},
    ],
    ids=lambda files: next(iter(files)),
)
def test_layouts_of_folders(tmp_path, files):
    fill(tmp_path, A | files)
    assert said(tmp_path) == {"a.png": dict(text="x")}
    assert read_metadata(tmp_path, log=quiet) == [(tmp_path / "a.png", "x")]


def test_a_parquet_table_and_the_folders_of_splits(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    fill(tmp_path, {f"{s}/a.png": picture(1) for s in ("train", "test", "validation", "more/deep")})
    table = pa.table(dict(file_name=["a.png"], text=["x"], other=[1.5]))
    pq.write_table(table, tmp_path / "train/metadata.parquet")
    fill(tmp_path, {"test/metadata.jsonl": [line("test/a.png", caption="y")]})  # from the root
    fill(tmp_path, {"validation/metadata.csv": "file_name,text\na.png,z\n"})
    fill(tmp_path, {"metadata.jsonl": [line("more/deep/a.png", text="w")]})
    found = {k: v["text"] for k, v in said(tmp_path).items()}
    assert found == {
        "more/deep/a.png": "w",
        "test/a.png": "y",
        "train/a.png": "x",
        "validation/a.png": "z",
    }
    assert layout_of(tmp_path)[0] == "images"


def test_the_column_that_was_asked_for_and_one_that_is_not_there(tmp_path):
    fill(tmp_path, A | {"metadata.csv": "file_name,text,blip\na.png,x,y\n", "a.txt": "z"})
    rows = lambda column: FolderCaptions(tmp_path, column, quiet).rows()
    assert rows("blip")[0]["captions"] == dict(text="y")
    assert read_metadata(tmp_path, "blip", quiet)[0][1] == "y"
    with pytest.raises(DataError, match="column 'blib'; they have blip, file_name, text"):
        rows("blib")
    counts = prepare(tmp_path, tmp_path / "out", log=quiet, caption_column="blip")
    assert counts["kept"] == 1 and said(tmp_path / "out") == {"a.png": dict(text="y")}


def test_sources_that_disagree_are_told_and_the_first_is_kept(tmp_path):
    fill(tmp_path, A | {"b.png": picture(2), "a.txt": "third", "b.txt": "b"})
    rows = [line(text="first"), line("./a.png", text="second", brief="short"), line(text="first")]
    fill(tmp_path, {"metadata.jsonl": rows})
    log = []
    found = FolderCaptions(tmp_path, log=log.append)
    assert found.said == {"a.png": dict(text="first", brief="short"), "b.png": dict(text="b")}
    assert [x for x in log if "metadata.jsonl:2: a.png has another text" in x]
    assert [x for x in log if "a.txt: a.png has another text" in x] and len(log) == 2
    assert "1 from metadata.jsonl, 1 from .txt files" in found.summary()
    fill(tmp_path, {"metadata.jsonl": [line(text=f"{i}") for i in range(9)]})
    log.clear()
    FolderCaptions(tmp_path, log=log.append)
    assert len(log) == 4 and "6 more" in log[-1]  # eight lines and a file, and no flood


def test_a_bad_caption_costs_its_picture_only(tmp_path):
    files = {f"{i}.png": picture(i) for i in range(5)}
    lines = b'{"file_name": "0.png", "text": NaN}\n{"file_name": "1.png", "text": 7}\n'
    lines += b'{"file_name": "2.png", "captions": [{"kind": "dense"}]}\n'
    lines += b'{"file_name": "3.png", "text": "a red cat \\ud83d"}\n{"file_name": "4.png"}\n'
    fill(tmp_path / "in", files | {"metadata.jsonl": lines})
    counts = prepare(tmp_path / "in", tmp_path / "out", log=quiet)
    assert counts == dict(images=5, kept=1, dropped=dict(read=4))
    assert said(tmp_path / "out") == {"3.png": dict(text="a red cat")}
    report = (tmp_path / "out/report.jsonl").read_text()
    assert "metadata.jsonl:1: the caption `text` is nan" in report
    assert "metadata.jsonl:3: the caption `captions` is {'kind'" in report


def test_a_comma_without_quotes_does_not_cut_a_caption(tmp_path):
    table = 'file_name,text\na.png,a cat, red\nb.png,"a dog, blue"\n'
    fill(tmp_path, A | {"b.png": picture(2), "metadata.csv": table})
    log = []
    assert said(tmp_path) == {"b.png": dict(text="a dog, blue")}
    FolderCaptions(tmp_path, log=log.append)
    assert "metadata.csv:2: a.png: 3 values for 2 columns" in log[0]


@pytest.mark.parametrize(
    "files, says",
    [
        ({"metadata.csv": "a.png,a cat\n"}, "metadata.csv:1: has no column file_name, but a.png"),
        ({"metadata.csv": "url,text\nhttp://a,x\n"}, "metadata.csv:1: has only addresses"),
        ({"metadata.jsonl": [dict(url="http://a", text="x")]}, "jsonl:1: names no file, only an"),
        ({"metadata.jsonl": [dict(id=1, text="x")]}, r"jsonl:1: file_name is None \(columns id, t"),
        ({"metadata.jsonl": b"{'file_name': 'a.png'}"}, "jsonl:1: .*double quotes"),
        ({"metadata.jsonl": b'{"file_name": "a.png"'}, "jsonl:1: not a JSON object in UTF-8"),
        ({"metadata.json": b"["}, "metadata.json: is no JSON"),
        ({"metadata.parquet": b"PAR1"}, "metadata.parquet: cannot be read"),
        ({"metadata.csv": "file_name,text\né.png,x\n".encode("latin1")}, "csv: is not in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_before_anything_is_paid(tmp_path, files, says):
    fill(tmp_path / "in", A | {"a.txt": "x"} | files)
    captioner = lambda paths: pytest.fail("asked")
    with pytest.raises(DataError, match=says):
        prepare(tmp_path / "in", tmp_path / "out", captioner=captioner, log=quiet)
    assert not (tmp_path / "out").exists()


# ---- names

NFC, NFD = "caf\u00e9.png", "cafe\u0301.png"


@pytest.mark.parametrize(
    "on_disk, asked",
    [
        ("d/a.png", "d\\a.png"),
        ("a.png", ".\\a.png"),
        ("a.png", " a.png\n"),
        (NFD, NFC),
        (NFC, NFD),
        ("IMG.JPG", "img.jpg"),
        ("my cat.png", "my%20cat.png"),
        ("my%20cat.png", "my cat.png"),
        ("100%.png", "100%.png"),
        ("cats/a.png", "C:\\Users\\me\\cats\\a.png"),
        ("cats/a.png", "/home/me/data/cats/a.png"),
        ("a.png", "\\\\server\\share\\a.png"),
        ("b\\a.png", "b\\a.png"),
        ("a.b.png", "a.b"),
        ("Stra\u00dfe.png", "strasse.png"),
    ],
)
def test_one_file_is_found_by_other_spellings(tmp_path, on_disk, asked):
    fill(tmp_path, {on_disk: picture(1), "other.png": picture(2)})
    fill(tmp_path, {"metadata.jsonl": [line(asked, text="x")]})
    assert said(tmp_path) == {on_disk: dict(text="x")}


@pytest.mark.parametrize(
    "names, asked, why",
    [
        (["A.png", "a.PNG"], "a.png", "may be 'A.png' or 'a.PNG'"),
        (["a.png"], "a.jpg", "no such file as 'a.jpg'; there is 'a.png'"),
        (["images/a.png"], "a.png", "there is 'images/a.png'"),
        (["a.png"], "https://x.org/a.png", "is an address"),
        (["a.png"], "s3://bucket/a.png", "is an address"),
        (["picture_0001.png"], "picture_001.png", "there is 'picture_0001.png'"),
        (["a.png"], "zzzz.png", "no such file"),
        (["a.png", "a.jpg"], "a", "may be 'a.jpg' or 'a.png'"),
        (["\u2126.png", "\u03a9.png"], "\u03c9.png", r"may be '\\u03a9.png' or '\\u2126.png'"),
    ],
)
def test_what_fits_no_file_or_several_is_not_guessed(tmp_path, names, asked, why):
    found, how = FileNames(tmp_path, names).find(asked)
    assert found is None and why in how


def test_exact_names_win_and_alike_ones_are_told_apart(tmp_path):
    fill(tmp_path / "in", {NFC: picture(1), NFD: picture(2), "b.png": picture(3), "b.txt": "b"})
    fill(tmp_path / "in", {"metadata.jsonl": [line(NFD, text="x")]})
    prepare(tmp_path / "in", tmp_path / "out", log=quiet)
    lines = map(json.loads, (tmp_path / "out/report.jsonl").read_text("utf8").splitlines())
    report = {x["path"]: x for x in lines}
    assert report[NFD]["kept"] and report[NFD]["spelt"] == "cafe\\u0301.png"
    assert not report[NFC]["kept"] and report[NFC]["spelt"] == "caf\\xe9.png"
    assert "spelt" not in report["b.png"] and seen_as("a\u200bb.png") == seen_as("ab.png")


# ---- tars


def write(path, members, mode="w"):
    "A tar of (name, bytes) or (name, kind of link, target), in this order."
    with tarfile.open(path, mode) as tar:
        for name, data, *target in members:
            info = tarfile.TarInfo(name)
            if target:
                info.type, info.linkname = data, target[0]
                tar.addfile(info)
                continue
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


P1, P2 = picture(1), picture(2)
HARD, SOFT = tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("1.png", P1), ("1.txt", b"x"), ("2.png", P2), ("2.txt", b"y")],
        [("1.PNG", P1), ("1.TXT", b"\xef\xbb\xbfx"), ("2.Png", P2), ("2.Caption", b"y\r\n")],
        [("1.txt", b"x"), ("2.txt", b"y"), ("2.png", P2), ("1.png", P1)],
        [("1.png", P1), ("2.png", P2), ("1.json", b'{"caption": "x"}'), ("2.txt", b"y")],
        [("p.1.png", P1), ("p.1.txt", b"x"), ("p.2.png", P2), ("p.2.txt", b"y")],
        [("p.2.txt", b"y"), ("p.1.txt", b"x"), ("p.1.png", P1), ("p.2.png", P2)],
        [("./a/1.png", P1), ("a/1.txt", b"x"), ("./b/1.png", P2), ("b/1.txt", b"y")],
        [("1.png", P1), ("1.txt", b"x"), ("1.png", P2), ("1.txt", b"y")],
        [("1.png", P1), ("t.cap", b"x"), ("1.txt", HARD, "t.cap"), ("2.png", P2), ("2.txt", b"y")],
        [("d/1.txt", SOFT, "../l"), ("l", SOFT, "t"), ("t", b"x"), ("d/1.png", P1)]
        + [("2.png", P2), ("2.txt", b"y")],
        [("._1.png", b"?"), ("1.png", P1), ("__MACOSX/1.txt", b"?"), ("1.txt", b"x")]
        + [("2.png", P2), ("2.json", b'{"captions": {"en": "y"}}')],
        [("1.png", P1), ("1.mask.png", P2), ("1.txt", b"x"), ("2.png", P2), ("2.txt", b"y")],
        [("1.png", P1), ("1.json", b'["x", "z"]'), ("2.png", P2), ("2.json", b'"y"')],
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_tars_as_others_write_them(tmp_path, members, packed):
    path = write(tmp_path / ("a.tar.gz" if packed else "a.tar"), members, "w:gz" if packed else "w")
    damage = Damage(log=quiet)
    samples = list(open_samples(tmp_path, damage=damage))
    found = {s.sha256: s.captions["text"] for s in samples}
    one, two = (open_sha(p) for p in (P1, P2))
    lost = " ".join(damage.found.values()) if damage.found else ""
    assert found == {one: "x", two: "y"}, (path, lost)
    assert set(damage.found.values()) <= {"its image is missing"}  # t.cap and t are no samples


def open_sha(data):
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_a_caption_goes_to_no_other_picture_of_a_tar(tmp_path):
    write(
        tmp_path / "a.tar", [("1.5.png", P1), ("1.5.txt", b"x"), ("1.6.txt", b"lost"), ("r", b"")]
    )
    damage = Damage(log=quiet)
    (sample,) = open_samples(tmp_path, damage=damage)
    assert sample.captions == dict(text="x") and "a.tar:1.6" in " ".join(damage.found)
    write(tmp_path / "a.tar", [("1.png", P1), ("1.txt", b"x"), ("1.json", b'{"caption": "y"}')])
    (sample,) = open_samples(tmp_path)
    assert sample.captions == dict(text="y", txt="x")  # both are kept


@pytest.mark.parametrize(
    "member, says",
    [
        (("1.json", b"{broken"), "its json cannot be read"),
        (("1.txt", "é".encode("latin1")), "is not in UTF-8"),
        (("1.json", b'{"caption": 7}'), "`caption` is 7"),
        (("1.txt", HARD, "gone.txt"), "which is not in the archive"),
    ],
)
def test_what_is_wrong_in_a_tar_is_named_and_the_rest_is_read(tmp_path, member, says):
    write(tmp_path / "a.tar", [("1.png", P1), member, ("2.png", P2), ("2.txt", b"y")])
    damage = Damage(log=quiet)
    assert [s.key for s in open_samples(tmp_path, damage=damage)] == ["2"]
    assert says in " ".join(damage.found.values())


def test_a_packed_tar_that_is_cut_gives_what_is_there(tmp_path):
    members = []
    for i in range(9):
        members += [(f"{i}.png", picture(i)), (f"{i}.txt", b"x")]
    whole = write(tmp_path / "w.tar", members).read_bytes()
    (tmp_path / "w.tar").unlink()
    packed = gzip.compress(whole)
    (tmp_path / "a.tar.gz").write_bytes(packed[: len(packed) // 2])
    damage = Damage(log=quiet)
    assert 2 <= len(list(open_samples(tmp_path, damage=damage))) <= 6 and damage.found


def img2dataset(root, kind):
    "What img2dataset leaves in its formats `webdataset`, `files` and `parquet`."
    import pyarrow as pa
    import pyarrow.parquet as pq

    members, rows = [], []
    for i in range(4):
        key = f"{i:09d}"
        facts = dict(caption=f"picture {i}", url=f"http://a.org/{i}", key=key, status="success")
        facts |= dict(error_message=None, width=32, height=24, exif="{}", sha256="0" * 64)
        jpg = picture(i, kind="jpeg")
        files = [("jpg", jpg), ("json", json_bytes(facts)), ("txt", facts["caption"].encode())]
        members += [(f"{key}.{e}", d) for e, d in files]
        rows.append(facts | (dict(jpg=jpg) if kind == "parquet" else {}))
    failed = dict(caption="gone", url="http://a.org/9", key="9", status="failed_to_download")
    rows.append(rows[0] | failed | (dict(jpg=None) if kind == "parquet" else {}))
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "00000.parquet")
    (root / "00000_stats.json").write_text('{"count": 5}')
    if kind == "webdataset":
        write(root / "00000.tar", members)
    if kind == "files":
        fill(root / "00000", dict(members))
    return root


@pytest.mark.parametrize("kind", ["webdataset", "files", "parquet"])
def test_the_output_of_img2dataset_as_it_lies(tmp_path, kind):
    source = img2dataset(tmp_path / "laion", kind)
    samples = list(open_samples(source, log=quiet))
    assert [s.caption() for s in samples] == [f"picture {i}" for i in range(4)]
    if kind != "files":
        assert samples[3].source == "http://a.org/3"
    counts = prepare(source, tmp_path / "out", log=quiet, per_shard=3)
    assert counts["kept"] == 4 and len(said(tmp_path / "out")) == 4
    before = contents(tmp_path / "out")
    assert prepare(source, tmp_path / "out", log=quiet, per_shard=3) == counts
    assert contents(tmp_path / "out") == before


def test_uncaptioned_archives_can_be_captioned_and_a_column_be_chosen(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    facts = b'{"caption": "x", "blip": "better"}'
    write(source / "a.tar", [("1.png", P1), ("2.png", P2), ("2.json", facts)])
    captioner = lambda paths: [dict(dense=f"dense {i}") for i, _ in enumerate(paths)]
    assert prepare(source, tmp_path / "out", captioner=captioner, log=quiet)["kept"] == 2
    prepare(source, tmp_path / "b", log=quiet, caption_column="blip")
    assert list(said(tmp_path / "b").values()) == [dict(text="better")]


def test_archives_in_folders_below_and_mixed_ones(tmp_path):
    source = tmp_path / "in"
    (source / "train").mkdir(parents=True)
    write(source / "train/00000.tar", [("1.png", P1), ("1.txt", b"x")])
    assert layout_of(source)[0] == "shards" and [s.key for s in open_samples(source)] == ["1"]
    fill(source, A)
    assert layout_of(source)[0] == "images"
    (source / "train/00000.tar").rename(source / "00000.tar")
    with pytest.raises(DataError, match="both tar files and pictures"):
        layout_of(source)


# ---- nothing kept


class Encoders:
    def encode(self, prompts):
        raise AssertionError("nothing should be encoded")


def test_a_filter_that_drops_everything_is_named_with_its_option(tmp_path):
    fill(tmp_path / "in", A | {"a.txt": b"a cat"})
    every = dict(area=1, clarity=0, entropy=0, darkest=0, brightest=1)
    for option, value in dict(area=1e9, clarity=1e9, darkest=0.999, brightest=1e-9).items():
        limits = Thresholds(**every | {"brightest": 1.0} | {option: value})
        with pytest.raises(DataError, match=rf"\(--{option}\) or .*\(--no-filters\)"):
            prepare(tmp_path / "in", tmp_path / option, NineFilters(limits), log=quiet)


def test_keeping_nothing_is_an_error_that_names_the_cause(tmp_path):
    source, out = fill(tmp_path / "in", A | {"b.png": picture(2)}), tmp_path / "out"
    prep = lambda *a, **k: prepare(source, out, *a, log=quiet, **k)
    with pytest.raises(
        DataError, match="none of 2 pictures is kept: 2 have no caption; looked for"
    ):
        prep()
    # so that other settings can be tried
    assert [p.name for p in out.iterdir()] == ["report.jsonl"]
    fill(source, {"metadata.csv": "file_name,tags\na.png,x\n"})
    with pytest.raises(DataError, match="metadata.csv has the columns file_name, tags"):
        prep()
    fill(source, {"metadata.csv": "file_name,text\nc.png,x\nd.png,y\n"})
    with pytest.raises(DataError, match="csv:2: file_name 'c.png': no such file"):
        prep()
    fill(source, {"metadata.csv": "file_name,text\na.png,x\nb.png,y\n"})
    with pytest.raises(DataError, match="filter area dropped 2 .a.png: 768, threshold 147456.*thr"):
        prep(NineFilters())
    with pytest.raises(DataError, match="2 fell at the stage caption; a.png: refused"):
        prep(captioner=lambda paths: [dict(reason="refused")] * 2)
    with pytest.raises(DataError, match="gave no answer on b.png"):
        prep(captioner=lambda paths: [dict(dense="x")])
    out = tmp_path / "again"
    with pytest.raises(DataError, match="filter area"):
        prep(NineFilters())
    assert prep(NineFilters(Thresholds(area=1, clarity=0, entropy=0)))["kept"] == 2


def test_a_cache_of_nothing_is_an_error_and_one_sample_costs_only_itself(tmp_path):
    from test_shards import Encoders as Trace
    from lens_ref.data.shards import make_sample
    from lens_ref.pretrain.caches import cache_shards

    kinds = [dict(dense="d"), dict(dense="d", brief="b")]
    make = lambda rows: (make_sample(f"{i:08d}", picture(i), kinds[i]) for i in rows)
    write_shards([0, 1], make, tmp_path / "s", log=quiet)
    e = Trace()
    cache = lambda kind, out: cache_shards(
        tmp_path / "s", tmp_path / out, e.vae, e, kind=kind, log=quiet
    )
    assert cache("brief", "c") == {"shard-00000.tar": 1}
    assert "has no caption 'brief'" in (tmp_path / "c/shard-00000.json").read_text()
    with pytest.raises(DataError, match="none of 2 samples can be used; .*no caption 'alt'"):
        cache("alt", "d")
    assert not list((tmp_path / "d").iterdir()) and cache("dense", "d") == {"shard-00000.tar": 2}
    (tmp_path / "e").mkdir()
    (tmp_path / "e/a.tar").write_bytes(b"\0" * 10240)
    with pytest.raises(DataError, match="its shards hold no samples"):
        cache_shards(tmp_path / "e", tmp_path / "f", e.vae, e, log=quiet)


def test_training_on_a_folder_without_captions_names_the_cause(tmp_path):
    from lens_ref.pretrain.toy import ImageFolder

    with pytest.raises(DataError, match="no picture has a caption; looked for metadata.jsonl"):
        ImageFolder(fill(tmp_path, A), log=quiet)
    with pytest.raises(DataError, match="no such folder.*metadata.jsonl"):
        ImageFolder(tmp_path / "nowhere", log=quiet)


def test_the_order_of_a_table_is_kept_for_training(tmp_path):
    fill(tmp_path, {f"{i}.png": picture(i) for i in range(4)} | {"0.txt": "x"})
    fill(tmp_path, {"metadata.jsonl": [line(f"{i}.png", text="t", dense="d") for i in (3, 1, 2)]})
    found = read_metadata(tmp_path, log=quiet)
    assert [p.name for p, _ in found] == ["3.png", "1.png", "2.png", "0.png"]
    assert found[0][1] == "t"  # as ever


# ---- folders that grow


def contents(folder, pattern="*"):
    return {p.name: p.read_bytes() for p in sorted(folder.glob(pattern)) if p.is_file()}


class Captioner:
    "Remembers what it was asked."

    name = "captioner"

    def __init__(self):
        self.asked = []

    def __call__(self, paths):
        for p in map(pathlib.Path, paths):
            self.asked.append(p.name)
            yield dict(reason="refused") if p.stem.startswith("no") else dict(dense=f"d {p.stem}")


def test_only_new_pictures_are_filtered_and_captioned(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    fill(source, {f"{i}.png": picture(i) for i in range(5)})
    seen, captioner, log = [], Captioner(), []

    def look(paths):
        seen.extend(pathlib.Path(p).name for p in paths)
        return [dict(path=p, kept=not p.endswith("4.png")) for p in paths]

    prep = lambda: prepare(source, out, look, captioner, per_shard=3, log=log.append)
    assert prep()["kept"] == 4 and len(captioner.asked) == 4
    first = contents(out, "shard-*")
    assert prep()["kept"] == 4 and len(captioner.asked) == 4 == len(seen) - 1
    fill(source, {"00.png": picture(50), "new.png": picture(51), "no.png": picture(52)})
    log.clear()
    assert prep() == dict(images=8, kept=6, dropped=dict(caption=1, look=1))
    assert seen[5:] == ["00.png", "new.png", "no.png"] == captioner.asked[4:]
    assert any("new pictures: 3" in x for x in log)
    assert {k: v for k, v in contents(out, "shard-*").items() if k in first} == first
    names = [s.source for s in open_samples(out, strict=True)]
    assert names == ["0.png", "1.png", "2.png", "3.png", "00.png", "new.png"]
    assert len({s.key for s in open_samples(out)}) == 6
    fill(source, {"z.png": picture(60)})
    assert prep()["kept"] == 7 and captioner.asked[7:] == ["z.png"]
    assert sorted(json.loads((out / "index.json").read_text())) == sorted(contents(out, "*.tar"))
    with pytest.raises(ConfigError, match="captioner"):
        prepare(source, out, look, None, per_shard=3, log=quiet)
    with pytest.raises(ConfigError, match="per_shard"):
        prepare(source, out, look, captioner, per_shard=4, log=quiet)


class Failing(Captioner):
    "A server that fails for the pictures in `down`, and ends the run at `dies`."

    down, dies = ("1.png", "n.png"), None

    def __call__(self, paths):
        for p, answer in zip(paths, super().__call__(paths)):
            name = pathlib.Path(p).name
            if name == self.dies:
                raise KeyboardInterrupt
            yield dict(reason="HTTP 500", again=True) if name in self.down else answer


def test_a_picture_that_the_server_failed_is_asked_about_again(tmp_path):
    source, out, log = tmp_path / "in", tmp_path / "out", []
    fill(source, {f"{i}.png": picture(i) for i in range(3)} | {"no.png": picture(9)})
    captioner = Failing()
    prep = lambda: prepare(source, out, captioner=captioner, per_shard=3, log=log.append)
    assert prep() == dict(images=4, kept=2, dropped=dict(caption=1, server=1))
    fill(source, {"n.png": picture(7)})
    captioner.asked.clear()
    captioner.dies = "n.png"
    with pytest.raises(KeyboardInterrupt):  # in the middle of the second try
        prep()
    captioner.dies, captioner.down = None, ("n.png",)
    assert prep() == dict(images=5, kept=3, dropped=dict(caption=1, server=1))
    assert {"0.png", "2.png", "no.png"}.isdisjoint(captioner.asked)  # a refusal is an answer
    assert any("new pictures: 1, and 1 to try again" in x for x in log)
    captioner.down = ()
    assert prep() == dict(images=5, kept=4, dropped=dict(caption=1))
    names = sorted(s.source for s in open_samples(out, strict=True))
    assert names == ["0.png", "1.png", "2.png", "n.png"]
    captioner.asked.clear()
    assert prep()["kept"] == 4 and not captioner.asked


def test_a_server_that_only_fails_ends_the_run_in_small_shards_too(tmp_path):
    from fake_endpoint import FakeEndpoint
    from lens_ref.clients.chat import EndpointConfig, EndpointError
    from lens_ref.data.captioner import DENSE_PROMPT
    from lens_ref.data.prepare import AskedCaptions

    source, out = tmp_path / "in", tmp_path / "out"
    fill(source, {f"{i}.png": picture(i) for i in range(9)})
    said = "A square of noise in many colours, all of them small and bright."
    with FakeEndpoint(answer=lambda q, body: said) as server:
        own = dict(attempts=1, backoff=0.01, give_up_after=3, concurrency=1)
        ask = lambda: AskedCaptions(EndpointConfig("m", (server.url,), **own), out / "a.sqlite")
        prep = lambda: prepare(source, out, captioner=ask(), per_shard=2, log=quiet)
        server.script = {DENSE_PROMPT: ["ok"] * 2 + ["500"] * 20}
        with pytest.raises(EndpointError, match="the last 3 pictures all failed .HTTP 500"):
            prep()
        assert len(server.calls) < 9
        server.script, n = {}, len(server.calls)
        assert prep() == dict(images=9, kept=9, dropped={}) and len(server.calls) == n + 7


def test_what_changed_or_went_is_told_and_the_dropped_get_another_chance(tmp_path):
    source, out, log = tmp_path / "in", tmp_path / "out", []
    fill(source, {f"{i}.png": picture(i) for i in range(4)} | {"broken.png": b"?"})
    fill(source, {"metadata.jsonl": [line(f"{i}.png", text=f"t{i}") for i in (0, 1, 2)]})
    prep = lambda: prepare(source, out, log=log.append)
    assert prep() == dict(images=5, kept=3, dropped=dict(read=2))
    first = contents(out, "shard-*")
    (source / "0.png").unlink()
    fill(source, {"1.png": picture(1, 40, 40), "broken.png": picture(9), "broken.txt": "mended"})
    fill(source, {"metadata.jsonl": [line(f"{i}.png", text=f"new {i}") for i in (1, 2, 3)]})
    log.clear()
    assert prep() == dict(images=5, kept=5, dropped={})
    told = "\n".join(log)
    assert "known pictures not found any more: 1 (0.png)" in told
    assert "known pictures changed: 1 (1.png)" in told
    assert "known pictures captioned otherwise: 1 (2.png)" in told
    assert {k: v for k, v in contents(out, "shard-*").items() if k in first} == first
    texts = {s.source: s.caption() for s in open_samples(out)}
    assert texts == {"0.png": "t0", "1.png": "t1", "2.png": "t2", "3.png": "new 3"} | {
        "broken.png": "mended"
    }
    log.clear()
    assert prep()["kept"] == 5 and "new pictures" not in "\n".join(log)


def test_a_growing_folder_that_is_killed_goes_on_to_the_same_bytes(tmp_path):
    source = tmp_path / "in"
    fill(source, {f"{i}.png": picture(i) for i in range(4)})

    class Dies(Captioner):
        def __call__(self, paths):
            for answer in super().__call__(paths):
                if self.asked[-1] == "n2.png":
                    raise KeyboardInterrupt
                yield answer

    for out in ("straight", "killed"):
        prepare(source, tmp_path / out, captioner=Captioner(), per_shard=3, log=quiet)
    fill(source, {f"n{i}.png": picture(10 + i) for i in range(5)})
    prepare(source, tmp_path / "straight", captioner=Captioner(), per_shard=2 + 1, log=quiet)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "killed", captioner=Dies(), per_shard=3, log=quiet)
    fill(source, {"n0.png.txt": "a caption that came after the kill"})
    again = Captioner()
    prepare(source, tmp_path / "killed", captioner=again, per_shard=3, log=quiet)
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")
    assert set(again.asked) <= {f"n{i}.png" for i in range(5)}


def test_new_copies_of_old_pictures_are_found(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    smooth = lambda i: Image.fromarray(
        np.random.default_rng(i).integers(0, 256, (6, 6, 3), np.uint8)
    ).resize((96, 96))
    source.mkdir()
    for i in range(4):
        smooth(i).save(source / f"{i}.png")
        fill(source, {f"{i}.txt": "x"})
    filters = NineFilters(Thresholds(area=1, clarity=0, entropy=0))
    assert prepare(source, out, filters, log=quiet)["kept"] == 4
    smooth(2).resize((200, 200)).save(source / "copy.png")  # larger, and yet the old one stays
    smooth(7).save(source / "new.png")
    fill(source, {"copy.txt": "x", "new.txt": "x"})
    counts = prepare(source, out, filters, log=quiet)
    assert counts == dict(images=6, kept=5, dropped=dict(duplicate=1))
    report = map(json.loads, (out / "report.jsonl").read_text().splitlines())
    (gone,) = (x for x in report if not x["kept"])
    assert gone["path"] == "copy.png" and gone["reason"].startswith("of 2.png")


def test_a_folder_of_an_earlier_version_goes_on_and_grows(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    fill(source, {f"b{i}.png": picture(i) for i in range(3)})
    fill(source, {f"b{i}.txt": "x" for i in range(3)})
    prepare(source, out, log=quiet)
    (out / "rows.json").unlink()  # earlier versions had none
    before = contents(out, "shard-*")
    assert prepare(source, out, log=quiet)["kept"] == 3 and contents(out, "shard-*") == before
    (out / "rows.json").unlink()
    fill(source, {"a.png": picture(7), "a.txt": "x"})
    assert prepare(source, out, log=quiet)["kept"] == 4
    assert {k: v for k, v in contents(out, "shard-*").items() if k in before} == before
    (out / "rows.json").unlink()
    fill(source, {"b0.txt": "changed"})
    with pytest.raises(ConfigError, match="begun with images"):
        prepare(source, out, log=quiet)
    (out / "decisions.json").write_bytes(b"{")
    with pytest.raises(DataError, match="decisions.json: is damaged"):
        prepare(source, out, log=quiet)


def test_a_cache_grows_with_its_shards(tmp_path):
    from test_shards import Encoders as Trace
    from lens_ref.data.shards import make_sample
    from lens_ref.pretrain.caches import cache_shards

    make = lambda rows: (make_sample(f"{i:08d}", picture(i), dict(text="x")) for i in rows)
    e = Trace()
    cache = lambda: cache_shards(tmp_path / "s", tmp_path / "c", e.vae, e, per_shard=2, log=quiet)
    write_shards([0, 1, 2], make, tmp_path / "s", per_shard=2, log=quiet)
    assert sum(cache().values()) == 3
    before = contents(tmp_path / "c", "shard-*")
    write_shards(list(range(6)), make, tmp_path / "s", per_shard=2, log=quiet)
    assert sum(cache().values()) == 6
    assert {k: v for k, v in contents(tmp_path / "c", "shard-*").items() if k in before} == before


# ---- what is written back


def test_lines_of_a_table_are_kept_when_captions_are_written(tmp_path):
    fill(tmp_path, {"d/a.png": picture(1), "b.png": picture(2)})
    rows = [line("d\\a.png", text="old", licence="CC0"), line("d/a.png", text="older", note="n")]
    fill(tmp_path, {"metadata.jsonl": [*rows, line("c.png", text="stays")]})
    captions = [
        CaptionRecord(str(tmp_path / n), "dense", "text", "new") for n in ("d/a.png", "b.png")
    ]
    assert write_metadata(dict(text=captions), tmp_path, tmp_path / "metadata.jsonl") == 2
    assert [row for _, row in json_lines(tmp_path / "metadata.jsonl")] == [
        line("d/a.png", licence="CC0", text="new"),
        line("d/a.png", note="n"),
        line("c.png", text="stays"),
        line("b.png", text="new"),
    ]


def test_a_name_that_is_not_utf8_is_joined(tmp_path):
    odd = os.fsdecode(b"caf\xe9.png")
    fill(tmp_path, {odd: picture(1)})
    fill(tmp_path, {"metadata.jsonl": [line(odd, text="x")]})
    assert said(tmp_path) == {odd: dict(text="x")}


def test_what_is_no_file_is_called_by_its_name(tmp_path):
    source = fill(tmp_path / "in", {"a.png": picture(1), "a.txt": "x", "b.txt": "x"})
    (source / "b.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(source / "c.png")
    log = []
    prepare(source, tmp_path / "out", log=log.append)
    report = (tmp_path / "out/report.jsonl").read_text()
    assert "b.png: a link to what is not there" in report and "c.png: a pipe or device" in report


# ---- where the source and what is written meet


def write_pairs(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, [(k, v.encode() if isinstance(v, str) else v) for k, v in files.items()])
    return path


def test_archives_are_read_once_with_the_output_among_them(tmp_path):
    top, below = tmp_path / "top", tmp_path / "below"
    for source, folder in ((top, top), (below, below / "more")):
        write_pairs(folder / "a.tar", {"0.png": picture(1), "0.txt": "one"})
        out = source / "shards"
        for _ in range(2):
            assert prepare(source, out, log=quiet) == dict(images=1, kept=1, dropped={})
        write_pairs(folder / "b.tar", {"0.png": picture(2), "0.txt": "two"})
        assert prepare(source, out, log=quiet)["kept"] == 2
        assert [s.caption() for s in open_samples(out)] == ["one", "two"]
    (top / "a.tar").unlink()
    log = []
    prepare(top, top / "shards", log=log.append)
    assert any("has pictures of archives that" in x and "not (a); they stay" in x for x in log)


def test_a_column_is_found_in_files_beside_pictures_and_missed_by_name(tmp_path):
    source = fill(tmp_path / "in", A | {"a.json": '{"caption": "c", "tags": "t"}'})
    prepare(source, tmp_path / "out", caption_column="tags", log=quiet)
    assert [s.caption() for s in open_samples(tmp_path / "out")] == ["t"]
    with pytest.raises(DataError, match="no table .* column 'tagz'; they have caption, tags"):
        prepare(source, tmp_path / "no", caption_column="tagz", log=quiet)
    tar = write_pairs(tmp_path / "a.tar", {"0.png": picture(1), "0.json": '{"alt": "x"}'})
    for _ in range(2):  # what was unpacked before is looked at, too
        with pytest.raises(DataError, match="a.tar: no caption in the column 'tags'.* has alt, "):
            prepare(tar, tmp_path / "no", caption_column="tags", log=quiet)
    with pytest.raises(DataError, match="b.tar: no pictures in its archives"):
        prepare(write_pairs(tmp_path / "b.tar", {"0.txt": "x"}), tmp_path / "no", log=quiet)


def test_the_command_takes_one_archive(tmp_path, capsys):
    from lens_ref.cli.main import main

    tar = write_pairs(tmp_path / "a.tar", {"0.png": picture(1), "0.txt": "x"})
    assert not main(["prepare", str(tar), "--out", str(tmp_path / "out"), "--no-filters"])
    assert "1 of 1 pictures kept" in capsys.readouterr().out
