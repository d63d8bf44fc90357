// What was found: a justified grid in two groups, what is certain and what is only near.

import { sizeOf } from './answers.js';
import { announce, button, el, icon, svg } from './dom.js';
import { show } from './pictures.js';
import { address } from './state.js';
import { justified, Tiles } from './tiles.js';
import { agreed, counted, named, percent, printable, seconds, sure } from './words.js';

// Extreme shapes are cut to these, or a row would be a thread.
const NARROWEST = 0.6;
const WIDEST = 2.4;
const UNKNOWN = 4 / 3;
// Of more results only those near the window have tiles.
const MOST_TILES = 120;

/** The results of a search, in an element. */
export class Results {
  constructor(host, go) {
    this.host = host;
    this.go = go;
    this.lists = [];
    host.addEventListener('keydown', (event) => this.#walk(event));
  }

  /** Say that an answer is awaited; what is there stays, paler. */
  wait(text) {
    this.host.setAttribute('aria-busy', 'true');
    const line = el('div', { class: 'progress' }, el('i'), el('p', {}, text));
    this.host.querySelector('.progress')?.remove();
    this.host.prepend(line);
    announce(text);
    return (words) => { line.querySelector('p').textContent = words; announce(words); };
  }

  /** Show an answer. */
  show(answer, state, archive) {
    this.#clear();
    const [title, lead] = told(answer, archive);
    const group = (heading, results, kind) => results.length > 0 && el('section', { class: `group ${kind}` },
      heading && el('h2', {}, heading),
      this.#list([...results], archive, (result) => this.#tile(result, state, archive, answer.isJudged)));
    const beyond = answer.found.length > 0 ? 'Beyond that nothing is certain; the nearest' : 'Nothing certain; the nearest';
    this.host.replaceChildren(
      el('header', { class: 'told' }, el('h1', { id: 'told' }, title), el('p', { class: 'soft' }, lead),
        answer.remarks.map((remark) => el('p', { class: 'remark' }, remark))),
      group('Found', answer.found, 'certain') || '',
      group(answer.isJudged ? beyond : '', answer.nearest, answer.isJudged ? 'near' : 'certain') || '');
    for (const { tiles, results } of this.lists) tiles?.show(results.length);
    announce(`${title}. ${lead}`);
  }

  /** Show what went wrong. */
  fail(problem, again) {
    this.#clear();
    this.host.replaceChildren(el('div', { class: 'failure', role: 'alert' }, icon('warn'),
      el('div', {}, el('h1', {}, problem.title ?? 'That did not work'), el('p', {}, printable(problem.detail ?? String(problem.message))),
        again && el('p', { class: 'choices' }, button('', 'Try again', again, { kind: 'main' })))));
  }

  /** Give the focus to the tile of a photo. */
  focus(name) {
    for (const one of this.lists) focusOn(one, one.results.findIndex((result) => result.name === name));
  }

  /** Take the tile of a photo away. */
  drop(name) {
    for (const { list, results, tiles } of this.lists) {
      const at = results.findIndex((result) => result.name === name);
      if (at < 0) continue;
      results.splice(at, 1);
      if (tiles) tiles.show(results.length, { anew: true });
      else list.children[at].remove();
    }
  }

  #clear() {
    this.host.removeAttribute('aria-busy');
    for (const { tiles } of this.lists) tiles?.close();
    this.lists = [];
  }

  #list(results, archive, make) {
    const list = el('ol', { class: 'grid' });
    const isLong = results.length > MOST_TILES;
    const shapes = () => results.map((result) => ratioOf(result, archive));
    const tiles = isLong ? new Tiles(list, (at) => make(results[at]), (width, gaps) => justified(shapes(), width, gaps, inPixels(list, '--row'))) : null;
    if (!isLong) list.append(...results.map(make));
    this.lists.push({ list, results, tiles });
    return list;
  }

