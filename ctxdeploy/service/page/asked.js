// The query: the photo, its part, what is known of it, and the settings.

import { sizeOf } from './answers.js';
import { button, el, icon } from './dom.js';
import { PartOfPhoto } from './box.js';
import { givingButtons } from './giving.js';
import { original, show } from './pictures.js';
import { settings } from './settings.js';
import { kept } from './state.js';
import { named, printable } from './words.js';

const UNKNOWN = 4 / 3;

/** The panel of the query, in an element. */
export class Asked {
  /**
   * @param {HTMLElement} host
   * @param {(changes: object, how?: object) => void} go
   * @param {{given: (file: File) => void, refused: (why: string) => void, removed: (name: string) => void}} told
   */
  constructor(host, go, told) {
    Object.assign(this, { host, go, told, shown: null, size: null });
  }

  /** Show a state; a photo that is there already stays, and so does the focus. */
  show(state, archive) {
    const key = JSON.stringify([archive.name, state.indexed, state.photo]);
    if (this.shown !== key) {
      this.shown = key;
      this.#fill(state, archive);
    }
    this.state = state;
    const settled = JSON.stringify([state.top, state.verify, state.least, state.rank, state.within, archive]);
    if (this.settled !== settled) {
      this.settled = settled;
      const held = document.activeElement?.id;
      this.fields.replaceChildren(...settings(state, archive, this.go));
      if (held) this.fields.querySelector(`#${CSS.escape(held)}`)?.focus();
    }
    this.#box(state.box);
  }

  /** Note how large the photo is, as an answer says it. */
  sized(size) {
    if (!size) return;
    this.size = size;
    this.frame.style.setProperty('--ratio', (size[0] / size[1]).toFixed(4));
    this.#box(this.state.box);
  }

  #fill(state, archive) {
    const upload = state.photo ? kept(state.photo) : null;
    const name = upload ? upload.name : state.indexed;
    const image = el('img', { alt: `Your photo, ${printable(name)}`, draggable: 'false' });
    this.frame = el('div', { class: 'framed', tabindex: '-1' }, image);
    this.size = upload ? null : sizeOf(archive.name, name) ?? null;
    this.frame.style.setProperty('--ratio', (this.size ? this.size[0] / this.size[1] : UNKNOWN).toFixed(4));
    image.addEventListener('load', () => {
      // Of an upload the browser knows the size; of an archived photo this is a thumbnail of the same shape.
      if (upload && !this.size) this.sized([image.naturalWidth, image.naturalHeight]);
      else if (!this.size) this.frame.style.setProperty('--ratio', (image.naturalWidth / image.naturalHeight).toFixed(4));
    });
    if (upload) {
      image.addEventListener('error', () => this.frame.classList.add('unshown'), { once: true });
      image.src = upload.url;
    } else show(image, archive.name, name, '(max-width: 60rem) 100vw, 24rem', [640, 1280]);
    this.part = new PartOfPhoto(this.frame, (box) => this.go({ box: this.#pixels(box), compare: '' }));
    this.clear = button('close', 'Whole photo', () => { this.part.clear(); this.choose.focus(); });
    this.choose = button('crop', 'Choose a part', () => this.part.begin());
    this.fields = el('div', { class: 'fields' });
    this.settled = null;
    const open = matchMedia('(min-width: 60.01rem)').matches;
    this.host.replaceChildren(this.frame,
      el('p', { class: 'hint' }, 'Drag over the photo to search for a part of it.'),
      el('h2', { class: 'query-name' }, named(name)),
      el('div', { class: 'deeds' }, this.choose, this.clear, givingButtons(this.told.given, this.told.refused, { main: 'Another photo', kind: '', id: 'pick-another' }),
        !upload && el('a', { class: 'button quiet', href: original(archive.name, name), target: '_blank', rel: 'noopener' }, icon('open'), el('span', {}, 'Open the file')),
        !upload && archive.writable && button('remove', 'Remove…', () => this.told.removed(name), { kind: 'quiet' })),
      el('details', { class: 'settings', open }, el('summary', {}, 'Settings'), this.fields));
  }

  #pixels(box) {
    if (box === null || !this.size) return null;
    const [width, height] = this.size;
    return [box[0] * width, box[1] * height, box[2] * width, box[3] * height].map(Math.round);
  }

  #box(box) {
    const [width, height] = this.size ?? [0, 0];
    this.part.set(box && this.size ? [box[0] / width, box[1] / height, Math.min(1, box[2] / width), Math.min(1, box[3] / height)] : null);
    this.clear.hidden = box === null;
    this.choose.hidden = box !== null;
    // Without its size a part of the photo has no pixels.
    this.choose.disabled = !this.size;
    this.frame.classList.toggle('drawable', Boolean(this.size));
  }
}
