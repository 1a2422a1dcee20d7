"""One dialect of options: made from config classes, checked before work, one line where wrong."""

import dataclasses
import importlib
import json
import os
import shlex
import subprocess
import sys

import pytest
from PIL import Image

import lens_ref
from lens_ref.cli import main as M
from lens_ref.cli.main import COMMANDS, main
from lens_ref.cli.options import need_file, need_folder
from lens_ref.cli.pretrain import check_format, image_format
from lens_ref.core import arguments as A
from lens_ref.core.config import Config, ConfigError, nearest, typed
from lens_ref.core.files import data_path
from lens_ref.core.loop import LoopConfig
from lens_ref.pretrain.scale import run_pretrain
from lens_ref.pretrain.toy import LineageConfig
from lens_ref.rl.config import RLConfig
from lens_ref.turbo.config import TurboConfig
from test_scale import ENV

PARSED = {k: c for k, c in COMMANDS.items() if not c.raw} | dict(pretrain=run_pretrain)


def examples(c):
    "The examples in a command's help, as lists of words without `lens-ref`."
    for line in c.examples.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["lens-ref"]:
            yield words[1:]


def begun(c):
    "What must be typed at least: one word for each argument without dashes."
    needed = [o for o in c.table().values() if o.default is ...]
    return [o.kind[0] if isinstance(o.kind, tuple) else "x" for o in needed]


