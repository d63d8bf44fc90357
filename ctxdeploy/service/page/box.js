// The part of the query that is searched for: a box drawn on the photo with a mouse, a finger or keys.

import { announce, el } from './dom.js';

const EDGES = ['nw', 'n', 'ne', 'e', 'se', 's', 'sw', 'w'];
// Pixels of the screen below which a stroke is a slip of the hand.
const SLIP = 8;
const STEP = 0.02;
const LEAST = 0.03;

const between = (value, least, most) => Math.min(Math.max(value, least), most);

/** A box on an element that a photo fills. Edges are shares of the photo's sides: [left, upper, right, lower]. */
export class PartOfPhoto {
  /**
   * @param {HTMLElement} surface that the photo fills
   * @param {(box: number[] | null) => void} changed called when a hand is lifted, or keys rest
   */
  constructor(surface, changed) {
    this.surface = surface;
    this.changed = changed;
    this.box = null;
    this.part = el('div', { class: 'part', tabindex: '0', role: 'application', 'aria-roledescription': 'part of the photo', hidden: true },
      EDGES.map((edge) => el('span', { class: `handle ${edge}`, 'data-edge': edge })));
    surface.append(this.part);
    surface.addEventListener('pointerdown', (event) => this.#down(event));
    this.part.addEventListener('keydown', (event) => this.#key(event));
  }

  /** Show a box, or none; nobody is told. */
  set(box) {
    this.box = box;
    this.part.hidden = box === null;
    if (box === null) return;
    const [x0, y0, x1, y1] = box;
    const style = this.part.style;
    [style.left, style.top] = [`${100 * x0}%`, `${100 * y0}%`];
    [style.width, style.height] = [`${100 * (x1 - x0)}%`, `${100 * (y1 - y0)}%`];
    this.part.setAttribute('aria-label', `${this.#told()}. Arrow keys move it, with Shift they change its size, Delete removes it.`);
  }

  /** Put a box in the middle for who has no mouse, and give it the focus. */
  begin() {
    if (this.box === null) {
      this.set([0.25, 0.25, 0.75, 0.75]);
      this.changed(this.box);
    }
    this.part.focus();
  }

  clear() {
    this.set(null);
    this.changed(null);
  }

  #told() {
    const [x0, y0, x1, y1] = this.box.map((edge) => Math.round(100 * edge));
    return `Part of the photo: ${x1 - x0} by ${y1 - y0} percent, ${x0} from the left, ${y0} from above`;
  }

  #at(event) {
    const { left, top, width, height } = this.surface.getBoundingClientRect();
    return [between((event.clientX - left) / width, 0, 1), between((event.clientY - top) / height, 0, 1)];
  }

  #down(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    const [start, former] = [this.#at(event), this.box];
    const edge = event.target.dataset?.edge;
    const moved = edge ? this.#resizing(edge, former) : event.target === this.part ? this.#moving(start, former) : this.#drawing(start);
    let isSlip = true;
    this.surface.setPointerCapture(event.pointerId);
    const listening = new AbortController();
    const listen = (name, heard) => this.surface.addEventListener(name, heard, { signal: listening.signal });
    listen('pointermove', (now) => {
      isSlip &&= Math.hypot(now.clientX - event.clientX, now.clientY - event.clientY) < SLIP;
      if (!isSlip) this.set(moved(this.#at(now)));
    });
    listen('pointerup', () => {
      listening.abort();
      if (isSlip) return;
      const [x0, y0, x1, y1] = this.box;
      if (x1 - x0 < LEAST || y1 - y0 < LEAST) this.set(former);
      else this.changed(this.box);
    });
    // The page is scrolled instead.
    listen('pointercancel', () => { listening.abort(); this.set(former); });
    if (event.pointerType === 'mouse') event.preventDefault();
    if (edge || event.target === this.part) this.part.focus({ preventScroll: true });
  }

  #drawing([x, y]) {
    return ([u, v]) => [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
  }

  #moving([x, y], [x0, y0, x1, y1]) {
    return ([u, v]) => {
      const [dx, dy] = [between(u - x, -x0, 1 - x1), between(v - y, -y0, 1 - y1)];
      return [x0 + dx, y0 + dy, x1 + dx, y1 + dy];
    };
  }

  #resizing(edge, [x0, y0, x1, y1]) {
    return ([u, v]) => [
      edge.includes('w') ? Math.min(u, x1 - LEAST) : x0,
      edge.includes('n') ? Math.min(v, y1 - LEAST) : y0,
      edge.includes('e') ? Math.max(u, x0 + LEAST) : x1,
      edge.includes('s') ? Math.max(v, y0 + LEAST) : y1,
    ];
  }

  #key(event) {
    const [x, y] = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key] ?? [0, 0];
    if (event.key === 'Delete' || event.key === 'Backspace') {
      event.preventDefault();
      this.clear();
      this.surface.focus();
      announce('The whole photo is searched for');
      return;
    }
    if (x === 0 && y === 0) return;
    event.preventDefault();
    const [x0, y0, x1, y1] = this.box;
    if (event.shiftKey) this.set([x0, y0, between(x1 + x, x0 + LEAST, 1), between(y1 + y, y0 + LEAST, 1)]);
    else this.set(this.#moving([0, 0], this.box)([x, y]));
    announce(this.#told());
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.box && this.changed(this.box), 600);
  }
}
