"""Windows, macOS, other consoles and encodings, as far as they can be played on one machine."""

import ast
import io
import os
import pathlib
import subprocess
import sys

import pytest
import torch

from lens_ref.core import machine
from lens_ref.core.config import CheckpointError, ConfigError
from lens_ref.core.files import atomic_folder, atomic_write, data_path, recover_folder, shipped
from lens_ref.core.runs import isolated_rng, rng_state, set_rng_state

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "lens_ref").rglob("*.py")) + sorted((ROOT / "benchmarks").glob("*.py"))
UNIX_MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "readline", "syslog"}
UNIX_NAMES = {
    "os": "fork forkpty getuid geteuid getgid sysconf uname killpg setsid getpgid "
    "mkfifo nice sched_getaffinity sched_setaffinity chown lchown O_DIRECTORY pread pwrite",
    "signal": "SIGKILL SIGUSR1 SIGUSR2 SIGHUP SIGALRM SIGQUIT SIGCHLD alarm setitimer pause",
}
UNIX_NAMES = {k: set(v.split()) for k, v in UNIX_NAMES.items()}


def python(code, cwd, *flags, **env):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, *flags, *(["-c", code] if code else [])]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True)


# ---- what only Unix has

HIDE = f"""
import builtins, os, signal, sys, warnings
import datasets, diffusers, matplotlib.pyplot, peft, torch, transformers
import concurrent.futures.process, multiprocessing.popen_spawn_posix, torch.distributed
import torch.utils.checkpoint, torch.optim.lr_scheduler

plain = builtins.__import__

def importing(name, globals=None, *rest, **more):
    ours = ((globals or {{}}).get("__name__") or "").startswith("lens_ref")
    if ours and name.split(".")[0] in {sorted(UNIX_MODULES)!r}:
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return plain(name, globals, *rest, **more)

builtins.__import__ = importing
for module, names in {UNIX_NAMES!r}.items():
    for name in names:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
sys.stdout.reconfigure(encoding="cp1252", errors="strict")
warnings.filterwarnings("error", category=EncodingWarning, module=r"lens_ref\\.")
"""

ALL = """
import importlib, pkgutil
import lens_ref
for m in pkgutil.walk_packages(lens_ref.__path__, "lens_ref."):
    importlib.import_module(m.name)
from lens_ref.cli.main import COMMANDS, main
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as e:
        assert e.code in (0, None), name
from lens_ref.core.machine import peak_memory
assert 5e7 < peak_memory() < 1e11
words = ["--model", "data_samples/toy", "--steps", "1", "--out", "cat.png"]
assert main(["generate", "une image \\u2713 \\u732b", *words]) == 0
words[-1] = "\\u732b.png"  # no name on a system whose names are in ASCII
assert main(["generate", "a red cat", *words]) == 2
words = ["--model", "data_samples/toy", "--per-skill", "1", "--json", "scores.json"]
assert main(["evaluate", *words]) == 0
"""


def test_all_modules_and_commands_do_without_what_only_unix_has(tmp_path):
    "On a console in cp1252, with an encoding of files that nobody may lean on."
    old = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="")
    done = python(HIDE + ALL, tmp_path, "-X", "warn_default_encoding", **old)
    assert done.returncode == 0, done.stderr.decode("utf8", "replace")[-3000:]
    assert b"cat.png: 64x64" in done.stdout and b"usage: lens-ref train" in done.stdout
    assert [p.name for p in tmp_path.glob("*.png")] == ["cat.png"]
    assert b"names of files in ascii" in done.stderr and b"PYTHONUTF8=1" in done.stderr


def calls(path):
    "(line, dotted name) of all that code refers to."
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"


def test_no_line_asks_for_what_only_unix_has():
    banned = {f"{m}.{n}" for m, names in UNIX_NAMES.items() for n in names}
    banned |= {"os.rename", "os.symlink", "os.link"}  # os.replace also takes a taken name
    found = [f"{p.name}:{n} {x}" for p in SOURCES for n, x in calls(p) if x in banned]
    assert not found
    for path in SOURCES:
        text = path.read_text("utf8")
        assert not [s for s in ("/dev/null", '"/tmp', "'/tmp", "/proc/") if s in text], path
        assert 'get_context("fork' not in text and "set_start_method" not in text, path


def text_calls(tree):
    "Calls that read or write text without saying in which encoding."
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        plain = [a.value for a in node.args if isinstance(a, ast.Constant)]
        if name == "read_text" and not node.args or name == "write_text" and len(node.args) == 1:
            yield node.lineno
        if isinstance(node.func, ast.Name) and name == "open":
            if not any(isinstance(v, str) and "b" in v for v in plain[-1:]):
                yield node.lineno


