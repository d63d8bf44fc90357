// Photos are added and removed: each is a job of the service, which is asked for until it is done.

import { ask, askJson, encoded, path } from './api.js';
import { confirmed, dialogOf, shown } from './dialogs.js';
import { announce, button, el, icon } from './dom.js';
import { isPhoto } from './giving.js';
import { parts, printable } from './words.js';

// Photos and bytes of one request.
const MOST = 16;
const BYTES = 24 << 20;
const PATIENCE = 600;

const rest = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Wait for a job; return it once it has ended. */
async function ended(job, tell) {
  for (let tried = 0; tried < PATIENCE; tried += 1) {
    const now = await askJson(path(`jobs/${encodeURIComponent(job.id)}`));
    if (now.state === 'done' || now.state === 'failed') return now;
    tell?.(now.state);
    await rest(Math.min(100 + 50 * tried, 1000));
  }
  throw new Error('the job takes very long; look at it again later');
}

/** Ask whether to remove a photo, and remove it; return whether it is gone. */
export async function remove(archive, name) {
  const file = el('input', { type: 'checkbox', id: 'with-file' });
  const choice = archive.pictures === 'folder' && el('label', { class: 'check' }, file, el('span', {}, 'Delete its file as well'));
  const sure = await confirmed(`Remove ${printable(parts(name)[1])}?`,
    'It will not be found any more. There is no way back but to add it again.', 'Remove it', choice);
  if (!sure) return false;
  const query = { archive: archive.name, file: file.checked ? true : null };
  const done = await ended(await askJson(path(`photos/${encoded(name)}`, query), { method: 'DELETE' }));
  if (done.state === 'failed') throw new Error(done.reason ?? 'the service does not say why');
  announce(`${printable(name)} was removed`);
  return true;
}

/** Group files, so that no request becomes too large. */
function groups(rows) {
  const made = [];
  let bytes = 0;
  for (const row of rows) {
    const isTwice = made.at(-1)?.some((other) => other.file.name === row.file.name);
    if (made.length === 0 || isTwice || made.at(-1).length === MOST || bytes + row.file.size > BYTES) {
      made.push([]);
      bytes = 0;
    }
    made.at(-1).push(row);
    bytes += row.file.size;
  }
  return made;
}

async function send(archive, folder, rows) {
  const mark = (row, kind, words) => { row.line.className = kind; row.said.textContent = words; };
  const body = new FormData();
  for (const row of rows) {
    row.name = folder + row.file.name;
    body.append('photo', row.file, row.file.name);
    mark(row, 'going', 'sending…');
  }
  try {
    const job = await (await ask(path('photos', { archive: archive.name, folder }), { method: 'POST', body })).json();
    const done = await ended(job, (state) => rows.forEach((row) => mark(row, 'going', state === 'waiting' ? 'waiting…' : 'described…')));
    const failed = new Map(done.failures.map(({ name, reason }) => [name, reason]));
    for (const row of rows) {
      if (failed.has(row.name)) mark(row, 'bad', printable(failed.get(row.name)));
      else if (done.state === 'failed') mark(row, 'bad', printable(done.reason ?? 'not added'));
      else mark(row, 'good', 'added');
    }
  } catch (problem) {
    // One name that cannot be is no reason to refuse the others.
    const isOfOne = [409, 413, 415, 422].includes(problem.status) && rows.length > 1;
    if (isOfOne) for (const row of rows) await send(archive, folder, [row]);
    else for (const row of rows) mark(row, 'bad', printable(problem.detail ?? problem.message));
  }
}

/**
 * Let photos be added.
 * @param {object} archive
 * @param {string} folder that is proposed
 * @param {(names: string[]) => void} added called when photos have come in
 * @param {(name: string) => void} search with a photo that was added
 */
export function adding(archive, folder, added, search) {
  const list = el('ul', { class: 'files', 'aria-label': 'Photos to add' });
  const place = el('input', { id: 'place', value: folder, placeholder: 'no folder', spellcheck: 'false', autocomplete: 'off' });
  const input = el('input', { type: 'file', accept: 'image/*', multiple: true, hidden: true, id: 'add-files', tabindex: '-1' });
  const foot = el('p', { class: 'choices' });
  const dialog = dialogOf(`Add photos to ${printable(archive.name)}`, 'adding');
  let isBusy = false;
  const take = async (files) => {
    const rows = [...files].map((file) => {
      const said = el('span', { class: 'said' }, isPhoto(file) ? 'next' : 'is no photo');
      const line = el('li', { class: isPhoto(file) ? '' : 'bad' }, el('bdi', {}, printable(file.name)), said);
      list.append(line);
      return { file, said, line };
    });
    const photos = rows.filter((row) => isPhoto(row.file));
    if (photos.length === 0) return;
    isBusy = true;
    const where = place.value.trim().replace(/^\/+|\/+$/g, '');
    for (const group of groups(photos)) await send(archive, where ? `${where}/` : '', group);
    isBusy = false;
    const names = photos.filter((row) => row.line.className === 'good').map((row) => row.name);
    const failed = photos.length - names.length;
    announce(`${names.length} added${failed ? `, ${failed} not` : ''}`);
    if (names.length > 0) added(names);
    foot.replaceChildren(button('', 'Done', () => dialog.close('')),
      names.length > 0 ? button('again', names.length === 1 ? 'Search with it' : 'Search with the first', () => { dialog.close(''); search(names[0]); }, { kind: 'main' }) : '');
    foot.lastElementChild.focus();
  };
  input.addEventListener('change', () => { take(input.files); });
  const zone = el('div', { class: 'zone' }, icon('photo'), el('p', {}, 'Drop photos here, or choose them.'), input, button('add', 'Choose photos', () => input.click(), { kind: 'main', autofocus: true }));
  dialog.addEventListener('dragover', (event) => { event.preventDefault(); zone.classList.add('over'); });
  dialog.addEventListener('dragleave', () => zone.classList.remove('over'));
  dialog.addEventListener('drop', (event) => { event.preventDefault(); zone.classList.remove('over'); take(event.dataTransfer.files); });
  dialog.addEventListener('cancel', (event) => { if (isBusy) event.preventDefault(); });
  foot.append(button('', 'Close', () => dialog.close('')));
  dialog.firstElementChild.append(el('div', { class: 'setting' }, el('label', { for: 'place' }, 'Folder'), place), zone,
    el('p', { class: 'note' }, 'A photo of the same name is replaced.'), list, foot);
  return shown(dialog);
}
