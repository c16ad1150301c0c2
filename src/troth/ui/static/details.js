// What is chosen, in words: a workload with the ladder of its policies, or a connection with its reasons.
import { html } from "./dom.js";

export function showHint(place, text) {
  place.replaceChildren(html("p", text, { class: "hint" }));
}

export function showEdge(place, edge) {
  const parts = [
    html("h2", `${edge.source} → ${edge.destination}:${edge.port}`),
    facts([
      ["by the tunnel", edge.tunnel], ["in plaintext", edge.plaintext],
      ["refused", edge.refused], ["failed", edge.failed],
      ["last", new Date(edge.last).toLocaleString()],
    ]),
  ];
  for (const refusal of edge.refusals) {
    parts.push(
      html("h3", `${refusal.outcome}: ${refusal.reason.replaceAll("_", " ")} (${refusal.count})`),
      html("p", refusal.cause), html("p", refusal.remedy),
    );
    if (refusal.manifests) parts.push(html("pre", refusal.manifests, { tabindex: 0 }));
  }
  place.replaceChildren(...parts);
}

export async function showVertex(place, vertex, graph) {
  const calls = graph.edges.filter((edge) => edge.source === vertex.key);
  const callers = graph.edges.filter((edge) => edge.destination === vertex.key);
  const parts = [
    html("h2", vertex.key),
    facts([
      ["in the mesh", vertex.in_mesh ? "yes" : "no"],
      ...(vertex.in_mesh ? [["captured", vertex.captured ? "yes" : `no: ${vertex.why}`]]
        : vertex.why ? [["what", vertex.why]] : []),
      ...(vertex.mode ? [["mode", vertex.mode]] : []),
      ...Object.entries(vertex.ports).map(([port, mode]) => [`port ${port}`, mode]),
      ...(vertex.in_mesh ? [["ready for STRICT", vertex.ready ? "yes" : "no"]] : []),
      ["called by", names(callers.map((edge) => edge.source))],
      ["calls", names(calls.map((edge) => edge.destination))],
    ]),
  ];
  place.replaceChildren(...parts);
  if (!vertex.in_mesh) return;
  const ladder = await explained(vertex);
  // Something else may have been chosen meanwhile.
  if (place.firstChild === parts[0]) place.append(html("h3", "Why"), ladder);
}

async function explained(vertex) {
  const [namespace, name] = vertex.key.split("/").map(encodeURIComponent);
  const response = await fetch(`/api/explain/${namespace}/${name}`);
  const answer = await response.json();
  if (!response.ok) return html("p", answer.error, { class: "hint" });
  const ladder = html("ol");
  const ports = Object.values(answer.ports);
  const byDefault = [answer, ...ports].some((each) => each.decided_by.policy === null);
  for (const each of answer.considered) {
    const fate = { decides: "decides", inherits: "passes-on" }[each.verdict] ?? "lost";
    const step = html("li", null, { class: fate });
    step.append(
      html("span", each.policy, { class: "policy" }), html("span", ` (${each.scope ?? "no"} scope)`),
      html("small", each.why),
    );
    ladder.append(step);
  }
  if (byDefault) {
    const step = html("li", "the default", { class: "decides" });
    step.append(html("small", "where no policy says otherwise, ports are PERMISSIVE"));
    ladder.append(step);
  }
  return ladder;
}

function facts(rows) {
  const list = html("dl");
  for (const [name, value] of rows) list.append(html("dt", name), html("dd", value));
  return list;
}

const names = (all) => [...new Set(all)].join(", ") || "nobody that was seen";
