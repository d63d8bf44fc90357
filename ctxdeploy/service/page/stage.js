// Two photos beside each other with the points that they share: one drawing, which can be enlarged and moved.

import { el, svg } from './dom.js';

const UNIT = 1000;
const GAP = 16;
const MOST = 400;
// Lines that are drawn at once; the others show when one of their ends is pointed at.
const LINES = 60;
const CLOSEST = 16;
// Pixels of the screen in which a match is pointed at.
const NEAR = 18;

/** The drawing of a comparison. */
export class Stage {
  constructor() {
    this.drawing = svg('svg', { role: 'img', preserveAspectRatio: 'xMidYMid meet' });
    this.host = el('div', { class: 'stage' }, this.drawing);
    this.pointers = new Map();
    this.isLined = true;
    this.drawing.addEventListener('pointerdown', (event) => this.#down(event));
    this.drawing.addEventListener('pointermove', (event) => this.#move(event));
    for (const name of ['pointerup', 'pointercancel']) this.drawing.addEventListener(name, (event) => this.#up(event));
    this.drawing.addEventListener('wheel', (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), this.#at(event));
    }, { passive: false });
    this.drawing.addEventListener('dblclick', (event) => (this.scale > 1 ? this.fit() : this.zoom(2.5, this.#at(event))));
    new ResizeObserver(() => this.pair && this.#draw()).observe(this.host);
  }

  /**
   * Show two photos.
   * @param {{left: object, right: object, matches: number[][], part: number[][], frame: number[][], label: string}} pair
   *   photos with `address` and `size`; matches as x, y in the left and x, y in the right one; corners of the part that
   *   was searched for and of where it lies
   */
  show(pair) {
    this.pair = pair;
    this.drawing.setAttribute('aria-label', pair.label);
    this.#draw();
  }

  /** Show or hide lines. */
  lines(isLined) {
    this.isLined = isLined;
    this.host.classList.toggle('unlined', !isLined);
  }

  get scale() {
    return this.whole ? this.whole[2] / this.seen[2] : 1;
  }

  fit() {
    this.seen = [...this.whole];
    this.#look();
  }

  /** Enlarge by a factor around a point of the drawing, the middle if none is given. */
  zoom(factor, at = null) {
    const [x, y, width, height] = this.seen;
    const [u, v] = at ?? [x + width / 2, y + height / 2];
    const by = Math.min(Math.max(factor, 1 / this.scale), CLOSEST / this.scale);
    this.seen = [u - (u - x) / by, v - (v - y) / by, width / by, height / by];
    this.#look();
  }

  /** Move by shares of what is seen. */
  pan(x, y) {
    this.seen[0] += x * this.seen[2];
    this.seen[1] += y * this.seen[3];
    this.#look();
  }

  #look() {
    const [x, y, width, height] = this.whole;
    const kept = (at, side, least, most) => Math.min(Math.max(at, least), Math.max(least, least + most - side));
    this.seen[0] = kept(this.seen[0], this.seen[2], x, width);
    this.seen[1] = kept(this.seen[1], this.seen[3], y, height);
    this.drawing.setAttribute('viewBox', this.seen.map((edge) => edge.toFixed(2)).join(' '));
    this.host.classList.toggle('enlarged', this.scale > 1.01);
  }

  #draw() {
    const { left, right, matches, part, frame } = this.pair;
    const places = laid(left.size, right.size, this.host.clientWidth, this.host.clientHeight);
    this.whole = [0, 0, places.width, places.height];
    const here = ([x, y]) => [x * places.scales[0], y * places.scales[0]];
    const there = ([x, y]) => [x * places.scales[1] + places.shift[0], y * places.scales[1] + places.shift[1]];
    const step = Math.max(1, matches.length / MOST);
    this.ends = Array.from({ length: Math.min(matches.length, MOST) }, (_, at) => matches[Math.floor(at * step)])
      .map(([x, y, u, v]) => [...here([x, y]), ...there([u, v])]);
    const image = (photo, [x, y], scale) => svg('image', { href: photo.address, x, y, width: photo.size[0] * scale, height: photo.size[1] * scale, preserveAspectRatio: 'none' });
    const outline = (corners, map) => corners.length > 0 && ['halo', 'frame'].map((kind) => svg('polygon', { class: kind, points: corners.map(map).map((point) => point.map((edge) => edge.toFixed(1)).join(',')).join(' ') }));
    const window = svg('clipPath', { id: 'right-photo' }, svg('rect', { x: places.shift[0], y: places.shift[1], width: right.size[0] * places.scales[1], height: right.size[1] * places.scales[1] }));
    const sparse = Math.max(1, this.ends.length / LINES);
    const starts = this.ends.map((ends) => ends[0]);
    const [first, last] = [Math.min(...starts), Math.max(...starts)];
    this.groups = this.ends.map((ends, at) => match(ends, (ends[0] - first) / Math.max(last - first, 1), Math.floor(at / sparse) === Math.floor((at - 1) / sparse)));
    this.drawing.replaceChildren(...[window, image(left, [0, 0], places.scales[0]), image(right, places.shift, places.scales[1]),
      outline(part, here), svg('g', { 'clip-path': 'url(#right-photo)' }, outline(frame, there) || ''), svg('g', { class: 'matches' }, this.groups)].flat().filter(Boolean));
    this.fit();
  }

  #at(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.drawing.getScreenCTM().inverse());
    return [point.x, point.y];
  }

  #down(event) {
    this.drawing.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.#point(event);
      return;
    }
    const [now, then] = [this.#at(event), this.#at(before)];
    const other = [...this.pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (!other) {
      this.seen[0] -= now[0] - then[0];
      this.seen[1] -= now[1] - then[1];
      this.#look();
      return;
    }
    const away = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    this.zoom(away(event) / Math.max(away(before), 1), this.#at({ clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 }));
  }

  #up(event) {
    this.pointers.delete(event.pointerId);
  }

  /** Bring out the match whose end is pointed at. */
  #point(event) {
    if (!this.ends) return;
    const [x, y] = this.#at(event);
    const reach = NEAR / this.drawing.getScreenCTM().a;
    let best = -1;
    let least = reach;
    this.ends.forEach(([x0, y0, x1, y1], at) => {
      const away = Math.min(Math.hypot(x - x0, y - y0), Math.hypot(x - x1, y - y1));
      if (away < least) [best, least] = [at, away];
    });
    this.groups.forEach((group, at) => group.classList.toggle('pointed', at === best));
    this.host.classList.toggle('pointing', best >= 0);
  }
}

/** Lay two photos beside or under each other, whichever shows them larger. */
function laid(left, right, width, height) {
  const beside = { width: UNIT * (left[0] / left[1] + right[0] / right[1]) + GAP, height: UNIT };
  const under = { width: UNIT, height: UNIT * (left[1] / left[0] + right[1] / right[0]) + GAP };
  const fits = (size) => Math.min(width / size.width, height / size.height);
  const area = (size, gaps) => fits(size) ** 2 * (size.width * size.height - gaps * UNIT * GAP);
  if (area(beside, 1) >= area(under, 1)) {
    const scales = [UNIT / left[1], UNIT / right[1]];
    return { ...beside, scales, shift: [left[0] * scales[0] + GAP, 0] };
  }
  const scales = [UNIT / left[0], UNIT / right[0]];
  return { ...under, scales, shift: [0, left[1] * scales[0] + GAP] };
}

/** Draw a match: a line and its two ends, coloured by how far to the right it begins, a share of 0 to 1. */
function match([x0, y0, x1, y1], share, isQuiet) {
  const colour = `hsl(${Math.round(160 + 200 * share)} 90% 62%)`;
  const line = { x1: x0.toFixed(1), y1: y0.toFixed(1), x2: x1.toFixed(1), y2: y1.toFixed(1) };
  const ends = `M${line.x1} ${line.y1}h0M${line.x2} ${line.y2}h0`;
  return svg('g', { class: isQuiet ? 'match quiet' : 'match' }, svg('line', { class: 'under', ...line }), svg('line', { class: 'line', stroke: colour, ...line }),
    svg('path', { class: 'rim', d: ends }), svg('path', { class: 'ends', stroke: colour, d: ends }));
}
