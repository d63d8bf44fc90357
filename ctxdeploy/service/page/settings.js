// Settings of a search. Each change asks anew.

import { compared } from './answers.js';
import { askJson, path } from './api.js';
import { el } from './dom.js';

const TOPS = [10, 20, 50, 100, 200, 500, 1000];
const VERIFIED = [0, 10, 20, 50, 100, 200];

const choice = (values, chosen, words) => [...new Set([...values, chosen])].sort((a, b) => a - b)
  .map((value) => el('option', { value, selected: value === chosen }, words(value)));

function labelled(label, id, ...fields) {
  return el('div', { class: 'setting' }, el('label', { for: id }, label), fields);
}

/** Return the settings of a state as fields; `go` is told what changed. */
export function settings(state, archive, go) {
  const whole = (event) => Number(event.target.value);
  const isGlobal = state.rank === 'global' || archive.local === false;
  const made = [
    labelled('Results', 'top', el('select', { id: 'top', onchange: (event) => go({ top: whole(event) }) },
      choice(TOPS, state.top, (top) => `up to ${top.toLocaleString('en')}`))),
  ];
  if (!isGlobal) made.push(verification(state, archive, go), probability(state, go));
  if (archive.global && archive.local !== false) made.push(ranking(state, go));
  made.push(within(state, archive, go));
  return made;
}

function verification(state, archive, go) {
  const chosen = compared(state, archive);
  return labelled('Compare point by point', 'verify',
    el('select', { id: 'verify', onchange: (event) => go({ verify: Number(event.target.value) }) },
      choice(VERIFIED, chosen, (count) => (count === 0 ? 'none' : `the first ${count}`))),
    !archive.geometry && el('p', { class: 'note' }, 'The archive keeps no points: their files are read, which takes longer.'));
}

function probability(state, go) {
  const words = (value) => (value > 0 ? `at least ${value} %` : 'any');
  const shown = el('output', { for: 'least' }, words(Math.round(100 * state.least)));
  const slider = el('input', { id: 'least', type: 'range', min: 0, max: 95, step: 5, value: Math.round(100 * state.least),
    oninput: () => { shown.textContent = words(Number(slider.value)); slider.setAttribute('aria-valuetext', shown.textContent); },
    onchange: () => go({ least: Number(slider.value) / 100 }) });
  return labelled('How sure', 'least', el('span', { class: 'ranged' }, slider, shown));
}

function ranking(state, go) {
  const words = { '': 'their details', global: 'the photo as a whole', 'global-then-local': 'the whole, then details' };
  return labelled('Order by', 'rank', el('select', { id: 'rank', onchange: (event) => go({ rank: event.target.value }) },
    Object.entries(words).map(([rank, told]) => el('option', { value: rank, selected: rank === state.rank }, told))));
}

function within(state, archive, go) {
  const list = el('datalist', { id: 'folders' });
  const field = el('input', { id: 'within', type: 'search', list: 'folders', placeholder: 'all folders', value: state.within, spellcheck: 'false', autocomplete: 'off',
    onchange: () => go({ within: field.value.trim() }),
    onfocus: async () => {
      if (list.childElementCount > 0) return;
      const { folders } = await askJson(path('folders', { archive: archive.name })).catch(() => ({ folders: [] }));
      list.replaceChildren(...folders.map((folder) => el('option', { value: folder.name })));
    } });
  return labelled('Only names that start with', 'within', field, list);
}
