// SPDX-License-Identifier: GPL-2.0-or-later
// The connections of targets, the busiest first.

import { Alert } from './alert.js';
import { element, say, set } from './element.js';
import { Filter } from './filter.js';
import { Paging, SHOWN } from './paging.js';
import { Table } from './table.js';
import { _, counted, duration, endpoint, fill, number, size } from './words.js';

const PATHS = { redirect: () => _("Redirected"), mixed: () => _("Mixed"), tcp: () => _("TCP") };

const key = row => [row.netns_cookie, row.client_address, row.client_port, row.server_address, row.server_port].join(' ');

/** Why what was sent last went by TCP; "" where both ways are redirected. row: of ListConnections. */
export function why(row) {
    const { client_reason: toServer, server_reason: toClient, state } = row;
    if (toServer === toClient)
        return toServer || (state === 'joined' ? '' : state);
    const ways = [[toServer, _("$0 to the server")], [toClient, _("$0 to the client")]];
    return ways.filter(([reason]) => reason).map(([reason, text]) => fill(text, reason)).join(', ');
}

export class Connections {
    /** changed: is called when other connections are wanted. */
    constructor(daemon, changed) {
        this.daemon = daemon;
        this.paging = new Paging();
        this.answered = [];
        this.sentences = null;
        this.hidden = null;
        this.filter = new Filter(() => {
            this.paging.begin();
            changed();
        });
        this.note = new Alert('info', { id: 'no-programs' });
        this.alert = new Alert('danger');
        this.table = new Table(_("Connections"), [
            { label: _("Client"), name: 'wide' },
            { label: _("Server"), name: 'wide' },
            { label: _("Path"), name: '' },
            { label: _("To server"), name: 'number' },
            { label: _("To client"), name: 'number' },
            { label: _("Age"), name: 'number' },
        ], row => this.row(row));
        this.range = element('span', { role: 'status', id: 'range' });
        this.previous = this.turn(-1, _("Previous page"), '‹', changed);
        this.next = this.turn(1, _("Next page"), '›', changed);
        this.element = element(
            'section', { class: 'card', 'aria-labelledby': 'connections-title' },
            element('header', { class: 'card-head' }, element('h2', { id: 'connections-title' }, _("Connections")),
                    element('div', { class: 'pager', role: 'group', 'aria-label': _("Pages") },
                            this.range, this.previous, this.next)),
            this.filter.element, this.note.element, this.alert.element, this.table.element, this.table.empty);
    }

    turn(pages, label, sign, changed) {
        return element('button', {
            type: 'button', class: 'button plain', 'aria-label': label,
            onclick: () => {
                const { offset } = this.paging;
                this.paging.move(pages);
                if (this.paging.offset === offset)
                    this.show();
                else
                    changed();
            },
        }, sign);
    }

    /** Another daemon, or the same one seen by another user. */
    forget() {
        this.sentences = null;
        this.hidden = null;
    }

    /** Rejects with a Refusal, but for what is wrong with the filter. */
    async read() {
        if (!this.sentences) {
            const [counters] = await this.daemon.call('DescribeCounters');
            this.sentences = new Map(counters.map(({ name, sentence }) => [name, sentence]));
            this.filter.reasons(counters.filter(({ kind }) => kind !== 'total').map(({ name }) => name).sort());
        }
        const [targets] = await this.daemon.call('ListTargets');
        this.filter.targets(Array.from(new Set(targets.map(({ name }) => name))));
        try {
            await this.list();
            this.alert.clear();
        } catch (refusal) {
            if (!['InvalidArgument', 'LimitExceeded', 'NotPermitted'].includes(refusal.kind))
                throw refusal;
            this.alert.say(refusal.message);
        }
    }

    async list() {
        const [rows, total] = await this.daemon.call(
            'ListConnections', 'a{sv}tt', this.filter.wanted, 0, this.paging.offset);
        this.answered = rows;
        if (!this.paging.count(total) && total)
            this.answered = (await this.daemon.call(
                'ListConnections', 'a{sv}tt', this.filter.wanted, 0, this.paging.offset))[0];
        await this.lookForPrograms();
        this.show();
    }

    /** Find out, once, whether the user may know whose connections they are. */
    async lookForPrograms() {
        const named = this.answered.some(row => row.client_pid || row.server_pid);
        if (named || (this.hidden === null && this.answered.length))
            this.hidden = !named && await this.refusesPrograms();
        this.filter.hidePrograms(Boolean(this.hidden));
        if (this.hidden && this.note.element.hidden)
            this.note.say(_("You do not see whose connections these are, nor those of other network namespaces."),
                          element('p', {}, _("Turn on administrative access at the top of Cockpit to see all of them.")));
        else if (!this.hidden)
            this.note.clear();
    }

    async refusesPrograms() {
        try {
            await this.daemon.call('ListConnections', 'a{sv}tt', { program: { t: 's', v: '-' } }, 0, 0);
            return false;
        } catch (refusal) {
            return refusal.kind === 'NotPermitted';
        }
    }

    show() {
        const { paging } = this;
        this.table.show(paging.of(this.answered), key, Object.keys(this.filter.wanted).length
            ? _("No connection of a target is like that.")
            : _("No target has a connection."));
        say(this.range, paging.total
            ? fill(_("$0–$1 of $2"), number(paging.first + 1), number(Math.min(paging.first + SHOWN, paging.total)),
                   number(paging.total))
            : counted("$0 connection", "$0 connections", 0));
        this.previous.disabled = !paging.hasPrevious;
        this.next.disabled = !paging.hasNext;
    }

    row(first) {
        const path = element('span'), reason = element('div', { class: 'detail' });
        const ends = ['client', 'server'].map(name => element('div', { class: 'detail', 'data-end': name }));
        const sent = ['client', 'server'].map(() => element('span'));
        const age = element('span');
        const show = row => {
            say(path, PATHS[row.path]?.() ?? row.path);
            set(path, 'class', `label ${row.path}`);
            const reasons = why(row);
            say(reason, reasons);
            set(reason, 'title', ['client', 'server'].map(end => this.sentences.get(row[`${end}_reason`]))
                    .filter(Boolean).join('; ') || null);
            ['client', 'server'].forEach((end, index) => {
                say(ends[index], whose(row, end));
                say(sent[index], size(row[`${end}_redirected_bytes`] + row[`${end}_tcp_bytes`]));
            });
            say(age, duration(row.age_ns / 1e9));
        };
        const address = name => element('span', { class: 'address' }, endpoint(first[`${name}_address`], first[`${name}_port`]));
        return {
            cells: [element('div', {}, address('client'), ends[0]), element('div', {}, address('server'), ends[1]),
                    element('div', {}, path, reason), ...sent, age],
            show,
        };
    }
}

function whose(row, end) {
    const program = row[`${end}_program`], pid = row[`${end}_pid`];
    return [program && `${program}[${pid}]`, row[`${end}_cgroup`]].filter(Boolean).join(' · ');
}
