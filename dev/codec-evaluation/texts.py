# SPDX-License-Identifier: Apache-2.0
"""usage: texts.py FOLDER_OF_UNPACKED_PACKAGES OUTPUT.jsonl

Training text for profiles: passages of prose, quotations, manuals, program text and other
languages, from the documentation that Debian packages carry (dev/codec-evaluation/setup lists
them). One JSON object a line: `source`, `text`. The same packages give the same passages.
"""
import gzip
import html
import json
import pathlib
import re
import sys

PASSAGE_CHARACTERS = 9000


def read(path):
    data = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    return data.decode("utf-8", "replace")


def without_markup(text):
    text = re.sub(r"(?s)<(script|style|head)\b.*?</\1>", "", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    return re.sub(r"\n\s*\n+", "\n\n", text)


def manual_page(text):
    lines = (line for line in text.splitlines() if not line.startswith((".\\\"", "'\\\"")))
    return "\n".join(re.sub(r"\\f[A-Z]|\\", "", re.sub(r"^\.[A-Z]{1,2} ?", "", line))
                     for line in lines)


def plain(text):
    return text


# Source, files, number of passages, how its text becomes plain.
SOURCES = [
    ("anarchism", "usr/share/doc/anarchism/markdown/sec*.md.gz", 14, plain),
    ("fortunes", "usr/share/games/fortunes/[a-z]*.u8", 6, plain),
    ("fortunes-es", "usr/share/games/fortunes/es/*.fortunes.u8", 3, plain),
    ("reference", "usr/share/debian-reference/ch*.en.html", 5, without_markup),
    ("reference-de", "usr/share/debian-reference/ch*.de.html", 4, without_markup),
    ("manual", "usr/share/man/man[23]/*.gz", 4, manual_page),
    ("manual-fr", "usr/share/man/fr/man[178]/*.gz", 3, manual_page),
    ("go", "usr/share/go-1.19/src/net/*.go", 5, plain),
    ("perl", "usr/share/perl/*/pod/*.pod", 10, plain),
    ("overview", "usr/share/man/man7/*.gz", 6, manual_page),
    ("policy", "usr/share/doc/debian-policy/policy.html/_sources/ch-*.rst.txt", 4, plain),
    ("installation", "usr/share/doc/installation-guide-amd64/en/*.html", 4, without_markup),
    ("go-compiler", "usr/share/go-1.19/src/cmd/compile/internal/*/*.go", 4, plain),
]


def passages(root):
    for source, pattern, count, convert in SOURCES:
        texts = []
        for path in sorted(root.glob(pattern)):
            text = convert(read(path))
            # The middle of long files: licences and tables of contents stand at the beginning.
            if len(text) >= PASSAGE_CHARACTERS * 3 // 2:
                start = (len(text) - PASSAGE_CHARACTERS) // 2
                texts.append(text[start:start + PASSAGE_CHARACTERS])
        if len(texts) < count:
            sys.exit(f"texts.py: {source} has {len(texts)} long texts, {count} are needed")
        for index in range(count):
            yield {"source": source, "text": texts[index * len(texts) // count]}


def main():
    root, output = map(pathlib.Path, sys.argv[1:])
    with output.open("w") as lines:
        for passage in passages(root):
            lines.write(json.dumps(passage) + "\n")


if __name__ == "__main__":
    main()
