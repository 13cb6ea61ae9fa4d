"""Texts on a terminal and in JSON: escaped control characters, all encodings, closed pipes."""

import json
import subprocess
import sys
import unicodedata

import pytest

from ld4lg_fast.export.runtime import text_display

OBEYED = [*map(chr, [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)])]
OBEYED += ["\u2028", "\u2029", "\udc80", "\ud83d"]
SHOWN = ["é", "Ω", "я", "हिन्दी", "日本語", "עברית", "\u200f", "\u200d", "😀", "\\x1b", "\xa0", "\xad", '"']


@pytest.mark.parametrize("character", OBEYED, ids=lambda character: f"U+{ord(character):04X}")
def test_what_a_terminal_obeys_is_escaped(character):
    text = f"a{character}b"
    shown = text_display.displayed(text)
    assert shown.isascii() and shown.isprintable() and len(shown) > 3
    assert shown.encode().decode("unicode_escape") == text, "the escape names another character"
    stored = text_display.json_text({text: [text]})
    assert json.loads(stored) == {text: [text]} and stored.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", SHOWN)
def test_letters_of_all_scripts_stay(text):
    assert text_display.displayed(text) == text
    stored = text_display.json_text([text])
    assert json.loads(stored) == [text] and (text in ('"', "\\x1b") or text in stored)


def test_no_control_character_is_forgotten():
    controls = {chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cc"}
    assert all(text_display.displayed(character) != character for character in controls)
    assert all(character not in text_display.json_text([character])[1:-1].strip() for character in controls)


def test_a_further_line_is_no_further_item():
    assert text_display.list_item("one\n• two\r\nthree") == "• one\n  • two\\r\n  three"


PRINTS = """
from ld4lg_fast.export.runtime import text_display
with text_display.terminal_output():
    print(text_display.list_item("Très bon 😀 {0}"))
    text_display.print_json(["Très bon 😀 \\x9b"])
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_of_the_terminal_will_do(encoding):
    environment = {"PYTHONIOENCODING": encoding, "PATH": "", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, env=environment)
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    item, _, stored = done.stdout.partition(b"\n")
    assert item == "• Très bon 😀 {0}".encode(encoding, "replace")
    assert json.loads(stored.decode(encoding)) == ["Très bon 😀 \x9b"]


def test_a_reader_that_goes_away_ends_it_quietly():
    endless = PRINTS.replace("    print", "    while True: print")
    command = [sys.executable, "-c", endless]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == text_display.CLOSED_PIPE
