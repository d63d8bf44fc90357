// Answers: asked for, kept for a way back, and sorted into what is certain and what is not.

import { askJson, path } from './api.js';
import { kept, searchKey } from './state.js';

const KEPT = 30;
const answers = new Map();
const sizes = new Map();

/** Forget all answers: the archive has changed. */
export const forget = () => answers.clear();

/** Return the answer of a state if it is known. */
export const known = (state) => answers.get(searchKey(state));

/** Return (width, height) of an archived photo if an answer told it. */
export const sizeOf = (archive, name) => sizes.get(`${archive}\n${name}`);

/** Note how large a photo is. */
export const noteSize = (archive, name, size) => size && sizes.set(`${archive}\n${name}`, size);

/** Return how many of the first results are compared by geometry: what was chosen, or what the archive can. */
export function compared(state, archive) {
  if (state.rank === 'global') return 0;
  return state.verify ?? (archive.geometry ? 20 : 0);
}

function questionOf(state, archive) {
  const isGlobal = state.rank === 'global';
  const verify = Math.min(compared(state, archive), 1000);
  return {
    archive: archive.name,
    indexed: state.indexed,
    box: state.box?.map((edge) => edge.toFixed(1)).join(','),
    rank: state.rank,
    // A photo of the archive finds itself.
    top: Math.min(state.top + (state.indexed ? 1 : 0), 1000),
    verify: verify || null,
    verify_from: verify && !archive.geometry ? 'photos' : null,
    matches: verify ? true : null,
    min_probability: isGlobal ? null : state.least || null,
    prefix: state.within,
  };
}

function sent(state, question, options) {
  if (state.indexed) return askJson(path('search', question), options);
  const { blob } = kept(state.photo);
  const type = /^image\//.test(blob.type) ? blob.type : 'application/octet-stream';
  return askJson(path('search', question), { ...options, method: 'POST', body: blob, headers: { 'Content-Type': type } });
}

/** Ask, and keep the answer. */
export async function search(state, archive, options) {
  const answer = await sent(state, questionOf(state, archive), options);
  noteSize(archive.name, state.indexed, state.indexed ? answer.size : null);
  for (const result of answer.results) noteSize(archive.name, result.name, result.size);
  const sorted = sort(answer, state);
  answers.set(searchKey(state), sorted);
  if (answers.size > KEPT) answers.delete(answers.keys().next().value);
  return sorted;
}

/** Compare the query of a state with one photo that it found; return this photo's result with its matches. */
export async function compare(state, archive, name, options) {
  const question = {
    archive: archive.name, indexed: state.indexed, box: questionOf(state, archive).box, top: 1, verify: 1, matches: true,
    verify_from: archive.geometry ? null : 'photos', name, turn: 'none', expand: 0,
  };
  const answer = await sent(state, question, options);
  noteSize(archive.name, name, answer.results[0]?.size);
  return answer.results.find((result) => result.name === name);
}

/** Sort an answer into `found`, which is certain, and `nearest`, which is not; without judgement all is `nearest`. */
function sort(answer, state) {
  const others = answer.results.filter((result) => result.name !== state.indexed).slice(0, state.top);
  const isJudged = others.every((result) => typeof result.probability === 'number') && answer.found !== null;
  const found = isJudged ? others.filter((result) => result.certain) : [];
  const nearest = isJudged ? others.filter((result) => !result.certain) : others;
  return { ...answer, others: [...found, ...nearest], found, nearest, isJudged };
}
