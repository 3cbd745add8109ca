// Offers the placeholders of the connected references while a prompt is typed, and shows what a run notes about them.

import { app } from "../../../scripts/app.js";
import { clipKnowsPlaceholders, label, MAX_REFERENCES, referencesFor, thumbnail } from "./graph.js";

const OURS = "DreamOTextEncode";
// Prompt boxes of the host, which understand placeholders behind DreamO Placeholders. CLIP-L only sees text.
const HOST_PROMPTS = { CLIPTextEncode: "text", CLIPTextEncodeFlux: "t5xxl" };

const STYLE = `
.dreamo-placeholders { position: fixed; z-index: 10000; margin: 0; padding: 4px; list-style: none;
  background: var(--comfy-menu-bg, #353535); color: var(--input-text, #ddd); font: 13px sans-serif;
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 6px; box-shadow: 0 4px 12px #0008; }
.dreamo-placeholders li { display: flex; align-items: center; gap: 8px; padding: 3px 8px; border-radius: 4px;
  cursor: pointer; }
.dreamo-placeholders li[aria-selected="true"] { background: var(--comfy-input-bg, #222); }
.dreamo-placeholders img, .dreamo-placeholders i { width: 32px; height: 32px; object-fit: contain; flex: none; }
.dreamo-placeholders b { font-weight: 600; }
.dreamo-placeholders span { opacity: 0.7; max-width: 16em; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }`;

/** The node a text box belongs to, in either way the front end draws nodes, and the name of its widget if known. */
function ownerOf(textarea) {
  const graph = app.canvas?.graph ?? app.graph;
  for (const node of graph.nodes) {
    const widget = node.widgets?.find((w) => w.element === textarea || w.inputEl === textarea);
    if (widget) return { node, name: widget.name };
  }
  const id = textarea.closest("[data-node-id]")?.dataset.nodeId;
  return { node: id == null ? null : graph.getNodeById(id), name: null };
}

/** What can be offered in this text box: placeholders with the references they stand for. */
function choicesFor(textarea) {
  const { node, name } = ownerOf(textarea);
  if (!node) return [];
  const host = HOST_PROMPTS[node.comfyClass];
  if (node.comfyClass !== OURS && !(host && (name === null || name === host) && clipKnowsPlaceholders(node))) return [];
  return referencesFor(node)
    .slice(0, MAX_REFERENCES)
    .map((reference, i) => ({ text: `[ref#${i + 1}]`, reference }));
}

/** Where the cursor is on screen: a copy of the text box, cut off there, has its end in the same place. */
function cursorPlace(textarea) {
  const box = textarea.getBoundingClientRect();
  const scale = box.width / textarea.offsetWidth || 1;
  const mirror = document.createElement("div");
  const style = getComputedStyle(textarea);
  for (const key of ["boxSizing", "padding", "border", "font", "letterSpacing", "lineHeight", "wordSpacing"]) {
    mirror.style[key] = style[key];
  }
  Object.assign(mirror.style, {
    position: "absolute", visibility: "hidden", whiteSpace: "pre-wrap", overflowWrap: "break-word",
    width: `${textarea.clientWidth}px`,
  });
  mirror.textContent = textarea.value.slice(0, textarea.selectionStart);
  const end = mirror.appendChild(document.createElement("span"));
  end.textContent = "\u200b";
  document.body.append(mirror);
  const x = box.left + (end.offsetLeft - textarea.scrollLeft) * scale;
  const y = box.top + (end.offsetTop + end.offsetHeight - textarea.scrollTop) * scale;
  mirror.remove();
  return { x, y: Math.min(y, box.bottom) };
}

/** The list of choices below the cursor; there is at most one. */
class Popup {
  constructor(textarea, start, choices) {
    this.textarea = textarea;
    this.start = start;
    this.choices = choices;
    this.selected = 0;
    this.list = document.createElement("ul");
    this.list.className = "dreamo-placeholders";
    this.list.setAttribute("role", "listbox");
    this.list.append(...choices.map((choice, i) => this.item(choice, i)));
    document.body.append(this.list);
    const { x, y } = cursorPlace(textarea);
    this.list.style.left = `${Math.max(0, Math.min(x, innerWidth - this.list.offsetWidth))}px`;
    this.list.style.top = `${Math.max(0, Math.min(y + 2, innerHeight - this.list.offsetHeight))}px`;
    this.select(0);
  }

  item({ text, reference }, i) {
    const item = document.createElement("li");
    item.setAttribute("role", "option");
    const source = thumbnail(reference);
    const picture = document.createElement(source ? "img" : "i");
    if (source) picture.src = source;
    const name = document.createElement("b");
    name.textContent = text;
    const title = document.createElement("span");
    title.textContent = label(reference);
    item.append(picture, name, title);
    // A list that appears under a resting mouse is not pointed at.
    item.addEventListener("pointermove", (event) => (event.movementX || event.movementY) && this.select(i));
    // Not on click: the text box would have lost its cursor by then.
    item.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      event.stopPropagation();
      this.select(i);
      this.accept();
    });
    return item;
  }

  select(i) {
    this.selected = (i + this.choices.length) % this.choices.length;
    [...this.list.children].forEach((item, n) => item.setAttribute("aria-selected", String(n === this.selected)));
  }

  accept() {
    const { textarea, start } = this;
    const { text } = this.choices[this.selected];
    // The rest of a placeholder that is being changed goes too.
    const rest = textarea.value.slice(textarea.selectionEnd).match(/^[\w#]*\]/)?.[0].length ?? 0;
    const end = textarea.selectionEnd + rest;
    close();
    textarea.focus();
    textarea.setSelectionRange(start, end);
    // Through the editing command, so that undo knows of it.
    if (!document.execCommand("insertText", false, text)) {
      textarea.setRangeText(text, start, end, "end");
      textarea.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }
}

let popup = null;

function close() {
  popup?.list.remove();
  popup = null;
}

function onInput(event) {
  const textarea = event.target;
  if (!(textarea instanceof HTMLTextAreaElement)) return;
  close();
  const before = textarea.value.slice(0, textarea.selectionStart);
  const typed = before.match(/(?<!\\)\[[a-z#\d]{0,5}$/i);
  if (!typed) return;
  const choices = choicesFor(textarea).filter(({ text }) => text.startsWith(typed[0].toLowerCase()));
  if (choices.length) popup = new Popup(textarea, typed.index, choices);
}

const KEYS = {
  ArrowDown: () => popup.select(popup.selected + 1),
  ArrowUp: () => popup.select(popup.selected - 1),
  Enter: () => popup.accept(),
  Tab: () => popup.accept(),
  Escape: close,
};

function onKeyDown(event) {
  const action = KEYS[event.key];
  if (!popup || event.target !== popup.textarea || event.isComposing) return;
  if (!action || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  action();
}

app.registerExtension({
  name: "DreamO.Placeholders",
  setup() {
    const style = document.createElement("style");
    style.textContent = STYLE;
    document.head.append(style);
    document.addEventListener("input", onInput);
    // Before the front end's own shortcuts.
    document.addEventListener("keydown", onKeyDown, { capture: true });
    document.addEventListener("focusout", close);
    document.addEventListener("pointerdown", close);
    document.addEventListener("wheel", close, { passive: true });
  },
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== "DreamOApply") return;
    const previous = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      previous?.apply(this, arguments);
      const note = output?.text?.[0];
      if (note) app.extensionManager.toast.add({ severity: "info", summary: this.title, detail: note, life: 8000 });
    };
  },
});
