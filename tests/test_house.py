"""The house keeps its rules: a path in order, no cycles, one meaning a name, pages to read."""

import ast
import re
import statistics
import subprocess
from collections import defaultdict

import pytest
from house import (
    MODULES,
    PAGES,
    PATH,
    ROOT,
    cells,
    definitions,
    exported,
    imports_of,
    minutes,
    module_of,
    number_of,
    package_imports,
    reach,
)

import lens_ref

FOLDERS = [p.name[3:] for p in sorted((ROOT / "nbs").iterdir()) if p.name[:2].isdigit()]
TREES = {
    m: ast.parse((ROOT / "lens_ref" / (m.replace(".", "/") + ".py")).read_text("utf8"))
    for m in MODULES
}
# Names for users alone: what README and pages tell them to import, and what commands reach by name.
API = {*lens_ref._NAMES}


def by_page(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda p: f"{p.parent.name}/{p.stem}")


# ---- folders, pages and modules


def test_pages_and_modules_lie_in_the_same_folders():
    for module, path in MODULES.items():
        folder, name = module.split(".")
        assert path.parent.name[3:] == folder and path.stem.lstrip("0123456789_") == name


def test_the_path_is_numbered_without_a_gap_and_has_at_most_eighteen_pages():
    assert sorted(PATH) == list(range(1, len(PATH) + 1)) and len(PATH) <= 18
    order = [PATH[n].parent.name for n in sorted(PATH)]
    assert order == sorted(order), "the path goes through the folders in their order"


def test_a_page_of_the_path_imports_only_from_earlier_pages_or_core():
    "Also through pages of the workshop that it leans on, and also in cells that are not exported."
    edges, late = package_imports(), []
    for number, path in PATH.items():
        if number == 1:
            continue  # it shows the finished pipeline, by the package's own name
        own = module_of(path) or ""
        tree = ast.parse("\n".join(plain(s) for s in cells(path, "code")))
        direct = set(imports_of(tree, "page.page"))
        for other in direct | {x for d in direct for x in reach(d, edges)}:
            place = number_of(MODULES[other])
            if other != own and place and place >= number:
                late.append(f"{path.stem} needs {other}, page {place}")
    assert not late, "\n".join(late)


def plain(source):
    "Code of a cell without what only IPython understands."
    return "\n".join("pass" if x.startswith(("!", "%")) else x for x in source.splitlines())


def test_no_module_reaches_itself():
    edges = package_imports()
    assert not [m for m in edges if m in reach(m, edges)]


def test_folders_import_only_from_folders_before_them():
    edges, place = package_imports(), {f: i for i, f in enumerate(FOLDERS)}
    up = [
        f"{a} imports {b}"
        for a, found in edges.items()
        for b in found
        if place[b.split(".")[0]] > place[a.split(".")[0]]
    ]
    assert not up, "\n".join(up)


def test_the_index_shows_the_path_in_its_order_and_how_long_each_page_takes():
    index = "\n".join(cells(ROOT / "nbs/index.ipynb", "markdown"))
    rows = re.findall(r"^\| (\d+) \[(.+?)\]\((.+?)\) \|.*\| (\d+) \|$", index, re.M)
    shown = [(int(n), title, link, int(m)) for n, title, link, m in rows]
    assert shown == [
        (n, page_title(p), p.relative_to(ROOT / "nbs").as_posix(), minutes(p))
        for n, p in sorted(PATH.items())
    ]


def page_title(path):
    return cells(path, "markdown")[0].splitlines()[0].removeprefix("# ").strip()


# ---- names


def test_a_public_name_has_one_meaning():
    where = defaultdict(set)
    for module, tree in TREES.items():
        for name, _ in definitions(tree):
            where[name].add(module)
    assert not {n: sorted(m) for n, m in where.items() if len(m) > 1}


def used_names(tree, skip=None):
    "Names that code refers to, outside the definition of `skip`."
    for top in tree.body:
        names = [x.id for x in ast.walk(top) if isinstance(x, ast.Name)]
        names += [x.attr for x in ast.walk(top) if isinstance(x, ast.Attribute)]
        if skip is None or getattr(top, "name", None) != skip:
            yield from names


