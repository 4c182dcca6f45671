// SPDX-License-Identifier: GPL-2.0-or-later
// The targets: what each is doing, and its switch.

import { Alert } from './alert.js';
import { element, say, set } from './element.js';
import { Policy } from './policy.js';
import { Table } from './table.js';
import { _, counted, fill, number, share, size } from './words.js';

const { cockpit } = globalThis;

const STATES = {
    active: () => _("Active"),
    waiting: () => _("Waiting"),
    refused: () => _("Refused"),
    probation: () => _("On probation"),
    draining: () => _("Draining"),
    disabled: () => _("Off"),
};

/** One that is enabled again while its former connections drain is listed twice. */
const key = row => `${row.state === 'draining' ? 'draining' : 'enabled'} ${row.name}`;

export class Targets {
    /** adding: the dialog that enables one. */
    constructor(daemon, adding) {
        this.daemon = daemon;
        this.adding = adding;
        this.rows = [];
        // Those that were switched off here: they stay in sight, so that they can be switched on again.
        this.off = new Map();
        this.stats = new Map();
        this.alert = new Alert('danger');
        this.table = new Table(_("Targets"), [
            { label: _("Target"), name: 'wide' },
            { label: _("State"), name: 'wide' },
            { label: _("Policy"), name: '' },
            { label: _("Redirected"), name: 'number' },
            { label: _("Connections"), name: 'number' },
            { label: _("Accelerate"), name: 'switch-cell' },
        ], row => this.row(row));
        this.element = element(
            'section', { class: 'card', 'aria-labelledby': 'targets-title' },
            element('header', { class: 'card-head' },
                    element('h2', { id: 'targets-title' }, _("Targets")),
                    element('button', { type: 'button', class: 'button primary', id: 'add', onclick: () => adding.open() },
                            _("Add target"))),
            this.alert.element, this.table.element, this.table.empty);
    }

    /** Read the rows anew. Rejects with a Refusal. */
    async read() {
        const [rows] = await this.daemon.call('ListTargets');
        for (const { name } of rows.filter(({ state }) => state !== 'draining'))
            this.off.delete(name);
        this.rows = rows;
        this.show();
    }

    /** Read what each has carried. Rejects with a Refusal. */
    async measure() {
        const names = this.rows.filter(({ state }) => ['active', 'waiting'].includes(state)).map(({ name }) => name);
        const found = await Promise.all(names.map(name => this.ofTarget(name)));
        this.stats = new Map(names.map((name, index) => [name, found[index]]));
        this.show();
    }

    async ofTarget(name) {
        try {
            return (await this.daemon.call('TargetStats', 's', name))[0];
        } catch (refusal) {
            // It was disabled in between.
            if (refusal.kind === 'UnknownTarget')
                return undefined;
            throw refusal;
        }
    }

    show() {
        const draining = new Set(this.rows.map(({ name }) => name));
        const off = Array.from(this.off.values()).filter(({ name }) => !draining.has(name));
        this.table.show([...this.rows, ...off], key, _("Nothing is accelerated yet: add a service, a container or a slice."));
    }

    row(first) {
        let row = first;
        const state = element('span', { class: 'label' });
        const detail = element('div', { class: 'detail' });
        const policy = new Policy();
        const part = element('strong'), bytes = element('div', { class: 'detail' });
        const connections = element('span');
        const toggle = element('button', {
            type: 'button', role: 'switch', class: 'switch',
            'aria-label': fill(_("Accelerate $0"), first.name),
            onclick: () => this.turn(row, toggle),
        });
        const show = now => {
            row = now;
            say(state, STATES[row.state]?.() ?? row.state);
            set(state, 'class', `label ${row.state}`);
            say(detail, detailOf(row));
            policy.show(row);
            const stats = this.stats.get(row.name);
            const running = row.state === 'active' || row.state === 'waiting';
            say(part, running && stats ? share(stats.redirected_bytes, stats.tcp_bytes) || '–' : '–');
            say(bytes, running && stats
                ? fill(_("$0 of $1"), size(stats.redirected_bytes), size(stats.redirected_bytes + stats.tcp_bytes))
                : '');
            say(connections, running && stats ? number(stats.connections) : '–');
            set(toggle, 'aria-checked', String(!['disabled', 'draining'].includes(row.state)));
        };
        return {
            cells: [nameOf(first), element('div', {}, state, detail), policy.element,
                    element('div', {}, part, bytes), connections, toggle],
            show,
        };
    }

    /** Switch one on or off. */
    async turn(row, toggle) {
        // Not by the attribute "disabled", which would take the focus away.
        if (toggle.hasAttribute('aria-disabled'))
            return;
        this.alert.clear();
        set(toggle, 'aria-disabled', 'true');
        try {
            if (toggle.getAttribute('aria-checked') === 'true') {
                const [now] = await this.daemon.call('DisableWithOptions', 'sa{sv}', row.name, {});
                this.off.set(row.name, { ...now, state: 'disabled' });
            } else {
                await this.daemon.call('EnableWithOptions', 'sa{sv}', row.name, {});
            }
            await this.read();
        } catch (refusal) {
            if (refusal.kind === 'KernelIssue')
                this.adding.open(row.name, true);
            else
                this.alert.say(refusal.message, refusal.hint && element('p', {}, refusal.hint));
        } finally {
            set(toggle, 'aria-disabled', null);
        }
    }
}

/** A service's leads to where Cockpit shows it, with its log; Cockpit has no such place for other units. */
function nameOf({ name }) {
    if (!name.endsWith('.service') || name.startsWith('/'))
        return element('span', { class: 'name' }, name);
    return element('button', {
        type: 'button', class: 'button link name', title: _("Open the service"),
        onclick: () => cockpit.jump(`/system/services#/${encodeURIComponent(name)}`),
    }, name);
}

function detailOf(row) {
    if (row.state === 'draining' && row.draining)
        return counted("$0 socket holds unread bytes", "$0 sockets hold unread bytes", row.draining);
    return row.detail;
}
