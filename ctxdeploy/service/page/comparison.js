// The query beside a photo that it found: why it is a result, how sure that is, and where it lies.

import { compare, noteSize, sizeOf } from './answers.js';
import { announce, button, el, icon } from './dom.js';
import { original, shownAt, thumbnail } from './pictures.js';
import { searchWith } from './results.js';
import { Stage } from './stage.js';
import { kept } from './state.js';
import { agreed, named, placed, printable, reasons, sure } from './words.js';

const LARGE = 1280;

/** A dialog over the page; one result at a time. */
export class Comparison {
  /**
   * @param {(changes: object) => void} go
   * @param {{removed: (name: string) => void, closed: (name: string) => void}} told
   */
  constructor(go, told) {
    this.go = go;
    this.told = told;
    this.dialog = null;
  }

  get isOpen() {
    return this.dialog !== null;
  }

  /** Show the result of a name; false if the answer has no such result. */
  show(state, answer, archive) {
    const at = answer.others.findIndex((result) => result.name === state.compare);
    if (at < 0) return false;
    if (!this.isOpen) this.#open();
    Object.assign(this, { state, answer, archive, at });
    this.#fill();
    return true;
  }

  /** Close without saying so: the address says it already. */
  close() {
    const { dialog } = this;
    this.dialog = null;
    dialog?.close();
  }

  #open() {
    this.stage = new Stage();
    this.stage.lines(true);
    this.head = el('div', { class: 'comparison-head' });
    this.why = el('div', { class: 'why' });
    this.lined = button('lines', 'Lines', () => this.#line(), { 'aria-pressed': 'true' });
    const tools = el('div', { class: 'tools', role: 'group', 'aria-label': 'View' }, this.lined,
      button('minus', 'Smaller', () => this.stage.zoom(1 / 1.5), { bare: true }),
      button('add', 'Larger', () => this.stage.zoom(1.5), { bare: true }),
      button('fit', 'Show all of both', () => this.stage.fit(), { bare: true }));
    this.deeds = el('div', { class: 'deeds' });
    this.dialog = el('dialog', { class: 'comparison', 'aria-labelledby': 'comparison-title' },
      this.head, this.stage.host, el('div', { class: 'comparison-foot' }, this.why, tools, this.deeds),
      el('p', { class: 'hint', 'aria-hidden': 'true' }, '← → other results   + − 0 zoom   Shift + arrows move   L lines   Esc back'));
    this.dialog.addEventListener('keydown', (event) => this.#key(event));
    this.dialog.addEventListener('close', (event) => {
      event.target.remove();
      this.asking?.abort();
      const name = this.answer.others[this.at]?.name;
      if (this.dialog !== null) {
        this.dialog = null;
        this.go({ compare: '' });
      }
      this.told.closed(name);
    });
    document.body.append(this.dialog);
    this.dialog.showModal();
  }

  #fill() {
    const { answer, at, archive } = this;
    const result = answer.others[at];
    const count = answer.others.length;
    const step = (by) => () => this.#step(by);
    const held = document.activeElement?.dataset?.step;
    this.head.replaceChildren(
      button('back', 'Former result', step(-1), { bare: true, disabled: at === 0, 'data-step': '-1' }),
      button('forth', 'Next result', step(1), { bare: true, disabled: at === count - 1, 'data-step': '1' }),
      el('h2', { id: 'comparison-title' }, el('span', { class: 'count' }, `${at + 1} of ${count}`), ' ', named(result.name)),
      button('close', 'Close', () => this.dialog.close(), { bare: true }));
    // A button that has been made anew, or is off now, must not lose the focus to the page.
    if (held) this.head.querySelector(`[data-step="${held}"]:not(:disabled)`)?.focus();
    if (!this.dialog.contains(document.activeElement) || document.activeElement === document.body) this.head.lastElementChild.focus();
    const again = button('again', 'Search with this one', () => { this.close(); this.go(searchWith(result.name)); }, { kind: 'main' });
    const file = el('a', { class: 'button quiet', href: original(archive.name, result.name), target: '_blank', rel: 'noopener' }, icon('open'), el('span', {}, 'Open the file'));
    const remove = archive.writable && button('remove', 'Remove…', () => this.told.removed(result.name), { kind: 'quiet' });
    this.deeds.replaceChildren(again, file, remove || '');
    announce(`Result ${at + 1} of ${count}: ${printable(result.name)}, ${sure(result)}`);
    this.#compare(result);
  }

