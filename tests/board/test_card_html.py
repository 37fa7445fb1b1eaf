from html.parser import HTMLParser

from mfu_callback.board.card_html import card_html


class Cells(HTMLParser):
    """The text of each cell of a table."""

    def __init__(self):
        super().__init__()
        self.cells, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        if self.cells and data.strip():
            self.cells[-1] += data


def test_the_tables_of_a_card_are_tables_and_its_characters_are_those_that_were_meant():
    parser = Cells()
    parser.feed(card_html("| | |\n| --- | --- |\n| model | My&#95;Net&lt;2&gt; |\n| peak | a &#124; b |"))
    assert parser.cells == ["model", "My_Net<2>", "peak", "a | b"]


def test_nothing_of_a_card_is_taken_for_html():
    parser = Cells()
    parser.feed(card_html("<script>alert(1)</script>"))
    assert "script" not in parser.tags
