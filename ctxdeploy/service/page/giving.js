// How a photo is given: dropped anywhere, pasted, picked, taken. What is no photo is said, never fetched.

import { announce, button, el } from './dom.js';

const PHOTO = /^image\//;
// Formats of cameras and scanners that browsers have no type for, but the service reads.
const ENDING = /\.(jpe?g|png|webp|gif|bmp|tiff?|heic|heif|avif|dng|nef|cr2|cr3|arw|raf|orf|rw2|ppm|pgm|jp2)$/i;

export const isPhoto = (file) => PHOTO.test(file.type) || ENDING.test(file.name ?? '');

/** Return the photos among files, and how many others there are. */
export function photosOf(files) {
  const all = [...(files ?? [])];
  const photos = all.filter(isPhoto);
  return { photos, others: all.length - photos.length };
}

/** Return why what was dropped or pasted is no photo. */
export function refusal(transfer) {
  const types = [...(transfer?.types ?? [])];
  if (types.includes('Files')) return 'That is no photo. JPEG, PNG, WebP, HEIC, TIFF and the like can be searched with.';
  if (types.includes('text/uri-list') || types.includes('text/html')) {
    return 'That is the address of a photo, and this page fetches nothing from elsewhere: save the photo, or copy the photo itself.';
  }
  return 'There is no photo in it: copy a photo, then paste again.';
}

/**
 * Take photos that are dropped on the page or pasted into it, unless a dialog is open.
 * @param {(file: File) => void} taken
 * @param {(why: string) => void} refused
 */
export function takeEverywhere(taken, refused) {
  const over = document.getElementById('over');
  const busy = () => document.querySelector('dialog[open]') !== null;
  let depth = 0;
  const lift = () => { depth = 0; over.classList.remove('shown'); };
  const take = (transfer) => {
    const { photos } = photosOf(transfer?.files);
    if (photos.length > 0) taken(photos[0]);
    else refused(refusal(transfer));
  };
  addEventListener('dragenter', (event) => {
    if (busy() || !event.dataTransfer?.types.some((type) => type === 'Files' || type === 'text/uri-list')) return;
    depth += 1;
    over.classList.add('shown');
  });
  addEventListener('dragleave', () => { depth -= 1; if (depth <= 0) lift(); });
  addEventListener('dragover', (event) => event.preventDefault());
  addEventListener('drop', (event) => {
    event.preventDefault();
    lift();
    if (!busy()) take(event.dataTransfer);
  });
  addEventListener('paste', (event) => {
    const field = event.target.closest?.('input, textarea');
    const hasFiles = (event.clipboardData?.files.length ?? 0) > 0;
    if (busy() || (field && !hasFiles)) return;
    event.preventDefault();
    take(event.clipboardData);
  });
}

/** Return buttons that pick a photo, take one where there is a camera, and paste one where the browser lets pages ask. */
export function givingButtons(taken, refused, { main = 'Choose a photo', kind = 'main', id = 'pick' } = {}) {
  const picker = (attributes) => {
    const input = el('input', { type: 'file', accept: 'image/*', hidden: true, tabindex: '-1', ...attributes });
    input.addEventListener('change', () => {
      const { photos } = photosOf(input.files);
      if (photos.length > 0) taken(photos[0]);
      else if (input.files.length > 0) refused('That is no photo.');
      input.value = '';
    });
    return input;
  };
  const files = picker({ id });
  const made = [files, button('photo', main, () => files.click(), { kind })];
  if (matchMedia('(pointer: coarse)').matches) {
    const camera = picker({ capture: 'environment', id: `${id}-camera` });
    made.push(camera, button('camera', 'Take a photo', () => camera.click()));
  }
  if (isSecureContext && navigator.clipboard?.read && matchMedia('(pointer: fine)').matches) {
    made.push(button('paste', 'Paste', () => pasted(taken, refused)));
  }
  return made;
}

async function pasted(taken, refused) {
  let items;
  try {
    items = await navigator.clipboard.read();
  } catch {
    refused('The browser does not let the page read what was copied: press Ctrl+V, or ⌘V, instead.');
    return;
  }
  for (const item of items) {
    const type = item.types.find((one) => PHOTO.test(one));
    if (type) {
      announce('Pasted');
      taken(new File([await item.getType(type)], 'pasted photo', { type }));
      return;
    }
  }
  refused('There is no photo among what was copied.');
}
