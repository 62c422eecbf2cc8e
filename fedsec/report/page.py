"""One self-contained HTML page: no scripts, no outside resources, readable on paper and on a phone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 60rem;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.lead { font-size: 1.15rem; border-left: 4px solid #1565c0; padding: .5rem 1rem; background: #eef4fb; }
.warning { border-left: 4px solid #b26a00; padding: .4rem 1rem; background: #fff6e5; margin: .5rem 0; }
.restricted { border: 2px solid #b3261e; padding: 0 1rem 1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0;
  border-bottom: 1px solid #d8dee6; }
th { font-weight: 600; width: 14rem; } td { overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; } figcaption { font-size: .85rem; }
@media (max-width: 32rem) { th, td { display: block; width: auto; } th { border: 0; padding-bottom: 0; } }
@media print { body { max-width: none; padding: 0; font-size: 11pt; }
  h2 { break-after: avoid; } tr, figure { break-inside: avoid; } }
"""

Table = Mapping[str, str]


def html(
    *,
    title: str,
    lead: str,
    warnings: Sequence[str],
    tables: Mapping[str, Table],
    lists: Mapping[str, Sequence[str]],
    pictures: Mapping[str, str],
    restricted: Mapping[str, Table],
) -> str:
    """A page of a sentence, warnings, tables, pictures (SVG elements) and lists; all text is escaped.

    `restricted` tables come last, in a box that says who they are for.
    """
    name = escape(title)
    body = [f"<h1>{name}</h1>", f'<p class="lead">{escape(lead)}</p>']
    body += [f'<p class="warning">Note: {escape(warning)}.</p>' for warning in warnings]
    body += _tables(tables)
    body += _pictures(pictures)
    body += [part for heading, items in lists.items() for part in _list(heading, items)]
    if restricted:
        body += ['<section class="restricted">', "<h2>For the operator only: covered by no guarantee</h2>"]
        body += [*_tables(restricted), "</section>"]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{_STYLE}</style>"
    )
    content = "\n".join(body)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n</body></html>\n'


def _tables(tables: Mapping[str, Table]) -> Iterator[str]:
    for heading, table in tables.items():
        yield f"<h2>{escape(heading)}</h2>"
        if any(table.values()):
            yield f"<table>{''.join(_row(*row) for row in table.items())}</table>"
        else:
            yield _items(table)


def _row(name: str, value: str) -> str:
    return f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"


def _list(heading: str, items: Iterable[str]) -> Iterator[str]:
    yield f"<h2>{escape(heading)}</h2>"
    yield _items(items)


def _items(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _pictures(pictures: Mapping[str, str]) -> Iterator[str]:
    if not pictures:
        return
    yield '<h2>Curves</h2><div class="pictures">'
    for name, svg in pictures.items():
        yield f"<figure>{svg}<figcaption>{escape(name)}</figcaption></figure>"
    yield "</div>"
