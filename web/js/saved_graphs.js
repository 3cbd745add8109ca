// Graphs keep giving what they gave: a widget that came after a graph was saved gets the value that stands for how it
// was then (`before` among the input's options), not the default, which is for new nodes.

import { app } from "../../../scripts/app.js";

/** Values by widget name for those inputs of a node that say how it was before they came. */
function valuesBefore(nodeData) {
  const inputs = { ...nodeData.input?.required, ...nodeData.input?.optional };
  return new Map(
    Object.entries(inputs)
      .filter(([, spec]) => spec?.[1] && "before" in spec[1])
      .map(([name, spec]) => [name, spec[1].before]),
  );
}

app.registerExtension({
  name: "DreamO.SavedGraphs",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("DreamO")) return;
    const before = valuesBefore(nodeData);
    if (!before.size) return;
    const previous = nodeType.prototype.onConfigure;
    nodeType.prototype.onConfigure = function (saved) {
      previous?.apply(this, arguments);
      const kept = (this.widgets ?? []).filter((widget) => widget.serialize !== false);
      for (const widget of kept.slice(saved.widgets_values?.length ?? 0)) {
        if (before.has(widget.name)) widget.value = before.get(widget.name);
      }
    };
  },
});
