// What a prompt box has to know about its graph: which references its prompt can name, in order.

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

/** Nodes that add a picture to the chain that ends in `last`, first reference first. */
function chain(last, seen = new Set()) {
  if (!last || seen.has(last) || last.mode === NEVER) return [];
  seen.add(last);
  const before = inputsOfType(last, REFERENCES).flatMap((input) => chain(origin(last, input), seen));
  const adds = last.mode !== BYPASSED && last.inputs?.some((input) => input.type === "IMAGE");
  return adds ? [...before, last] : before;
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

/** Address of a small picture of a reference node: what the model saw last time, else the picture it is given. */
export function thumbnail(node, api) {
  const source = origin(node, inputsOfType(node, "IMAGE")[0]);
  const shown = node.imgs?.[0]?.src ?? source?.imgs?.[0]?.src;
  if (shown) return shown;
  const value = source?.widgets?.find((widget) => widget.name === "image")?.value;
  if (typeof value !== "string") return null;
  const [, path, type = "input"] = value.match(/^(.*?)(?: \[(input|output|temp)\])?$/);
  const cut = path.lastIndexOf("/");
  const query = new URLSearchParams({ filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(cut, 0)), type });
  return api.apiURL(`/view?${query}`);
}
