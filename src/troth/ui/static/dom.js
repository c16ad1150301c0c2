// Making elements. Text is only ever set as text: every name comes from a stranger.
const SVG = "http://www.w3.org/2000/svg";

export function html(tag, text, attributes = {}) {
  return filled(document.createElement(tag), text, attributes);
}

export function svg(tag, attributes = {}, text) {
  return filled(document.createElementNS(SVG, tag), text, attributes);
}

function filled(element, text, attributes) {
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  return element;
}

export function set(element, name, value) {
  const text = String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

// Elements by key, kept from one drawing to the next, so that focus and identity stay.
export class Kept {
  #parent; #make; #known = new Map();
  constructor(parent, make) { this.#parent = parent; this.#make = make; }

  update(items, keyOf, change) {
    const gone = new Set(this.#known.keys());
    for (const item of items) {
      const key = keyOf(item);
      gone.delete(key);
      let element = this.#known.get(key);
      if (!element) {
        element = this.#make(item, key);
        this.#known.set(key, element);
        this.#parent.append(element);
      }
      change(element, item);
    }
    for (const key of gone) {
      this.#known.get(key).remove();
      this.#known.delete(key);
    }
  }
}
