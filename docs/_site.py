"""What the site adds to `docs/`: the pages that stand at the top of the repository, under the same names.

In the repository README links to docs/x.md and docs/x.md to ../SPEC.md; on the site all pages lie in one
directory, so such links lose their way in or out. What is not a page (code, examples) is left as plain text.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md"} | {
    name: name for name in ("README.zh.md", "SPEC.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
}
LINK = re.compile(r"\[([^\]]*)\]\((\.\./|docs/)?([^)#:\s]*)(#[^)\s]*)?\)")


def on_files(files, config):
    """The pages from the top of the repository join those in docs/."""
    for name, page in PAGES.items():
        if (ROOT / name).exists():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links between docs/ and the top of the repository, as they are on the site."""

    def rewritten(match):
        text, _, target, anchor = match.groups()
        target = PAGES.get(target, target)
        if target and files.get_file_from_path(target) is None:
            return text
        return f"[{text}]({target}{anchor or ''})"

    return markdown if page.file.src_uri.startswith("reference/") else LINK.sub(rewritten, markdown)
