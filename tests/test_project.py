"""Notebooks, package, settings and README agree, and every notebook runs."""

import base64
import configparser
import importlib.util
import json
import os
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import lens_ref

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
NBS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not p.name.startswith(("_", ".")))


def page_name(path):
    return f"{path.parent.name}/{path.stem}"


MODULES = ["lens_ref", *(m.name for m in pkgutil.walk_packages(lens_ref.__path__, "lens_ref."))]
BIN = pathlib.Path(sys.executable).parent  # nbdev's commands live beside this Python
MACHINE_PATH = re.compile(
    r"(?<![\w.:/])(/(work|tmp|root|home|Users|opt|var|mnt|usr/lib|usr/local)/|[A-Z]:\\Users\\)"
)


def run(*command, cwd=ROOT, **env):
    return subprocess.run(
        [str(c) for c in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **env},
    )


def project_copy(to):
    "What nbdev reads, somewhere it may write."
    for name in ("nbs", "lens_ref"):
        shutil.copytree(
            ROOT / name,
            to / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy(ROOT / name, to / name)
    return to


def sources(lib):
    return {p.relative_to(lib).as_posix(): p.read_text("utf8") for p in lib.rglob("*.py")}


# ---- notebooks and package


def stale(project):
    "Modules in `project` that differ from what its notebooks export; nothing if all agree."
    lib = project / "lens_ref"
    before = sources(lib)
    for name in before:
        if name != "__init__.py":
            (lib / name).unlink()
    done = run(BIN / "nbdev-export", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    after = sources(lib)
    return sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))


def test_package_is_exactly_what_the_notebooks_export(tmp_path):
    assert not stale(project_copy(tmp_path)), (
        "run nbdev-export, and delete modules whose notebook is gone"
    )


def test_stale_modules_are_noticed(tmp_path):
    project_copy(tmp_path)
    (tmp_path / "lens_ref/leftover.py").write_text("x = 1\n")
    with open(tmp_path / "lens_ref/core/files.py", "a") as f:
        f.write("\nstray = 1\n")
    assert {"core/files.py", "leftover.py"} <= set(stale(tmp_path))


def test_notebooks_are_clean(tmp_path):
    project_copy(tmp_path)
    done = run(BIN / "nbdev-clean", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    texts = {
        p: ((tmp_path / p.relative_to(ROOT)).read_text("utf8"), p.read_text("utf8")) for p in NBS
    }
    dirty = [page_name(p) for p, (cleaned, ours) in texts.items() if cleaned != ours]
    assert not dirty, "run nbdev-clean"


# ---- committed outputs


def output_texts(output):
    yield from (
        "".join(v)
        for k, v in output.get("data", {}).items()
        if k.startswith(("text/", "application/")) and not isinstance(v, dict)
    )
    yield "".join(output.get("text", ""))


def faults(nb):
    "What is wrong with the stored outputs of one notebook, one line each."
    code = [c for c in nb["cells"] if c["cell_type"] == "code" and "".join(c["source"]).strip()]
    if code and not any(c["outputs"] for c in code):
        yield "has code but no stored output: run it and save"
    for c in code:
        if "".join(c["source"]).rstrip().endswith("plt.show()") and not c["outputs"]:
            yield f"cell {c['id']} shows a figure, and none is stored: run without MPLBACKEND"
    for o in (o for c in code for o in c["outputs"]):
        if o["output_type"] == "error":
            yield f"stored error {o['ename']}"
        if o.get("name") == "stderr":
            yield f"stored stderr: {''.join(o['text'])[:80]!r}"
        for text in output_texts(o):
            for pattern in (
                r"Traceback \(most recent call last\)",
                r"\w*Warning\b: ?",
                MACHINE_PATH.pattern,
            ):
                if m := re.search(pattern, text):
                    yield f"output holds {text[m.start() : m.start() + 60]!r}"


@pytest.mark.parametrize("path", NBS, ids=page_name)
def test_stored_outputs_are_presentable(path):
    found = list(faults(json.loads(path.read_text("utf8"))))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "output",
    [
        dict(output_type="error", ename="KeyError"),
        dict(output_type="stream", name="stderr", text=["50%|###"]),
        dict(output_type="stream", name="stdout", text=["Traceback (most recent call last):\n"]),
        dict(output_type="stream", name="stdout", text=["x.py:3: UserWarning: old\n"]),
        dict(output_type="execute_result", data={"text/plain": ["PosixPath('/home/me/x')"]}),
        None,
    ],
    ids=["error", "stderr", "traceback", "warning", "path", "none"],
)
def test_bad_outputs_are_noticed(output):
    cell = dict(cell_type="code", source=["1"], outputs=[output] if output else [])
    assert list(faults(dict(cells=[cell])))


def test_lost_figures_are_noticed():
    value = dict(output_type="execute_result", data={"text/plain": ["1"]})
    cells = [
        dict(cell_type="code", id="a", source=["1"], outputs=[value]),
        dict(cell_type="code", id="b", source=["plt.show()"], outputs=[]),
    ]
    assert "cell b shows a figure" in list(faults(dict(cells=cells)))[0]


# ---- settings and README


