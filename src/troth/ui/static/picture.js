// The graph as SVG, at the places that the server gives it; zoomed by wheel, dragged, or by buttons.
import { Kept, set, svg } from "./dom.js";

const WIDTH = 150, HEIGHT = 44, LETTERS = 19, MARGIN = 30;
// One above the other where a workload calls several ports of another.
const BETWEEN_PORTS = 16;
// What goes further than to the next column bows over what stands between.
const NEXT = 260, BOW = 90;
// With more edges than that none has a lock, nor a wide margin to click at: the table has them, too.
const DENSE = 400;

const shortened = (text) => (text.length > LETTERS ? `${text.slice(0, LETTERS - 1)}…` : text);
const HOW = { tunnel: "by the tunnel", plaintext: "in plaintext", refused: "refused", failed: "failed" };

export class Picture {
  #root; #areas; #edges; #vertices; #view = null; #size = { width: 1, height: 1 }; #touched = false;

  constructor(root, { onVertex, onEdge }) {
    this.#root = root;
    const layer = (name) => root.appendChild(svg("g", { class: name }));
    this.#areas = new Kept(layer("areas"), () => this.#newArea());
    this.#edges = new Kept(layer("edges"), (_, key) => this.#newEdge(() => onEdge(key)));
    this.#vertices = new Kept(layer("vertices"), (_, key) => this.#newVertex(() => onVertex(key)));
    this.#followPointer();
  }

  draw(graph, { chosen, found, edgeKey }) {
    this.#size = { width: graph.width, height: graph.height };
    if (!this.#touched) this.zoom("fit");
    this.#root.classList.toggle("dense", graph.edges.length > DENSE);
    const places = new Map(graph.vertices.map((vertex) => [vertex.key, vertex]));
    const matches = (key) => !found || key.toLowerCase().includes(found);
    this.#areas.update(graph.areas, (area) => area.name, changeArea);
    this.#vertices.update(graph.vertices, (vertex) => vertex.key, (element, vertex) => {
      changeVertex(element, vertex);
      set(element, "aria-pressed", chosen?.vertex === vertex.key);
      element.classList.toggle("faded", !matches(vertex.key));
    });
    const ports = new Map();
    this.#edges.update(graph.edges, edgeKey, (element, edge) => {
      const pair = `${edge.source} ${edge.destination}`;
      const number = ports.get(pair) ?? 0;
      ports.set(pair, number + 1);
      changeEdge(element, edge, places.get(edge.source), places.get(edge.destination), number);
      set(element, "aria-pressed", chosen?.edge === edgeKey(edge));
      element.classList.toggle("faded", !matches(edge.source) && !matches(edge.destination));
    });
  }

  zoom(how) {
    const { width, height } = this.#size;
    if (how === "fit") {
      this.#touched = false;
      this.#show({ x: -MARGIN, y: -MARGIN, width: width + 2 * MARGIN, height: height + 2 * MARGIN });
    } else if (how) {
      this.#scale(how === "in" ? 1 / 1.3 : 1.3);
    }
  }

  #show(view) {
    this.#view = view;
    set(this.#root, "viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  }

  #scale(factor, at = { x: 0.5, y: 0.5 }) {
    this.#touched = true;
    const { x, y, width, height } = this.#view;
    this.#show({
      x: x + width * (1 - factor) * at.x,
      y: y + height * (1 - factor) * at.y,
      width: width * factor,
      height: height * factor,
    });
  }

  #followPointer() {
    const root = this.#root;
    let from = null;
    root.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = root.getBoundingClientRect();
      const at = { x: (event.clientX - box.x) / box.width, y: (event.clientY - box.y) / box.height };
      this.#scale(event.deltaY < 0 ? 1 / 1.1 : 1.1, at);
    }, { passive: false });
    root.addEventListener("pointerdown", (event) => { from = { x: event.clientX, y: event.clientY }; });
    root.addEventListener("pointermove", (event) => {
      if (!from || !event.buttons) return;
      const scale = 1 / (root.getScreenCTM()?.a ?? 1);
      const [dx, dy] = [(event.clientX - from.x) * scale, (event.clientY - from.y) * scale];
      from = { x: event.clientX, y: event.clientY };
      this.#touched = true;
      this.#show({ ...this.#view, x: this.#view.x - dx, y: this.#view.y - dy });
    });
    root.addEventListener("pointerup", () => { from = null; });
  }

  #newArea() {
    const area = svg("g", { class: "area" });
    area.append(svg("rect"), svg("text"));
    return area;
  }

  #newVertex(onChosen) {
    const vertex = pressable("vertex", onChosen);
    vertex.append(
      svg("title"), svg("rect", { width: WIDTH, height: HEIGHT, x: -WIDTH / 2, y: -HEIGHT / 2 }),
      svg("text", { y: -2, class: "name" }), svg("text", { y: 14, class: "mode" }),
    );
    return vertex;
  }

  #newEdge(onChosen) {
    const edge = pressable("edge", onChosen);
    edge.append(
      svg("title"), svg("path", { class: "reach" }), svg("path", { class: "line" }),
      svg("path", { class: "head" }), svg("path", { class: "lock" }),
    );
    return edge;
  }
}

