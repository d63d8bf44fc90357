// A list of very many tiles, of which only those near the window are in the document. A tile that has the focus stays,
// with those around it, wherever the window goes: the keys lead on from there.

// Windows above and below what is seen that have tiles as well.
const AHEAD = 1;

const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);

/** Lay tiles of one width out, as many beside each other as have `least` rem or `share` of the window. */
export function evenly(count, width, { columnGap }, { least, share }) {
  const narrowest = Math.min(least * rem(), share * innerWidth);
  const columns = Math.max(1, Math.floor((width + columnGap) / (narrowest + columnGap)));
  const each = (width - columnGap * (columns - 1)) / columns;
  const rows = [];
  for (let first = 0; first < count; first += columns) {
    rows.push({ first, widths: Array(Math.min(columns, count - first)).fill(each), picture: each });
  }
  return rows;
}

/** Lay tiles of these shapes out in full rows about `height` high; the last one may be short. */
export function justified(ratios, width, { columnGap }, height) {
  const rows = [];
  const close = (first, end, isLast) => {
    const sum = ratios.slice(first, end).reduce((all, ratio) => all + ratio, 0);
    const full = (width - columnGap * (end - first - 1)) / sum;
    const picture = isLast ? Math.min(height, full) : full;
    rows.push({ first, widths: ratios.slice(first, end).map((ratio) => ratio * picture), picture });
  };
  let [first, taken] = [0, 0];
  ratios.forEach((ratio, at) => {
    const wanted = ratio * height;
    if (at > first && taken + columnGap + wanted > width) {
      close(first, at, false);
      [first, taken] = [at, wanted];
    } else taken += (at > first ? columnGap : 0) + wanted;
  });
  if (first < ratios.length) close(first, ratios.length, true);
  return rows;
}

/** The tiles of a list; what lies below their pictures is as high in all of them. */
export class Tiles {
  /**
   * @param {HTMLElement} host the list
   * @param {(at: number) => HTMLElement} make returns an item with one link
   * @param {(width: number, gaps: {rowGap: number, columnGap: number}) => object[]} layout as `evenly` and `justified`
   */
  constructor(host, make, layout) {
    Object.assign(this, { host, make, layout, count: 0, total: 0, shown: new Map(), rows: [], tops: [], below: 0, width: 0 });
    host.classList.add('tiles');
    this.sizes = new ResizeObserver(() => this.#draw());
    this.sizes.observe(host);
    this.onscroll = () => { this.frame ??= requestAnimationFrame(() => { this.frame = null; this.#draw(); }); };
    addEventListener('scroll', this.onscroll, { passive: true });
    addEventListener('resize', this.onscroll, { passive: true });
    host.addEventListener('focusin', () => this.#draw());
  }

  /** Show so many tiles of `total`; those that are there stay, or are made anew. */
  show(count, { total = count, anew = false } = {}) {
    if (anew) this.#clear();
    Object.assign(this, { count, total });
    this.#place();
    this.#draw();
  }

  /** Give the focus to the link of a tile, wherever it is. */
  focus(at) {
    if (!(at >= 0 && at < this.count)) return;
    if (!this.shown.has(at)) {
      const top = this.host.getBoundingClientRect().top + this.tops[this.#rowOf(at)];
      scrollBy({ top: top - innerHeight / 3, behavior: 'instant' });
      this.#draw(at);
    }
    this.shown.get(at)?.querySelector('a').focus();
  }

  /** Forget the list: it is not in the page any more. */
  close() {
    this.sizes.disconnect();
    removeEventListener('scroll', this.onscroll);
    removeEventListener('resize', this.onscroll);
  }

  #clear() {
    for (const tile of this.shown.values()) tile.remove();
    this.shown.clear();
  }

  /** Find out where each row lies. */
  #place() {
    this.width = this.host.clientWidth;
    const style = getComputedStyle(this.host);
    const gaps = { rowGap: parseFloat(style.rowGap) || 0, columnGap: parseFloat(style.columnGap) || 0 };
    this.rows = this.width ? this.layout(this.width, gaps) : [];
    this.columnGap = gaps.columnGap;
    this.tops = [];
    let top = 0;
    for (const row of this.rows) {
      this.tops.push(top);
      top += row.picture + this.below + gaps.rowGap;
    }
    this.host.style.height = `${Math.max(top - gaps.rowGap, 0)}px`;
    for (const [at, tile] of this.shown) this.#put(at, tile);
  }

  #rowOf(at) {
    return last(this.rows, (row) => row.first <= at);
  }

  #put(at, tile) {
    const number = this.#rowOf(at);
    const row = this.rows[number];
    if (!row) return;
    const before = row.widths.slice(0, at - row.first).reduce((all, width) => all + width + this.columnGap, 0);
    tile.style.left = `${before}px`;
    tile.style.top = `${this.tops[number]}px`;
    tile.style.width = `${row.widths[at - row.first]}px`;
    tile.setAttribute('aria-posinset', String(at + 1));
    tile.setAttribute('aria-setsize', String(this.total));
  }

  /** Return the numbers of the tiles that are to be there, rising. */
  #wanted(also) {
    const { top } = this.host.getBoundingClientRect();
    const [from, to] = [-top - AHEAD * innerHeight, -top + (1 + AHEAD) * innerHeight];
    const low = Math.max(last(this.tops, (one) => one <= from), 0);
    const ranges = [[low, last(this.tops, (one) => one <= to)]];
    const held = this.host.contains(document.activeElement) ? document.activeElement.closest('li') : null;
    for (const at of [also, ...[...this.shown].filter(([, tile]) => tile === held).map(([number]) => number)]) {
      if (at !== undefined && at < this.count) ranges.push([this.#rowOf(at) - 1, this.#rowOf(at) + 1]);
    }
    const wanted = new Set();
    for (const [start, end] of ranges) {
      for (const row of this.rows.slice(Math.max(start, 0), Math.max(end + 1, 0))) row.widths.forEach((_, at) => wanted.add(row.first + at));
    }
    return [...wanted].sort((a, b) => a - b);
  }

  /** Take away what is far and make what is near. */
  #draw(also) {
    if (!this.host.isConnected || !this.host.clientWidth) return;
    if (this.host.clientWidth !== this.width) this.#place();
    const wanted = this.#wanted(also);
    const stays = new Set(wanted);
    for (const [at, tile] of this.shown) {
      if (stays.has(at)) continue;
      tile.remove();
      this.shown.delete(at);
    }
    const made = [];
    let next = this.host.firstElementChild;
    for (const at of wanted) {
      let tile = this.shown.get(at);
      if (!tile) {
        tile = this.make(at);
        this.shown.set(at, tile);
        this.#put(at, tile);
        this.host.insertBefore(tile, next);
        made.push([at, tile]);
      }
      next = tile.nextElementSibling;
    }
    this.#measure(made);
  }

  /** Make room for what lies below the pictures; what is seen stays where it is. */
  #measure(made) {
    const heights = made.map(([at, tile]) => tile.offsetHeight - this.rows[this.#rowOf(at)].picture);
    const below = Math.max(this.below, ...heights);
    if (below < this.below + 0.5) return;
    const { top } = this.host.getBoundingClientRect();
    const row = Math.max(last(this.tops, (one) => one <= -top), 0);
    const before = this.tops[row] ?? 0;
    this.below = below;
    this.#place();
    if (top < 0 && row > 0) scrollBy({ top: this.tops[row] - before, behavior: 'instant' });
    this.#draw();
  }
}

/** Return the place of the last of many for which something holds that holds for the first ones; -1 for none. */
function last(many, holds) {
  let [low, high] = [0, many.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(many[middle])) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
