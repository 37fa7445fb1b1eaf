"""The card as HTML, for loggers that do not show Markdown."""

from __future__ import annotations

_STYLE = """<style>
body { font: 14px/1.5 system-ui, sans-serif; margin: 1em; }
table { border-collapse: collapse; margin-bottom: 1em; }
th, td { border: 1px solid #ccc; padding: 0.2em 0.6em; text-align: left; vertical-align: top; }
</style>
"""


def card_html(card: str) -> str:
    """The card as a page of HTML without links to anything outside of it.

    Args:
        card: The card as Markdown (`mfu_callback.board.card.card`).
    """
    from markdown_it import MarkdownIt  # here, since few runs need it

    html: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(card)
    return _STYLE + html
