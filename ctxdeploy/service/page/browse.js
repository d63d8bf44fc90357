// The photos of the archive, by folders and by the beginnings of their names.

import { askJson, path } from './api.js';
import { announce, button, el, icon } from './dom.js';
import { show } from './pictures.js';
import { plain, searchWith } from './results.js';
import { address } from './state.js';
import { evenly, Tiles } from './tiles.js';
import { counted, parts, printable } from './words.js';

// Names that are asked for first, and then at a time.
const PAGE = 60;
const MORE = 500;

/** The grid of archived photos, in an element. */
export class Browse {
  constructor(go) {
    this.go = go;
    this.shown = null;
    this.title = el('h2', {});
    this.crumbs = el('nav', { class: 'crumbs', 'aria-label': 'Folder' });
    this.filter = el('input', { id: 'starts', type: 'search', placeholder: 'Names that start with…', 'aria-label': 'Show names that start with', spellcheck: 'false', autocomplete: 'off',
      oninput: () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.go({ starts: this.filter.value }, { replace: true }), 250); } });
    this.folders = el('ul', { class: 'folders', 'aria-label': 'Folders' });
    this.grid = el('ul', { class: 'archived', 'aria-label': 'Photos of the archive' });
    this.names = [];
    this.tiles = new Tiles(this.grid, (at) => this.#tile(this.names[at]), (width, gaps) => evenly(this.names.length, width, gaps, { least: 9.5, share: 0.29 }));
    this.more = button('', 'Show more', () => this.#load());
    this.said = el('p', { class: 'soft', hidden: true });
    this.host = el('div', { class: 'browse' }, el('div', { class: 'browse-head' }, this.title, this.crumbs, this.filter), this.folders, this.said, this.grid,
      el('p', { class: 'more' }, this.more));
    new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && !this.more.hidden && this.#load(), { rootMargin: '800px' }).observe(this.more);
  }

  /** Show a folder; what is shown already stays as it is. */
  show(state, archive) {
    const key = JSON.stringify([archive.name, archive.state, archive.photos, state.folder, state.starts]);
    this.title.textContent = `Or start from one of the ${counted(archive.photos, 'photo')} here`;
    if (this.shown === key) return;
    Object.assign(this, { shown: key, state, archive, next: null, loading: null });
    if (this.filter.value !== state.starts) this.filter.value = state.starts;
    this.#trail();
    this.#inside();
    this.names = [];
    this.tiles.show(0, { anew: true });
    this.#load();
  }

  #link(changes, kind, ...content) {
    const to = { ...this.state, ...changes };
    return el('a', { class: kind, href: address(to), onclick: (event) => { if (plain(event)) { event.preventDefault(); this.go(changes); } } }, content);
  }

  #trail() {
    const steps = this.state.folder.split('/').filter(Boolean);
    const trail = steps.map((step, at) => [step, `${steps.slice(0, at + 1).join('/')}/`]);
    this.crumbs.hidden = steps.length === 0;
    this.crumbs.replaceChildren(el('ol', {}, [['All photos', ''], ...trail].map(([step, folder], at) => el('li', {},
      at === trail.length ? el('span', { 'aria-current': 'page' }, el('bdi', {}, printable(step))) : this.#link({ folder, starts: '' }, '', el('bdi', {}, printable(step)))))));
  }

  async #inside() {
    const { shown } = this;
    this.folders.hidden = true;
    const { folders } = await askJson(path('folders', { archive: this.archive.name, prefix: this.state.folder })).catch(() => ({ folders: [] }));
    if (shown !== this.shown) return;
    const wanted = folders.filter((folder) => folder.name.startsWith(this.state.folder + this.state.starts));
    this.folders.hidden = wanted.length === 0;
    this.folders.replaceChildren(...wanted.map(({ name, photos }) => el('li', {}, this.#link({ folder: name, starts: '' }, 'folder-link',
      icon('folder'), el('bdi', {}, printable(name.slice(this.state.folder.length).replace(/\/$/, ''))), el('span', { class: 'count' }, photos.toLocaleString('en'))))));
  }

  async #load() {
    if (this.loading) return;
    const { shown, state, archive } = this;
    this.loading = true;
    this.more.hidden = true;
    try {
      const limit = this.names.length ? MORE : PAGE;
      const { photos, next, count } = await askJson(path('photos', { archive: archive.name, prefix: state.folder + state.starts, after: this.next, limit }));
      if (shown !== this.shown) return;
      const isFirst = this.names.length === 0;
      this.names.push(...photos);
      this.tiles.show(this.names.length, { total: count });
      this.next = next;
      this.said.hidden = !isFirst || photos.length > 0;
      this.said.textContent = state.starts ? `No name here starts with “${printable(state.starts)}”.` : 'There is no photo here.';
      if (!this.said.hidden || (state.starts && isFirst)) announce(photos.length ? counted(count, 'photo') : this.said.textContent);
    } catch (problem) {
      if (shown !== this.shown) return;
      this.next = null;
      this.said.hidden = false;
      this.said.textContent = `The photos cannot be listed: ${printable(problem.detail ?? problem.message)}`;
    } finally {
      if (shown === this.shown) {
        this.loading = false;
        this.more.hidden = this.next === null;
      }
    }
  }

  #tile(name) {
    const [folder, file] = parts(name.slice(this.state.folder.length));
    const link = this.#link(searchWith(name), '', el('span', { class: 'picture' }, show(el('img', { alt: '' }), this.archive.name, name, '(max-width: 40rem) 33vw, 12rem')),
      el('span', { class: 'label', title: printable(name) }, el('span', { class: 'unseen' }, 'Search with '), folder && el('bdi', { class: 'folder' }, printable(folder)), el('bdi', {}, printable(file))));
    return el('li', {}, link);
  }
}
