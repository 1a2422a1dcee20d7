"""Faults and bad input: full disk, kill, broken files, wrong settings."""

import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch

from lens_ref.core import files as core
from lens_ref.core import pictures as core_pictures
from lens_ref.core.checkpoints import local_folder, read_index, read_model_config, tensor_files
from lens_ref.core.config import (
    CheckpointError,
    Config,
    ConfigError,
    DataError,
    nearest,
    shows_error,
)
from lens_ref.core.files import (
    atomic_folder,
    atomic_write,
    load_tensors,
    recover_folder,
    save_tensors,
)

ROOT = pathlib.Path(__file__).resolve().parents[1]


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir())


# ---- atomic files


def test_full_disk_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with (
        pytest.raises(CheckpointError, match=r"a\.txt: could not be written \(No space left"),
        atomic_write(path) as tmp,
    ):
        tmp.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old" and leftovers(tmp_path) == ["a.txt"]


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="uses /dev/full and file size limits"
)
@pytest.mark.parametrize(
    "save",
    [
        "core.save_tensors({'x': x}, 'new.bin')",
        "with core.atomic_write('new.bin') as tmp: torch.save({'x': x}, tmp)",
        "with core.atomic_write('new.bin') as tmp: tmp.write_bytes(x.numpy().tobytes())",
    ],
    ids=["safetensors", "torch.save", "bytes"],
)
def test_a_disk_that_really_refuses_bytes(tmp_path, save):
    "The system stops the writes at 50 kB, as a full disk would."
    (tmp_path / "new.bin").write_text("old")
    code = f"""
import resource, torch
from lens_ref.core import config as settings
from lens_ref.core import files as core
x = torch.zeros(100_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    exec({save!r})
except settings.CheckpointError as e:
    print(e)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.startswith("new.bin: could not be written"), done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert (tmp_path / "new.bin").read_text() == "old" and leftovers(tmp_path) == ["new.bin"]


def test_kill_in_the_middle_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors({"x": torch.arange(3)}, path)
    code = textwrap.dedent("""
        import time
        from lens_ref.core.files import atomic_write
        with atomic_write("a.safetensors") as tmp:
            tmp.write_bytes(b"half")
            print("writing", flush=True)
            time.sleep(60)
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert child.stdout.readline() == "writing\n"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert torch.equal(load_tensors(path)[0]["x"], torch.arange(3))


def test_other_errors_pass_through_and_leave_nothing(tmp_path):
    for error in (KeyError, RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), atomic_write(tmp_path / "a") as tmp:
            tmp.write_text("half")
            raise error("not about files")
    assert leftovers(tmp_path) == []


