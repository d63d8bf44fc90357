// The service, asked: keys, waiting when it is busy, and what went wrong in its own words.

import { askKey } from './dialogs.js';

const KEY = 'ctxdeploy-key';
// How often is asked again: while the network is loaded, where others are being answered, where an archive is in trouble.
const TRIES = { NotReady: 120, 429: 8, 503: 2 };

/** What the service answered instead of what was asked for. */
export class Problem extends Error {
  constructor(status, title, detail, code = '') {
    super(detail);
    Object.assign(this, { status, title, detail, code });
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** Return the headers that hold the key; none if there is none. */
export function keyHeaders() {
  const key = sessionStorage.getItem(KEY);
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

/** Return a path of the service with its query; values that are null, undefined or empty are left out. */
export function path(place, query = {}) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === null || value === undefined || value === '') continue;
    for (const one of Array.isArray(value) ? value : [value]) given.append(name, String(one));
  }
  const text = given.toString();
  return `v1/${place}${text ? `?${text}` : ''}`;
}

/** Return a name as part of a path: its slashes stay. */
export const encoded = (name) => name.split('/').map(encodeURIComponent).join('/');

async function problemOf(response) {
  const told = await response.json().catch(() => ({}));
  const title = told.title ?? response.statusText ?? 'The request failed';
  return new Problem(response.status, title, told.detail ?? `the server answered ${response.status}`, told.code);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener('abort', () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

/**
 * Ask; return the response. A key is asked for where one is needed, and a service that is busy or not ready yet is asked
 * again when it says so.
 * @param {string} url from `path`
 * @param {{method?: string, body?: any, headers?: object, signal?: AbortSignal, waits?: (text: string) => void}} options
 * @throws {Problem} what it refuses, or that it cannot be reached
 */
export async function ask(url, { method = 'GET', body, headers = {}, signal, waits } = {}) {
  for (let tried = 1; ; tried += 1) {
    const sent = sessionStorage.getItem(KEY);
    let response;
    try {
      response = await fetch(url, { method, body, signal, headers: { ...headers, ...keyHeaders() } });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem(0, 'The service does not answer', 'See whether it runs and whether you are connected to it, then try again.');
    }
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status === 401 || problem.code === 'KeyOnlyReads') {
      // Another request may have been given a key meanwhile.
      if (sessionStorage.getItem(KEY) === sent) await newKey(problem);
      continue;
    }
    const after = Number(response.headers.get('Retry-After'));
    if (!(after > 0) || tried > (TRIES[problem.code] ?? TRIES[response.status] ?? 0)) throw problem;
    waits?.(response.status === 429 ? 'Others are being answered; yours is next.' : problem.detail);
    await pause(Math.min(after, 10), signal);
  }
}

let asking = null;

async function newKey(problem) {
  asking ??= askKey(problem.detail).finally(() => { asking = null; });
  const key = await asking;
  if (key === null) throw problem;
  sessionStorage.setItem(KEY, key);
}

/** Ask for JSON. */
export async function askJson(url, options) {
  return (await ask(url, options)).json();
}