def test_all_text_is_read_and_written_in_utf8():
    found = [f"{p.name}:{n}" for p in SOURCES for n in text_calls(ast.parse(p.read_text("utf8")))]
    assert not found
    assert list(text_calls(ast.parse("p.read_text()\nopen(x)\nopen(x, 'w')\np.write_text(s)")))


FORBIDDEN = set('<>:"|?*')


def test_names_of_written_files_are_names_on_windows_too():
    from lens_ref.rl.findings import PROMPT_ARMS
    from lens_ref.turbo.findings import TEACHERS, TURBO_ARMS, slug

    names = [slug(a) for a in (*TEACHERS, *TURBO_ARMS)] + [a.replace(" ", "_") for a in PROMPT_ARMS]
    assert names and not [n for n in names if set(n) & FORBIDDEN or n.endswith((".", " "))]


# ---- where to compute


@pytest.mark.parametrize(
    "name",
    [
        "meta",
        "meta:0",
        torch.device("meta"),
        "gpu",
        "",
        " ",
        None,
        True,
        1.5,
        -1,
        "cpu,cpu",
        "cpu:x",
    ]
    + ["mps:7", "xla", "vulkan", "hpu", "\ud83d", "auto:1", ["cpu"], "cuda:99"],
    ids=repr,
)
def test_a_device_that_cannot_compute_is_refused_by_name(name):
    with pytest.raises(ConfigError) as e:
        machine.pick_device(name, "--device")
    text = str(e.value)
    assert text.startswith("--device: ") and "cpu" in text and "\n" not in text and len(text) < 300


def test_a_device_has_one_spelling():
    for name in ("cpu", "CPU", " cpu ", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)):
        assert machine.pick_device(name) == "cpu"


def test_auto_takes_the_best_that_computes(monkeypatch):
    if not torch.cuda.is_available():
        for kind in (torch.cuda, torch.backends.mps):  # found, but no sum can be made there
            monkeypatch.setattr(kind, "is_available", lambda: True)
        assert machine.pick_device() == "cpu"
    monkeypatch.setattr(machine, "_fault_of", lambda d: "too old a driver" if d == "cuda" else "")
    monkeypatch.setattr(machine, "_devices", lambda: dict(cuda=True, mps=True, cpu=True))
    assert machine.pick_device() == "mps"
    with pytest.raises(ConfigError, match="too old a driver.*auto, cuda, mps, cpu"):
        machine.pick_device("cuda")
    monkeypatch.setattr(machine, "_fault_of", lambda d: "")
    assert machine.pick_device("auto") == machine.pick_device("CUDA") == "cuda"


def test_the_generator_of_a_mac_is_kept_too(monkeypatch):
    state = [torch.tensor([5])]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda *_: state[0].clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda x, *_: state.__setitem__(0, x))
    saved = rng_state()
    state[0] = torch.tensor([6])
    set_rng_state(saved)
    assert state[0] == 5
    with pytest.raises(KeyError), isolated_rng(torch.device("mps")):
        state[0] = torch.tensor([7])
        raise KeyError
    assert state[0] == 5
    del saved["mps"]  # of a checkpoint made before
    set_rng_state(saved)


def test_no_tensor_becomes_float64_where_a_mac_has_none():
    "`widest`, or on the CPU: a Mac's GPU raises TypeError for float64."
    known = {"machine.py": 1, "reader.py": 1, "search.py": 2}  # the last two are on the CPU
    for path in SOURCES:
        lines = [x for x in path.read_text("utf8").splitlines() if ".double()" in x]
        lines = [x for x in lines if ".cpu()" not in x]
        assert len(lines) <= known.get(path.name, 0), (path.name, lines)
    x = torch.ones(2)
    assert machine.widest(x).dtype == torch.float64
    on_mps = type("OnMps", (), dict(device=torch.device("mps"), float=lambda s: "fp32"))()
    assert machine.widest(on_mps) == "fp32"


# ---- memory


def test_peak_memory_is_in_bytes_on_every_system(monkeypatch):
    import resource

    linux = machine.peak_memory()
    assert linux == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    assert machine.peak_memory() * 1024 == pytest.approx(linux, rel=0.05)
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(machine.sys, "platform", "win32")
    held = machine.peak_memory()
    assert 0.2 * linux < held <= 1.05 * linux  # psutil, here without a peak
    torch.ones(10)