function pressable(name, onChosen) {
  const element = svg("g", { class: name, role: "button", tabindex: 0, "aria-pressed": false });
  element.addEventListener("click", onChosen);
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    onChosen();
  });
  return element;
}

function changeArea(element, area) {
  const [rect, text] = element.children;
  for (const name of ["x", "y", "width", "height"]) set(rect, name, area[name]);
  set(text, "x", area.x + 14);
  set(text, "y", area.y + 21);
  text.textContent = area.name || "addresses";
}

function changeVertex(element, vertex) {
  const [title, , name, mode] = element.children;
  const state = vertex.in_mesh
    ? `${vertex.mode}${vertex.captured ? "" : ", not captured"}`
    : "outside the mesh";
  set(element, "transform", `translate(${vertex.x} ${vertex.y})`);
  set(element, "data-mode", vertex.mode ?? "none");
  set(element, "data-key", vertex.key);
  set(element, "aria-label", `${vertex.key}, ${state}`);
  title.textContent = vertex.key;
  name.textContent = shortened(vertex.name);
  mode.textContent = state;
}

function changeEdge(element, edge, from, to, number) {
  const count = edge.tunnel + edge.plaintext + edge.refused + edge.failed;
  const [title, reach, line, head, lock] = element.children;
  const way = between(from, to, number * BETWEEN_PORTS);
  set(element, "data-passage", edge.passage);
  set(element, "aria-label",
    `${edge.source} to ${edge.destination} port ${edge.port}: ${HOW[edge.passage]}, ${count} connections`);
  title.textContent = `${edge.source} → ${edge.destination}:${edge.port}`;
  set(reach, "d", way.path);
  set(line, "d", way.path);
  set(line, "stroke-width", 1.5 + Math.log10(1 + count));
  set(head, "d", way.head);
  set(lock, "d", padlock(way.middle, edge.passage));
}

// A curve from one side of a vertex to a side of the other; a loop where both are one.
function between(from, to, shift) {
  if (from === to) {
    const [x, y] = [from.x, from.y - HEIGHT / 2];
    return {
      path: `M${x - 20} ${y}C${x - 30} ${y - 40 - shift} ${x + 30} ${y - 40 - shift} ${x + 20} ${y}`,
      head: arrow(x + 20, y, Math.PI / 2), middle: { x, y: y - 30 - shift * 0.75 },
    };
  }
  const leftwards = to.x < from.x - 1;
  const sameColumn = Math.abs(to.x - from.x) <= 1;
  const [startX, endX] = sameColumn
    ? [from.x + WIDTH / 2, to.x + WIDTH / 2]
    : [from.x + (leftwards ? -WIDTH : WIDTH) / 2, to.x + (leftwards ? WIDTH : -WIDTH) / 2];
  const [startY, endY] = [from.y + shift / 2, to.y + shift / 2];
  const bend = sameColumn ? 50 + shift : Math.max(40, Math.abs(endX - startX) / 2);
  const [bx, ex] = sameColumn
    ? [startX + bend, endX + bend]
    : [startX + (leftwards ? -bend : bend), endX + (leftwards ? bend : -bend)];
  const bow = !sameColumn && Math.abs(endX - startX) > NEXT ? BOW : 0;
  const [by, ey] = [startY - bow, endY - bow];
  const towards = sameColumn || leftwards ? Math.PI : 0;
  return {
    path: `M${startX} ${startY}C${bx} ${by} ${ex} ${ey} ${endX} ${endY}`,
    head: arrow(endX, endY, bow ? Math.atan2(endY - ey, endX - ex) : towards),
    middle: {
      x: (startX + 3 * bx + 3 * ex + endX) / 8,
      y: (startY + 3 * by + 3 * ey + endY) / 8,
    },
  };
}

function arrow(x, y, angle) {
  const at = (distance, turn) =>
    `${x - distance * Math.cos(angle + turn)} ${y - distance * Math.sin(angle + turn)}`;
  return `M${x} ${y}L${at(9, 0.45)}L${at(9, -0.45)}Z`;
}

// Closed for the tunnel, open for plaintext, a cross for what did not get through.
function padlock({ x, y }, passage) {
  if (passage === "refused" || passage === "failed") {
    return `M${x - 5} ${y - 5}l10 10m0 -10l-10 10`;
  }
  const shackle = passage === "tunnel" ? "a3 3 0 0 1 6 0v3" : "a3 3 0 0 1 6 0";
  return `M${x - 5} ${y - 1}h10v7h-10zM${x - 3} ${y - 1}v-3${shackle}`;
}
