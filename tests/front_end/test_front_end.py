"""The real server and the real front end in a headless browser: typing prompts, as a user does."""

import pytest
from front_end import Page, needs_browser
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = needs_browser

# Two references, `first` and `second`, into a chain; `add` and `wire` for the rest.
BUILD = """
    app.graph.clear();
    window.nodes = {};
    window.add = (name, type, x, y) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        return (nodes[name] = node);
    };
    window.wire = (from, output, to, input) =>
        nodes[from].connect(nodes[from].findOutputSlot(output), nodes[to], nodes[to].findInputSlot(input));
    add('models', 'DreamODemoModels', -400, 0);
    add('loader', 'DreamOLoader', -400, 200);
    for (const [i, name] of ['first', 'second'].entries()) {
        add(name + ' picture', 'LoadImage', i * 700, -500).widgets[0].value = name + '.png';
        add(name, 'DreamOReference', i * 700 + 340, -500).title = 'The ' + name;
        wire(name + ' picture', 'IMAGE', name, 'image');
        wire('models', 'VAE', name, 'vae');
    }
    wire('first', 'references', 'second', 'references');
"""

TEXT_ENCODE = """
    add('text', 'DreamOTextEncode', 0, 100).size = [400, 300];
    wire('models', 'CLIP', 'text', 'clip');
    wire('loader', 'DREAMO_MODEL', 'text', 'dreamo_model');
    wire('second', 'references', 'text', 'references');
"""


@pytest.fixture(scope="module")
def server(demo_server):
    Image.new("RGB", (96, 64), "tomato").save(demo_server.base / "input/first.png")
    Image.new("RGB", (64, 96), "royalblue").save(demo_server.base / "input/second.png")
    return demo_server


class PromptPage(Page):
    """The front end with a graph in which a prompt is typed."""

    def build(self, script):
        self.call(BUILD + script)

    def prompt_box(self, name="text"):
        """The text box of a node's prompt, drawn and with the cursor in it."""

        def find():
            self.call(f"app.canvas.ds.scale = 1; app.canvas.centerOnNode(nodes['{name}']); app.canvas.draw(true, true)")
            if self.vue_nodes:
                node_id = self.call(f"return nodes['{name}'].id")
                boxes = self.driver.find_elements(By.CSS_SELECTOR, f"[data-node-id='{node_id}'] textarea")
            else:
                boxes = [
                    self.call(f"return nodes['{name}'].widgets.find((w) => w.element?.tagName === 'TEXTAREA').element")
                ]
            box = next(box for box in boxes if box.is_displayed())
            # Not by a click: Vue nodes are laid out anew and may lie on top of each other.
            self.driver.execute_script("arguments[0].focus()", box)
            return box

        return self.wait(find)

    def offered(self):
        return [e.text for e in self.driver.find_elements(By.CSS_SELECTOR, ".dreamo-placeholders b")]

    def sent(self, name, widget):
        """The value that the server would be sent."""
        return self.call(f"return (await app.graphToPrompt()).output[nodes['{name}'].id].inputs['{widget}']")


@pytest.fixture(scope="module", params=[False, True], ids=["canvas nodes", "vue nodes"])
def page(request, browser, server):
    return PromptPage(browser, server, vue_nodes=request.param)


def test_typing_a_bracket_offers_the_connected_references(page):
    page.build(TEXT_ENCODE)
    box = page.prompt_box()
    box.send_keys("a woman from [")
    assert page.offered() == ["[ref#1]", "[ref#2]"]
    pictures = page.driver.find_elements(By.CSS_SELECTOR, ".dreamo-placeholders img")
    page.wait(lambda: [p.get_property("naturalWidth") for p in pictures] == [96, 64])
    box.send_keys(Keys.ENTER, " and a dog from [R")
    assert page.offered() == ["[ref#1]", "[ref#2]"]
    box.send_keys(Keys.ARROW_DOWN, Keys.TAB, " in the park")
    assert page.offered() == []
    assert page.sent("text", "prompt") == "a woman from [ref#1] and a dog from [ref#2] in the park"


