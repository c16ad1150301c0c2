// The page: follows the mesh, keeps what is chosen, and has the parts draw themselves.
import { Picture } from "./picture.js";
import { showEdge, showHint, showVertex } from "./details.js";
import { fillRows } from "./rows.js";

const byId = (id) => document.getElementById(id);
const edgeKey = (edge) => `${edge.source} ${edge.destination} ${edge.port}`;

let graph = null;
let chosen = null; // { vertex: key } or { edge: key }
let source = null;
let shownFor = ""; // what the details were last drawn from

const picture = new Picture(byId("graph"), {
  onVertex: (key) => choose({ vertex: key }),
  onEdge: (key) => choose({ edge: key }),
});

function choose(what) {
  chosen = what;
  draw();
}

function draw() {
  if (!graph) return;
  const found = byId("find").value.trim().toLowerCase();
  picture.draw(graph, { chosen, found, edgeKey });
  byId("nothing").hidden = graph.vertices.length > 0;
  fillRows(byId("rows"), graph.edges, found, (edge) => choose({ edge: edgeKey(edge) }));
  drawProblems();
  drawDetails();
}

function drawProblems() {
  const list = byId("problems");
  list.replaceChildren(...graph.problems.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
  list.hidden = graph.problems.length === 0;
}

function drawDetails() {
  const vertex = chosen?.vertex && graph.vertices.find((each) => each.key === chosen.vertex);
  const edge = chosen?.edge && graph.edges.find((each) => edgeKey(each) === chosen.edge);
  const now = JSON.stringify([vertex, edge]);
  if (now === shownFor) return; // what is being read or copied stays
  shownFor = now;
  const details = byId("details");
  if (vertex) showVertex(details, vertex, graph);
  else if (edge) showEdge(details, edge);
  else showHint(details, chosen ? "It is no longer there." : "Choose a workload or a connection.");
}

function tell(state, text) {
  const place = byId("state");
  if (place.textContent === text) return;
  place.dataset.state = state;
  place.textContent = text;
}

function follow() {
  source?.close();
  source = new EventSource(`/api/stream?seconds=${byId("window").value}`);
  source.addEventListener("graph", (event) => {
    graph = JSON.parse(event.data);
    tell("live", "live");
    draw();
  });
  source.addEventListener("trouble", (event) => tell("trouble", JSON.parse(event.data)));
  source.addEventListener("error", () => tell("trouble", "the server of this page is gone"));
}

byId("window").addEventListener("change", follow);
byId("find").addEventListener("input", draw);
byId("zoom").addEventListener("click", (event) => picture.zoom(event.target.dataset.zoom));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen) choose(null);
});
follow();
