"""Says which links within a site lead nowhere: python tools/site_links.py FOLDER"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and what it refers to."""

    def __init__(self, file):
        super().__init__()
        self.anchors, self.targets = {""}, set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id", ""))
        self.targets.add(attrs.get("href", "") if tag in ("a", "link") else attrs.get("src", ""))


def dead_links(folder):
    """All (page, target) where the target is in the folder and not there."""
    pages = {file.resolve(): Page(file) for file in folder.rglob("*.html")}
    for file, page in sorted(pages.items()):
        for target in sorted(page.targets):
            address = urlsplit(target)
            if address.scheme or address.netloc:
                continue
            there = (file.parent / unquote(address.path)).resolve() if address.path else file
            anchor = unquote(address.fragment)
            if not there.exists() or (there in pages and anchor not in pages[there].anchors):
                yield file.relative_to(folder.resolve()), target


def main():
    folder = Path(sys.argv[1])
    dead = list(dead_links(folder))
    for page, target in dead:
        print(f"{page}: {target} leads nowhere")
    if dead or not (folder / "index.html").exists():
        sys.exit(1)
    print(f"{folder}: every link within the site leads somewhere")


if __name__ == "__main__":
    main()
