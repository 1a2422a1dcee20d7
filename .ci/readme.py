"""Write README.md (and its pictures) from nbs/index.ipynb.

Quarto would do this for nbdev; these lines need nothing but Python."""

import base64
import json
import pathlib
import posixpath
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\(|src=\")(?![a-z]+:|#|/)([^)\"]+)")


def relink(text):
    "Links in the notebook start from nbs/, links in the README from the root."
    return LINK.sub(lambda m: m[1] + posixpath.normpath("nbs/" + m[2]), text)


def shown(cell, files):
    "The outputs of one code cell as Markdown; pictures are added to `files`."
    for o in cell["outputs"]:
        data = {
            k: "".join(v)
            for k, v in {
                **o.get("data", {}),
                **({"text/plain": o["text"]} if "text" in o else {}),
            }.items()
        }
        if "image/png" in data:
            name = f"nbs/images/index-{cell['id']}.png"
            files[name] = base64.b64decode(data["image/png"])
            yield f"![]({name})"
        elif "text/markdown" in data:
            yield relink(data["text/markdown"])
        elif "text/plain" in data:
            yield f"```\n{data['text/plain'].rstrip()}\n```"


def build(notebook=ROOT / "nbs/index.ipynb"):
    "Path -> bytes of README.md and of every picture in it."
    files, parts = {}, ["<!-- Made from nbs/index.ipynb by `make readme`. Edit the notebook. -->"]
    for cell in json.loads(pathlib.Path(notebook).read_text("utf8"))["cells"]:
        source = "".join(cell["source"])
        if re.search(r"^#\| *hide", source, re.M):
            continue
        if cell["cell_type"] == "markdown":
            parts.append(relink(source))
        if cell["cell_type"] == "code":
            code = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip()
            if code and not re.search(r"^#\| *echo: *false", source, re.M):
                parts.append(f"```python\n{code}\n```")
            parts += shown(cell, files)
    return {"README.md": ("\n\n".join(p.strip() for p in parts) + "\n").encode(), **files}


if __name__ == "__main__":
    for name, data in build().items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_bytes(data)
        print(f"wrote {name} ({len(data):,} bytes)")
