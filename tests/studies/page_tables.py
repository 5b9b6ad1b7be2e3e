"""Tables on pages of the documentation, made from rows of cells and found between two comments."""


def markdown(rows):
    """Return a table whose first row is the header."""
    header, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([header, "|" + "---|" * len(rows[0]), *body]) + "\n"


def split(page, start, end):
    """Return the text of a page before the block between two comments, the block, and the text after it."""
    before, start, rest = page.read_text().partition(f"<!-- {start} -->\n")
    block, end, after = rest.partition(f"<!-- {end} -->\n")
    assert start, f"{page.name} must have the first comment"
    assert end, f"{page.name} must have the comment that ends the block"
    return before + start, block, end + after
