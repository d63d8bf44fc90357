// The page: the address says what is shown, and whatever changes it is shown.

import { forget, known, search } from './answers.js';
import { askJson, path, Problem } from './api.js';
import { Asked } from './asked.js';
import { adding, remove } from './changes.js';
import { Comparison } from './comparison.js';
import { announce, button, el } from './dom.js';
import { takeEverywhere } from './giving.js';
import { Results, searchWith } from './results.js';
import { Start } from './start.js';
import { address, isSearch, keep, kept, NOTHING, read, searchKey } from './state.js';
import { counted, printable } from './words.js';

const place = (id) => document.getElementById(id);

let state = read();
let archives = [];
let asking = null;
let lost = '';

const told = { given, refused, removed, adding: () => openAdding(), closed: (name) => results.focus(name) };
const results = new Results(place('results'), go);
const asked = new Asked(place('asked'), go, told);
const start = new Start(place('start'), go, told);
const comparison = new Comparison(go, told);

/** Change the state, and show it. */
function go(changes, { replace = false } = {}) {
  const isNew = changes.indexed !== undefined || changes.photo !== undefined;
  const to = { ...state, ...changes };
  if (address(to) === address(state)) return;
  state = to;
  history[replace ? 'replaceState' : 'pushState'](null, '', address(state));
  render();
  if (isNew) {
    scrollTo(0, 0);
    place('main').focus({ preventScroll: true });
  }
}

function given(file) {
  start.refuse(null);
  go({ photo: keep(file, file.name || 'pasted photo'), indexed: '', box: null, compare: '' });
}

function refused(why) {
  if (!isSearch(state)) start.refuse(why);
  else results.fail(new Problem(0, 'There is no photo to search with', why), () => render({ anew: true }));
}

const archiveOf = (wanted) => archives.find((archive) => archive.name === (wanted.archive || archives[0]?.name));

async function load(waits) {
  ({ archives } = await askJson(path('archives'), { waits }));
}

/** Show the state. */
function render({ anew = false } = {}) {
  const archive = archiveOf(state);
  if (!archive) {
    const names = archives.map((one) => one.name).join(', ');
    trouble(new Problem(404, 'There is no such archive', `The service has ${names || 'none'}, not ${state.archive}.`));
    return;
  }
  if (state.photo && !kept(state.photo)) {
    // An address of a former load of the page: its settings hold, its photo is gone.
    lost = 'The photo of this address was given to the page before it was loaded anew: give it again.';
    state = { ...state, photo: '', box: null, compare: '' };
    history.replaceState(null, '', address(state));
  }
  header(archive);
  const searching = isSearch(state);
  place('start').hidden = searching;
  place('search').hidden = !searching;
  place('asked').hidden = false;
  if (!searching) {
    asking?.abort();
    if (comparison.isOpen) comparison.close();
    document.title = 'ctxdeploy';
    start.show(state, archive);
    start.refuse(lost);
    lost = '';
    return;
  }
  asked.show(state, archive);
  answer(archive, anew);
}

async function answer(archive, anew) {
  const key = searchKey(state);
  const there = anew ? undefined : known(state);
  if (there) {
    asking?.abort();
    asking = null;
    present(there, archive, key);
    return;
  }
  if (asking?.key === key && !anew) return;
  asking?.abort();
  asking = Object.assign(new AbortController(), { key });
  const { signal } = asking;
  const waits = results.wait(`Searching ${counted(archive.photos, 'photo')}…`);
  try {
    const found = await search(state, archive, { signal, waits });
    if (!signal.aborted) present(found, archive, key);
  } catch (problem) {
    if (signal.aborted) return;
    document.title = 'ctxdeploy';
    shownKey = '';
    results.fail(problem, () => render({ anew: true }));
  } finally {
    if (asking?.key === key && asking.signal === signal) asking = null;
  }
}

let shownKey = '';

function present(found, archive, key) {
  asked.sized(found.size);
  if (shownKey !== key || place('results').hasAttribute('aria-busy')) results.show(found, state, archive);
  shownKey = key;
  const name = state.indexed || kept(state.photo).name;
  document.title = `${printable(name)} – ${found.found.length ? `${found.found.length} found` : 'nothing certain'} – ctxdeploy`;
  if (state.compare && comparison.show(state, found, archive)) return;
  if (state.compare) {
    state = { ...state, compare: '' };
    history.replaceState(null, '', address(state));
  }
  if (comparison.isOpen) comparison.close();
}

function header(archive) {
  const choice = archives.length > 1
    ? el('select', { 'aria-label': 'Archive', onchange: (event) => go({ ...NOTHING, photo: state.photo, archive: event.target.value }) },
      archives.map((one) => el('option', { value: one.name, selected: one === archive }, `${printable(one.name)} (${counted(one.photos, 'photo')})`)))
    : el('p', {}, el('bdi', {}, printable(archive.name)), el('span', { class: 'soft' }, counted(archive.photos, 'photo')));
  const key = JSON.stringify([archives, archive.name]);
  if (place('archives').dataset.key === key) return;
  place('archives').dataset.key = key;
  place('archives').replaceChildren(choice);
  place('actions').replaceChildren(archive.writable ? button('add', 'Add photos', openAdding, { kind: 'shrinks' }) : '');
}

function openAdding() {
  const archive = archiveOf(state);
  adding(archive, isSearch(state) ? '' : state.folder, changed, (name) => go(searchWith(name)));
}

/** The archive has changed: what is known of it is not so any more. */
async function changed() {
  forget();
  shownKey = '';
  await load().catch(() => {});
  if (!isSearch(state)) render();
  else header(archiveOf(state));
}

async function removed(name) {
  const archive = archiveOf(state);
  try {
    if (!(await remove(archive, name))) return;
  } catch (problem) {
    if (comparison.isOpen) comparison.close();
    results.fail(problem instanceof Problem ? problem : new Problem(0, 'It was not removed', problem.message));
    return;
  }
  forget();
  await load().catch(() => {});
  if (comparison.isOpen) comparison.close();
  if (name === state.indexed) go({ indexed: '', box: null, compare: '' });
  else {
    state = { ...state, compare: '' };
    history.replaceState(null, '', address(state));
    results.drop(name);
    render({ anew: true });
  }
}

function trouble(problem) {
  place('start').hidden = true;
  place('search').hidden = false;
  place('asked').hidden = true;
  results.fail(problem, () => location.assign(archives.length > 0 ? './' : location.href));
}

place('brand').addEventListener('click', (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go({ ...NOTHING, archive: state.archive });
});
addEventListener('popstate', () => { state = read(); render(); });
takeEverywhere(given, refused);
try {
  await load((text) => {
    place('search').hidden = false;
    results.wait(text);
  });
  render();
} catch (problem) {
  trouble(problem);
}