def test_the_list_filters_closes_and_keeps_out_of_the_way(page):
    page.build(TEXT_ENCODE)
    box = page.prompt_box()
    box.send_keys("[ref#2")
    assert page.offered() == ["[ref#2]"]
    box.send_keys(Keys.ESCAPE, "]", Keys.ENTER, "x")
    assert page.offered() == []
    box.send_keys(" \\[")
    assert page.offered() == []
    box.send_keys("ref#1\\] [cat")
    assert page.offered() == []
    assert page.sent("text", "prompt") == "[ref#2]\nx \\[ref#1\\] [cat"
    # A bypassed reference is not in the chain, so the other one is the first now.
    page.call("nodes.first.mode = 4")
    box.send_keys(" [")
    assert page.offered() == ["[ref#1]"]
    assert page.driver.find_element(By.CSS_SELECTOR, ".dreamo-placeholders span").text == "The second"


def test_a_choice_can_be_clicked_and_replaces_what_is_being_changed(page):
    page.build(TEXT_ENCODE)
    box = page.prompt_box()
    box.send_keys("[ref#1] cat", Keys.HOME, *[Keys.ARROW_RIGHT] * 5, Keys.BACKSPACE, "#")
    assert page.offered() == ["[ref#1]", "[ref#2]"]
    page.driver.find_elements(By.CSS_SELECTOR, ".dreamo-placeholders li")[1].click()
    box.send_keys(" big")
    assert page.sent("text", "prompt") == "[ref#2] big cat"


SEVERAL = """
    add('set', 'DreamOReferences', 1700, -500).title = 'The set';
    wire('models', 'VAE', 'set', 'vae');
    wire('first picture', 'IMAGE', 'set', 'image_1');
    wire('second picture', 'IMAGE', 'set', 'image_3');
    nodes.set.widgets.find((w) => w.name === 'resolution').value = 64;
    nodes.first.widgets.find((w) => w.name === 'resolution').value = 64;
"""


def labels(page):
    return [e.text for e in page.driver.find_elements(By.CSS_SELECTOR, ".dreamo-placeholders span")]


def widths(page):
    pictures = page.driver.find_elements(By.CSS_SELECTOR, ".dreamo-placeholders img")
    return [picture.get_property("naturalWidth") for picture in pictures]


def test_a_node_of_several_pictures_counts_for_each_of_them(page):
    """Two of three slots are used; what is behind them in the chain is the third reference."""
    page.build(TEXT_ENCODE + SEVERAL + "wire('set', 'references', 'second', 'references');")
    box = page.prompt_box()
    box.send_keys("[")
    assert page.offered() == ["[ref#1]", "[ref#2]", "[ref#3]"]
    assert labels(page) == ["The set (1)", "The set (2)", "The second"]
    page.wait(lambda: widths(page) == [96, 64, 64])
    # A picture that is muted is as if it were not connected.
    page.call("nodes['first picture'].mode = 2")
    box.send_keys("r")
    assert page.offered() == ["[ref#1]", "[ref#2]"] and labels(page) == ["The set", "The second"]


def test_a_batch_counts_its_pictures_once_it_has_run(page):
    page.build(
        TEXT_ENCODE
        + """
        add('both', 'ImageBatch', 1300, -800);
        wire('first picture', 'IMAGE', 'both', 'image1');
        wire('second picture', 'IMAGE', 'both', 'image2');
        add('batch', 'DreamOReferenceBatch', 1700, -500).title = 'The batch';
        nodes.batch.widgets.find((w) => w.name === 'resolution').value = 64;
        wire('models', 'VAE', 'batch', 'vae');
        wire('both', 'IMAGE', 'batch', 'images');
        wire('batch', 'references', 'second', 'references');
        nodes.second.widgets.find((w) => w.name === 'resolution').value = 64;
        """
    )
    box = page.prompt_box()
    box.send_keys("[")
    # Nobody knows yet how many there are, so all numbers may be right.
    assert page.offered() == [f"[ref#{n}]" for n in range(1, 10)]
    box.send_keys(Keys.ESCAPE, Keys.BACKSPACE)
    page.call("add('end', 'PreviewAny', 2200, 100); wire('second', 'references', 'end', 'source');")
    page.call("await app.queuePrompt(0)")
    page.wait(lambda: page.call("return app.nodeOutputs?.[nodes.second.id]?.images?.length === 1"))
    box = page.prompt_box()
    box.send_keys("[")
    assert page.offered() == ["[ref#1]", "[ref#2]", "[ref#3]"]
    assert labels(page) == ["The batch (1)", "The batch (2)", "The second"]
    page.wait(lambda: len(widths(page)) == 3 and all(widths(page)))