  #tile(result, state, archive, isJudged) {
    const size = result.size ?? sizeOf(archive.name, result.name);
    const picture = el('span', { class: 'picture' },
      show(el('img', { alt: '' }), archive.name, result.name, '(max-width: 40rem) 50vw, 22rem'), place(result, size));
    const places = agreed(result);
    const link = el('a', { href: address({ ...state, compare: result.name }), 'data-name': result.name,
      onclick: (event) => { if (plain(event)) { event.preventDefault(); this.go({ compare: result.name }); } } },
    picture,
    el('span', { class: 'caption' }, named(result.name),
      el('span', { class: 'sure' }, isJudged && bar(result.probability), el('span', {}, sure(result)), places && el('span', { class: 'places' }, places))));
    const again = button('again', `Search with ${printable(result.name)}`, () => this.go(searchWith(result.name)), { bare: true, kind: 'again' });
    const tile = el('li', { class: 'tile' }, link, again);
    tile.style.setProperty('--ratio', ratioOf(result, archive).toFixed(4));
    return tile;
  }

  /** Arrow keys walk over the tiles as they lie. */
  #walk(event) {
    const here = event.target.closest?.('.tile > a');
    if (!here || event.altKey || event.ctrlKey || event.metaKey) return;
    const links = [...this.host.querySelectorAll('.tile > a')];
    const at = links.indexOf(here);
    const ends = { Home: [this.lists[0], 0], End: [this.lists.at(-1), this.lists.at(-1).results.length - 1] }[event.key];
    if (ends) {
      event.preventDefault();
      focusOn(...ends);
      return;
    }
    const next = { ArrowLeft: () => links[at - 1], ArrowRight: () => links[at + 1],
      ArrowUp: () => beside(links, at, -1), ArrowDown: () => beside(links, at, 1) }[event.key]?.();
    if (!next) return;
    event.preventDefault();
    next.focus();
  }
}

function focusOn({ list, tiles }, at) {
  if (tiles) tiles.focus(at);
  else list.children[at]?.querySelector('a').focus();
}

/** Return how wide a tile is beside its height. */
function ratioOf(result, archive) {
  const size = result.size ?? sizeOf(archive.name, result.name);
  return size ? Math.min(Math.max(size[0] / size[1], NARROWEST), WIDEST) : UNKNOWN;
}

/** Return a length of a style that is given in rem. */
function inPixels(element, name) {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  return parseFloat(getComputedStyle(element).getPropertyValue(name)) * rem;
}

/** What a search on from an archived photo changes. */
export const searchWith = (name) => ({ indexed: name, photo: '', box: null, compare: '' });

/** Whether a click means what it says, and not a new tab. */
export const plain = (event) => !(event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);

function told(answer, archive) {
  const searched = answer.coverage?.searched ?? archive.photos;
  const isPartial = (answer.coverage?.missing ?? []).length > 0;
  const total = answer.seconds.total ?? answer.seconds.extract + answer.seconds.search;
  const effort = isPartial ? `Only ${searched.toLocaleString('en')} of ${counted(answer.coverage.photos, 'photo')} were searched.`
    : `Searched ${counted(searched, 'photo')} in ${seconds(total)}.`;
  const turned = answer.turn ? ` The photo was turned by ${answer.turn}° to find them.` : '';
  if (answer.others.length === 0) {
    const best = typeof answer.best_probability === 'number' && answer.results.length === 0
      ? ` The best of what your limit leaves out is ${percent(answer.best_probability)} sure.` : '';
    return ['Nothing was found', `No photo shares anything with yours.${best} ${effort}`];
  }
  if (!answer.isJudged) {
    return [counted(answer.others.length, 'photo'), `The nearest first; how sure they are is not known. ${effort}${turned}`];
  }
  if (answer.found.length === 0) return ['Nothing certain', `No photo surely shows the same. The nearest are below. ${effort}${turned}`];
  return [`${counted(answer.found.length, 'photo')} found`, `${effort}${turned}`];
}

function bar(probability) {
  const filled = el('i');
  filled.style.width = `${100 * probability}%`;
  return el('span', { class: 'bar', 'aria-hidden': 'true' }, filled);
}

/** Draw where the query lies in a photo. */
function place(result, size) {
  if (!result.box || !size) return null;
  // A frame on the very edge would be cut in half.
  const inside = (edge, side) => Math.min(Math.max(edge, 0.008 * side), 0.992 * side);
  const [x0, x1] = [result.box[0], result.box[2]].map((edge) => inside(edge, size[0]));
  const [y0, y1] = [result.box[1], result.box[3]].map((edge) => inside(edge, size[1]));
  return svg('svg', { class: 'place', viewBox: `0 0 ${size[0]} ${size[1]}`, preserveAspectRatio: 'xMidYMid slice', 'aria-hidden': 'true' },
    ['halo', 'frame'].map((kind) => svg('rect', { class: kind, x: x0, y: y0, width: x1 - x0, height: y1 - y0 })));
}

function beside(links, at, step) {
  const here = links[at].getBoundingClientRect();
  let best = null;
  for (let next = at + step; next >= 0 && next < links.length; next += step) {
    const there = links[next].getBoundingClientRect();
    if (Math.abs(there.top - here.top) < 4) continue;
    if (best && Math.abs(there.top - best.top) > 4) break;
    const away = Math.abs(there.left + there.width / 2 - here.left - here.width / 2);
    if (!best || away < best.away) best = { away, top: there.top, link: links[next] };
  }
  return best?.link;
}
