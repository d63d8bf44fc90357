// Elements made without HTML: what a photo is called can never become markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Return an element; attributes that begin with "on" are listeners, null and false are left out. */
export function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return an element of SVG. */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

const STROKES = {
  again: 'M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14M20 20l-4-4M11 8v6M8 11h6',
  add: 'M12 5v14M5 12h14',
  back: 'M15 5l-7 7 7 7',
  camera: 'M4 8h3l2-3h6l2 3h3v11H4zM12 10a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7',
  close: 'M6 6l12 12M18 6L6 18',
  crop: 'M7 2v15h15M2 7h15v15',
  fit: 'M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5',
  folder: 'M3 6h6l2 3h10v10H3z',
  forth: 'M9 5l7 7-7 7',
  lines: 'M4 7l16 4M4 13l16-5M4 18l16-1',
  minus: 'M5 12h14',
  open: 'M14 4h6v6M20 4l-9 9M18 14v6H4V6h6',
  paste: 'M8 5H5v16h14V5h-3M9 3h6v4H9z',
  photo: 'M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5v.01',
  remove: 'M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13',
  warn: 'M12 4l9 16H3zM12 10v5M12 17.5v.01',
};

/** Return an icon, which says nothing to a screen reader. */
export function icon(name) {
  return svg('svg', { class: 'icon', viewBox: '0 0 24 24', 'aria-hidden': 'true', focusable: 'false' },
    svg('path', { d: STROKES[name] }));
}

/** Return a button with an icon; `label` is its text, and its name alone where it is `bare`. */
export function button(name, label, press, { bare = false, kind = '', ...others } = {}) {
  const attributes = { type: 'button', class: `button ${bare ? 'bare' : ''} ${kind}`.trim(), onclick: press, ...others };
  if (bare) return el('button', { ...attributes, 'aria-label': label, title: label }, icon(name));
  return el('button', attributes, name && icon(name), el('span', {}, label));
}

/** Say something to who cannot see it; the same words again are said again. */
export function announce(text) {
  const status = document.getElementById('status');
  status.textContent = status.textContent === text ? `${text}\u00a0` : text;
}