# ---- consoles


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932", "utf-8"])
def test_no_character_ends_a_program(encoding, monkeypatch):
    paper = io.BytesIO()
    console = io.TextIOWrapper(paper, encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", console)
    machine.any_console()
    print("caf\xe9 \u732b \u2713 \U0001f63a \udce9")
    assert b"caf" in paper.getvalue() and b"\\udce9" in paper.getvalue()


@pytest.mark.parametrize("stream", [None, io.StringIO(), object()], ids=["none", "memory", "odd"])
def test_a_stream_that_cannot_be_set_is_left_alone(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream)
    machine.any_console()
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    machine.any_console()


# ---- processes

WORK = """
import os, sys
from lens_ref.core.parallel import together, worker_pool, rank, world_size

def work(x=4):
    return x * x

def killed(x=0):
    import multiprocessing, time
    if multiprocessing.parent_process():
        os._exit(9) if x else os.kill(os.getpid(), 9)
    time.sleep(1)
"""
POOL = "with worker_pool(2) as pool:\n        print(list(pool.map(work, range(3))))"


def script(tmp_path, body, guard):
    head = 'if __name__ == "__main__":' if guard else "if True:"
    path = tmp_path / "my script.py"
    path.write_text(f"{WORK}\n{head}\n    {body}\n", "utf8")
    return path


@pytest.mark.parametrize("body", ["print(together(2, work))", POOL], ids=["together", "pool"])
def test_a_script_without_a_main_guard_is_told_of_the_guard(body, tmp_path):
    bad = python("", tmp_path, script(tmp_path, body, guard=False))
    text = bad.stderr.decode()
    assert bad.returncode == 1 and 'beneath `if __name__ == "__main__":`' in text
    assert "my script.py" in text and "bootstrapping" not in text
    assert "LensError" in text.splitlines()[-1]
    odd = tmp_path / "a folder #1 %20"
    odd.mkdir()
    good = python("", tmp_path, script(tmp_path, body, guard=True), TMPDIR=str(odd))
    assert good.returncode == 0, good.stderr.decode()
    assert good.stdout.decode().strip() in ("16", "[0, 1, 4]")


def test_a_process_that_is_killed_is_said_to_be_killed(tmp_path):
    body = "with worker_pool(2) as pool:\n        list(pool.map(killed, [0, 0]))"
    text = python("", tmp_path, script(tmp_path, body, guard=True)).stderr.decode()
    assert "SIGKILL ended it" in text and "memory ran out" in text and '__main__":' not in text


def test_a_program_from_standard_input_is_told_to_lie_in_a_file(tmp_path):
    code = WORK + '\nif __name__ == "__main__":\n    together(2, work)\n'
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-"]
    done = subprocess.run(command, input=code.encode(), cwd=tmp_path, env=env, capture_output=True)
    assert b"save it in a file" in done.stderr.splitlines()[-1]


# ---- names of files

LONG = "\u732b" * 70 + "x" * 41 + ".png"  # 255 bytes, as long as a name may be


def test_a_name_as_long_as_a_disk_allows_can_be_written(tmp_path):
    assert len(os.fsencode(LONG)) == 255
    for name in (LONG, "y" * 255, "a" * 100, "a" * 101):
        with atomic_write(tmp_path / name) as tmp:
            tmp.write_text("x", "utf8")
        assert (tmp_path / name).read_text("utf8") == "x"
    assert len(list(tmp_path.iterdir())) == 4


def test_long_names_that_begin_alike_are_not_taken_for_each_other(tmp_path, monkeypatch):
    one, two = tmp_path / ("z" * 200 + "1"), tmp_path / ("z" * 200 + "2")
    for path in (one, two):
        with atomic_folder(path) as tmp:
            (tmp / "a").write_text(path.name, "utf8")
    plain, moves = os.replace, []

    def once(a, b):
        if moves:
            raise OSError(5, "gone")
        moves.append(b)
        plain(a, b)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(CheckpointError), atomic_folder(one) as tmp:
        (tmp / "a").write_text("new", "utf8")
    monkeypatch.setattr(os, "replace", plain)
    assert not one.exists()
    assert (recover_folder(one) / "a").read_text("utf8") == one.name
    assert (two / "a").read_text("utf8") == two.name


def test_the_shipped_folders_have_the_name_that_they_have_in_a_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("data_samples/toy", "./data_samples/toy/", "data_samples\\toy"):
        assert shipped(text) == data_path("toy")
    for other in ("toy", "data_samples/none", "owner/name", tmp_path, "my/data_samples/toy"):
        assert shipped(other) == other
    (tmp_path / "data_samples/toy").mkdir(parents=True)
    assert shipped("data_samples/toy") == "data_samples/toy"


def test_a_change_names_its_base_with_slashes_also_from_another_drive(tmp_path, monkeypatch):
    from lens_ref.pretrain import deltas

    (tmp_path / "base").mkdir()
    assert deltas._way(tmp_path / "runs/a", tmp_path / "base") == "../../base"

    def drives(*_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(deltas.os.path, "relpath", drives)
    assert deltas._way(tmp_path / "a", tmp_path / "base") == (tmp_path / "base").as_posix()
