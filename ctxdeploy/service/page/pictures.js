// Pictures of archived photos, in sizes. With a key they are fetched, because an <img> cannot show one.

import { ask, encoded, hasKey, path } from './api.js';

/** Return the address of a photo of so many pixels on its longest side. */
export const thumbnail = (archive, name, size) => path(`thumbnails/${encoded(name)}`, { archive, size });
export const original = (archive, name) => path(`originals/${encoded(name)}`, { archive });

const fetched = new Map();
const MOST = 600;

async function blobUrl(address) {
  if (!fetched.has(address)) {
    fetched.set(address, ask(address).then((response) => response.blob()).then((blob) => URL.createObjectURL(blob)));
    if (fetched.size > MOST) {
      const [oldest, url] = fetched.entries().next().value;
      fetched.delete(oldest);
      url.then((text) => URL.revokeObjectURL(text), () => {});
    }
  }
  try {
    return await fetched.get(address);
  } catch (error) {
    fetched.delete(address);
    throw error;
  }
}

/** Return an address that an image can have: the service's own, or with a key one of what was fetched. */
export async function shownAt(address) {
  return hasKey() ? blobUrl(address) : address;
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    blobUrl(target.dataset.address).then((url) => { target.src = url; }, () => target.dispatchEvent(new Event('error')));
  }
}, { rootMargin: '400px' });

/** Let an image show a photo once it comes near; `sizes` as in HTML. Where there is none, the class `missing` is set. */
export function show(image, archive, name, sizes, [small, large] = [320, 640]) {
  image.addEventListener('error', () => image.parentElement?.classList.add('missing'), { once: true });
  image.addEventListener('load', () => image.classList.add('loaded'), { once: true });
  image.decoding = 'async';
  if (hasKey()) {
    image.dataset.address = thumbnail(archive, name, large);
    watcher.observe(image);
    return image;
  }
  image.loading = 'lazy';
  image.sizes = sizes;
  image.srcset = `${thumbnail(archive, name, small)} ${small}w, ${thumbnail(archive, name, large)} ${large}w`;
  image.src = thumbnail(archive, name, small);
  return image;
}