def test_the_hosts_prompt_boxes_offer_them_behind_the_patched_clip_only(page):
    page.build(
        """
        add('text', 'CLIPTextEncode', 0, 100).size = [400, 300];
        wire('models', 'CLIP', 'text', 'clip');
        add('guidance', 'FluxGuidance', 900, 100);
        add('apply', 'DreamOApply', 1400, 100);
        wire('text', 'CONDITIONING', 'guidance', 'conditioning');
        wire('guidance', 'CONDITIONING', 'apply', 'positive');
        wire('second', 'references', 'apply', 'references');
        """
    )
    box = page.prompt_box()
    box.send_keys("[")
    assert page.offered() == []
    page.call(
        """
        add('patch', 'DreamOPlaceholders', -900, 400);
        wire('models', 'CLIP', 'patch', 'clip');
        wire('patch', 'clip', 'text', 'clip');
        """
    )
    box.send_keys("r")
    assert page.offered() == ["[ref#1]", "[ref#2]"]


def test_dynamic_prompts_are_left_to_the_front_end(page):
    page.build(TEXT_ENCODE)
    page.call("nodes.text.widgets[0].value = '{[ref#1]|[ref#1]} and {{a}} \\\\{b\\\\} \\\\[ref#2\\\\] /* gone */cat'")
    assert page.sent("text", "prompt") == "[ref#1] and a {b} \\[ref#2\\] cat"


def test_a_run_notes_what_is_not_named(page):
    page.build(
        TEXT_ENCODE
        + """
        add('apply', 'DreamOApply', 1500, 100);
        wire('models', 'MODEL', 'apply', 'model');
        wire('text', 'positive', 'apply', 'positive');
        wire('second', 'references', 'apply', 'references');
        wire('loader', 'DREAMO_MODEL', 'apply', 'dreamo_model');
        add('end', 'PreviewAny', 2200, 100);
        wire('apply', 'positive', 'end', 'source');
        for (const name of ['first', 'second']) nodes[name].widgets.find((w) => w.name === 'resolution').value = 64;
        """
    )
    # A prompt of its own: what a server has done before, it does not tell again.
    page.prompt_box().send_keys(f"only [ref#1] here, vue {page.vue_nodes}")
    page.call("await app.queuePrompt(0)")

    def note():
        shown = [e.text for e in page.driver.find_elements(By.CSS_SELECTOR, ".p-toast-message") if e.is_displayed()]
        return next(text for text in shown if text.startswith("DreamO Apply"))

    assert "Not named in the prompt: [ref#2]." in page.wait(note)


def test_scripts_are_served_once_and_help_is_where_the_front_end_looks(server, page):
    scripts = [path for path in server.get("/extensions") if path.endswith(("/js/placeholders.js", "/js/graph.js"))]
    assert len(scripts) == 2
    for name in ("DreamOTextEncode", "DreamOPlaceholders"):
        text = page.call(
            f"""
            const module = (await (await fetch('/object_info/{name}')).json()).{name}.python_module.split('.')[1];
            const answer = await fetch(`/extensions/${{module}}/docs/{name}.md`);
            return answer.ok ? await answer.text() : 'ERROR ' + answer.status;
            """
        )
        assert text.startswith("# ")
