"""What the site has beside ``docs/``: pages that stand elsewhere in the repository, and the list of Python names.

A link that leads to a file of the site is rewritten for it. A link to any other file of the repository keeps its text
only, since the site stands alone. MkDocs calls the ``on_...`` functions (``hooks`` in ``mkdocs.yml``).
"""

import inspect
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "LOG.md": "log.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "studies/README.md": "results/index.md",
}
"""Files of the repository and their pages; links to README lead home, whose text is that of ``docs/index.md``."""
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\[]*)\]\((?P<target>[^)\s]+)\)")
IMAGE_OR_URL = re.compile(r"[a-z]+:|#")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and plots from outside of ``docs/``."""
    tables = {f"studies/{path.parent.name}/tables.md": path for path in ROOT.glob("studies/*/tables.md")}
    for name in [*PAGES, *tables]:
        page = site_path(name)
        if page != "index.md":
            level = InclusionLevel.NOT_IN_NAV if name in tables else InclusionLevel.INCLUDED
            text = (ROOT / name).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text, inclusion=level))
    for path in ROOT.glob("studies/*/plots/*.svg"):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, site_path(name), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite links between files of the repository; add the list of Python names, and the plots of a study."""
    source = repository_path(page.file.src_uri)
    text = LINK.sub(lambda match: rewrite_link(match, source, page.file.src_uri, files), markdown)
    if source == "docs/python.md":
        return text + list_python_names()
    return text + show_plots(ROOT / source) if source.endswith("/tables.md") else text


def rewrite_link(match: re.Match[str], source: str, page: str, files: Files) -> str:
    """The link for the site, or its text alone where the target is no file of the site."""
    path, _, anchor = match["target"].partition("#")
    if IMAGE_OR_URL.match(match["target"]):
        return match[0]
    target = site_path(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
    if files.get_file_from_path(target) is None:
        return match["text"]
    relative = posixpath.relpath(target, posixpath.dirname(page) or ".")
    return f"[{match['text']}]({relative}{'#' if anchor else ''}{anchor})"


def site_path(name: str) -> str:
    """The path on the site of a file of the repository."""
    if name in PAGES:
        return PAGES[name]
    for prefix, place in (("docs/", ""), ("studies/", "results/")):
        if name.startswith(prefix):
            return place + name.removeprefix(prefix)
    return f"../{name}"


def repository_path(page: str) -> str:
    """The file of the repository that a page is made of."""
    names = {place: name for name, place in PAGES.items() if place != "index.md"}
    if page.startswith("results/") and page not in names:
        return f"studies/{page.removeprefix('results/')}"
    return names.get(page, f"docs/{page}")


def show_plots(tables: Path) -> str:
    """The plots beside the tables of a study."""
    images = [f"![{path.stem.replace('-', ' ')}](plots/{path.name})\n" for path in tables.parent.glob("plots/*.svg")]
    return "\n\n".join(["\n\n## Plots", *sorted(images)])


def list_python_names() -> str:
    """A table of every public name with the first sentence of its docstring."""
    import fireact

    rows = []
    for name in fireact.__all__:
        documentation = inspect.getdoc(getattr(fireact, name)) or ""
        sentence = " ".join(documentation.partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
        rows.append(f"| `{name}` | {sentence} |\n")
    return f"\n\n## Every name\n\n| name | what it is |\n|---|---|\n{''.join(rows)}"
