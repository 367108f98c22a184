"""The pages speak the reader's language: all of it, with that language's plurals and figures."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest
from babel.messages.catalog import Catalog, Message
from fastapi.testclient import TestClient

from db.queries import taxa
from service.web import figures, terms, told, words
from service.web.told_forms import FORMS

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TEMPLATES = REPOSITORY / "service" / "web" / "templates"
PLACEHOLDER = re.compile(r"%\((\w+)\)[sd]")


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("words_script", REPOSITORY / "scripts/words.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


@pytest.fixture(scope="module")
def said() -> Catalog:
    """What templates, Python and JavaScript of the pages say now."""
    return SCRIPT.extracted()


def key(message: Message) -> tuple[str | None, str]:
    text = message.id if isinstance(message.id, str) else message.id[0]
    return message.context, text


def forms(text: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    return (text or "",) if isinstance(text, str | None) else tuple(text)


# --------------------------------------------------------------------------------- the catalogues


@pytest.mark.parametrize("language", sorted(SCRIPT.po_files()))
def test_every_text_of_the_pages_is_in_the_catalogue(language: str, said: Catalog) -> None:
    written = SCRIPT.read(language, SCRIPT.po_files()[language])
    assert {key(one) for one in said if one.id} == {key(one) for one in written if one.id}, (
        "run `make words`, then translate what is new"
    )
    plural = {key(one) for one in said if one.pluralizable}
    assert plural == {key(one) for one in written if one.pluralizable}


def test_russian_lacks_nothing_and_guesses_nothing() -> None:
    russian = SCRIPT.read("ru", SCRIPT.po_files()["ru"])
    missing = [key(one) for one in russian if one.id and not all(forms(one.string))]
    assert missing == []
    assert [key(one) for one in russian if one.fuzzy and one.id] == []
    assert {len(forms(one.string)) for one in russian if one.pluralizable} == {3}


@pytest.mark.parametrize("language", sorted(SCRIPT.po_files()))
def test_a_translation_fills_in_the_same_values(language: str) -> None:
    """A value whose name begins with `_` is English grammar, which a language may leave out."""
    for one in SCRIPT.read(language, SCRIPT.po_files()[language]):
        if not one.id:
            continue
        known = {name for text in forms(one.id) for name in PLACEHOLDER.findall(text)}
        needed = {name for name in PLACEHOLDER.findall(forms(one.id)[-1]) if name[0] != "_"}
        for translation in filter(None, forms(one.string)):
            used = set(PLACEHOLDER.findall(translation))
            assert needed <= used <= known, (key(one), translation)
            # Whatever is left of a `%` after the values were filled in would fail at the reader.
            rest = PLACEHOLDER.sub("", translation).replace("%%", "")
            assert "%" not in rest or "%" in forms(one.id)[0], translation


@pytest.mark.parametrize("language", sorted(SCRIPT.po_files()))
def test_a_translation_keeps_the_marks_of_its_text(language: str) -> None:
    """Tags are the same in every language, and a command that is typed is never another one."""
    tag, typed = re.compile(r"</?[a-z]+[^>]*>"), re.compile(r"`[^`]+`")
    for one in SCRIPT.read(language, SCRIPT.po_files()[language]):
        text = forms(one.id)[-1]
        for translation in filter(None, forms(one.string) if one.id else ()):
            assert sorted(tag.findall(translation)) == sorted(tag.findall(text)), translation
            assert set(typed.findall(translation)) <= set(typed.findall(text)), translation


# ----------------------------------------------------------------- nothing is said past the words


def _bare_texts(source: str) -> Iterator[str]:
    """Texts of a template that are neither code nor a tag, and attributes that are read out."""
    source = re.sub(r"\{#.*?#\}", "", source, flags=re.DOTALL)
    source = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", source, flags=re.DOTALL)
    readable = r'\s(?:aria-label|aria-description|title|placeholder|alt|data-confirm)="([^"]*)"'
    yield from re.findall(readable, source)
    source = re.sub(r"<(script|style)\b.*?</\1>", "", source, flags=re.DOTALL)
    source = re.sub(r"<(kbd|code)\b.*?</\1>", "", source, flags=re.DOTALL)
    yield from re.split(r"<[^>]*>", source)


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_templates_say_nothing_past_the_catalogue(template: Path) -> None:
    names = {"Resight", "UTC", "rs_…"}
    bare = {" ".join(text.split()) for text in _bare_texts(template.read_text(encoding="utf-8"))}
    assert {t for t in bare if re.search(r"[^\W\d_]{2}", t.replace("&middot;", ""))} <= {
        *names,
        *(f"· {name}" for name in names),
    }


# ------------------------------------------------------------------------------ the reader's choice


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        (None, None, "en"),
        (None, "ru-RU,ru;q=0.9,en;q=0.8", "ru"),
        (None, "de, fr;q=0.5, *;q=0.1", "en"),
        (None, "en;q=0.3, ru;q=0.7", "ru"),
        (None, "ru;q=0, en", "en"),
        (None, "ru;q=much, en", "en"),
        ("en", "ru", "en"),
        ("xx", "ru", "ru"),
        ("../../etc", None, "en"),
    ],
)
def test_a_choice_goes_before_the_browser_and_english_is_left(
    chosen: str | None, accepted: str | None, language: str
) -> None:
    assert words.choose(chosen, accepted) == language


def test_a_page_says_in_which_language_it_is(client: TestClient) -> None:
    page = client.get("/jobs", headers={"Accept-Language": "ru"})
    assert '<html lang="ru">' in page.text
    assert ">Задания</h1>" in page.text
    assert "Accept-Language" in page.headers["Vary"]
    assert '<html lang="en">' in client.get("/jobs").text


def test_a_choice_is_kept_and_the_page_shown_again(client: TestClient) -> None:
    form = {"language": "ru", "theme": "dark", "back": "/jobs?cursor=1"}
    answer = client.post("/settings/appearance", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/jobs?cursor=1")
    page = client.get("/jobs").text
    assert '<html lang="ru" data-theme="dark">' in page
    client.post("/settings/appearance", data={"language": "en", "theme": ""})
    assert '<html lang="en">' in client.get("/jobs").text


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "/\\evil", "", "x"])
def test_the_way_back_stays_on_this_site(client: TestClient, back: str) -> None:
    answer = client.post("/settings/appearance", data={"back": back}, follow_redirects=False)
    assert answer.headers["Location"] == "/"


# ---------------------------------------------------------------------------------------- figures


def test_figures_are_those_of_the_language() -> None:
    with words.speaking("en"):
        assert figures.number(1204) == "1,204"
        assert figures.number(0.91, 3) == "0.910"
        assert figures.percent(0.871, 1) == "87.1%"
        assert figures.day(date(2026, 5, 4)) == "4 May 2026"
        assert terms.photos(1) == "1 photo"
    with words.speaking("ru"):
        assert figures.number(1204) == "1\u00a0204"
        assert figures.number(0.91, 3) == "0,910"
        assert figures.percent(0.871, 1) == "87,1\u00a0%"
        assert figures.day(date(2026, 5, 4)) == "4 мая 2026\u202fг."
        counted = [terms.photos(n) for n in (1, 2, 5, 11, 21)]
        assert counted == ["1 фото", "2 фото", "5 фото", "11 фото", "21 фото"]
        found = [terms.individuals(n) for n in (1, 2, 5, 11, 21)]
        assert found == ["1 особь", "2 особи", "5 особей", "11 особей", "21 особь"]


def test_a_value_is_escaped_and_a_text_of_ours_is_not() -> None:
    shown = words.markup(
        "<strong>%(name)s</strong> was left out. %(reason)s", name="<b>", reason=""
    )
    assert shown == "<strong>&lt;b&gt;</strong> was left out. "


def test_every_known_taxon_has_a_common_name_in_every_language() -> None:
    assert {scientific.lower(): common for scientific, common, _aphia, _labels in taxa._KNOWN} == {
        scientific: lazily.text for scientific, lazily in terms.COMMON_NAMES.items()
    }
    with words.speaking("ru"):
        assert terms.common_name("Orcinus orca") == "Косатка"
        assert terms.common_name("Foo bar", "foo") == "Foo"


# --------------------------------------------------------------- sentences of the layers below


def _sentences(folder: str) -> Iterator[str]:
    """Every text of the code, with `{}` where an f-string has a value."""
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        if path.name == "told_forms.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "{}"
                    for part in node.values
                )


def test_each_form_is_one_that_the_code_says() -> None:
    """What was worded anew below would otherwise go on in English without anybody noticing."""
    code = {s for folder in ("db", "indexer", "models", "service") for s in _sentences(folder)}
    forms_of = {one.text: PLACEHOLDER.sub("{}", one.text).replace("%%", "%") for one in FORMS}
    assert {text for text, form in forms_of.items() if form not in code} == set()


def test_a_sentence_from_below_is_told_in_the_readers_language() -> None:
    sentence = "The best probability is 0.020, below 0.050."
    with words.speaking("en"):
        assert told.told(sentence) == sentence
    with words.speaking("ru"):
        worded = told.told(sentence)
        assert "0,020" in worded
        assert "0,050" in worded
        assert not re.search("[a-z]", worded)
        assert told.told("Nobody says this.") == "Nobody says this."
        several = told.told(f"{sentence} It is where true matches are. Nobody says this.")
        assert several.startswith(worded)
        assert several.endswith("совпадения. Nobody says this.")