def test_settings_ini_agrees_with_pyproject():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "settings.ini", "utf8")
    ini, toml = parser["DEFAULT"], tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
    nbdev, project = toml["tool"]["nbdev"], toml["project"]
    same = {
        k: str(nbdev[k])
        for k in ("lib_path", "nbs_path", "doc_path", "tst_flags", "recursive", "branch")
    }
    same |= dict(
        lib_name=project["name"],
        description=project["description"],
        author=project["authors"][0]["name"],
        version=lens_ref.__version__,
        license="apache2",
    )
    assert {k: ini[k] for k in same} == same
    assert (
        project["requires-python"] == f">={ini['min_python']}"
        and project["license"] == "Apache-2.0 AND MIT"
    )


def readme_builder():
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci/readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_follows_the_index_notebook():
    for name, data in readme_builder().build().items():
        assert (ROOT / name).is_file() and (ROOT / name).read_bytes() == data, (
            f"{name}: run make readme"
        )


def test_readme_builder_shows_code_output_and_pictures(tmp_path):
    code = dict(
        cell_type="code",
        id="c1",
        source=["#| echo: false\n", "show()"],
        outputs=[
            dict(output_type="stream", name="stdout", text=["loss 0.5\n"]),
            dict(output_type="display_data", data={"image/png": base64.b64encode(b"png").decode()}),
        ],
    )
    cells = [
        dict(
            cell_type="markdown",
            source=["[a](00_core.ipynb) [b](../LICENSE) [c](https://x.org) [d](#e)"],
        ),
        code,
        dict(cell_type="code", id="c2", source=["#| hide\n", "secret()"], outputs=[]),
    ]
    (tmp_path / "i.ipynb").write_text(json.dumps(dict(cells=cells)))
    files = readme_builder().build(tmp_path / "i.ipynb")
    text = files["README.md"].decode()
    assert "[a](nbs/00_core.ipynb) [b](LICENSE) [c](https://x.org) [d](#e)" in text
    assert "```\nloss 0.5\n```" in text and "show()" not in text and "secret" not in text
    assert files["nbs/images/index-c1.png"] == b"png" and "![](nbs/images/index-c1.png)" in text


def test_readme_links_lead_somewhere():
    links = re.findall(r"\]\((?![a-z]+:|#)([^)#]+)", (ROOT / "README.md").read_text("utf8"))
    assert links and not [link for link in links if not (ROOT / link).exists()]


# ---- the code


def test_lint_rejects_undefined_and_unused_names(tmp_path):
    done = run(BIN / "ruff", "check", "--no-cache", "--output-format", "concise", ".")
    assert done.returncode == 0, done.stdout[-4000:]
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "lens_ref").mkdir()
    (tmp_path / "lens_ref/bad.py").write_text("import os\ndef f(): return notebook_global\n")
    planted = run(BIN / "ruff", "check", "--no-cache", ".", cwd=tmp_path).stdout
    assert "F821" in planted and "F401" in planted


def test_code_is_formatted():
    done = run(BIN / "ruff", "format", "--check", "--no-cache", ".")
    assert done.returncode == 0, done.stdout[-4000:]


def test_modules_import_outside_the_repository_and_their_names_resolve(tmp_path):
    "In another folder: nothing may lean on a notebook. No module reaches itself, so order is free."
    names = ", ".join(map(repr, MODULES))
    code = f"""
import importlib
for name in [{names}]:
    module = importlib.import_module(name)
    [getattr(module, public) for public in getattr(module, "__all__", [])]
    dir(module)
"""
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr


def test_importing_the_package_costs_nothing(tmp_path):
    "Python's own modules and the one that makes diffusers find the pipeline; no package."
    code = """
import sys
import lens_ref
loaded = {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
own = [name for name in sys.modules if name.startswith("lens_ref.")]
print(sorted(loaded), sorted(own), lens_ref.__version__)
"""
    done = run(sys.executable, "-S", "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    own = ["lens_ref.core", "lens_ref.core.registration"]
    wanted = f"['__main__', 'lens_ref'] {own} {lens_ref.__version__}"
    assert done.stdout.strip() == wanted, done.stdout + done.stderr


def test_the_package_offers_what_most_users_want():
    for name in lens_ref._NAMES:
        assert getattr(lens_ref, name).__module__ == f"lens_ref.{lens_ref._NAMES[name]}"
    with pytest.raises(AttributeError, match="no attribute 'LensPipelin'"):
        lens_ref.LensPipelin


# ---- every notebook, top to bottom, on the CPU: each in a process of its own, one thread each


def run_notebook(path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [str(BIN / "nbdev-test"), str(path), "--n-workers", "0"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=env,
        timeout=900,
    )


@pytest.fixture(scope="module")
def runs(request):
    "Path -> future of its run, of the notebooks that were asked for."
    chosen = [
        item.callspec.params["path"]
        for item in request.session.items
        if getattr(item, "originalname", "") == "test_notebook_runs"
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {path: pool.submit(run_notebook, path) for path in chosen}
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(960)
@pytest.mark.parametrize("path", NBS, ids=page_name)
def test_notebook_runs(path, runs):
    done = runs[path].result()
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
