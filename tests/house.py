"""The structure of the project as its files tell it: pages, their modules, who imports whom."""

import ast
import json
import math
import pathlib
import re
from collections import defaultdict

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted(
    p
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if not p.name.startswith(("_", ".")) and ".ipynb_checkpoints" not in p.parts
)
DIRECTIVE = re.compile(r"^\s*#\| *(\w+)(?: +(\S+))?", re.M)


def cells(path, kind):
    "Sources of the cells of one kind."
    found = json.loads(path.read_text("utf8"))["cells"]
    return ["".join(c["source"]) for c in found if c["cell_type"] == kind]


def module_of(path):
    "The module that a page exports, without the package's name; None for none."
    for source in cells(path, "code"):
        if m := re.search(r"^#\| *default_exp +(\S+)", source, re.M):
            return m[1]


def number_of(path):
    "Place on the path; None for a page of the workshop."
    m = re.match(r"(\d\d)_", path.name)
    return int(m[1]) if m and path.parent != ROOT / "nbs" else None


PATH = {number_of(p): p for p in PAGES if number_of(p)}
MODULES = {m: p for p in PAGES if (m := module_of(p))}


def exported(source):
    return re.search(r"^#\| *export\b", source, re.M) is not None


def code_lines(source):
    "Lines to read: neither blank nor a directive of nbdev."
    return [x for x in source.splitlines() if x.strip() and not DIRECTIVE.match(x)]


def minutes(path):
    "Minutes to read a page: 200 words or 20 lines of code a minute, rounded up."
    words = sum(len(s.split()) for s in cells(path, "markdown"))
    lines = sum(len(code_lines(s)) for s in cells(path, "code"))
    return math.ceil(words / 200 + lines / 20)


def imports_of(tree, module):
    "Modules of the package that `tree` imports, at any depth of nesting."
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            name = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            if not node.level:
                if name.split(".")[0] != "lens_ref":
                    continue
                name = name.removeprefix("lens_ref").strip(".")
            whole = [name, *(f"{name}.{a.name}".strip(".") for a in node.names)]
            yield from (n for n in whole if n in MODULES)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.startswith("lens_ref."):  # for importlib, or a command that starts it
                yield from (n for n in [node.value.removeprefix("lens_ref.")] if n in MODULES)
        elif isinstance(node, ast.Import):
            names = [a.name.removeprefix("lens_ref.") for a in node.names]
            yield from (n for n in names if n in MODULES)


def package_imports():
    "Module -> modules it imports, lazily or not."
    out = defaultdict(set)
    for module in MODULES:
        path = ROOT / "lens_ref" / (module.replace(".", "/") + ".py")
        out[module] |= set(imports_of(ast.parse(path.read_text("utf8")), module)) - {module}
    return out


def reach(start, edges):
    "All that can be reached from `start`, itself left out unless it lies on a cycle."
    seen, todo = set(), [start]
    while todo:
        for other in edges.get(todo.pop(), ()):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return seen


def definitions(tree):
    "Public names that a module defines at its top level, each with its node."
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            ends = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [x.id for t in ends for x in ast.walk(t) if isinstance(x, ast.Name)]
        else:
            found = []
        yield from ((name, node) for name in found if not name.startswith("_"))
