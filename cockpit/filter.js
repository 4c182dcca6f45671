// SPDX-License-Identifier: GPL-2.0-or-later
// The fields by which connections are chosen.

import { element, fillWith } from './element.js';
import { variants } from './values.js';
import { _ } from './words.js';

const TYPES = { target: 's', path: 's', port: 't', address: 's', program: 's', reason: 's' };

/** What a filter of ListConnections is for what stands in the fields, by name. Empty fields choose nothing. */
export function wanted(fields) {
    const chosen = Object.entries(fields)
            .map(([name, text]) => [name, text.trim()])
            .filter(([, text]) => text)
            .map(([name, text]) => [name, TYPES[name] === 't' ? Number(text) : text]);
    return variants(Object.fromEntries(chosen), TYPES);
}

export class Filter {
    /** changed: is called when other connections are wanted. */
    constructor(changed) {
        this.fields = {
            target: element('select', { id: 'filter-target' }),
            path: element('select', { id: 'filter-path' }),
            reason: element('select', { id: 'filter-reason' }),
            port: element('input', { id: 'filter-port', type: 'number', min: 1, max: 65535, inputmode: 'numeric' }),
            address: element('input', { id: 'filter-address', type: 'text', autocomplete: 'off', spellcheck: 'false' }),
            program: element('input', { id: 'filter-program', type: 'text', autocomplete: 'off', spellcheck: 'false' }),
        };
        const labels = {
            target: _("Target"), path: _("Path"), reason: _("Reason"), port: _("Port"), address: _("Address"),
            program: _("Program"),
        };
        this.parts = Object.fromEntries(Object.entries(this.fields).map(([name, field]) => [
            name, element('div', { class: 'field' }, element('label', { for: field.id }, labels[name]), field)]));
        this.element = element('form', {
            class: 'toolbar', role: 'search', 'aria-label': _("Filter"), onchange: changed,
            onsubmit: event => {
                event.preventDefault();
                changed();
            },
        }, Object.values(this.parts));
        offer(this.fields.path, [['redirect', _("Redirected")], ['mixed', _("Mixed")], ['tcp', _("TCP")]]);
        this.targets([]);
        this.reasons([]);
    }

    get wanted() {
        return wanted(Object.fromEntries(Object.entries(this.fields).map(([name, field]) => [name, field.value])));
    }

    targets(names) {
        offer(this.fields.target, names.map(name => [name, name]));
    }

    reasons(names) {
        offer(this.fields.reason, names.map(name => [name, name]));
    }

    /** Who may not know whose connections are, cannot choose by program either. */
    hidePrograms(hidden) {
        this.parts.program.hidden = hidden;
        if (hidden)
            this.fields.program.value = '';
    }
}

/** Fill a list of choices, and keep what is chosen if it is still there. */
function offer(select, choices) {
    if (select.options.length === choices.length + 1 &&
        choices.every(([value], index) => select.options[index + 1].value === value))
        return;
    const { value } = select;
    fillWith(select, element('option', { value: '' }, _("All")),
             choices.map(([each, text]) => element('option', { value: each }, text)));
    select.value = choices.some(([each]) => each === value) ? value : '';
}
