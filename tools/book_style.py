"""One small style sheet for the whole book, in place of the theme's ten.

Most of the theme's rules are for things that no page of this book has. A rule stays if every class
and id that its selector asks for is a word of some page or script. So a class that a script adds
later keeps its rules, too.
"""

import hashlib
import re

import tinycss2

LINK = re.compile(r'<link (?=[^>]*rel="stylesheet")[^>]*href="(?P<href>[^"?]*)[^>]*>\s*')
IMPORT = re.compile(r'@import "(?P<href>[^"]+)";')
NAME = "_static/style.css"


def sheets_of(page):
    """The style sheets of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [(page.parent / found["href"]).resolve() for found in LINK.finditer(text)]


def text_of(sheet):
    """A style sheet with those that it imports."""
    return IMPORT.sub(
        lambda found: text_of((sheet.parent / found["href"]).resolve()),
        sheet.read_text(encoding="utf-8"),
    )


def selectors(prelude):
    """The selectors of a rule: lists of tokens."""
    found = [[]]
    for token in prelude:
        if token == ",":
            found.append([])
        else:
            found[-1].append(token)
    return found


def names(selector):
    """The classes and ids that a selector asks for, but for those inside :not() and the like."""
    after_dot = False
    for token in selector:
        if token.type == "hash" or (after_dot and token.type == "ident"):
            yield token.value
        after_dot = token == "."


def needed(rules, words):
    """The text of the rules that may match something."""
    for rule in rules:
        if rule.type == "qualified-rule":
            kept = [one for one in selectors(rule.prelude) if words.issuperset(names(one))]
            if kept:
                head = ",".join(tinycss2.serialize(one).strip() for one in kept)
                yield f"{head}{{{tinycss2.serialize(rule.content).strip()}}}\n"
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
            inner = "".join(needed(tinycss2.parse_rule_list(rule.content, True, True), words))
            if inner:
                yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}\n"
        elif rule.type == "at-rule":
            yield rule.serialize() + "\n"


def join(folder):
    """Write the one style sheet of the book that lies in `folder`, and let all pages use it.

    A page of an earlier build has it already, and says nothing of the theme's sheets.
    """
    pages = sorted(page for page in folder.rglob("*.html") if sheets_of(page))
    sheets = list(dict.fromkeys(sheet for page in pages for sheet in sheets_of(page)))
    sheets = [sheet for sheet in sheets if sheet != folder / NAME]
    if not sheets:
        return
    sources = [*pages, *folder.glob("_static/**/*.js")]
    words = set(re.findall(r"[\w-]+", " ".join(path.read_text("utf-8") for path in sources)))
    rules = tinycss2.parse_stylesheet("\n".join(map(text_of, sheets)), True, True)
    style = re.sub(r"/\*.*?\*/", "", "".join(needed(rules, words)), flags=re.DOTALL)
    (folder / NAME).write_text(style, encoding="utf-8")
    version = hashlib.sha256(style.encode()).hexdigest()[:8]
    for page in pages:
        up = "../" * (len(page.relative_to(folder).parts) - 1)
        one = f'<link rel="stylesheet" href="{up}{NAME}?v={version}">\n'
        before, _, after = LINK.sub("\0", page.read_text(encoding="utf-8")).partition("\0")
        page.write_text(before + one + after.replace("\0", ""), encoding="utf-8")
