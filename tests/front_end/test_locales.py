"""Texts in the languages of `locales`: complete, as the schemas say them, and shown by the front end."""

import json
import re

import pytest
from build_locales import english, escaped
from front_end import Page, needs_browser
from support import REPO

LOCALES = REPO / "locales"
LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir())
TRANSLATED = [language for language in LANGUAGES if language != "en"]

# What a translation must keep as it is: placeholders, file and folder names, paths.
KEPT = re.compile(
    r"\\?\[re[sf](?:#\d)?\\?\]|[\w.-]+\.safetensors|models/\w+|generate a same style image\.|\d+(?:\.\d+)?"
)


def read(language, name="nodeDefs"):
    return json.loads((LOCALES / language / f"{name}.json").read_text())


def messages(tree, path=()):
    """All texts of a locale file by their key."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from messages(value, (*path, key))
        else:
            yield ".".join((*path, key)), value


def unescaped(message):
    return re.sub(r"\{'(.)'\}", r"\1", message)


def test_there_is_english_and_chinese():
    assert {"en", "zh"} <= set(LANGUAGES)


def test_english_is_what_the_schemas_say(demo_server):
    assert read("en") == english(demo_server.object_info()), "run scripts/build_locales.py"


@pytest.mark.parametrize("name", ["nodeDefs", "main"])
@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_is_complete(language, name):
    original, translated = dict(messages(read("en", name))), dict(messages(read(language, name)))
    assert original.keys() == translated.keys()
    assert all(text.strip() for text in translated.values())


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_keeps_placeholders_files_and_numbers(language):
    original, translated = dict(messages(read("en"))), dict(messages(read(language)))
    for key, text in original.items():
        if key.endswith(("description", "tooltip")):
            assert set(KEPT.findall(text)) <= set(KEPT.findall(translated[key])), key


def test_chinese_is_chinese():
    """Every tooltip and description; names may be what everybody calls them, such as CLIP."""
    for key, text in messages(read("zh")):
        if key.endswith(("description", "tooltip")) and key != "DreamOModelStack.inputs.model.tooltip":
            assert re.search(r"[\u4e00-\u9fff]", text), key


def test_special_characters_are_escaped():
    assert escaped("a@b {c|d}") == "a{'@'}b {'{'}c{'|'}d{'}'}"
    assert unescaped(escaped("a@b {c|d}")) == "a@b {c|d}"


def test_the_server_hands_them_out(demo_server):
    served = demo_server.get("/i18n")
    for language in LANGUAGES:
        for key, text in read(language).items():
            assert served[language]["nodeDefs"][key] == text


class TestInTheFrontEnd:
    pytestmark = needs_browser

    # The page's own translation of each key.
    TRANSLATE = """
        const { $t } = document.querySelector('#vue-app').__vue_app__.config.globalProperties;
        return Object.fromEntries(args[0].map((key) => [key, $t(key)]));
    """
    SHOWN = """
        app.graph.clear();
        const node = LiteGraph.createNode('DreamOReference');
        app.graph.add(node);
        app.canvas.ds.scale = 1;
        app.canvas.centerOnNode(node);
        await new Promise((done) => setTimeout(done, 500));
        const shown = document.querySelector(`[data-node-id='${node.id}']`);
        return {
            title: node.title, page: shown?.innerText,
            widgets: Object.fromEntries(node.widgets.map((w) => [w.name, w.label])),
            outputs: node.outputs.map((o) => o.localized_name),
        };
    """

    # ComfyUI 0.3.75's front end reads its own texts of a language after those of the packs and thereby loses the
    # latter (Comfy-Org/ComfyUI_frontend, pull request 7214, mends it). This does what the mended one does.
    MERGE = """
        const { provides } = document.querySelector('#vue-app').__vue_app__._context;
        const i18n = Object.getOwnPropertySymbols(provides).map((key) => provides[key]).find((v) => v?.global?.te);
        const own = () => i18n.global.messages.value[args[0]]?.g;
        for (let i = 0; i < 100 && !own(); i++) await new Promise((done) => setTimeout(done, 50));
        i18n.global.mergeLocaleMessage(args[0], (await (await fetch('/i18n')).json())[args[0]]);
        await app.refreshComboInNodes();
    """

    @pytest.fixture(params=LANGUAGES)
    def language(self, request):
        return request.param

    @pytest.fixture
    def page(self, browser, demo_server, language):
        page = Page(browser, demo_server, vue_nodes=True)
        set_language = "await app.extensionManager.setting.set('Comfy.Locale', args[0])"
        page.call(set_language, language)
        page.reload()
        page.call(self.MERGE, language)
        yield page
        page.call(set_language, "en")

    def test_nodes_show_their_texts(self, page, language):
        texts = read(language)
        expected = {f"nodeDefs.{key}": unescaped(text) for key, text in messages(texts)}
        expected |= {key: unescaped(text) for key, text in messages(read(language, "main"))}
        assert page.call(self.TRANSLATE, list(expected)) == expected

        reference = texts["DreamOReference"]
        shown = page.call(self.SHOWN)
        assert shown["title"] == reference["display_name"]
        assert shown["widgets"]["strength"] == reference["inputs"]["strength"]["name"]
        assert shown["outputs"] == [reference["outputs"]["0"]["name"], reference["outputs"]["1"]["name"]]
        for text in (reference["display_name"], reference["inputs"]["start_percent"]["name"]):
            assert text in shown["page"]
