// What the page says in words.

import { el } from './dom.js';

// Control characters, marks and overrides of the direction of text, and separators of lines: shown, not obeyed.
const UNPRINTED = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

/** Return a name as it is shown: what hides or turns the text around it becomes an escape. */
export function printable(name) {
  return name.replace(UNPRINTED, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Return the folder of a name, with its last slash, and what follows. */
export function parts(name) {
  const cut = name.lastIndexOf('/') + 1;
  return [name.slice(0, cut), name.slice(cut)];
}

/** Return an element with a name in it: the folder first, small. */
export function named(name, kind = 'name') {
  const [folder, file] = parts(name);
  return el('span', { class: kind, title: printable(name) },
    folder && el('bdi', { class: 'folder' }, printable(folder)), ' ', el('bdi', { class: 'file' }, printable(file)));
}

export function counted(count, noun) {
  return `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;
}

/** Return a share in percent as the reports have it: never more than is true. */
export function percent(share) {
  return `${Math.floor(100 * share)}\u00a0%`;
}

/** Return how sure a result is; its score where nobody knows. */
export function sure(result) {
  if (result.probability === null || result.probability === undefined) return `score ${result.score.toPrecision(3)}`;
  return `${percent(result.probability)} sure`;
}

/** Return how many places of the query were found in a result; empty where that was not looked into. */
export function agreed(result) {
  if (result.inliers === null || result.inliers === undefined) return '';
  return result.inliers === 1 ? '1 place matches' : `${result.inliers} places match`;
}

export function seconds(value) {
  return value < 1 ? `${Math.max(1, Math.round(1000 * value))}\u00a0ms` : `${value.toFixed(1)}\u00a0s`;
}

/** Return why a result is one, in a sentence or two. */
export function reasons(result) {
  const told = typeof result.probability === 'number' ? [] : ['How sure this is, is not known here.'];
  if (result.matches === undefined || result.matches === null) return told;
  if (!result.affine) return [...told, 'No part of your photo was found again in the same arrangement.'];
  return [...told, `${counted(result.matches.length, 'point')} of your photo lie in the same arrangement here.`];
}

/** Return where the query lies in a photo, from the map and the sizes of both; empty where that is not known. */
export function placed(result, size) {
  if (!result.affine || !result.box || !size) return '';
  const [x0, y0, x1, y1] = result.box;
  const clip = (value, most) => Math.min(Math.max(value, 0), most);
  const [left, right] = [clip(x0, size[0]), clip(x1, size[0])];
  const [upper, lower] = [clip(y0, size[1]), clip(y1, size[1])];
  const share = ((right - left) * (lower - upper)) / (size[0] * size[1]);
  const third = (value) => Math.min(2, Math.floor(3 * value));
  const column = ['left', '', 'right'][third((left + right) / 2 / size[0])];
  const row = ['upper', '', 'lower'][third((upper + lower) / 2 / size[1])];
  const where = [row, column].filter(Boolean).join(' ') || 'middle';
  const [[a, b], [d, e]] = result.affine;
  const degrees = Math.round((Math.atan2(d, a) * 180) / Math.PI);
  const turned = Math.abs(degrees) < 4 ? '' : `, turned by ${Math.abs(degrees)}° ${degrees > 0 ? '' : 'counter-'}clockwise`;
  const mirrored = a * e - b * d < 0 ? ', mirrored' : '';
  if (share > 0.9) return `What you search for fills this photo${turned}${mirrored}.`;
  if (share < 0.005) return '';
  return `What you search for takes ${share < 0.01 ? 'less than 1' : Math.round(100 * share)} % of this photo, ${where === 'middle' ? 'in the middle' : `at the ${where}`}${turned}${mirrored}.`;
}
