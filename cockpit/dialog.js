// SPDX-License-Identifier: GPL-2.0-or-later
// A dialog with a form. The browser keeps the focus inside, and closes it on Escape.

import { element } from './element.js';
import { _ } from './words.js';

export class Dialog {
    /** submit: what the form does; the dialog stays open until close(). */
    constructor(title, name, fields, buttons, submit) {
        const cancel = element('button', { type: 'button', class: 'button link', onclick: () => this.close() }, _("Cancel"));
        this.form = element(
            'form', { method: 'dialog', novalidate: true, onsubmit: event => {
                event.preventDefault();
                submit();
            } },
            element('h2', { id: `${name}-title` }, title), ...fields,
            element('footer', { class: 'buttons' }, ...buttons, cancel));
        this.element = element('dialog', { class: 'dialog', id: name, 'aria-labelledby': `${name}-title` }, this.form);
    }

    open() {
        this.element.showModal();
    }

    close() {
        this.element.close();
    }
}

/** A checkbox with its label. */
export function choice(name, label, help = '') {
    const box = element('input', { type: 'checkbox', id: name, ...(help ? { 'aria-describedby': `${name}-help` } : {}) });
    return {
        box,
        element: element('div', { class: 'choice' }, box, element(
            'div', {}, element('label', { for: name }, label),
            help && element('div', { class: 'detail', id: `${name}-help` }, help))),
    };
}
