"""Checks what the documents say of tests and files: each name in a `test` column is a test, each
relative link leads somewhere."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def words_of_tests():
    """Every identifier in the sources: names of tests are functions or strings in a table."""
    words = set()
    for source in [*ROOT.glob("crates/**/*.rs"), *ROOT.glob("benches/**/*.rs"), *ROOT.glob("tests/**/*.py")]:
        words.update(re.findall(r"[a-z][a-z0-9_]{5,}", source.read_text()))
    return words


def names_of_tests(text):
    """The names in the last column of tables that have a `test` column, and after `Tests:`, `Shown by`."""
    in_table = False
    for line in text.split("\n"):
        if not line.startswith("|"):
            in_table = False
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[-1] == "test":
            in_table = True
        elif in_table and cells:
            yield from re.findall(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+)+)`", cells[-1])
    for paragraph in text.split("\n\n"):
        if "Tests:" in paragraph or "Shown by" in paragraph:
            tail = re.split(r"Tests:|Shown by", paragraph, maxsplit=1)[1]
            yield from re.findall(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+)+)`", tail)


def main():
    known, wrong = words_of_tests(), []
    for document in DOCUMENTS:
        text, shown = document.read_text(), document.relative_to(ROOT)
        wrong += [f"{shown}: there is no test `{name}`" for name in names_of_tests(text) if name not in known]
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            if not (document.parent / target).exists():
                wrong.append(f"{shown}: the link to `{target}` leads nowhere")
    for problem in wrong:
        print(problem, file=sys.stderr)
    print(f"== {len(DOCUMENTS)} documents checked")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