def test_every_export_is_used_by_another_export_a_page_or_the_documented_api():
    "A test alone is no use, and neither is the page that explains it."
    pages = defaultdict(set)
    for path in PAGES:
        shown = [plain(s) for s in cells(path, "code") if not exported(s)]
        pages[module_of(path)] |= set(used_names(ast.parse("\n".join(shown))))
    package = {m: set(used_names(t)) for m, t in TREES.items()}
    unused = []
    for module, tree in TREES.items():
        for name, _ in definitions(tree):
            others = any(name in u for m, u in package.items() if m != module)
            shown = any(name in u for m, u in pages.items() if m != module)
            if not (others or shown or name in set(used_names(tree, name)) or name in API):
                if not registered(tree, name):
                    unused.append(f"{module}.{name}")
    assert not unused, "\n".join(unused)


def registered(tree, name):
    "Is it a function that a decorator hands to a table, such as a command?"
    return any(getattr(n, "name", None) == name and n.decorator_list for n in tree.body)


# ---- reading


@by_page([PATH[n] for n in sorted(PATH)])
def test_a_page_of_the_path_takes_at_most_25_minutes_and_says_how_many(path):
    need, first = minutes(path), cells(path, "markdown")[0]
    assert need <= 25, f"{need} minutes"
    where = f"**Page {number_of(path)} of the path** · {need} minutes to read"
    assert where in first, f"the first cell should say: {where}"


@by_page([p for p in PAGES if module_of(p) and not number_of(p)])
def test_a_page_of_the_workshop_says_so(path):
    assert "**Workshop**" in cells(path, "markdown")[0]


@by_page([PATH[n] for n in sorted(PATH)])
def test_a_page_of_the_path_closes_with_what_to_take_along(path):
    assert any("\n## Take along" in "\n" + s for s in cells(path, "markdown"))


@by_page(PAGES)
def test_headings_stand_alone(path):
    titles = [x for s in cells(path, "markdown") for x in headings(s)]
    assert titles and titles[0].startswith("# ") and len(set(titles)) == len(titles)
    assert sum(t.startswith("# ") for t in titles) == 1


def headings(source):
    "Headings of a Markdown cell; what stands in a code block is none."
    inside = False
    for line in source.splitlines():
        inside ^= line.startswith("```")
        if not inside and line.startswith("#"):
            yield line


def test_functions_are_short():
    sizes = sorted(lengths())
    n = [size for size, _ in sizes]
    assert n[-1] < 50, [s for s in sizes if s[0] >= 50]
    assert statistics.median(n) <= 9 and n[int(0.9 * len(n))] <= 30, (n[len(n) // 2], n[-60:])


def lengths():
    "(lines without docstring, where) of every function in the package."
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                doc = node.body[0] if ast.get_docstring(node) else None
                size = node.end_lineno - node.lineno + 1
                yield (
                    size - (doc.end_lineno - doc.lineno + 1 if doc else 0),
                    f"{module}:{node.name}",
                )


def test_modules_are_short():
    files = (ROOT / "lens_ref").glob("*/*.py")
    size = {p.name: len(p.read_text("utf8").splitlines()) for p in files}
    assert not {k: v for k, v in size.items() if v >= 600}


def test_a_config_has_few_enough_fields_to_read():
    many = {
        f"{m}.{node.name}": count
        for m, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
        if (count := sum(isinstance(x, ast.AnnAssign) for x in node.body)) > 20
    }
    assert not many


# ---- weight


def test_what_is_tracked_is_light_to_carry():
    run = ["git", "ls-files", "-z"]
    done = subprocess.run(run, capture_output=True, cwd=ROOT)
    if done.returncode:
        pytest.skip("no git history here")
    files = [ROOT / n.decode() for n in done.stdout.split(b"\0") if n]
    size = {p: p.stat().st_size for p in files if p.is_file()}
    assert sum(size.values()) <= 45 * 2**20
    assert sum(v for p, v in size.items() if p.suffix == ".ipynb") <= 12 * 2**20
