// What is shown, as the address of the page says it. A photo that was given lives in memory as long as the page does.

const uploads = new Map();
// Of this load of the page: an address of an earlier one must not show another photo.
const SESSION = Math.random().toString(36).slice(2, 8);

/** Settings of a search where nothing else is said; `verify` null: what the archive can. */
export const NOTHING = Object.freeze({
  archive: '', indexed: '', photo: '', box: null, top: 20, verify: null, least: 0, within: '', rank: '',
  folder: '', starts: '', compare: '',
});

/** Keep a photo; return what names it in an address. */
export function keep(blob, name) {
  const id = `${SESSION}-${uploads.size + 1}`;
  uploads.set(id, { id, blob, name, url: URL.createObjectURL(blob) });
  return id;
}

/** Return a photo that was kept: { blob, name, url }, or undefined. */
export function kept(id) {
  return uploads.get(id);
}

const whole = (text, least, most, otherwise) => {
  const value = Number(text);
  return text !== null && /^\d+$/.test(text) && value >= least && value <= most ? value : otherwise;
};

function boxOf(text) {
  const edges = (text ?? '').split(',').map(Number);
  return edges.length === 4 && edges.every(Number.isFinite) && edges[0] < edges[2] && edges[1] < edges[3] ? edges : null;
}

/** Return the state that an address says; what makes no sense is left out. */
export function read(search = location.search) {
  const given = new URLSearchParams(search);
  const least = Number(given.get('min_probability') ?? 0);
  return {
    archive: given.get('archive') ?? '',
    indexed: given.get('indexed') ?? '',
    photo: given.get('indexed') ? '' : (given.get('photo') ?? ''),
    box: boxOf(given.get('box')),
    top: whole(given.get('top'), 1, 1000, NOTHING.top),
    verify: whole(given.get('verify'), 0, 1000, null),
    least: least > 0 && least <= 1 ? least : 0,
    within: given.get('prefix') ?? '',
    rank: ['local', 'global', 'global-then-local'].includes(given.get('rank')) ? given.get('rank') : '',
    folder: given.get('folder') ?? '',
    starts: given.get('starts') ?? '',
    compare: given.get('compare') ?? '',
  };
}

/** Return the address of a state; settings that nobody changed are not in it. */
export function address(state) {
  const given = new URLSearchParams();
  const put = (name, value, otherwise = '') => value !== otherwise && given.set(name, String(value));
  put('archive', state.archive);
  put('indexed', state.indexed);
  put('photo', state.photo);
  if (state.box) put('box', state.box.map(Math.round).join(','));
  put('top', state.top, NOTHING.top);
  put('verify', state.verify, null);
  put('min_probability', state.least, 0);
  put('prefix', state.within);
  put('rank', state.rank);
  put('folder', state.folder);
  put('starts', state.starts);
  put('compare', state.compare);
  const text = given.toString().replaceAll('%2C', ',').replaceAll('%2F', '/');
  return text ? `?${text}` : './';
}

/** Whether something is searched for. */
export const isSearch = (state) => Boolean(state.indexed || state.photo);

/** Return a key of a search: states of the same key have the same answer. */
export function searchKey(state) {
  return address({ ...state, compare: '', folder: '', starts: '' });
}
