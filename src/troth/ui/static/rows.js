// The same connections as a table: for screen readers, narrow windows, and whoever likes lists.
import { html, Kept } from "./dom.js";

const tables = new WeakMap();

export function fillRows(body, edges, found, onChosen) {
  if (!tables.has(body)) tables.set(body, new Kept(body, newRow));
  const shown = edges.filter((edge) =>
    !found || `${edge.source} ${edge.destination}`.toLowerCase().includes(found));
  tables.get(body).update(shown, (e) => `${e.source} ${e.destination} ${e.port}`, (row, edge) => {
    row.edge = edge;
    row.onChosen = onChosen;
    const texts = [
      edge.source, edge.destination, edge.port, edge.passage,
      edge.tunnel, edge.plaintext, edge.refused, edge.failed, new Date(edge.last).toLocaleTimeString(),
    ];
    [...row.children].forEach((cell, at) => {
      const place = at === 0 ? cell.firstChild : cell;
      const text = String(texts[at]);
      if (place.textContent !== text) place.textContent = text;
    });
    row.children[3].dataset.passage = edge.passage;
  });
}

function newRow() {
  const row = html("tr");
  const first = html("td");
  const button = html("button", "", { type: "button" });
  button.addEventListener("click", () => row.onChosen(row.edge));
  first.append(button);
  row.append(first, ...Array.from({ length: 8 }, () => html("td")));
  return row;
}
