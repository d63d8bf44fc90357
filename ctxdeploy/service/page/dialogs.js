// Small dialogs: a key, a question. The browser keeps the focus inside and gives it back.

import { button, el } from './dom.js';

/** Show a dialog; return what it was closed with, empty for a dismissal. */
export function shown(dialog) {
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => { dialog.remove(); resolve(dialog.returnValue); });
    dialog.addEventListener('pointerdown', (event) => { if (event.target === dialog) dialog.close(''); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

let count = 0;

/** Return a dialog with a heading over its content. */
export function dialogOf(title, kind, ...content) {
  count += 1;
  const heading = el('h2', { id: `dialog-${count}` }, title);
  return el('dialog', { class: `dialog ${kind}`, 'aria-labelledby': heading.id }, el('div', { class: 'inside' }, heading, ...content));
}

/** Ask for a key; return it, or null. */
export async function askKey(detail) {
  const field = el('input', { id: 'key', type: 'password', autocomplete: 'off', spellcheck: 'false', required: true, autofocus: true });
  const dialog = dialogOf('This service asks for a key', 'small',
    el('p', { class: 'soft' }, `${detail}. It is kept until you close this tab.`),
    el('form', { method: 'dialog', onsubmit: (event) => { event.preventDefault(); dialog.close(field.value.trim()); } },
      el('label', { for: 'key' }, 'Key'), field,
      el('p', { class: 'choices' },
        button('', 'Not now', () => dialog.close('')),
        el('button', { type: 'submit', class: 'button main' }, 'Use this key'))));
  return (await shown(dialog)) || null;
}

/** Ask whether to do something that cannot be undone; return whether to. */
export async function confirmed(title, explained, deed, choice = null) {
  const dialog = dialogOf(title, 'small', el('p', {}, explained), choice || '',
    el('p', { class: 'choices' },
      button('', 'Keep it', () => dialog.close(''), { autofocus: true }),
      button('', deed, () => dialog.close('yes'), { kind: 'danger' })));
  return (await shown(dialog)) === 'yes';
}
