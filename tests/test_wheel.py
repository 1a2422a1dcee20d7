"""The package away from its clone: a wheel, a source distribution and an editable install."""

import email
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))


def run(*command, cwd, **env):
    keep = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LENS_REF_DATA")}
    env = {**keep, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", **env}
    words = [str(c) for c in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, encoding="utf8")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(python, *words, cwd):
    quiet = ("-q", "--disable-pip-version-check", "--no-deps")
    command, *rest = words
    return run(sys.executable, "-m", "pip", "--python", python, command, *quiet, *rest, cwd=cwd)


def tracked(to):
    "What a clone holds, without what lies about in this one."
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
    )
    if done.returncode:
        pytest.skip("no git history here")
    for name in filter(None, done.stdout.decode().split("\0")):
        if name.startswith(("lens_ref/", "data_samples/")) or "/" not in name:
            if (ROOT / name).is_file():
                (to / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, to / name)
    return to


def fresh(folder):
    "A Python of its own, without pip, that borrows the other packages of this one; its path."
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(folder)
    own = pathlib.Path(sysconfig.get_path("purelib", "venv", {"base": folder, "platbase": folder}))
    borrowed = {sysconfig.get_path(k) for k in ("purelib", "platlib")}
    (own / "borrowed.pth").write_text("\n".join(borrowed) + "\n", "utf8")
    scripts = pathlib.Path(sysconfig.get_path("scripts", "venv", {"base": folder}))
    return next(scripts.glob("python*")), scripts


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "(a copy of the clone, its wheel, the wheel of its source distribution, that distribution)"
    clone = tracked(tmp_path_factory.mktemp("clone"))
    dist = tmp_path_factory.mktemp("dist")
    ask = "import sys; from setuptools import build_meta as b; b.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", ask, dist, cwd=clone)
    source = next(dist.glob("*.tar.gz"))
    wheels = []
    for name, what in (("clone", clone), ("sdist", source)):
        to = tmp_path_factory.mktemp(name)
        pip(sys.executable, "wheel", "--no-build-isolation", "-w", to, what, cwd=dist)
        wheels.append(next(to.glob("*.whl")))
    return clone, *wheels, source


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    "(python, folder of its commands) where the wheel is installed."
    python, scripts = fresh(tmp_path_factory.mktemp("installed") / "venv")
    pip(python, "install", built[1], cwd=built[1].parent)
    return python, scripts


def names(wheel):
    return {n for n in zipfile.ZipFile(wheel).namelist() if not n.endswith("/")}


def test_the_list_of_packages_is_what_lies_in_the_folder():
    inside = {p.parent for p in (ROOT / "lens_ref").rglob("*.py")}
    found = {".".join(p.relative_to(ROOT).parts) for p in inside}
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert set(listed) == found | {"lens_ref.data_samples"} and len(set(listed)) == len(listed)


def test_the_wheel_holds_all_modules_and_data_and_is_light(built):
    clone, wheel, *_ = built
    assert wheel.stat().st_size < 40e6
    want = {p.relative_to(clone).as_posix() for p in (clone / "lens_ref").rglob("*.py")}
    data = [p for p in (clone / "data_samples").rglob("*") if p.is_file()]
    want |= {f"lens_ref/{p.relative_to(clone).as_posix()}" for p in data}
    extra = {n for n in names(wheel) if ".dist-info/" not in n}
    assert extra == want and len(data) > 20
    with zipfile.ZipFile(wheel) as z:
        for p in data:
            assert z.read(f"lens_ref/{p.relative_to(clone).as_posix()}") == p.read_bytes()


def test_the_source_distribution_builds_the_same_wheel(built):
    _, wheel, again, source = built
    assert names(wheel) == names(again)
    with tarfile.open(source) as t:
        inside = {n.split("/", 1)[-1] for n in t.getnames()}
    assert {"LICENSE", "README.md", "data_samples/toy/model_index.json"} <= inside


def test_the_wheel_says_what_it_is(built):
    with zipfile.ZipFile(built[1]) as z:
        info = next(n for n in z.namelist() if n.endswith(".dist-info/METADATA"))
        meta = email.message_from_bytes(z.read(info))
    assert meta["Name"] == "lens_ref" and meta["License-Expression"] == "Apache-2.0 AND MIT"
    assert {"LICENSE", "data_samples/art/LICENSE.md"} == set(meta.get_all("License-File"))
    assert meta["Description-Content-Type"] == "text/markdown" and meta.get_payload().strip()
    packaging = pytest.importorskip("packaging.metadata")
    with zipfile.ZipFile(built[1]) as z:
        packaging.Metadata.from_email(z.read(info), validate=True)  # what an index asks