def test_atomic_write_makes_folders_and_ordinary_permissions(tmp_path):
    with atomic_write(tmp_path / "deep/er/a") as tmp:
        tmp.write_text("x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "deep/er/a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(CheckpointError, match="runs"), atomic_write(tmp_path / "runs/a") as tmp:
        tmp.write_text("x")


def test_a_folder_where_the_file_should_be(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError, match="directory"), atomic_write(tmp_path / "a") as tmp:
        tmp.write_text("x")
    assert leftovers(tmp_path) == ["a"]


# ---- atomic folders

KILLED = """
import os, shutil, signal, sys
from lens_ref.core.files import atomic_folder

wait, moves = int(sys.argv[1]), 0

def dies(do):
    def move(*args, **kwargs):
        global moves
        if moves == wait:
            os.kill(os.getpid(), signal.SIGKILL)
        moves += 1
        return do(*args, **kwargs)
    return move

with atomic_folder("model") as tmp:
    (tmp / "model_index.json").write_text('{"made": "new"}')
    (tmp / "config.json").write_text('{"made": "new"}')
    os.replace, shutil.rmtree = dies(os.replace), dies(shutil.rmtree)
"""


def write_model(folder, made="old"):
    with atomic_folder(folder) as tmp:
        (tmp / "model_index.json").write_text(json.dumps(dict(made=made)))
        (tmp / "config.json").write_text(json.dumps(dict(made=made)))


def killed_write(folder, moves):
    "Replace `folder/model` in a process that is killed after `moves` renames or deletions."
    command = [sys.executable, "-c", KILLED, str(moves)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL


OPENERS = {
    "recover_folder": lambda p: json.loads((recover_folder(p) / "config.json").read_text()),
    "read_index": read_index,
    "read_model_config": read_model_config,
    "local_folder": lambda p: json.loads((local_folder(p) / "config.json").read_text()),
}


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize(
    "moves, there, found", [(0, True, "old"), (1, False, "old"), (2, True, "new")]
)
def test_a_kill_while_a_folder_is_replaced_loses_nothing(tmp_path, moves, there, found):
    "Before the first rename, between the two, and after both; whoever opens the folder next."
    write_model(tmp_path / "killed/model")
    killed_write(tmp_path / "killed", moves)
    for name, read in OPENERS.items():
        model = shutil.copytree(tmp_path / "killed", tmp_path / name) / "model"
        assert model.exists() is there  # the window is real: only recovery closes it
        assert read(model) == {"made": found}
        write_model(model, "newer")
        assert read_index(model) == {"made": "newer"}
        assert not list(model.parent.glob(".*.old"))


def test_a_write_that_fails_after_a_kill_leaves_what_was_there(tmp_path):
    write_model(tmp_path / "model")
    killed_write(tmp_path, 1)
    with pytest.raises(CheckpointError, match="No space"), atomic_folder(tmp_path / "model"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert read_index(tmp_path / "model") == {"made": "old"}


def test_a_second_rename_that_fails_puts_the_first_one_back(tmp_path, monkeypatch):
    write_model(tmp_path / "model")
    real, calls = os.replace, []

    def replace(a, b):
        calls.append(b)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(CheckpointError, match="could not be written"):
        write_model(tmp_path / "model", "new")
    assert len(calls) == 3 and read_index(tmp_path / "model") == {"made": "old"}
    assert leftovers(tmp_path) == ["model"]


def test_a_name_with_wild_cards_recovers_its_own_folder(tmp_path):
    (tmp_path / ".ab.0.old").mkdir()
    assert not recover_folder(tmp_path / "a*").exists()
    (tmp_path / ".a*.0.old").mkdir()
    assert recover_folder(tmp_path / "a*").exists() and (tmp_path / ".ab.0.old").exists()


def test_tensors_of_a_recovered_folder_are_found(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_tensors({"x": torch.ones(2)}, folder / "diffusion_pytorch_model.safetensors")
    folder.rename(tmp_path / ".model.12345678.old")
    assert tensor_files(folder)["x"][1] == (2,)


@pytest.mark.parametrize("letter", ["a", "é", "猫", "🐈", os.fsdecode(b"\xe9")])
def test_a_name_as_long_as_the_disk_allows_is_written_like_any_other(tmp_path, letter):
    size = len(os.fsencode(letter))
    for length in (120, 240, 255):
        name = letter * ((length - 4) // size) + ".bin"
        for word in ("old", "new"):
            with atomic_write(tmp_path / name) as tmp:
                tmp.write_text(word)
            with atomic_folder(tmp_path / name[:-4]) as tmp:
                (tmp / "x").write_text(word)
        assert (tmp_path / name).read_text() == (tmp_path / name[:-4] / "x").read_text() == "new"
        assert not list(tmp_path.glob(".*"))


def test_two_long_names_that_begin_alike_do_not_take_each_others_place(tmp_path):
    from lens_ref.core.files import _beside, _set_aside

    a, b = tmp_path / ("x" * 200 + "a"), tmp_path / ("x" * 200 + "b")
    _beside(a, "old").mkdir()
    assert not recover_folder(b).exists() and len(_set_aside(a)) == 1
    assert recover_folder(a).is_dir()


def test_files_and_links_give_way_to_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    write_model(tmp_path / "other")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    for name in ("file", "link"):
        write_model(tmp_path / name, "new")
        assert read_index(tmp_path / name) == {"made": "new"}
    assert read_index(tmp_path / "other") == {"made": "old"}
    assert leftovers(tmp_path) == ["file", "link", "other"]


# ---- tensors


def test_tensors_and_metadata_come_back(tmp_path):
    x = torch.randn(4, 6)
    tensors = dict(
        bf16=x.bfloat16(),
        half=x.half(),
        view=x[:, :3].T,
        tied=x,
        tied_too=x,
        scalar=torch.tensor(3),
        flag=x > 0,
        grad=x.clone().requires_grad_(),
        empty=torch.zeros(0, 4),
    )
    notes = dict(z="text with 漢字", a=[1, {"b": None}], m=0.1)
    save_tensors(tensors, tmp_path / "a.safetensors", notes)
    back, read = load_tensors(tmp_path / "a.safetensors")
    assert read == notes and back.keys() == tensors.keys()
    assert all(
        torch.equal(back[k], tensors[k]) and back[k].dtype == tensors[k].dtype for k in tensors
    )


def test_equal_contents_give_equal_bytes(tmp_path):
    hashes = set()
    for i in range(5):
        save_tensors(dict(x=torch.ones(5)), tmp_path / str(i), {c: c for c in "hgfedcba"})
        hashes.add(hashlib.sha256((tmp_path / str(i)).read_bytes()).hexdigest())
    assert len(hashes) == 1


@pytest.mark.parametrize("keep", [0, 3, 8, 40, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    save_tensors(dict(x=torch.ones(50)), path, dict(seed=0))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        CheckpointError, match=r"cut\.safetensors: not a whole safetensors file"
    ) as e:
        load_tensors(path)
    assert "\n" not in str(e.value)


def test_missing_file_folder_and_pickle_are_named(tmp_path):
    torch.save({"x": torch.ones(2)}, tmp_path / "a.pt")
    for name, message in {
        "none": "no such file",
        ".": "no such file",
        "a.pt": "not a whole safetensors file",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            load_tensors(tmp_path / name)


def test_metadata_of_other_tools_is_kept_as_text(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "a", metadata={"format": "pt"})
    assert load_tensors(tmp_path / "a")[1] == {"format": "pt"}


# ---- configs


@dataclasses.dataclass
class Inner(Config):
    width: int = 8


@dataclasses.dataclass
class Outer(Config):
    steps: int
    inner: Inner = dataclasses.field(default_factory=Inner)
    rate: float = 0.1
    betas: tuple = (0.9, 0.95)
    name: str | None = None
    resume: bool = False

    def validate(self):
        self.need(self.steps > 0, "steps", "must be at least 1")


def test_config_round_trip_through_json():
    c = Outer(steps=3, inner=Inner(width=2), rate=1, name="a")
    assert Outer.from_dict(json.loads(json.dumps(c.to_dict()))) == c and isinstance(c.rate, float)
    assert (
        c.replace(steps=np.int64(4)) == Outer(steps=4, inner=Inner(width=2), rate=1.0, name="a")
        and c.steps == 3
    )


@pytest.mark.parametrize(
    "d, message",
    [
        (dict(stepz=1), "Outer has no key 'stepz': did you mean 'steps'?"),
        (dict(steps=1, qqq=2), "Outer has no key 'qqq': choose from steps, inner, rate"),
        (dict(rate=0.1), "Outer needs the key 'steps'"),
        (dict(steps=1, inner=dict(widht=4)), "Inner has no key 'widht': did you mean 'width'?"),
        (dict(steps="1"), "Outer.steps='1': expected int, got str"),
        (dict(steps=1.5), "Outer.steps=1.5: expected int, got float"),
        (dict(steps=True), "Outer.steps=True: expected int, got bool"),
        (dict(steps=1, resume="no"), "Outer.resume='no': expected bool, got str"),
        (dict(steps=1, name=3), "Outer.name=3: expected str, got int"),
        (dict(steps=1, betas=0.9), "Outer.betas=0.9: expected tuple, got float"),
        (dict(steps=1, inner=3), "Outer.inner=3: expected Inner, got int"),
        (dict(steps=0), "Outer.steps=0: must be at least 1"),
    ],
)
def test_config_mistakes_name_the_field(d, message):
    with pytest.raises(ConfigError) as e:
        Outer.from_dict(d)
    assert str(e.value).startswith(message) and "\n" not in str(e.value)


@dataclasses.dataclass
class Shapes(Config):
    betas: tuple[float, ...] = (0.9, 0.95)
    size: tuple[int, int] = (4, 4)
    sizes: tuple[tuple[int, int], ...] = ()
    names: list[str] = dataclasses.field(default_factory=list)
    plain: tuple = ()
    maybe: tuple[int, ...] | None = None


def test_items_of_tuples_and_lists_are_typed():
    c = Shapes(betas=[1, 0.5], size=[2, 3], sizes=[[1, 2], (3, 4)], names=["a"], maybe=[1])
    assert c.betas == (1.0, 0.5) and isinstance(c.betas[0], float)
    assert (c.size, c.sizes, c.names, c.maybe) == ((2, 3), ((1, 2), (3, 4)), ["a"], (1,))
    assert Shapes(plain=["a", 1]).plain == ("a", 1)
    assert Shapes.from_dict(json.loads(json.dumps(c.to_dict()))) == c
    assert Shapes(betas=()).betas == ()


@pytest.mark.parametrize(
    "d, message",
    [
        (dict(betas=("0.9", 0.95)), "Shapes.betas[0]='0.9': expected float, got str"),
        (dict(betas="0.9"), "Shapes.betas='0.9': expected tuple, got str"),
        (dict(betas=(0.9, True)), "Shapes.betas[1]=True: expected float, got bool"),
        (dict(size=(4, 4, 4)), "Shapes.size=(4, 4, 4): expected 2 items, got 3"),
        (dict(sizes=[[1, 2], [3, "4"]]), "Shapes.sizes[1][1]='4': expected int, got str"),
        (dict(sizes=[1]), "Shapes.sizes[0]=1: expected tuple, got int"),
        (dict(names=["a", 1]), "Shapes.names[1]=1: expected str, got int"),
        (dict(names=("a",)), "Shapes.names=('a',): expected list, got tuple"),
        (dict(maybe=[1.5]), "Shapes.maybe[0]=1.5: expected int, got float"),
    ],
)
def test_a_wrong_item_is_named_by_its_place(d, message):
    with pytest.raises(ConfigError) as e:
        Shapes(**d)
    assert str(e.value) == message


def test_nearest_knows_letters_and_initials():
    names = ["steps", "batch_size", "learning_rate", "weight_decay", "betas"]
    for word, found in dict(
        lr="learning_rate",
        bs="batch_size",
        wd="weight_decay",
        step="steps",
        learn_rate="learning_rate",
    ).items():
        assert nearest(word, names) == f"did you mean {found!r}?"
    assert nearest("learning_rate", ["lr", "eps"]) == "did you mean 'lr'?"
    assert nearest("s", ["steps", "size"]) != "did you mean 'size'?"
    assert nearest("qqq", names) == "choose from " + ", ".join(names)
    with pytest.raises(ConfigError, match="no key 'bs': did you mean 'batch_size'"):
        from lens_ref.core.loop import LoopConfig

        LoopConfig.from_dict(dict(bs=3))


def test_an_expected_error_is_shown_and_must_come(capsys):
    with shows_error(ConfigError):
        raise ConfigError("steps=0: must be at least 1")
    assert capsys.readouterr().out == "ConfigError: steps=0: must be at least 1\n"
    with shows_error(ValueError):  # a kind of it will do, under its own name
        raise DataError("a.png: broken")
    assert capsys.readouterr().out == "DataError: a.png: broken\n"
    with pytest.raises(AssertionError, match="expected ConfigError, and nothing"):
        with shows_error(ConfigError):
            pass
    with pytest.raises(KeyError), shows_error(ConfigError):
        raise KeyError("another")


def test_replace_checks_too():
    with pytest.raises(ConfigError, match="did you mean 'rate'"):
        Outer(steps=1).replace(rat=1)
    with pytest.raises(ConfigError, match="at least 1"):
        Outer(steps=1).replace(steps=-1)


# ---- pictures and paths


def test_data_path_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "toy").mkdir()
    monkeypatch.setenv("LENS_REF_DATA", str(tmp_path))
    assert core.data_path("toy") == tmp_path / "toy"
    with pytest.raises(DataError, match="LENS_REF_DATA"):
        core.data_path("toy", "none")
    monkeypatch.delenv("LENS_REF_DATA")
    assert core.data_path() == ROOT / "data_samples"
    assert core.data_path("data_samples/toy") == core.data_path("toy") == ROOT / "data_samples/toy"
    assert core.data_path("data_samples", "toy") == core.data_path("toy")
    with pytest.raises(DataError, match="nowhere: not found; there is .*toy-turbo"):
        core.data_path("data_samples/nowhere")


def test_pictures_of_the_wrong_kind_are_refused():
    for bad in (
        [np.zeros((4, 4, 4), np.uint8)],
        [np.zeros((4, 4, 3))],
        [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)],
        [],
    ):
        with pytest.raises(DataError):
            core_pictures.from_uint8(bad)
    for bad in (
        torch.zeros(3, 4, 4),
        torch.zeros(1, 1, 4, 4),
        torch.full((1, 3, 2, 2), float("nan")),
    ):
        with pytest.raises(DataError):
            core_pictures.to_uint8(bad)


def test_to_uint8_clips():
    x = torch.tensor([-9.0, 0.0, 9.0]).view(1, 3, 1, 1)
    assert core_pictures.to_uint8(x).ravel().tolist() == [0, 128, 255]


def test_from_uint8_takes_arrays_and_pictures():
    from PIL import Image

    array = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    want = torch.from_numpy(array).permute(2, 0, 1).float() / 127.5 - 1
    for images in (array[None], [array], [Image.fromarray(array)]):
        assert torch.equal(core_pictures.from_uint8(images), want[None])
    assert (core_pictures.to_uint8(want[None]) == array).all()


def test_show_images_takes_every_kind_and_saves(tmp_path):
    from PIL import Image

    kinds = [
        torch.zeros(3, 8, 8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((8, 8), np.uint8),
        Image.new("RGB", (8, 6)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = core_pictures.show_images(
            kinds,
            [
                "short",
                "une légende très longue qui doit passer à la ligne",
                "红色的狐狸坐在蓝色的箱子旁边,天空很亮",
                "",
            ],
            cols=3,
            path=tmp_path / "grid.png",
        )
    assert len(fig.axes) == 4 and Image.open(tmp_path / "grid.png").format == "PNG"


def test_show_images_refuses_nothing_and_mismatch():
    with pytest.raises(DataError, match="0 images"):
        core_pictures.show_images([])
    with pytest.raises(DataError, match="2 images and 1 captions"):
        core_pictures.show_images(torch.zeros(2, 3, 4, 4), ["one"])