@pytest.mark.parametrize("name", PARSED)
def test_what_help_shows_is_accepted(name, tmp_path, monkeypatch):
    "Every option takes a value of its kind and keeps it, and every example parses."
    c = PARSED[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    start = begun(c)
    values = {int: 3, float: 0.5, str: "x", dict: {"a": 1}, tuple: ("x", "y")}
    table = c.table(start)
    for o in table.values():
        if o.default is ... or o.name == "config":
            continue
        kind = A.without_none(o.kind)
        value = values.get(kind, (3, 4) if "int, int" not in str(kind) else ((16, 32),))
        if "str" in str(kind) and kind is not str:
            value = ("x", "y")
        words = [o.flag, A.to_text(value)] if kind is not bool else [f"--no-{o.flag[2:]}"]
        a = c.parse([*start, *words])
        found = a.fields[o.owner][o.field] if o.owner else getattr(a, o.name)
        assert found == (False if kind is bool else value), o
        left = c.parse(start)
        assert not any(left.fields.values()) and (o.owner or getattr(left, o.name) == o.default)
        assert o.text or o.owner
    shown = list(examples(c))
    assert shown and all(words[0] == name and c.parse(words[1:]) for words in shown)


@pytest.mark.parametrize("name", PARSED)
def test_options_are_the_fields_of_the_class_itself(name):
    "What is read from the source is what Python made of it: names, types and plain defaults."
    some = PARSED[name].settings
    for f in [x for group in some.values() for x in group] if isinstance(some, dict) else some:
        cls = getattr(importlib.import_module(f.module), f.name)
        read = A.settings_options(f.module, f.name)
        assert list(read) == [x.name for x in dataclasses.fields(cls)]
        for x in dataclasses.fields(cls):
            o = read[x.name]
            assert o.default in (None, x.default) and repr(o.kind) == repr(x.type)
        assert set(f.only) | set(f.but) | set(f.rename) | set(f.text) <= set(read)


def test_a_file_of_settings_from_windows_is_read_and_what_is_typed_wins(tmp_path):
    file, c = tmp_path / "settings.json", PARSED["rl"]
    text = '{\r\n"images": 16,\r\n"prompts": 4, "held-out": 9, "seed": 1}'
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_text(text, encoding, newline="")
        a = c.parse(["--config", str(file), "--seed", "2"])
        assert a.fields["RLConfig"] == dict(images=16, prompts=4, seed=2) and a.held_out == 9
        assert a.prompts == "toy"
    file.write_text('{"prompts": "mine.jsonl"}')  # the same name, told apart by its type
    a = c.parse(["--config", str(file)])
    assert a.prompts == "mine.jsonl" and not a.fields["RLConfig"]
    lineage = PARSED["train"].parse(["--config", str(data_path("toy", "lineage.json"))])
    assert lineage.fields["LineageConfig"]["steps"] > 0
    if sys.version_info >= (3, 11):
        (tmp_path / "a.toml").write_text("images = 16\nlr = 1e-4")
        a = c.parse(["--config", str(tmp_path / "a.toml")])
        assert a.fields["RLConfig"] == dict(images=16, lr=1e-4)


@pytest.mark.parametrize(
    "text, named",
    [
        ('{"imges": 16}', "'imges': did you mean 'images'"),
        ('{"images": "16"}', "images='16': expected int"),
        ('{"held_out": 1.5}', "held_out=1.5: expected int"),
        ('{"adaptive": 1}', "adaptive=1: expected bool"),
        ('{"seed": 1, "seed": 2}', "'seed' stands there twice"),
        ("[1]", "must hold a JSON object"),
        ("{", "not a readable file"),
        ("", "not a readable file"),
        ('{"stages": []}', "holds no config"),
        ("[" * 100_000, "not a readable file"),
    ],
)
def test_a_fault_in_a_file_of_settings_is_named(tmp_path, text, named):
    file = tmp_path / "settings.json"
    file.write_text(text)
    with pytest.raises(ConfigError) as e:
        PARSED["rl"].parse(["--config", str(file)])
    assert str(file) in str(e.value) and named in str(e.value)
    (tmp_path / "b.json").write_bytes(b"\xff\x00\x81")
    with pytest.raises(ConfigError, match="b.json"):
        PARSED["rl"].parse(["--config", str(tmp_path / "b.json")])


OLD = [
    ("pretrain", "--set lr=1e-4 compile=true warmup=2", "--lr=1e-4 --compile --warmup=2"),
    ("pretrain", "--checkpointing --compile", "--checkpointing --compile"),
    ("bench", "--compile 1 --encoder 0", "--compile --no-encoder"),
    ("bench", "--float8=1", "--float8"),
    ("prepare", "x --filters 0", "x --no-filters"),
    ("search", "--budget 4800", "--images 4800"),
    ("search", "--budget=4800", "--images 4800"),
    ("search", "--per-skill 6,8,16", "--search 6 --validation 8 --held-out 16"),
]


@pytest.mark.parametrize("name, old, new", OLD)
def test_what_was_spelt_otherwise_before_still_works_and_says_so(name, old, new, capsys):
    c = PARSED[name]
    was, now = c.parse(old.split()), c.parse(new.split())
    assert was.note == ("" if old == new else f"this is written today as: {new}") and not now.note
    was.note = ""
    assert vars(was) == vars(now)

    def run(a):
        "Nothing."

    dataclasses.replace(c, run=run)(old.split())
    assert capsys.readouterr().err == (
        "" if old == new else f"lens-ref: {c.parse(old.split()).note}\n"
    )


@pytest.mark.parametrize(
    "line, named",
    [
        ("trian", "did you mean 'train'"),
        ("train --stpes 3", "did you mean --steps?"),
        ("train --per_skil 3", "did you mean --per-skill?"),
        ("train --step 3", "did you mean --steps?"),  # no abbreviations: they change meaning
        ("train \u2013steps 3", "did you mean --steps?"),
        ("train --steps", "--steps: a value is missing"),
        ("train --steps 1e4", "--steps: '1e4' is no whole number"),
        ("train --lr inf", "--lr: 'inf' is no finite number"),
        ("train --lr -1e-3", "LineageConfig.lr=-0.001"),
        ("train --base ''", "--base: is empty"),
        ("distill --betas 0.9,x", "--betas: 'x' is no finite number"),
        ("rl --betas 0.9", "--betas: '0.9': 2 values"),
        ("rl --sizes 64x64x64", "--sizes: '64,64,64': 2 values"),
        ("rl --adaptive=maybe", "write --adaptive or --no-adaptive"),
        ("search --per-skill 6,8", "today as --search N --validation N --held-out N"),
        ("generate a red cat", "put quotes around it if it belongs to the prompt"),
        ("generate --prompt cat", "prompt is given without dashes"),
        ("generate", "missing: prompt"),
        ("ablate rl --points 3", "no option --points"),
        ("ablate what", "invalid choice: 'what'"),
        ("lineage --rl x", 'is no JSON object such as {"seed": 0}'),
        ("pretrain --cache x --out y --lerning 3", "no option --lerning"),
    ],
)
def test_a_wrong_word_is_one_line(line, named, capsys):
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert named in err and err.count("\n") == 1 and err.startswith("lens-ref: "), err


TOY = f"--model {shlex.quote(str(data_path('toy')))}"
# A value that cannot be, of every command: nothing long may be begun.
REFUSED = [
    ("generate x --seed -1", "--seed"),
    (f"generate x --seed {2**64}", "--seed"),
    ("generate x --zoom 0", "--zoom"),
    ("generate x --zoom -1", "--zoom"),
    (f"generate x --zoom 1000 {TOY}", "--zoom: 1000; give 1 to 147"),
    ("generate x --out a.psd", "Pillow only reads .psd; try a.png"),
    ("generate x --out a", "no suffix of a picture; try a.png"),
    ("generate x --out .png", "no suffix of a picture"),
    (f"generate x --out a.xbm {TOY}", "XBM takes no coloured picture"),
    ("generate x --out nowhere/a.png", "nowhere is no folder"),
    ("generate x --out folder.png", "folder.png is a folder"),
    ("generate x --out a" + 300 * "b" + ".png", "cannot be a file"),
    ("generate x --guidance nan", "--guidance"),
    ("generate x --guidance -1", "--guidance: -1.0"),
    ("generate x --steps 0", "--steps"),
    ("generate '  '", "prompt: is empty"),
    ("generate 'half \ud83d'", "prompt: holds half a character"),
    ("generate '\ufeff'", "prompt: is empty"),
    ("generate '\ufeffx' --steps 0", "--steps"),  # a mark in front is no fault
    (f"generate x --height 63 {TOY}", "height: 63"),
    (f"generate x --aspect-ratio 5:4 {TOY}", "aspect_ratio"),
    ("generate x --model nowhere", "nowhere is not a saved pipeline"),
    (f"generate x --device meta {TOY}", "--device: 'meta'"),
    (f"generate x --device cuda:99 {TOY}", "--device: 'cuda:99'"),
    (f"generate x --reasoner ruls {TOY}", "'ruls' is unknown"),
    (f"generate x --llm big {TOY}", "--llm"),
    (f"generate x --system empty.txt --reasoner rules {TOY}", "empty.txt is empty"),
    ("train --seed -1", "LineageConfig.seed"),
    (f"train --seed {2**63}", "LineageConfig.seed"),
    ("train --lr 0", "LineageConfig.lr"),
    ("train --workers -3", "LineageConfig.workers"),
    ("train --workers 1000", "LineageConfig.workers"),
    ("train --text-steps 0", "LineageConfig.text_steps"),
    ("train --per-skill 0", "--per-skill"),
    ("train --images nowhere", "--images: nowhere is not there"),
    ("train --caption-column x", "--caption-column"),
    ("train --base nowhere --mixed-steps 3", "base: nowhere"),
    ("train --out note.txt", "--out: note.txt is a file"),
    ("train --out note.txt/run", "note.txt is a file"),
    ("pretrain --cache nowhere --out x", "nowhere"),
    ("pretrain --cache . --out x --lr -1", "TrainConfig.lr"),
    ("pretrain --cache . --out x --seed -1", "TrainConfig.seed"),
    ("pretrain --cache . --out x --device cuda:1", "--device"),
    ("pretrain --cache . --out x --accumulate 0", "--accumulate"),
    ("pretrain --cache . --out note.txt", "note.txt is a file"),
    ("pretrain --cache .", "--out: is missing"),
    ("ablate captions --lr -1", "AblationConfig.lr"),
    ("ablate captions --workers -3", "AblationConfig.workers"),
    ("ablate vae --arms many", "VAEAblationConfig.arms"),
    ("ablate vae --model data_samples/toy", "--model"),
    ("ablate rl --grpo-lr -1", "RLAblationConfig.grpo_lr"),
    ("ablate turbo --device garbage", "--device: 'garbage'"),
    ("ablate turbo --arms nothing", "TurboAblationConfig.arms"),
    ("rl --lr 0", "RLConfig.lr=0.0: must be positive and finite (--lr)"),
    ("rl --round-prompts 0", "(--round-prompts)"),
    ("rl --judge exakt", "'exakt' is no address"),
    ("rl --vlm big", "--vlm"),
    ("rl --concurrency 3", "--concurrency: is for a model behind a server"),
    ("rl --judge http://127.0.0.1:9/v1 --concurrency 0", "EndpointConfig.concurrency"),
    ("rl --prompts nowhere.jsonl", "nowhere.jsonl"),
    ("rl --workers 7 --device cpu", "--workers: 7 must divide"),
    ("rl --minutes 0", "--minutes"),
    ("distill --fake-lr 0", "TurboConfig.fake_lr"),
    ("distill --held-out 0", "--held-out"),
    ("distill --model nowhere", "nowhere"),
    ("search --images 9", "SearchConfig.images"),
    ("search --skills kats", "SearchConfig.skills"),
    ("search --reasoner gpt-oss", "proposer"),
    ("lineage --turbo-minutes 0", "WholeConfig.turbo_minutes"),
    ("""lineage --rl '{"lr": 0}'""", "RLConfig.lr"),
    ("""lineage --lineage '{"lr": 0}'""", "LineageConfig.lr"),
    ("rl-prompts", "--toy, --url and --check"),
    ("rl-prompts --toy --n 0", "--n"),
    ("rl-prompts --toy --seed -1", "--seed"),
    ("rl-prompts --toy --out .", "is a folder"),
    ("rl-prompts --url 127.0.0.1:8000", "is no address"),
    ("rl-prompts --url http://127.0.0.1:9/v1 --taxonomy nowhere", "nowhere"),
    ("prepare nowhere", "nowhere is not there"),
    ("prepare . --out .", "--out: . is the folder of the pictures"),
    ("prepare . --ray -1", "--ray"),
    ("prepare . --kinds dense", "--kinds: is for captions of a model"),
    ("prepare . --darkest 2", "Thresholds.darkest"),
    ("cache . --out .", "--out: . is the folder of the shards"),
    ("cache . --device garbage --out new", "--device: 'garbage'"),
    ("evaluate --style breif", "did you mean 'brief'"),
    ("evaluate --lang xx", "--lang"),
    ("evaluate --style brief --lang fr", "--lang"),
    ("evaluate --out .", "--out"),
    ("evaluate --seed -1", "--seed"),
    ("info --tokens 0", "--tokens"),
    ("bench --compile", "--compile"),
    ("bench --preset lens --attention fast", "did you mean 'flash'"),
    ("bench --preset small --height 63", "height: 63"),
    ("emoji --names nowhere", "--names: nowhere"),
]


@pytest.fixture
def nothing_long(monkeypatch, tmp_path):
    "An empty folder to stand in, and every long function an error."
    from lens_ref.core import loop, parallel
    from lens_ref.pretrain import pipeline

    def never(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr(pipeline.LensPipeline, "from_pretrained", never)
    monkeypatch.setattr(parallel, "together", never)
    monkeypatch.setattr(loop, "train", never)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("a file")
    (tmp_path / "empty.txt").write_text("\ufeff\r\n", "utf-8")
    (tmp_path / "folder.png").mkdir()
    return sorted(tmp_path.rglob("*"))


@pytest.mark.parametrize("line, named", REFUSED, ids=[f"{x[:40]!a}" for x, _ in REFUSED])
def test_what_cannot_be_is_refused_before_work_and_leaves_no_trace(
    line, named, capsys, nothing_long, tmp_path
):
    code, err = main(shlex.split(line)), capsys.readouterr().err
    assert code == 2 and named in err and err.count("\n") == 1, err
    assert sorted(tmp_path.rglob("*")) == nothing_long


def test_a_place_that_cannot_be_written_is_refused_before(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    for check in (need_file, need_folder):
        with pytest.raises(ConfigError, match="--out: nothing can be written .*Read-only"):
            check("--out", tmp_path / "a" / "b")
    monkeypatch.undo()
    assert need_file("--out", tmp_path / "\u00fc \u2603.png").parent == tmp_path
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:IM image format")
def test_each_format_that_is_accepted_can_be_written(tmp_path):
    "No picture is drawn for a file that Pillow then refuses: what passes the check is saved."
    passed = []
    for suffix in sorted(Image.registered_extensions()):
        path = str(tmp_path / f"a{suffix}")
        try:
            kind = image_format(path)
            check_format(path, kind, 48, 64)
        except ConfigError as e:
            assert suffix in str(e)
            continue
        Image.new("RGB", (64, 48), "red").save(path, kind)
        passed.append(suffix)
    assert {".png", ".jpg", ".webp", ".tif", ".bmp"} <= set(passed)
    assert not {".psd", ".xbm", ".h5"} & set(passed)
    with pytest.raises(ConfigError, match="ICO"):
        check_format("a.ico", "ICO", 512, 512)


def test_the_seed_of_other_programs_is_taken(tmp_path):
    "2**64 - 1 is the largest seed of torch, and what some programs draw."
    out = tmp_path / "a.png"
    words = ["generate", "a red cat", "--model", str(data_path("toy")), "--steps", "1"]
    assert main([*words, "--seed", str(2**64 - 1), "--out", str(out), "--device", "cpu"]) == 0
    assert Image.open(out).size == (256, 256)


# ---- the entry point


def test_help_and_version(capsys):
    assert main([]) == 2 and "rl-prompts" in capsys.readouterr().out
    assert main(["--help"]) == 0 and "rl-prompts" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lens-ref {lens_ref.__version__}\n"
    with pytest.raises(SystemExit) as e:
        main(["help", "train"])
    assert e.value.code == 0 and "--vae-steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error, code, said",
    [
        (ConfigError("two\nlines"), 2, "lens-ref: two lines\n"),
        (KeyboardInterrupt(), 130, "lens-ref: interrupted\n"),
        (KeyError("x"), 1, "lens-ref: KeyError: 'x' (LENS_REF_TRACEBACK=1 shows where)\n"),
        (MemoryError(), 1, "lens-ref: MemoryError:  (LENS_REF_TRACEBACK=1 shows where)\n"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_whatever_ends_a_command_is_one_line_and_an_exit_code(
    error, code, said, capsys, monkeypatch
):
    def fails(argv):
        raise error

    monkeypatch.setattr(M, "run_command", fails)
    assert main(["info"]) == code and capsys.readouterr().err == said
    if code == 1:
        monkeypatch.setenv("LENS_REF_TRACEBACK", "1")
        with pytest.raises(type(error)):
            main(["info"])


def test_a_reader_that_goes_away_ends_a_command_quietly():
    code = "import sys; from lens_ref.cli.main import main; sys.exit(main(['--help']))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=-1, env=ENV)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_help_of_a_command_needs_no_model_library():
    "The options are read from the source of the settings, which is not imported."
    asked = "import atexit, sys; from lens_ref.cli.main import main; "
    asked += "atexit.register(lambda: print(*sys.modules)); main(['train', '--help'])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, env=ENV)
    out, loaded = done.stdout, set(done.stdout.splitlines()[-1].split())
    assert done.returncode == 0 and "--vae-steps" in out and "lens_ref.core.arguments" in loaded
    assert not loaded & {"torch", "diffusers", "transformers", "matplotlib", "PIL"}


# ---- settings


@pytest.mark.parametrize(
    "cls, change, named",
    [
        (LoopConfig, dict(seed=-1), "seed"),
        (LoopConfig, dict(seed=2**63), "seed"),
        (LoopConfig, dict(betas=("0.9", "0.99")), r"betas\[0\]"),
        (RLConfig, dict(betas=("0.9", "0.99")), r"betas\[0\]"),
        (RLConfig, dict(betas=(0.9,)), "betas"),
        (RLConfig, dict(sizes=[[64]]), r"sizes\[0\]"),
        (RLConfig, dict(seed=2**64), "seed"),
        (TurboConfig, dict(sizes=[["64", 64]]), r"sizes\[0\]\[0\]"),
        (TurboConfig, dict(seed=2**63 - 1), "seed"),  # its other networks take the next seeds
        (LineageConfig, dict(lr=float("nan")), "lr"),
        (LineageConfig, dict(lr=10**400), "lr"),
        (LineageConfig, dict(seed=1.0), "seed"),
    ],
)
def test_impossible_settings_are_refused_when_they_are_made(cls, change, named):
    with pytest.raises(ConfigError, match=rf"Config.{named}"):
        cls.from_dict(change)


def test_names_and_types():
    assert nearest("lr", ["learning_rate", "warmup"]) == "did you mean 'learning_rate'?"
    with pytest.raises(ConfigError, match="settings are a dict"):
        LoopConfig.from_dict([1])
    assert typed("a", int | str, "x") == "x" and typed("a", int | str | None, None) is None
    with pytest.raises(ConfigError, match="expected str"):
        typed("a", int | str, 1.5)

    @dataclasses.dataclass
    class Two(Config):
        pair: tuple[int, int] = (1, 2)

    assert Two.from_dict(json.loads('{"pair": [3, 4]}')).pair == (3, 4)