HOME = """
import sys
import lens_ref
heavy = {"torch", "numpy", "diffusers", "matplotlib"} & set(sys.modules)
from lens_ref import data_path
print(lens_ref.__file__, data_path("toy"), heavy, sep="|")
"""


def where(python, cwd, **env):
    file, toy, heavy = run(python, "-c", HOME, cwd=cwd, **env).strip().split("|")
    assert heavy == "set()"
    return pathlib.Path(file).resolve(), pathlib.Path(toy).resolve()


def test_the_wheel_finds_its_own_toy_and_imports_nothing_heavy(installed, tmp_path):
    python, scripts = installed
    file, toy = where(python, tmp_path)
    assert file.is_relative_to(scripts.parent.resolve()) and toy == file.parent / "data_samples/toy"


def test_a_folder_of_ones_own_wins(installed, tmp_path):
    (tmp_path / "mine/toy").mkdir(parents=True)
    _, toy = where(installed[0], tmp_path, LENS_REF_DATA=str(tmp_path / "mine"))
    assert toy == (tmp_path / "mine/toy").resolve()


def test_a_folder_of_that_name_beside_the_package_is_no_toy_of_ours(installed, tmp_path):
    "Another package may have put its data_samples into site-packages, or the user here."
    file, _ = where(installed[0], tmp_path)
    stray = file.parents[1] / "data_samples"
    stray.mkdir()
    (tmp_path / "data_samples").mkdir()
    try:
        assert where(installed[0], tmp_path)[1] == file.parent / "data_samples/toy"
    finally:
        stray.rmdir()


DRAW = """
import random, sys
import numpy as np, torch
from lens_ref import LensPipeline
from lens_ref.core.runs import git_commit
from lens_ref.data.drawing import render
from lens_ref.data.world import sample_scene

scene = render(sample_scene(random.Random(0)), 64, 64)
assert scene.shape == (64, 64, 3) and scene.std() > 5
pictures = []
for name in ("toy", "toy-rl", "toy-turbo"):
    pipe = LensPipeline.from_pretrained(f"data_samples/{name}")
    noise = torch.Generator().manual_seed(0)
    out = pipe("A large red cat.", num_inference_steps=2, generator=noise, output_type="np")
    pictures.append(np.asarray(out.images[0], dtype=np.float32))
assert git_commit() is None
np.save(sys.argv[1], np.stack(pictures))
"""


def test_the_wheel_draws_what_the_clone_draws(installed, tmp_path):
    "Below another project's repository too, whose commit is not that of this package."
    import numpy as np

    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    run(installed[0], "-c", DRAW, tmp_path / "wheel.npy", cwd=tmp_path)
    here = DRAW.replace("assert git_commit() is None", "")
    run(sys.executable, "-c", here, tmp_path / "clone.npy", cwd=tmp_path, PYTHONPATH=str(ROOT))
    wheel, clone = (np.load(tmp_path / f"{n}.npy") for n in ("wheel", "clone"))
    assert np.allclose(wheel, clone, atol=1e-5) and np.abs(wheel[0] - wheel[2]).max() > 1e-3


def test_the_command_of_the_wheel_draws(installed, tmp_path):
    command = next(installed[1].glob("lens-ref*"))
    words = ("generate", "--model", "data_samples/toy", "--steps", "2", "a red cat")
    said = run(command, *words, cwd=tmp_path)
    assert "image.png: 64x64" in said and (tmp_path / "image.png").stat().st_size > 1000


def test_an_editable_install_finds_the_data_of_the_clone(built, tmp_path):
    clone = built[0]
    python, scripts = fresh(tmp_path / "venv")
    pip(python, "install", "--no-build-isolation", "-e", clone, cwd=tmp_path)
    file, toy = where(python, tmp_path)
    assert (file, toy) == (clone / "lens_ref/__init__.py", clone / "data_samples/toy")
    said = run(next(scripts.glob("lens-ref*")), "emoji", "--help", cwd=tmp_path)
    assert "usage" in said
