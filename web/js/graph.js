// What a prompt box has to know about its graph: which references its prompt can name, in order.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

export const MAX_REFERENCES = 9;
const REFERENCES = "DREAMO_REFERENCES";
const NEVER = 2; // modes of a node in the front end
const BYPASSED = 4;

/** The node at the other end of an input, or null (no link, or the link leaves this subgraph). */
function origin(node, input) {
  if (input?.link == null) return null;
  const links = node.graph.links;
  const link = links.get?.(input.link) ?? links[input.link];
  return link ? node.graph.getNodeById(link.origin_id) : null;
}

function inputsOfType(node, type) {
  return (node.inputs ?? []).filter((input) => input.type === type || input.type === "*");
}

function targets(node, type) {
  const links = node.graph.links;
  return (node.outputs ?? [])
    .filter((output) => output.type === type || output.type === "*")
    .flatMap((output) => output.links ?? [])
    .map((id) => links.get?.(id) ?? links[id])
    .map((link) => link && node.graph.getNodeById(link.target_id))
    .filter(Boolean);
}

/** Addresses of the pictures that a node showed after its last run, in order; empty if it has not run. */
function shownBy(node) {
  if (node.imgs?.length) return node.imgs.map((picture) => picture.src);
  const images = app.nodeOutputs?.[node.id]?.images ?? [];
  return images.map((image) => api.apiURL(`/view?${new URLSearchParams(image)}`));
}

/**
 * The references that one node adds: their node, the input their picture comes from, and which of the pictures it
 * shows each is. How many a batch or a folder has is known after a run; before that, as many as there can be.
 */
function added(node) {
  const pictures = (node.inputs ?? []).filter((input) => input.type === "IMAGE");
  if (!pictures.length) return [];
  if (node.comfyClass === "DreamOReferences") {
    const used = pictures.filter((input) => origin(node, input) && origin(node, input).mode !== NEVER);
    return used.map((input, shown) => ({ node, input, shown, of: used.length }));
  }
  if (node.comfyClass === "DreamOReferenceBatch") {
    const count = shownBy(node).length || MAX_REFERENCES;
    return Array.from({ length: count }, (_, shown) => ({ node, input: null, shown, of: count }));
  }
  return [{ node, input: pictures[0], shown: 0, of: 1 }];
}

/** References in the chain that ends in `last`, the first one first. */
function chain(last, seen = new Set()) {
  if (!last || seen.has(last) || last.mode === NEVER) return [];
  seen.add(last);
  const before = inputsOfType(last, REFERENCES).flatMap((input) => chain(origin(last, input), seen));
  return last.mode === BYPASSED ? before : [...before, ...added(last)];
}

function chainInto(node) {
  return inputsOfType(node, REFERENCES)
    .filter((input) => input.type === REFERENCES)
    .flatMap((input) => chain(origin(node, input)));
}

/** Whether this node's CLIP has been taught the placeholders. */
export function clipKnowsPlaceholders(node) {
  const seen = new Set();
  for (let at = node; at && !seen.has(at); at = origin(at, inputsOfType(at, "CLIP")[0])) {
    seen.add(at);
    if (at.comfyClass === "DreamOPlaceholders" && at.mode !== NEVER && at.mode !== BYPASSED) return true;
  }
  return false;
}

/** References that a prompt encoded by this node can name: from its own chain, else from where its result goes. */
export function referencesFor(node) {
  const own = chainInto(node);
  if (own.length) return own;
  const seen = new Set([node]);
  let front = targets(node, "CONDITIONING");
  while (front.length) {
    for (const next of front) {
      const found = chainInto(next);
      if (found.length) return found;
      seen.add(next);
    }
    front = front.flatMap((next) => targets(next, "CONDITIONING")).filter((next) => !seen.has(next));
  }
  return [];
}

/** What a reference is called: its node's title, and which of the node's pictures it is. */
export function label({ node, shown, of }) {
  return of > 1 ? `${node.title ?? ""} (${shown + 1})` : (node.title ?? "");
}

/** Address of a small picture of a reference: what the model saw last time, else the picture it is given. */
export function thumbnail({ node, input, shown, of }) {
  const seen = shownBy(node);
  if (seen.length === of && seen[shown]) return seen[shown];
  const source = origin(node, input);
  if (source?.imgs?.[0]?.src) return source.imgs[0].src;
  const value = source?.widgets?.find((widget) => widget.name === "image")?.value;
  if (typeof value !== "string") return null;
  const [, path, type = "input"] = value.match(/^(.*?)(?: \[(input|output|temp)\])?$/);
  const cut = path.lastIndexOf("/");
  const query = new URLSearchParams({ filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(cut, 0)), type });
  return api.apiURL(`/view?${query}`);
}