  async #compare(result) {
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    const { state, archive, answer } = this;
    this.#explain(result, null);
    this.stage.host.setAttribute('aria-busy', 'true');
    try {
      const [left, right] = await Promise.all([this.#left(), photoAt(archive, result.name, result.size)]);
      if (signal.aborted) return;
      this.#draw(result, left, right);
      if (result.matches === undefined || result.matches === null) {
        // Not among those that were compared: it is now. How sure it is stays as it was among all.
        const compared = state.rank === 'global' && !archive.geometry ? null : await compare(state, archive, result.name, { signal });
        if (signal.aborted) return;
        const { matches = [], affine = null, box = null, inliers = null, size } = compared ?? {};
        Object.assign(result, { matches, affine, box, inliers, size: size ?? result.size });
        if (this.answer === answer && answer.others[this.at] === result) this.#draw(result, left, await photoAt(archive, result.name, result.size));
      }
    } catch (error) {
      if (signal.aborted) return;
      this.#explain(result, error.detail ?? 'A photo cannot be shown.');
    } finally {
      if (!signal.aborted) this.stage.host.removeAttribute('aria-busy');
    }
  }

  #draw(result, left, right) {
    const { state, answer } = this;
    // Points are in pixels of the photos as the service reads them; what a browser shows may be smaller.
    const corners = ([x0, y0, x1, y1]) => [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
    const box = answer.box ?? state.box;
    const [u, v] = result.affine ?? [];
    const map = ([x, y]) => [u[0] * x + u[1] * y + u[2], v[0] * x + v[1] * y + v[2]];
    this.stage.show({
      left, right,
      matches: result.affine ? result.matches ?? [] : [],
      part: box ? corners(box) : [],
      frame: result.affine ? corners(box ?? [0, 0, ...left.size]).map(map) : [],
      label: `Your photo, and ${printable(result.name)}: ${[sure(result), agreed(result)].filter(Boolean).join(', ')}`,
    });
    this.#explain(result, null, right.size);
  }

  #explain(result, trouble, size) {
    this.why.replaceChildren(el('p', { class: result.certain ? 'how-sure good' : 'how-sure' }, sure(result), typeof result.probability === 'number' && el('small', {}, 'that both show the same')),
      ...[...reasons(result), placed(result, size)].filter(Boolean).map((text) => el('p', {}, text)),
      trouble ? el('p', { class: 'trouble', role: 'alert' }, printable(trouble)) : '');
  }

  async #left() {
    const { state, archive, answer } = this;
    if (state.indexed) return photoAt(archive, state.indexed, answer.size);
    const { url } = kept(state.photo);
    return { address: url, size: answer.size ?? (await naturalSize(url)) };
  }

  #step(by) {
    const next = this.answer.others[this.at + by];
    if (next) this.go({ compare: next.name }, { replace: true });
  }

  #line() {
    this.stage.lines(!this.stage.isLined);
    this.lined.setAttribute('aria-pressed', String(this.stage.isLined));
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const pans = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
    const deeds = {
      ArrowLeft: () => this.#step(-1), ArrowRight: () => this.#step(1), l: () => this.#line(), L: () => this.#line(),
      '+': () => this.stage.zoom(1.5), '=': () => this.stage.zoom(1.5), '-': () => this.stage.zoom(1 / 1.5), 0: () => this.stage.fit(),
    };
    const deed = event.shiftKey && pans[event.key] ? () => this.stage.pan(...pans[event.key]) : deeds[event.key];
    if (!deed) return;
    event.preventDefault();
    deed();
  }
}

/** Return an archived photo with its size, which its file says where the archive does not. */
async function photoAt(archive, name, size) {
  const address = await shownAt(thumbnail(archive.name, name, LARGE));
  let known = size ?? sizeOf(archive.name, name);
  if (!known) {
    known = await naturalSize(await shownAt(original(archive.name, name))).catch(() => naturalSize(address));
    noteSize(archive.name, name, known);
  }
  return { address, size: known };
}

function naturalSize(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve([image.naturalWidth, image.naturalHeight]);
    image.onerror = () => reject(new Error('this photo cannot be shown'));
    image.src = address;
  });
}
