// Where a search begins: a place to drop a photo, and the archive to pick one from.

import { Browse } from './browse.js';
import { button, el, icon } from './dom.js';
import { givingButtons } from './giving.js';

/** The start of the page, in an element. */
export class Start {
  constructor(host, go, told) {
    this.host = host;
    this.browse = new Browse(go);
    this.said = el('p', { class: 'refusal', role: 'alert', hidden: true });
    this.empty = el('div', { class: 'empty', hidden: true }, icon('photo'), el('h1', {}, 'No photos yet'), this.none = el('p', { class: 'soft' }),
      this.first = button('add', 'Add photos', () => told.adding(), { kind: 'main' }));
    this.drop = el('div', { class: 'drop' }, icon('photo'),
      el('h1', { id: 'start-title' }, 'Which photos show the same as yours?'),
      el('p', { class: 'soft' }, matchMedia('(pointer: coarse)').matches ? 'Choose one of yours, or take one.' : 'Drop a photo anywhere, or paste one.'),
      el('div', { class: 'choices' }, givingButtons(told.given, told.refused)), this.said);
    this.bare = el('p', { class: 'remark' }, 'The files of these photos are not within reach of the service: it finds them, and shows their names alone.');
    this.archive = el('div', { class: 'archive' }, this.bare, this.browse.host);
    host.replaceChildren(this.drop, this.empty, this.archive);
  }

  /** Show a folder of the archive. */
  show(state, archive) {
    const isEmpty = archive.photos === 0;
    this.empty.hidden = !isEmpty;
    this.archive.hidden = isEmpty;
    this.drop.classList.toggle('idle', isEmpty);
    this.none.textContent = archive.writable ? 'Add some, and search among them.' : `Put some in with the command  ctxdeploy index PHOTOS -o ${archive.name}.ctxindex`;
    this.first.hidden = !archive.writable;
    this.bare.hidden = isEmpty || !['none', 'elsewhere'].includes(archive.pictures);
    if (!isEmpty) this.browse.show(state, archive);
  }

  /** Say why there is no photo to search with. */
  refuse(why) {
    this.said.hidden = !why;
    this.said.textContent = why ?? '';
  }
}
